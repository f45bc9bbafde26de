/// The tokenizer keys of a GGUF file (`tokenizer.ggml.*`), as plain values.
public struct GGUFTokenizerMetadata: Sendable {
  /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE), `llama` (SentencePiece BPE), `t5` (unigram), `bert` (WordPiece).
  public var model: String
  /// `tokenizer.ggml.pre`: the name of the pre-tokenizer.
  public var pre: String?
  /// `tokenizer.ggml.tokens`, in order of id.
  public var tokens: ByteStrings
  /// `tokenizer.ggml.scores`, one for each token.
  public var scores: [Float]?
  /// `tokenizer.ggml.token_type`, one for each token; raw values of `TokenKind`.
  public var tokenTypes: [Int32]?
  /// `tokenizer.ggml.merges`: two pieces with a space between, in order of rank.
  public var merges: ByteStrings?
  public var bosID: Int32?
  public var eosID: Int32?
  public var eotID: Int32?
  public var eomID: Int32?
  public var unknownID: Int32?
  public var paddingID: Int32?
  public var separatorID: Int32?
  public var clsID: Int32?
  public var addBOS: Bool?
  public var addEOS: Bool?
  public var addSpacePrefix: Bool?
  public var removeExtraWhitespaces: Bool?
  /// `tokenizer.ggml.precompiled_charsmap`
  public var precompiledCharsMap: [UInt8]?
  /// `tokenizer.chat_template`
  public var chatTemplate: String?

  public init(model: String, tokens: ByteStrings) {
    self.model = model
    self.tokens = tokens
  }
}

extension TokenizerSpec {
  /// Reads a tokenizer out of GGUF metadata. Throws `TokenizerError` that names the key. O(bytes of all tokens).
  ///
  /// Where llama.cpp and the model's own tokenizer differ (Qwen's NFC normalisation), this follows the model's own.
  public init(gguf metadata: GGUFTokenizerMetadata) throws(TokenizerError) {
    let count = metadata.tokens.count
    guard count > 0 && count < Int(Int32.max) else {
      throw .invalidValue(
        path: "tokenizer.ggml.tokens", seen: "\(count) tokens", expected: "1 to 2147483646 tokens")
    }
    let kinds = try Self.kinds(metadata, count)
    if let scores = metadata.scores { try Self.check(scores, count) }
    switch metadata.model {
    case "gpt2":
      try self.init(bytePair: metadata, kinds: kinds)
    case "llama":
      guard let scores = metadata.scores else {
        throw .invalidValue(path: "tokenizer.ggml.scores", seen: "nothing", expected: "one score for each token")
      }
      self.init(pieces: metadata.tokens, kinds: kinds, model: .scoredBytePair(scores: scores))
      readSentencePiece(metadata)
    case "t5":
      guard let scores = metadata.scores else {
        throw .invalidValue(path: "tokenizer.ggml.scores", seen: "nothing", expected: "one score for each token")
      }
      self.init(
        pieces: metadata.tokens, kinds: kinds, model: .unigram(scores: scores.map(Double.init), byteFallback: false))
      if let blob = metadata.precompiledCharsMap, !blob.isEmpty {
        guard let map = CharsMap(blob) else {
          throw .invalidValue(
            path: "tokenizer.ggml.precompiled_charsmap", seen: "\(blob.count) bytes whose sizes do not fit together",
            expected: "SentencePiece's compiled table")
        }
        normalizers.append(.charsMap(map))
      }
      if metadata.removeExtraWhitespaces ?? false {
        normalizers += [.strip(left: true, right: true), .collapseSpaces([0x20])]
      }
      readSentencePiece(metadata)
    case "bert":
      self.init(
        pieces: Self.bertPieces(metadata.tokens, kinds), kinds: kinds,
        model: .wordPiece(prefix: Array("##".utf8), maximumScalars: 100))
      normalizers = [.bert(cleanText: true, spaceCJK: true, stripAccents: true, lowercase: true)]
      preTokenizers = [.bert]
      texts = .wordPiece(prefix: Array("##".utf8))
      decodingStyle = .words(cleanup: true)
    default:
      throw .unsupported(
        path: "tokenizer.ggml.model", seen: "\"\(metadata.model)\"", expected: "gpt2, llama, t5, bert")
    }
    mergesPath = "tokenizer.ggml.merges"
    try readSpecialTokens(metadata, kinds)
    chatTemplate = metadata.chatTemplate
  }

