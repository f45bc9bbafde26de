/// The tokenizer of every public model family: normalise, cut into words, encode each word, add special tokens.
///
/// Built by `TokenizerSpec.makeTokenizer()`. An immutable value; copies share storage.
public struct TextTokenizer: Tokenizer {
  enum Model: Sendable {
    case bytePair(BytePairModel)
    case unigram(UnigramModel)
    case wordPiece(WordPieceModel)
  }

  let vocabulary: Vocabulary
  let model: Model
  let normalizers: [Normalizer]
  let splitter: WordSplitter
  /// Added tokens that are looked for in the text as given, and those looked for after normalisation.
  let rawTokens: AddedTokenMatcher
  let normalizedTokens: AddedTokenMatcher
  /// Ids before and after the text's own when special tokens are asked for.
  let prefixIDs: [Int32]
  let suffixIDs: [Int32]
  /// Each id's bytes as text.
  let texts: PieceTexts

  public let specialTokens: SpecialTokens
  public let decodingStyle: DecodingStyle

  public var vocabularySize: Int { vocabulary.count }

  public func kind(of id: Int32) -> TokenKind {
    vocabulary.kinds.indices.contains(Int(id)) ? vocabulary.kinds[Int(id)] : .unused
  }

  public func bytes(of id: Int32) -> [UInt8] {
    var bytes: [UInt8] = []
    appendBytes(of: id, to: &bytes)
    return bytes
  }

  public func appendBytes(of id: Int32, to bytes: inout [UInt8]) {
    guard vocabulary.kinds.indices.contains(Int(id)) else { return }
    texts.append(Int(id), in: vocabulary, to: &bytes)
  }

  /// The id of a token by its exact text (`"<|im_end|>"`), controls included; nil if there is none. O(vocabulary).
  public func id(of text: String) -> Int32? {
    let bytes = Array(text.utf8)
    let direct = vocabulary.id(of: bytes)
    if direct >= 0 { return direct }
    for id in 0..<vocabulary.count where vocabulary.pieces[id].elementsEqual(bytes) { return Int32(id) }
    return nil
  }

  public func encode(_ text: String, options: EncodingOptions) -> [Int32] {
    let bytes = Array(text.utf8)
    precondition(bytes.count < Int(Int32.max), "texts of 2 GiB or more must be encoded in parts")
    var output: [Int32] = []
    output.reserveCapacity(bytes.count / 4 + prefixIDs.count + suffixIDs.count + 1)
    if options.addSpecial { output.append(contentsOf: prefixIDs) }
    var state = EncoderState(textLength: bytes.count)
    var position = 0
    for match in rawTokens.matches(bytes, 0, bytes.count, includeSpecial: options.parseSpecial) {
      encodeStretch(bytes, position, match.start, options, &state, &output)
      output.append(rawTokens.tokens[match.token].id)
      position = match.end
    }
    encodeStretch(bytes, position, bytes.count, options, &state, &output)
    if let maximum = options.maximumLength {
      let reserved = options.addSpecial ? suffixIDs.count : 0
      if output.count > max(maximum - reserved, 0) { output.removeSubrange(max(maximum - reserved, 0)...) }
      if options.addSpecial { output.append(contentsOf: suffixIDs.prefix(maximum - output.count)) }
    } else if options.addSpecial {
      output.append(contentsOf: suffixIDs)
    }
    return output
  }

  /// Encodes text between added tokens that were found in the text as given.
  private func encodeStretch(
    _ bytes: [UInt8], _ start: Int, _ end: Int, _ options: EncodingOptions, _ state: inout EncoderState,
    _ output: inout [Int32]
  ) {
    if start == end { return }
    if normalizers.isEmpty && normalizedTokens.isEmpty {
      encodeWords(bytes, start, end, start == 0, &state, &output)
      return
    }
    var text = start == 0 && end == bytes.count ? bytes : Array(bytes[start..<end])
    for normalizer in normalizers { text = normalizer.apply(text) }
    var position = 0
    for match in normalizedTokens.matches(text, 0, text.count, includeSpecial: options.parseSpecial) {
      encodeWords(text, position, match.start, start == 0 && position == 0, &state, &output)
      output.append(normalizedTokens.tokens[match.token].id)
      position = match.end
    }
    encodeWords(text, position, text.count, start == 0 && position == 0, &state, &output)
  }

  private func encodeWords(
    _ bytes: [UInt8], _ start: Int, _ end: Int, _ isTextStart: Bool, _ state: inout EncoderState,
    _ output: inout [Int32]
  ) {
    if start == end { return }
    switch model {
    case .bytePair(let model):
      if splitter.steps.isEmpty {
        model.encode(bytes, start, end, &state, &output)
      } else {
        splitter.forEachWord(bytes, start, end, isTextStart: isTextStart) { bytes, start, end in
          model.encode(bytes, start, end, &state, &output)
        }
      }
    case .unigram(let model):
      splitter.forEachWord(bytes, start, end, isTextStart: isTextStart) { bytes, start, end in
        model.encode(bytes, start, end, &state, &output)
      }
    case .wordPiece(let model):
      splitter.forEachWord(bytes, start, end, isTextStart: isTextStart) { bytes, start, end in
        model.encode(bytes, start, end, &state, &output)
      }
    }
  }
}

/// How a piece's stored bytes read as text.
enum PieceTexts: Sendable {
  /// As they are.
  case raw
  /// `▁` is a space.
  case marker
  /// A space in front of every piece without the prefix, which is dropped; pieces in BERT's vocabulary.
  case wordPiece(prefix: [UInt8])

  /// Appends a piece's text.
  func append(_ id: Int, in vocabulary: Vocabulary, to bytes: inout [UInt8]) {
    let piece = vocabulary.pieces[id]
    let kind = vocabulary.kinds[id]
    if kind == .byte, let byte = Vocabulary.byteValue(of: piece) { return bytes.append(byte) }
    let isName = kind == .control || kind == .unknown
    switch self {
    case .marker where !isName:
      var rest = piece
      while let first = rest.first {
        let isMarker = rest.starts(with: BytePairModel.marker)
        bytes.append(isMarker ? 0x20 : first)
        rest = rest.dropFirst(isMarker ? BytePairModel.marker.count : 1)
      }
    case .wordPiece(let prefix):
      if !isName && piece.starts(with: prefix) {
        bytes += piece.dropFirst(prefix.count)
      } else {
        bytes.append(0x20)
        bytes += piece
      }
    case .raw, .marker: bytes += piece
    }
  }
}
