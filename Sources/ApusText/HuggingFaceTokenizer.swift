extension TokenizerSpec {
  /// Reads a `tokenizer.json` file of the Hugging Face `tokenizers` library.
  ///
  /// `config` is the text of the `tokenizer_config.json` beside it, if there is one: it names the tokens with a role and
  /// holds the chat template. Throws `TokenizerError` with the key path. O(bytes); memory in proportion to the file.
  public init(json: [UInt8], config: [UInt8]? = nil) throws(TokenizerError) {
    let file = try TokenizerFile(json)
    self = try file.spec()
    if let config { try read(config: config) }
  }

  private mutating func read(config bytes: [UInt8]) throws(TokenizerError) {
    guard bytes.count <= TokenizerFile.treeLimit else {
      throw .invalidValue(
        path: "tokenizer_config", seen: "\(bytes.count) bytes", expected: "at most \(TokenizerFile.treeLimit)")
    }
    guard case .mapping(let config) = try JinjaValue(json: bytes) else {
      throw .invalidValue(path: "tokenizer_config", seen: "no object", expected: "an object")
    }
    func id(_ key: String) -> Int32? {
      var content: String?
      if case .string(let text)? = config[key] { content = text }
      if case .mapping(let token)? = config[key], case .string(let text)? = token["content"] { content = text }
      guard let content else { return nil }
      if let added = addedTokens.first(where: { $0.content == content }) { return added.id }
      let bytes = Array(content.utf8)
      return (0..<pieces.count).first { pieces[$0].elementsEqual(bytes) }.map(Int32.init)
    }
    specialTokens.bos = id("bos_token") ?? specialTokens.bos
    specialTokens.eos = id("eos_token") ?? specialTokens.eos
    specialTokens.padding = id("pad_token") ?? specialTokens.padding
    specialTokens.unknown = id("unk_token") ?? specialTokens.unknown
    specialTokens.cls = id("cls_token") ?? specialTokens.cls
    specialTokens.sep = id("sep_token") ?? specialTokens.sep
    if let eos = specialTokens.eos { specialTokens.endOfGeneration.insert(eos) }
    switch config["chat_template"] {
    case .string(let template)?: chatTemplate = template
    case .list(let templates)?:
      // Several templates by name: the default one is meant for chat.
      for case .mapping(let entry) in templates {
        if case .string("default")? = entry["name"], case .string(let template)? = entry["template"] {
          chatTemplate = template
        }
      }
    default: break
    }
  }
}

/// A `tokenizer.json` file under interpretation. Large parts (vocabulary, merges) are streamed from the text; small
/// parts are read as trees of bounded size.
private struct TokenizerFile {
  /// Largest section that is read as a tree: bounds the memory that hostile text can cost.
  static let treeLimit = 2 << 20

  private let bytes: [UInt8]
  private var sections: [String: Int] = [:]
  private var modelFields: [String: Int] = [:]

  init(_ bytes: [UInt8]) throws(TokenizerError) {
    self.bytes = bytes
    var reader = JSONReader(bytes)
    sections = try Self.positions(&reader)
    try reader.end()
    guard let model = sections["model"] else {
      throw .invalidValue(path: "model", seen: "nothing", expected: "an object")
    }
    var modelReader = JSONReader(bytes, at: model)
    guard modelReader.peek() == UInt8(ascii: "{") else {
      throw .invalidValue(path: "model", seen: Self.excerpt(bytes, model), expected: "an object")
    }
    modelFields = try Self.positions(&modelReader)
  }

  /// Where the values of an object's keys start; the values are checked to be JSON and skipped.
  private static func positions(_ reader: inout JSONReader) throws(TokenizerError) -> [String: Int] {
    var found: [String: Int] = [:]
    try reader.object { (key, reader) throws(TokenizerError) in
      _ = reader.peek()
      if found.count < 64 { found[key] = reader.position }
      try reader.skip()
    }
    return found
  }

  private static func excerpt(_ bytes: [UInt8], _ position: Int) -> String {
    String(decoding: bytes[position..<min(position + 24, bytes.count)], as: UTF8.self)
  }

  private func excerpt(_ position: Int) -> String { Self.excerpt(bytes, position) }

  /// A small part as a tree; `.none` where the key is missing.
  private func tree(_ position: Int?, _ path: String) throws(TokenizerError) -> JinjaValue {
    guard let position else { return .none }
    var reader = JSONReader(bytes, at: position)
    try reader.skip()
    guard reader.position - position <= Self.treeLimit else {
      throw .invalidValue(
        path: path, seen: "\(reader.position - position) bytes", expected: "at most \(Self.treeLimit) bytes")
    }
    reader = JSONReader(bytes, at: position)
    return try reader.value()
  }