  private static func kinds(_ metadata: GGUFTokenizerMetadata, _ count: Int) throws(TokenizerError) -> [TokenKind] {
    guard let types = metadata.tokenTypes else { return Array(repeating: .normal, count: count) }
    guard types.count == count else {
      throw .invalidValue(
        path: "tokenizer.ggml.token_type", seen: "\(types.count) values", expected: "\(count), one for each token")
    }
    var kinds: [TokenKind] = []
    kinds.reserveCapacity(count)
    for (id, type) in types.enumerated() {
      guard let raw = UInt8(exactly: type), let kind = TokenKind(rawValue: raw) else {
        throw .invalidValue(path: "tokenizer.ggml.token_type[\(id)]", seen: "\(type)", expected: "1 to 6")
      }
      kinds.append(kind)
    }
    return kinds
  }

  private static func check(_ scores: [Float], _ count: Int) throws(TokenizerError) {
    guard scores.count == count else {
      throw .invalidValue(
        path: "tokenizer.ggml.scores", seen: "\(scores.count) values", expected: "\(count), one for each token")
    }
    for (id, score) in scores.enumerated() where !(Double(score).magnitude <= UnigramModel.largestScore) {
      throw .invalidValue(
        path: "tokenizer.ggml.scores[\(id)]", seen: "\(score)",
        expected: "a number of magnitude at most \(UnigramModel.largestScore)")
    }
  }

  // MARK: Byte-level BPE

  private init(bytePair metadata: GGUFTokenizerMetadata, kinds: [TokenKind]) throws(TokenizerError) {
    guard let merges = metadata.merges else {
      throw .invalidValue(path: "tokenizer.ggml.merges", seen: "nothing", expected: "the merges in order of rank")
    }
    let family = try Self.family(metadata.pre)
    let table = ByteAlphabet.byteOfScalar
    let tokens = metadata.tokens
    var pieces = ByteStrings()
    pieces.reserveCapacity(count: tokens.count, bytes: tokens.storage.count)
    for id in 0..<tokens.count {
      let range = tokens.range(id)
      if kinds[id] == .normal || kinds[id] == .unused {
        let mark = pieces.storage.count
        if ByteAlphabet.appendDecoded(tokens.storage, range.lowerBound, range.upperBound, table, to: &pieces) {
          pieces.endString()
          continue
        }
        pieces.dropParts(from: mark)
      }
      pieces.append(tokens[id])
    }
    self.init(
      pieces: pieces, kinds: kinds,
      model: .bytePair(
        merges: try Self.byteLevelMerges(merges, path: "tokenizer.ggml.merges"), byteLevel: true,
        byteFallback: false, fuseUnknown: false, ignoreMerges: family.ignoreMerges))
    normalizers = family.normalizers
    preTokenizers = family.preTokenizers
    if metadata.addSpacePrefix ?? false { preTokenizers.insert(.prefixSpace, at: 0) }
    addedTokens = Self.addedTokens(tokens, kinds, isNormalized: false)
    if metadata.addBOS ?? family.addsBOS, let bos = metadata.bosID { prefixIDs = [bos] }
    if metadata.addEOS ?? false, let eos = metadata.eosID { suffixIDs = [eos] }
  }

