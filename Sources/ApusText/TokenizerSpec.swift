/// Everything that defines a tokenizer, read from a model's files but not yet indexed.
///
///     let spec = try TokenizerSpec(gguf: metadata)         // from GGUF metadata
///     let spec = try TokenizerSpec(json: tokenizerJSON)    // from a tokenizer.json file
///     let tokenizer = try spec.makeTokenizer()
public struct TokenizerSpec: Sendable {
  enum Model: Sendable {
    /// `merges` in order of rank, as two strings each: 2·i and 2·i + 1.
    case bytePair(
      merges: ByteStrings, byteLevel: Bool, byteFallback: Bool, fuseUnknown: Bool, ignoreMerges: Bool)
    case scoredBytePair(scores: [Float])
    case unigram(scores: [Double], byteFallback: Bool)
    case wordPiece(prefix: [UInt8], maximumScalars: Int)
  }

  var pieces: ByteStrings
  var kinds: [TokenKind]
  var model: Model
  var normalizers: [Normalizer] = []
  var preTokenizers: [PreTokenizer] = []
  /// Ids that the post-processor puts around a text.
  var prefixIDs: [Int32] = []
  var suffixIDs: [Int32] = []
  var decodingStyle: DecodingStyle = .plain
  var texts: PieceTexts = .raw
  /// What the model writes for text that no piece covers; nil leaves such text out.
  var modelUnknown: Int32?
  /// Key path of the merges, for errors.
  var mergesPath = "model.merges"

  /// Tokens that are matched as whole strings before the model sees the text.
  public var addedTokens: [AddedToken] = []
  /// Ids with a role. Files of the `tokenizer.json` kind do not name them: set them from the model's configuration.
  public var specialTokens = SpecialTokens()
  /// The model's chat template, where the files carry one.
  public var chatTemplate: String?
  /// Cuts longer inputs by default (encoders); nil where the file sets none.
  public var truncation: Int?

  /// Checks the parts against each other and indexes them. Throws `TokenizerError`. O(bytes of all pieces).
  public func makeTokenizer() throws(TokenizerError) -> TextTokenizer {
    try checkNormalizers()
    if case .unigram = model {
      for id in 0..<pieces.count where pieces.range(id).count > UnigramModel.longestPiece {
        throw .invalidValue(
          path: "vocabulary[\(id)]", seen: "\(pieces.range(id).count) bytes",
          expected: "at most \(UnigramModel.longestPiece) bytes")
      }
    }
    let vocabulary = Vocabulary(pieces: pieces, kinds: kinds)
    for token in addedTokens {
      try Self.check(token, count: pieces.count)
    }
    let unknown = modelUnknown
    try Self.checkIDs(unknown.map { [$0] } ?? [], count: pieces.count, path: "model.unk")
    try Self.checkIDs(prefixIDs + suffixIDs, count: pieces.count, path: "post_processor")
    let tokenizerModel: TextTokenizer.Model
    switch model {
    case .bytePair(let merges, let byteLevel, let byteFallback, let fuseUnknown, let ignoreMerges):
      let pairs = try makeMerges(merges, vocabulary)
      tokenizerModel = .bytePair(
        BytePairModel(
          vocabulary: vocabulary, rule: .pairs(pairs), atoms: byteLevel ? .bytes : .scalars,
          byteFallback: byteFallback, unknown: unknown, fuseUnknown: fuseUnknown, ignoreMerges: ignoreMerges))
    case .scoredBytePair(let scores):
      tokenizerModel = .bytePair(
        BytePairModel(
          vocabulary: vocabulary, rule: .scores(ScoreMerges(vocabulary: vocabulary, scores: scores)),
          atoms: .scalars, byteFallback: true, unknown: unknown, fuseUnknown: true, ignoreMerges: false))
    case .unigram(let scores, let byteFallback):
      tokenizerModel = .unigram(
        UnigramModel(vocabulary: vocabulary, scores: scores, unknown: unknown, byteFallback: byteFallback))
    case .wordPiece(let prefix, let maximumScalars):
      guard let unknown else {
        throw .invalidValue(path: "model.unk_token", seen: "no unknown token", expected: "a token of the vocabulary")
      }
      tokenizerModel = .wordPiece(
        WordPieceModel(
          vocabulary: vocabulary, unknown: unknown, continuingPrefix: prefix, maximumScalars: maximumScalars))
    }
    let raw = addedTokens.filter { !$0.isNormalized }
    let normalized = addedTokens.filter(\.isNormalized)
    return TextTokenizer(
      vocabulary: vocabulary, model: tokenizerModel, normalizers: normalizers,
      splitter: WordSplitter(steps: preTokenizers),
      rawTokens: AddedTokenMatcher(raw, texts: raw.map { Array($0.content.utf8) }),
      normalizedTokens: AddedTokenMatcher(
        normalized, texts: normalized.map { token in normalizers.reduce(Array(token.content.utf8)) { $1.apply($0) } }),
      prefixIDs: prefixIDs, suffixIDs: suffixIDs, texts: texts, specialTokens: specialTokens,
      decodingStyle: decodingStyle)
  }

