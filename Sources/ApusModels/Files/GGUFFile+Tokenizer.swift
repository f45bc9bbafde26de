/// The raw material of a tokenizer in a GGUF file. Vocabulary and merges stay in the mapping.
public struct GGUFTokenizerFields: Sendable {
  /// `tokenizer.ggml.model`: `gpt2`, `llama`, `t5`, `bert` …
  public var model: String
  /// `tokenizer.ggml.pre`: the pre-tokeniser, `smollm`, `qwen2`, `llama-bpe` …
  public var pre: String?
  public var tokens: GGUFStringArray
  /// Unigram scores, one a token.
  public var scores: [Float]?
  /// Token types, one a token: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
  public var types: [Int32]?
  /// `left right` pairs in order of rank.
  public var merges: GGUFStringArray?
  /// `bos`, `eos`, `unknown`, `padding`, `separator`, `cls`, `mask`, `eot` … by the name between
  /// `tokenizer.ggml.` and `_token_id`.
  public var specialTokens: [String: Int]
  public var addBOS: Bool?
  public var addEOS: Bool?
  public var addSpacePrefix: Bool?
  public var chatTemplate: String?
  /// The file that `tokens` and `merges` lie in, for errors.
  public var path: String
}

extension GGUFFile {
  /// What the file says about its tokenizer.
  ///
  /// Throws `missing` without a vocabulary, `wrongType` for fields of another type, `malformed` when scores or types
  /// don't match the vocabulary in number, or a special token isn't in it.
  public func tokenizerFields() throws(ModelFileError) -> GGUFTokenizerFields {
    let prefix = "tokenizer.ggml."
    func optional<T>(_ key: String, _ read: (String) throws(ModelFileError) -> T) throws(ModelFileError) -> T? {
      hasKey(key) ? try read(key) : nil
    }
    let tokens = try stringArray(prefix + "tokens")
    func checkCount(_ key: String, _ count: Int?) throws(ModelFileError) {
      guard let count, count != tokens.count else { return }
      throw ModelFileError(
        kind: .malformed, path: path, what: "key '\(key)'", seen: "\(count) values",
        expected: "one for each of the \(tokens.count) tokens")
    }
    let scores = try optional(prefix + "scores", floats)
    try checkCount(prefix + "scores", scores?.count)
    let types = try optional(prefix + "token_type", int32s)
    try checkCount(prefix + "token_type", types?.count)
    var special: [String: Int] = [:]
    for key in keys where key.hasPrefix(prefix) && key.hasSuffix("_token_id") {
      let id = try int(key)
      guard tokens.indices.contains(id) else {
        throw ModelFileError(
          kind: .malformed, path: path, what: "key '\(ModelFileError.printable(key))'", seen: "token \(id)",
          expected: "0 to \(tokens.count - 1), a token of the vocabulary")
      }
      special[String(key.dropFirst(prefix.count).dropLast("_token_id".count))] = id
    }
    return GGUFTokenizerFields(
      model: try string(prefix + "model"), pre: try optional(prefix + "pre", string), tokens: tokens, scores: scores,
      types: types, merges: try optional(prefix + "merges", stringArray), specialTokens: special,
      addBOS: try optional(prefix + "add_bos_token", bool), addEOS: try optional(prefix + "add_eos_token", bool),
      addSpacePrefix: try optional(prefix + "add_space_prefix", bool),
      chatTemplate: try optional("tokenizer.chat_template", string), path: path)
  }
}