  /// Splits `left right` merges written in the byte alphabet into pairs of byte strings.
  static func byteLevelMerges(_ merges: ByteStrings, path: String) throws(TokenizerError) -> ByteStrings {
    let table = ByteAlphabet.byteOfScalar
    var pairs = ByteStrings()
    pairs.reserveCapacity(count: 2 * merges.count, bytes: merges.storage.count)
    let bytes = merges.storage
    for rank in 0..<merges.count {
      let range = merges.range(rank)
      var space = range.lowerBound
      while space < range.upperBound && bytes[space] != 0x20 { space += 1 }
      guard space < range.upperBound,
        ByteAlphabet.appendDecoded(bytes, range.lowerBound, space, table, to: &pairs)
      else { throw badMerge(merges, rank, path) }
      pairs.endString()
      guard ByteAlphabet.appendDecoded(bytes, space + 1, range.upperBound, table, to: &pairs) else {
        throw badMerge(merges, rank, path)
      }
      pairs.endString()
    }
    return pairs
  }

  private static func badMerge(_ merges: ByteStrings, _ rank: Int, _ path: String) -> TokenizerError {
    .invalidValue(
      path: "\(path)[\(rank)]", seen: "\"\(merges.string(rank))\"",
      expected: "two pieces in the byte alphabet with one space between")
  }

  /// What a pre-tokenizer's name stands for.
  private struct Family {
    var normalizers: [Normalizer] = []
    var preTokenizers: [PreTokenizer]
    var ignoreMerges = false
    var addsBOS = false
  }

  private static func isolated(_ pattern: SplitPattern) -> PreTokenizer {
    .split(pattern, .isolated, invert: false)
  }

  private static func family(_ pre: String?) throws(TokenizerError) -> Family {
    switch pre {
    case nil, "gpt-2", "gpt2", "phi-2", "olmo", "mpt", "roberta-bpe", "gigachat", "jina-es", "jina-de", "jina-v2-es",
      "jina-v2-de", "jina-v2-code", "trillion", "granite-docling":
      return Family(preTokenizers: [isolated(.gpt2)])
    case "smollm", "starcoder", "refact", "command-r", "codeshell":
      return Family(preTokenizers: [isolated(.gpt2DigitsApart)])
    case "qwen2", "stablelm2", "deepseek-r1-qwen", "megrez":
      return Family(normalizers: [.nfc], preTokenizers: [isolated(.llama3(digits: 1))])
    case "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2":
      return Family(preTokenizers: [isolated(.llama3(digits: 3))], ignoreMerges: true, addsBOS: true)
    case "dbrx", "smaug-bpe", "glm4", "chatglm-bpe":
      return Family(preTokenizers: [isolated(.llama3(digits: 3))])
    case "gpt-4o", "llama4", "kanana2":
      return Family(preTokenizers: [isolated(.o200k(contractions: true, digits: 3))])
    case "tekken":
      return Family(
        preTokenizers: [isolated(.o200k(contractions: false, digits: 1))], ignoreMerges: true, addsBOS: true)
    case "deepseek-v3":
      return Family(preTokenizers: [
        isolated(.numbers(upTo: 3)), isolated(.cjkRun), isolated(.deepSeek3),
      ])
    case "default":
      return Family(preTokenizers: [
        isolated(.punctuationRun), isolated(.gpt2), isolated(.numberRun), isolated(.threeDigits),
      ])
    default:
      throw .unsupported(
        path: "tokenizer.ggml.pre", seen: "\"\(pre ?? "")\"",
        expected: "gpt-2, smollm, qwen2, llama-bpe, gpt-4o, tekken, deepseek-v3, default and their relatives")
    }
  }

  // MARK: SentencePiece

  private mutating func readSentencePiece(_ metadata: GGUFTokenizerMetadata) {
    texts = .marker
    if metadata.addSpacePrefix ?? true {
      preTokenizers = [.metaspace(replacement: BytePairModel.marker, prefix: .first, split: false)]
      decodingStyle = .stripLeadingSpace
    } else {
      normalizers.append(.replace([0x20], with: BytePairModel.marker))
    }
    addedTokens = Self.addedTokens(metadata.tokens, kinds, isNormalized: !(metadata.addSpacePrefix ?? true))
    if metadata.addBOS ?? (metadata.model == "llama"), let bos = metadata.bosID { prefixIDs = [bos] }
    if metadata.addEOS ?? (metadata.model == "t5"), let eos = metadata.eosID { suffixIDs = [eos] }
  }

