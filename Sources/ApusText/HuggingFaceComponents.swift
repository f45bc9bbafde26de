/// Reads the small parts of a `tokenizer.json`: what normalises, cuts, surrounds and joins.
enum ComponentReader {
  // MARK: Access

  private static func mapping(_ value: JinjaValue, _ path: String) throws(TokenizerError) -> JinjaMapping {
    guard case .mapping(let mapping) = value else {
      throw .invalidValue(path: path, seen: value.shown, expected: "an object")
    }
    return mapping
  }

  private static func type(_ mapping: JinjaMapping, _ path: String) throws(TokenizerError) -> String {
    try string(mapping, "type", path)
  }

  private static func string(_ mapping: JinjaMapping, _ key: String, _ path: String) throws(TokenizerError) -> String {
    guard case .string(let text)? = mapping[key] else {
      throw .invalidValue(path: "\(path).\(key)", seen: (mapping[key] ?? .none).shown, expected: "a string")
    }
    return text
  }

  private static func flag(
    _ mapping: JinjaMapping, _ key: String, _ path: String, default fallback: Bool
  ) throws(TokenizerError) -> Bool {
    switch mapping[key] {
    case nil, JinjaValue.none?: return fallback
    case .boolean(let flag)?: return flag
    case let other?: throw .invalidValue(path: "\(path).\(key)", seen: other.shown, expected: "true or false")
    }
  }

  private static func list(_ mapping: JinjaMapping, _ key: String, _ path: String) throws(TokenizerError)
    -> [JinjaValue]
  {
    guard case .list(let items)? = mapping[key] else {
      throw .invalidValue(path: "\(path).\(key)", seen: (mapping[key] ?? .none).shown, expected: "a list")
    }
    return items
  }

  /// `{"String": …}` or `{"Regex": …}`.
  private static func pattern(_ mapping: JinjaMapping, _ path: String) throws(TokenizerError) -> (String, isRegex: Bool)
  {
    let pattern = try Self.mapping(mapping["pattern"] ?? .none, path + ".pattern")
    if case .string(let text)? = pattern["String"] { return (text, false) }
    if case .string(let text)? = pattern["Regex"] { return (text, true) }
    throw .invalidValue(
      path: path + ".pattern", seen: JinjaValue.mapping(pattern).shown, expected: "a String or a Regex")
  }

  /// Longer patterns are refused: it bounds the work at one position of the text.
  private static let longestPattern = 1024

  // MARK: Normalizers

  static func normalizers(_ value: JinjaValue, _ path: String) throws(TokenizerError) -> [Normalizer] {
    if case .none = value { return [] }
    let mapping = try mapping(value, path)
    switch try type(mapping, path) {
    case "Sequence":
      var steps: [Normalizer] = []
      for (index, item) in try list(mapping, "normalizers", path).enumerated() {
        steps += try normalizers(item, "\(path).normalizers[\(index)]")
      }
      return steps
    case "NFC": return [.nfc]
    case "NFD": return [.nfd]
    case "NFKC": return [.nfkc]
    case "NFKD": return [.nfkd]
    case "Lowercase": return [.lowercase]
    case "StripAccents": return [.stripAccents]
    case "Strip":
      return [
        .strip(
          left: try flag(mapping, "strip_left", path, default: true),
          right: try flag(mapping, "strip_right", path, default: true))
      ]
    case "Prepend": return [.prepend(Array(try string(mapping, "prepend", path).utf8))]
    case "Replace":
      let (pattern, isRegex) = try pattern(mapping, path)
      let content = Array(try string(mapping, "content", path).utf8)
      if !isRegex {
        guard !pattern.isEmpty && pattern.utf8.count <= longestPattern else {
          throw .invalidValue(
            path: path + ".pattern", seen: "\(pattern.utf8.count) bytes", expected: "1 to \(longestPattern) bytes")
        }
        return [.replace(Array(pattern.utf8), with: content)]
      }
      if pattern == " {2,}" { return [.collapseSpaces(content)] }
      throw .unsupported(path: path + ".pattern.Regex", seen: "\"\(pattern)\"", expected: "\" {2,}\"")
    case "BertNormalizer":
      let lowercase = try flag(mapping, "lowercase", path, default: true)
      return [
        .bert(
          cleanText: try flag(mapping, "clean_text", path, default: true),
          spaceCJK: try flag(mapping, "handle_chinese_chars", path, default: true),
          stripAccents: try flag(mapping, "strip_accents", path, default: lowercase), lowercase: lowercase)
      ]
    case "Precompiled":
      let text = try string(mapping, "precompiled_charsmap", path)
      guard let blob = Base64.decode(text), let map = CharsMap(blob) else {
        throw .invalidValue(
          path: path + ".precompiled_charsmap", seen: "\(text.utf8.count) characters that hold no table",
          expected: "SentencePiece's compiled table in base64")
      }
      return [.charsMap(map)]
    case let other:
      throw .unsupported(
        path: path + ".type", seen: "\"\(other)\"",
        expected:
          "Sequence, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Prepend, Replace, BertNormalizer, Precompiled"
      )
    }
  }