  private func modelField(_ name: String) throws(TokenizerError) -> JinjaValue {
    try tree(modelFields[name], "model.\(name)")
  }

  private func modelFlag(_ name: String) throws(TokenizerError) -> Bool {
    switch try modelField(name) {
    case .none: return false
    case .boolean(let flag): return flag
    case let other: throw .invalidValue(path: "model.\(name)", seen: other.shown, expected: "true or false")
    }
  }

  // MARK: The whole

  func spec() throws(TokenizerError) -> TokenizerSpec {
    let added = try addedTokens()
    let normalizers = try ComponentReader.normalizers(try tree(sections["normalizer"], "normalizer"), "normalizer")
    let words = try ComponentReader.preTokenizers(
      try tree(sections["pre_tokenizer"], "pre_tokenizer"), "pre_tokenizer")
    let decoder = try ComponentReader.decoder(try tree(sections["decoder"], "decoder"), "decoder")
    let byteLevel = words.isByteLevel || decoder.isByteLevel
    var spec = try model(added, byteLevel: byteLevel)
    spec.addedTokens = added
    spec.normalizers = normalizers
    spec.preTokenizers = words.steps
    spec.decodingStyle = decoder.style
    switch spec.model {
    case .wordPiece(let prefix, _):
      spec.texts = .wordPiece(prefix: prefix)
      if case .words = spec.decodingStyle {} else { spec.decodingStyle = .words(cleanup: true) }
    default: spec.texts = byteLevel ? .raw : .marker
    }
    (spec.prefixIDs, spec.suffixIDs) = try ComponentReader.postProcessor(
      try tree(sections["post_processor"], "post_processor"), "post_processor", count: spec.pieces.count)
    if case .mapping(let truncation) = try tree(sections["truncation"], "truncation") {
      guard let length = truncation["max_length"]?.asInteger, length >= 0 else {
        throw .invalidValue(
          path: "truncation.max_length", seen: (truncation["max_length"] ?? .none).shown,
          expected: "a length in tokens")
      }
      spec.truncation = length
    }
    for token in added where token.isSpecial {
      switch token.content {
      case "[CLS]": spec.specialTokens.cls = token.id
      case "[SEP]": spec.specialTokens.sep = token.id
      case "[PAD]", "<pad>": spec.specialTokens.padding = token.id
      default: break
      }
      if TokenizerSpec.endNames.contains(token.content) { spec.specialTokens.endOfGeneration.insert(token.id) }
    }
    spec.specialTokens.unknown = spec.modelUnknown
    return spec
  }

  // MARK: Added tokens

  private func addedTokens() throws(TokenizerError) -> [AddedToken] {
    guard let position = sections["added_tokens"] else { return [] }
    var reader = JSONReader(bytes, at: position)
    if reader.peek() == UInt8(ascii: "n") { return [] }
    guard reader.peek() == UInt8(ascii: "[") else {
      throw .invalidValue(path: "added_tokens", seen: excerpt(position), expected: "a list")
    }
    var tokens: [AddedToken] = []
    var ids: Set<Int32> = []
    try reader.array { (index, reader) throws(TokenizerError) in
      let path = "added_tokens[\(index)]"
      _ = reader.peek()
      guard case .mapping(let entry) = try self.tree(reader.position, path) else {
        throw TokenizerError.invalidValue(path: path, seen: self.excerpt(reader.position), expected: "an object")
      }
      try reader.skip()
      guard let number = entry["id"]?.asInteger, let id = Int32(exactly: number), id >= 0, id < Int32.max else {
        throw TokenizerError.invalidValue(
          path: path + ".id", seen: (entry["id"] ?? .none).shown, expected: "an id from 0 on")
      }
      guard case .string(let content)? = entry["content"] else {
        throw TokenizerError.invalidValue(
          path: path + ".content", seen: (entry["content"] ?? .none).shown, expected: "a string")
      }
      guard ids.insert(id).inserted else {
        throw TokenizerError.invalidValue(path: path + ".id", seen: "\(id) again", expected: "ids without repetition")
      }
      func flag(_ name: String) throws(TokenizerError) -> Bool {
        switch entry[name] {
        case nil, JinjaValue.none?: return false
        case .boolean(let flag)?: return flag
        case let other?:
          throw TokenizerError.invalidValue(path: "\(path).\(name)", seen: other.shown, expected: "true or false")
        }
      }
      tokens.append(
        AddedToken(
          id: id, content: content, singleWord: try flag("single_word"), stripsLeft: try flag("lstrip"),
          stripsRight: try flag("rstrip"), isNormalized: try flag("normalized"), isSpecial: try flag("special")))
    }
    return tokens
  }