  // MARK: WordPiece

  /// llama.cpp's converter writes word starts as `▁word` and continuations bare; this restores `word` and `##piece`.
  private static func bertPieces(_ tokens: ByteStrings, _ kinds: [TokenKind]) -> ByteStrings {
    let isConverted = (0..<tokens.count).contains {
      kinds[$0] == .normal && tokens[$0].starts(with: BytePairModel.marker)
    }
    guard isConverted else { return tokens }
    var pieces = ByteStrings()
    pieces.reserveCapacity(count: tokens.count, bytes: tokens.storage.count)
    for id in 0..<tokens.count {
      if kinds[id] != .normal {
        pieces.append(tokens[id])
      } else if tokens[id].starts(with: BytePairModel.marker) {
        pieces.append(tokens[id].dropFirst(BytePairModel.marker.count))
      } else {
        pieces.append(Array("##".utf8) + tokens[id])
      }
    }
    return pieces
  }

  // MARK: Special tokens

  private static func addedTokens(_ tokens: ByteStrings, _ kinds: [TokenKind], isNormalized: Bool) -> [AddedToken] {
    var added: [AddedToken] = []
    for id in 0..<tokens.count where kinds[id] == .control || kinds[id] == .userDefined {
      let isSpecial = kinds[id] == .control
      // Controls stand in the text as given; user-defined pieces are pieces of the normalised text.
      added.append(
        AddedToken(
          id: Int32(id), content: tokens.string(id), isNormalized: isNormalized && !isSpecial, isSpecial: isSpecial))
    }
    return added.filter { !$0.content.isEmpty }
  }

  /// Names of tokens that end a turn or a text in public models, for files that do not mark them.
  static let endNames: Set<String> = [
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_text|>", "<end_of_turn>",
    "<|endofturn|>", "<EOT>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "<|return|>", "<|call|>",
  ]

  private mutating func readSpecialTokens(_ metadata: GGUFTokenizerMetadata, _ kinds: [TokenKind])
    throws(TokenizerError)
  {
    func checked(_ id: Int32?, _ name: String) throws(TokenizerError) -> Int32? {
      guard let id else { return nil }
      guard id >= 0 && id < kinds.count else {
        throw .invalidValue(path: "tokenizer.ggml.\(name)", seen: "\(id)", expected: "an id in 0..<\(kinds.count)")
      }
      return id
    }
    specialTokens.bos = try checked(metadata.bosID, "bos_token_id")
    specialTokens.eos = try checked(metadata.eosID, "eos_token_id")
    specialTokens.eot = try checked(metadata.eotID, "eot_token_id")
    specialTokens.padding = try checked(metadata.paddingID, "padding_token_id")
    specialTokens.unknown = try checked(metadata.unknownID, "unknown_token_id")
    specialTokens.cls = try checked(metadata.clsID ?? (metadata.model == "bert" ? metadata.bosID : nil), "cls_token_id")
    specialTokens.sep = try checked(metadata.separatorID, "seperator_token_id")
    let eom = try checked(metadata.eomID, "eom_token_id")
    for id in [specialTokens.eos, specialTokens.eot, eom] {
      if let id { specialTokens.endOfGeneration.insert(id) }
    }
    for token in addedTokens where token.isSpecial && Self.endNames.contains(token.content) {
      specialTokens.endOfGeneration.insert(token.id)
    }
    switch metadata.model {
    case "bert":
      for id in 0..<kinds.count where specialTokens.unknown == nil {
        if metadata.tokens.string(id) == "[UNK]" { specialTokens.unknown = Int32(id) }
      }
      if let cls = specialTokens.cls { prefixIDs = [cls] }
      if let sep = specialTokens.sep ?? specialTokens.eos { suffixIDs = [sep] }
      modelUnknown = specialTokens.unknown
    case "gpt2":
      // In byte-level BPE the "unknown" id is a habit of the file format: the models themselves use none.
      modelUnknown = nil
    default:
      modelUnknown = specialTokens.unknown
    }
  }
}