  // MARK: Pre-tokenizers

  static func preTokenizers(
    _ value: JinjaValue, _ path: String
  ) throws(TokenizerError) -> (steps: [PreTokenizer], isByteLevel: Bool) {
    if case .none = value { return ([], false) }
    let mapping = try mapping(value, path)
    switch try type(mapping, path) {
    case "Sequence":
      var steps: [PreTokenizer] = []
      var isByteLevel = false
      for (index, item) in try list(mapping, "pretokenizers", path).enumerated() {
        let inner = try preTokenizers(item, "\(path).pretokenizers[\(index)]")
        steps += inner.steps
        isByteLevel = isByteLevel || inner.isByteLevel
        guard steps.count <= 32 else {
          throw .invalidValue(path: path, seen: "more than 32 steps", expected: "at most 32")
        }
      }
      // Digits apart and then GPT-2's words have a matcher of their own, which is several times as fast.
      if steps == [.split(.numbers(upTo: 1), .isolated, invert: false), .split(.gpt2, .isolated, invert: false)] {
        steps = [.split(.gpt2DigitsApart, .isolated, invert: false)]
      }
      return (steps, isByteLevel)
    case "ByteLevel":
      var steps: [PreTokenizer] = []
      if try flag(mapping, "add_prefix_space", path, default: true) { steps.append(.prefixSpace) }
      if try flag(mapping, "use_regex", path, default: true) { steps.append(.split(.gpt2, .isolated, invert: false)) }
      return (steps, true)
    case "Split":
      return ([try split(mapping, path)], false)
    case "Digits":
      let individual = try flag(mapping, "individual_digits", path, default: false)
      return ([.split(.numbers(upTo: 1), individual ? .isolated : .contiguous, invert: false)], false)
    case "BertPreTokenizer": return ([.bert], false)
    case "Whitespace": return ([.split(.wordsOrSymbols, .removed, invert: true)], false)
    case "WhitespaceSplit": return ([.split(.whitespaceRun, .removed, invert: false)], false)
    case "Punctuation": return ([.punctuation(try behavior(mapping, path, default: .isolated))], false)
    case "CharDelimiterSplit":
      let delimiter = try string(mapping, "delimiter", path)
      guard !delimiter.isEmpty else {
        throw .invalidValue(path: path + ".delimiter", seen: "\"\"", expected: "one character")
      }
      return ([.split(.literal(Array(delimiter.utf8)), .removed, invert: false)], false)
    case "Metaspace": return ([try metaspace(mapping, path)], false)
    case let other:
      throw .unsupported(
        path: path + ".type", seen: "\"\(other)\"",
        expected: "Sequence, ByteLevel, Split, Digits, BertPreTokenizer, Whitespace, WhitespaceSplit, Punctuation, "
          + "CharDelimiterSplit, Metaspace")
    }
  }

  private static func metaspace(_ mapping: JinjaMapping, _ path: String) throws(TokenizerError) -> PreTokenizer {
    let replacement = try string(mapping, "replacement", path)
    guard replacement.unicodeScalars.count == 1 else {
      throw .invalidValue(path: path + ".replacement", seen: "\"\(replacement)\"", expected: "one character")
    }
    var prefix = PreTokenizer.MetaspacePrefix.always
    if case .string(let name)? = mapping["prepend_scheme"] {
      guard let scheme = PreTokenizer.MetaspacePrefix(rawValue: name) else {
        throw .invalidValue(path: path + ".prepend_scheme", seen: "\"\(name)\"", expected: "always, first or never")
      }
      prefix = scheme
    } else if !(try flag(mapping, "add_prefix_space", path, default: true)) {
      prefix = .never
    }
    return .metaspace(
      replacement: Array(replacement.utf8), prefix: prefix, split: try flag(mapping, "split", path, default: true))
  }

  private static func behavior(
    _ mapping: JinjaMapping, _ path: String, default fallback: PreTokenizer.Behavior
  ) throws(TokenizerError) -> PreTokenizer.Behavior {
    guard let value = mapping["behavior"] else { return fallback }
    guard case .string(let name) = value, let behavior = PreTokenizer.Behavior(rawValue: name) else {
      throw .invalidValue(
        path: path + ".behavior", seen: value.shown,
        expected: "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous")
    }
    return behavior
  }