  // MARK: Models

  private func model(_ added: [AddedToken], byteLevel: Bool) throws(TokenizerError) -> TokenizerSpec {
    var type: String
    switch try modelField("type") {
    case .string(let name): type = name
    case .none:
      // Old files leave the type out; the fields tell.
      if modelFields["merges"] != nil {
        type = "BPE"
      } else {
        type = modelFields["unk_id"] != nil ? "Unigram" : "WordPiece"
      }
    case let other: throw .invalidValue(path: "model.type", seen: other.shown, expected: "a string")
    }
    switch type {
    case "BPE": return try bytePair(added, byteLevel: byteLevel)
    case "Unigram": return try unigram(added)
    case "WordPiece": return try wordPiece(added)
    default: throw .unsupported(path: "model.type", seen: "\"\(type)\"", expected: "BPE, Unigram, WordPiece")
    }
  }

  /// Pieces and kinds by id, out of entries in file order.
  private func assemble(
    _ entries: ByteStrings, _ ids: [Int32], _ added: [AddedToken], byteLevel: Bool, byteFallback: Bool
  ) throws(TokenizerError) -> (ByteStrings, [TokenKind]) {
    let limit = 2 * (entries.count + added.count) + 65_536
    var count = 0
    for (index, id) in ids.enumerated() {
      guard id >= 0 && id < limit else {
        throw .invalidValue(
          path: "model.vocab[\"\(entries.string(index))\"]", seen: "\(id)",
          expected: "an id below \(limit), as \(entries.count) entries suggest")
      }
      count = max(count, Int(id) + 1)
    }
    for (index, token) in added.enumerated() {
      guard token.id < limit else {
        throw .invalidValue(path: "added_tokens[\(index)].id", seen: "\(token.id)", expected: "an id below \(limit)")
      }
      count = max(count, Int(token.id) + 1)
    }
    // -1: nothing; otherwise an entry, or an added token counted from the end of the entries.
    var sources = [Int32](repeating: -1, count: count)
    for (index, id) in ids.enumerated() {
      guard sources[Int(id)] < 0 else {
        throw .invalidValue(
          path: "model.vocab[\"\(entries.string(index))\"]",
          seen: "\(id), which \"\(entries.string(Int(sources[Int(id)])))\" has already",
          expected: "ids without repetition")
      }
      sources[Int(id)] = Int32(index)
    }
    for (index, token) in added.enumerated() { sources[Int(token.id)] = Int32(entries.count + index) }
    let table = ByteAlphabet.byteOfScalar
    var pieces = ByteStrings()
    pieces.reserveCapacity(count: count, bytes: entries.storage.count)
    var kinds: [TokenKind] = []
    kinds.reserveCapacity(count)
    for source in sources {
      if source < 0 {
        pieces.endString()
        kinds.append(.unused)
      } else if Int(source) >= entries.count {
        let token = added[Int(source) - entries.count]
        pieces.append(token.content.utf8)
        kinds.append(token.isSpecial ? .control : .userDefined)
      } else {
        let range = entries.range(Int(source))
        let mark = pieces.storage.count
        if byteLevel
          && ByteAlphabet.appendDecoded(entries.storage, range.lowerBound, range.upperBound, table, to: &pieces)
        {
          pieces.endString()
          kinds.append(.normal)
          continue
        }
        pieces.dropParts(from: mark)
        let piece = entries[Int(source)]
        pieces.append(piece)
        kinds.append(byteFallback && Vocabulary.byteValue(of: piece) != nil ? .byte : .normal)
      }
    }
    return (pieces, kinds)
  }