  /// Normalisation may lengthen text, but only so much: hostile replacements must not multiply it without bound.
  private func checkNormalizers() throws(TokenizerError) {
    let largestGrowth = 256
    let longestPrefix = 4096
    var growth = 1
    for normalizer in normalizers {
      switch normalizer {
      case .replace(let pattern, let replacement):
        growth *= max(1, (replacement.count + pattern.count - 1) / pattern.count)
      case .collapseSpaces(let replacement): growth *= max(1, (replacement.count + 1) / 2)
      case .prepend(let prefix) where prefix.count > longestPrefix: growth = .max / 2
      default: break
      }
      guard growth <= largestGrowth else {
        throw .invalidValue(
          path: "normalizer", seen: "replacements that make a text more than \(largestGrowth) times as long",
          expected: "less growth")
      }
    }
    guard normalizers.count <= 64 else {
      throw .invalidValue(path: "normalizer", seen: "\(normalizers.count) steps", expected: "at most 64")
    }
  }

  private static func check(_ token: AddedToken, count: Int) throws(TokenizerError) {
    guard token.id >= 0 && token.id < count else {
      throw .invalidValue(path: "added_tokens[\(token.id)].id", seen: "\(token.id)", expected: "0..<\(count)")
    }
    guard token.content.utf8.count <= AddedTokenMatcher.longestContent else {
      throw .invalidValue(
        path: "added_tokens[\(token.id)].content", seen: "\(token.content.utf8.count) bytes",
        expected: "at most \(AddedTokenMatcher.longestContent) bytes")
    }
  }

  static func checkIDs(_ ids: [Int32], count: Int, path: String) throws(TokenizerError) {
    for id in ids where id < 0 || id >= count {
      throw .invalidValue(path: path, seen: "token id \(id)", expected: "an id in 0..<\(count)")
    }
  }

  private func makeMerges(_ merges: ByteStrings, _ vocabulary: Vocabulary) throws(TokenizerError) -> PairMerges {
    var pairs = PairMerges(capacity: merges.count / 2)
    let bytes = merges.storage
    let borders = merges.borders
    for rank in 0..<(merges.count / 2) {
      let start = borders[2 * rank]
      let middle = borders[2 * rank + 1]
      let end = borders[2 * rank + 2]
      let left = vocabulary.id(of: bytes, start, middle)
      let right = vocabulary.id(of: bytes, middle, end)
      let merged = vocabulary.id(of: bytes, start, end)
      guard start < middle, middle < end, left >= 0, right >= 0, merged >= 0 else {
        let seen = "\"\(merges.string(2 * rank))\" + \"\(merges.string(2 * rank + 1))\""
        throw .invalidValue(
          path: "\(mergesPath)[\(rank)]", seen: seen,
          expected: "two pieces of the vocabulary that together are a third")
      }
      pairs.insert(left: left, right: right, rank: rank, merged: merged)
    }
    return pairs
  }
}