  private static func split(_ mapping: JinjaMapping, _ path: String) throws(TokenizerError) -> PreTokenizer {
    let behavior = try behavior(mapping, path, default: .isolated)
    let invert = try flag(mapping, "invert", path, default: false)
    let (text, isRegex) = try pattern(mapping, path)
    guard !text.isEmpty && text.utf8.count <= longestPattern else {
      throw .invalidValue(
        path: path + ".pattern", seen: "\(text.utf8.count) bytes", expected: "1 to \(longestPattern) bytes")
    }
    if !isRegex { return .split(.literal(Array(text.utf8)), behavior, invert: invert) }
    guard let pattern = patterns[text] else {
      throw .unsupported(
        path: path + ".pattern.Regex", seen: "\"\(text)\"",
        expected: "the expression of GPT-2, GPT-4o, Llama 3, Qwen 2, Tekken, DeepSeek 3 or a simple run")
    }
    return .split(pattern, behavior, invert: invert)
  }

  private static let contractions = "'s|'t|'re|'ve|'m|'ll|'d"
  private static let spaces = #"\s+(?!\S)|\s+"#
  private static let wordLetters = #"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"#
  private static let smallLetters = #"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"#

  private static func llama3(_ digits: String) -> String {
    "(?i:" + contractions + #")|[^\r\n\p{L}\p{N}]?\p{L}+|"# + digits + #"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"#
      + spaces
  }

  private static func o200k(_ suffix: String, _ digits: String) -> String {
    let lead = #"[^\r\n\p{L}\p{N}]?"#
    let words =
      lead + wordLetters + "*" + smallLetters + "+" + suffix + "|" + lead + wordLetters + "+" + smallLetters + "*"
      + suffix
    return words + "|" + digits + #"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|"# + spaces
  }