  /// `model.vocab` as an object from piece to id.
  private func vocabulary() throws(TokenizerError) -> (ByteStrings, [Int32]) {
    guard let position = modelFields["vocab"], bytes[position] == UInt8(ascii: "{") else {
      throw .invalidValue(
        path: "model.vocab", seen: modelFields["vocab"].map(excerpt) ?? "nothing", expected: "an object")
    }
    var reader = JSONReader(bytes, at: position)
    var entries = ByteStrings()
    var ids: [Int32] = []
    var buffer: [UInt8] = []
    try reader.objectBytes(&buffer) { (key, reader) throws(TokenizerError) in
      guard let id = try reader.smallInteger() else {
        throw TokenizerError.invalidValue(
          path: "model.vocab[\"\(String(decoding: key, as: UTF8.self))\"]", seen: self.excerpt(reader.position),
          expected: "an integer id")
      }
      entries.append(key)
      ids.append(id)
    }
    guard entries.count > 0 else {
      throw .invalidValue(path: "model.vocab", seen: "no entries", expected: "at least one")
    }
    return (entries, ids)
  }

  private func unknownToken(_ entries: ByteStrings, _ ids: [Int32], _ added: [AddedToken]) throws(TokenizerError)
    -> Int32?
  {
    switch try modelField("unk_token") {
    case .none: return nil
    case .string(let text):
      if let token = added.first(where: { $0.content == text }) { return token.id }
      let bytes = Array(text.utf8)
      for index in 0..<entries.count where entries[index].elementsEqual(bytes) { return ids[index] }
      throw .invalidValue(path: "model.unk_token", seen: "\"\(text)\"", expected: "a token of the vocabulary")
    case let other: throw .invalidValue(path: "model.unk_token", seen: other.shown, expected: "a string or null")
    }
  }

  private func bytePair(_ added: [AddedToken], byteLevel: Bool) throws(TokenizerError) -> TokenizerSpec {
    for field in ["continuing_subword_prefix", "end_of_word_suffix"] {
      switch try modelField(field) {
      case .none, .string(""): break
      case let other: throw .unsupported(path: "model.\(field)", seen: other.shown, expected: "null or \"\"")
      }
    }
    switch try modelField("dropout") {
    case .none: break
    case let value where value.asDouble == 0: break
    case let other: throw .unsupported(path: "model.dropout", seen: other.shown, expected: "null or 0")
    }
    let (entries, ids) = try vocabulary()
    let byteFallback = try modelFlag("byte_fallback")
    let (pieces, kinds) = try assemble(entries, ids, added, byteLevel: byteLevel, byteFallback: byteFallback)
    var spec = TokenizerSpec(
      pieces: pieces, kinds: kinds,
      model: .bytePair(
        merges: try merges(byteLevel: byteLevel), byteLevel: byteLevel, byteFallback: byteFallback,
        fuseUnknown: try modelFlag("fuse_unk"), ignoreMerges: try modelFlag("ignore_merges")))
    spec.modelUnknown = try unknownToken(entries, ids, added)
    return spec
  }

  /// `model.merges`: strings with one space, or pairs of strings.
  private func merges(byteLevel: Bool) throws(TokenizerError) -> ByteStrings {
    guard let position = modelFields["merges"], bytes[position] == UInt8(ascii: "[") else {
      throw .invalidValue(
        path: "model.merges", seen: modelFields["merges"].map(excerpt) ?? "nothing", expected: "a list")
    }
    var reader = JSONReader(bytes, at: position)
    var pairs = ByteStrings()
    var buffer: [UInt8] = []
    let table = ByteAlphabet.byteOfScalar
    func add(_ text: [UInt8], _ start: Int, _ end: Int, _ index: Int) throws(TokenizerError) {
      if byteLevel {
        guard ByteAlphabet.appendDecoded(text, start, end, table, to: &pairs) else {
          throw TokenizerError.invalidValue(
            path: "model.merges[\(index)]", seen: "\"\(String(decoding: text, as: UTF8.self))\"",
            expected: "pieces in the byte alphabet")
        }
        pairs.endString()
      } else {
        pairs.append(text[start..<end])
      }
    }
    try reader.array { (index, reader) throws(TokenizerError) in
      if reader.peek() == UInt8(ascii: "[") {
        var parts = 0
        try reader.array { (part, reader) throws(TokenizerError) in
          buffer.removeAll(keepingCapacity: true)
          try reader.string(into: &buffer)
          try add(buffer, 0, buffer.count, index)
          parts = part + 1
        }
        guard parts == 2 else {
          throw TokenizerError.invalidValue(path: "model.merges[\(index)]", seen: "\(parts) parts", expected: "two")
        }
        return
      }
      buffer.removeAll(keepingCapacity: true)
      guard reader.peek() == UInt8(ascii: "\"") else {
        throw TokenizerError.invalidValue(
          path: "model.merges[\(index)]", seen: self.excerpt(reader.position), expected: "a string or a pair")
      }
      try reader.string(into: &buffer)
      guard let space = buffer.firstIndex(of: 0x20) else {
        throw TokenizerError.invalidValue(
          path: "model.merges[\(index)]", seen: "\"\(String(decoding: buffer, as: UTF8.self))\"",
          expected: "two pieces with one space between")
      }
      try add(buffer, 0, space, index)
      try add(buffer, space + 1, buffer.count, index)
    }
    return pairs
  }