  /// The expressions of public models, by their text.
  private static let patterns: [String: SplitPattern] = {
    var known: [String: SplitPattern] = [
      contractions + #"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|"# + spaces: .gpt2,
      llama3(#"\p{N}"#): .llama3(digits: 1),
      llama3(#"\p{N}{1,2}"#): .llama3(digits: 2),
      llama3(#"\p{N}{1,3}"#): .llama3(digits: 3),
      o200k("(?i:" + contractions + ")?", #"\p{N}{1,3}"#): .o200k(contractions: true, digits: 3),
      o200k("", #"\p{N}"#): .o200k(contractions: false, digits: 1),
      o200k("", #"\p{N}{1,3}"#): .o200k(contractions: false, digits: 3),
      #"\p{N}"#: .numbers(upTo: 1),
      #"\p{N}{1,3}"#: .numbers(upTo: 3),
      #"\p{N}+"#: .numberRun,
      #"\s+"#: .whitespaceRun,
      "[一-龥\u{3040}-ゟ゠-ヿ]+": .cjkRun,
      ##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|"##
        + spaces: .deepSeek3,
    ]
    // The same, as some files write the Llama 3 expression without a group.
    known[
      "(?i)" + contractions + #"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"# + spaces] =
      .llama3(digits: 3)
    return known
  }()

  // MARK: Post-processors

  /// Ids before and after a single text.
  static func postProcessor(
    _ value: JinjaValue, _ path: String, count: Int
  ) throws(TokenizerError) -> (prefix: [Int32], suffix: [Int32]) {
    if case .none = value { return ([], []) }
    let mapping = try mapping(value, path)
    switch try type(mapping, path) {
    case "ByteLevel": return ([], [])
    case "Sequence":
      var result: (prefix: [Int32], suffix: [Int32]) = ([], [])
      for (index, item) in try list(mapping, "processors", path).enumerated() {
        let inner = try postProcessor(item, "\(path).processors[\(index)]", count: count)
        result = (inner.prefix + result.prefix, result.suffix + inner.suffix)
      }
      return result
    case "BertProcessing", "RobertaProcessing":
      return ([try pairID(mapping, "cls", path, count)], [try pairID(mapping, "sep", path, count)])
    case "TemplateProcessing": return try template(mapping, path, count)
    case let other:
      throw .unsupported(
        path: path + ".type", seen: "\"\(other)\"",
        expected: "ByteLevel, Sequence, BertProcessing, RobertaProcessing, TemplateProcessing")
    }
  }

  private static func checkedID(_ value: JinjaValue?, _ path: String, _ count: Int) throws(TokenizerError) -> Int32 {
    guard let number = value?.asInteger, let id = Int32(exactly: number), id >= 0, id < count else {
      throw .invalidValue(path: path, seen: (value ?? .none).shown, expected: "an id in 0..<\(count)")
    }
    return id
  }

  /// `["[SEP]", 102]`
  private static func pairID(
    _ mapping: JinjaMapping, _ key: String, _ path: String, _ count: Int
  ) throws(TokenizerError) -> Int32 {
    let pair = try list(mapping, key, path)
    return try checkedID(pair.count == 2 ? pair[1] : nil, "\(path).\(key)[1]", count)
  }

  private static func template(
    _ mapping: JinjaMapping, _ path: String, _ count: Int
  ) throws(TokenizerError) -> (prefix: [Int32], suffix: [Int32]) {
    var prefix: [Int32] = []
    var suffix: [Int32] = []
    var seenText = false
    let tokens = try Self.mapping(mapping["special_tokens"] ?? .mapping([:]), path + ".special_tokens")
    for (index, item) in try list(mapping, "single", path).enumerated() {
      let itemPath = "\(path).single[\(index)]"
      let entry = try Self.mapping(item, itemPath)
      if entry["Sequence"] != nil {
        seenText = true
        continue
      }
      let special = try Self.mapping(entry["SpecialToken"] ?? .none, itemPath + ".SpecialToken")
      let name = try string(special, "id", itemPath + ".SpecialToken")
      let tokenPath = "\(path).special_tokens.\(name)"
      let token = try Self.mapping(tokens[name] ?? .none, tokenPath)
      for id in try list(token, "ids", tokenPath) {
        let checked = try checkedID(id, tokenPath + ".ids", count)
        if seenText { suffix.append(checked) } else { prefix.append(checked) }
      }
      guard prefix.count + suffix.count <= 64 else {
        throw .invalidValue(path: path + ".single", seen: "more than 64 special tokens", expected: "at most 64")
      }
    }
    return (prefix, suffix)
  }

  // MARK: Decoders

  static func decoder(
    _ value: JinjaValue, _ path: String
  ) throws(TokenizerError) -> (style: DecodingStyle, isByteLevel: Bool) {
    if case .none = value { return (.plain, false) }
    let mapping = try mapping(value, path)
    switch try type(mapping, path) {
    case "ByteLevel": return (.plain, true)
    case "WordPiece": return (.words(cleanup: try flag(mapping, "cleanup", path, default: true)), false)
    case "Metaspace":
      if case .metaspace(_, .never, _) = try metaspace(mapping, path) { return (.plain, false) }
      return (.stripLeadingSpace, false)
    case "Sequence":
      var result: (style: DecodingStyle, isByteLevel: Bool) = (.plain, false)
      for (index, item) in try list(mapping, "decoders", path).enumerated() {
        let inner = try decoder(item, "\(path).decoders[\(index)]")
        if inner.style != .plain { result.style = inner.style }
        result.isByteLevel = result.isByteLevel || inner.isByteLevel
      }
      return result
    case "Strip":
      let start = mapping["start"]?.asInteger ?? 0
      return (start > 0 ? .stripLeadingSpace : .plain, false)
    case "Replace", "ByteFallback", "Fuse": return (.plain, false)
    case let other:
      throw .unsupported(
        path: path + ".type", seen: "\"\(other)\"",
        expected: "ByteLevel, WordPiece, Metaspace, Sequence, Strip, Replace, ByteFallback, Fuse")
    }
  }
}

/// Base64 without line breaks.
enum Base64 {
  /// Nil where the text is not base64.
  static func decode(_ text: String) -> [UInt8]? {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(text.utf8.count * 3 / 4)
    var bits: UInt32 = 0
    var count: UInt32 = 0
    for character in text.utf8 {
      let value: UInt8
      switch character {
      case UInt8(ascii: "A")...UInt8(ascii: "Z"): value = character - UInt8(ascii: "A")
      case UInt8(ascii: "a")...UInt8(ascii: "z"): value = character - UInt8(ascii: "a") + 26
      case UInt8(ascii: "0")...UInt8(ascii: "9"): value = character - UInt8(ascii: "0") + 52
      case UInt8(ascii: "+"): value = 62
      case UInt8(ascii: "/"): value = 63
      case UInt8(ascii: "="): continue
      default: return nil
      }
      bits = (bits & 0xFFF) << 6 | UInt32(value)
      count += 6
      if count >= 8 {
        count -= 8
        bytes.append(UInt8(truncatingIfNeeded: bits >> count))
      }
    }
    return bytes
  }
}