  private func wordPiece(_ added: [AddedToken]) throws(TokenizerError) -> TokenizerSpec {
    let (entries, ids) = try vocabulary()
    let (pieces, kinds) = try assemble(entries, ids, added, byteLevel: false, byteFallback: false)
    var prefix = "##"
    switch try modelField("continuing_subword_prefix") {
    case .none: break
    case .string(let text): prefix = text
    case let other:
      throw .invalidValue(path: "model.continuing_subword_prefix", seen: other.shown, expected: "a string")
    }
    var longest = 100
    switch try modelField("max_input_chars_per_word") {
    case .none: break
    case let value:
      guard let number = value.asInteger, number > 0, number <= 1_000 else {
        throw .invalidValue(path: "model.max_input_chars_per_word", seen: value.shown, expected: "1 to 1000")
      }
      longest = number
    }
    var spec = TokenizerSpec(
      pieces: pieces, kinds: kinds, model: .wordPiece(prefix: Array(prefix.utf8), maximumScalars: longest))
    spec.modelUnknown = try unknownToken(entries, ids, added)
    return spec
  }

  private func unigram(_ added: [AddedToken]) throws(TokenizerError) -> TokenizerSpec {
    guard let position = modelFields["vocab"], bytes[position] == UInt8(ascii: "[") else {
      throw .invalidValue(
        path: "model.vocab", seen: modelFields["vocab"].map(excerpt) ?? "nothing",
        expected: "a list of pairs of piece and score")
    }
    var reader = JSONReader(bytes, at: position)
    var entries = ByteStrings()
    var scores: [Double] = []
    var buffer: [UInt8] = []
    try reader.array { (index, reader) throws(TokenizerError) in
      var score: Double?
      var parts = 0
      guard reader.peek() == UInt8(ascii: "[") else {
        throw TokenizerError.invalidValue(
          path: "model.vocab[\(index)]", seen: self.excerpt(reader.position), expected: "a pair of piece and score")
      }
      try reader.array { (part, reader) throws(TokenizerError) in
        parts = part + 1
        switch part {
        case 0:
          buffer.removeAll(keepingCapacity: true)
          try reader.string(into: &buffer)
        case 1:
          _ = reader.peek()
          score = try self.tree(reader.position, "model.vocab[\(index)][1]").asDouble
          try reader.skip()
        default: try reader.skip()
        }
      }
      guard parts == 2, let score, score.magnitude <= UnigramModel.largestScore else {
        throw TokenizerError.invalidValue(
          path: "model.vocab[\(index)]", seen: "\(parts) parts without a usable score",
          expected: "a pair of piece and score, of magnitude at most \(UnigramModel.largestScore)")
      }
      entries.append(buffer)
      scores.append(score)
    }
    let byteFallback = try modelFlag("byte_fallback")
    let (pieces, kinds) = try assemble(
      entries, (0..<Int32(entries.count)).map { $0 }, added, byteLevel: false, byteFallback: byteFallback)
    scores += [Double](repeating: 0, count: pieces.count - scores.count)
    var spec = TokenizerSpec(
      pieces: pieces, kinds: kinds, model: .unigram(scores: scores, byteFallback: byteFallback))
    switch try modelField("unk_id") {
    case .none: break
    case let value:
      guard let number = value.asInteger, let id = Int32(exactly: number), id >= 0, id < pieces.count else {
        throw .invalidValue(path: "model.unk_id", seen: value.shown, expected: "an id in 0..<\(pieces.count)")
      }
      spec.modelUnknown = id
      if spec.kinds[Int(id)] == .normal { spec.kinds[Int(id)] = .unknown }
    }
    return spec
  }
}

extension JinjaValue {
  /// A short form for error messages.
  var shown: String {
    switch self {
    case .none: return "nothing"
    case .string(let text): return "\"\(text.prefix(60))\""
    case .list(let items): return "a list of \(items.count)"
    case .mapping(let mapping): return "an object with \(mapping.count) keys"
    default: return text
    }
  }
}
