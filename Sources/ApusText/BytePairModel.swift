/// Byte-pair encoding and SentencePiece BPE: from one word's bytes to ids.
struct BytePairModel: Sendable {
  enum Rule: Sendable {
    case pairs(PairMerges)
    case scores(ScoreMerges)
  }

  /// What a word is cut into before anything merges.
  enum Atoms: Sendable {
    /// Single bytes (byte-level BPE).
    case bytes
    /// Unicode scalars.
    case scalars
  }

  let vocabulary: Vocabulary
  let rule: Rule
  let atoms: Atoms
  /// Ids of single bytes as ordinary pieces, for `Atoms.bytes`; -1 where there is none.
  let byteAtoms: [Int32]
  /// Write scalars that are no piece as byte pieces.
  let byteFallback: Bool
  let unknown: Int32?
  let fuseUnknown: Bool
  /// Take a whole word that is a piece, whatever the merges say.
  let ignoreMerges: Bool
  /// Bytes after which `▁` occurs inside a piece. After any other byte, a word may be cut before `▁` without changing
  /// a single id, because no merge crosses that border. Nil where words are not to be cut.
  let bytesBeforeInnerMarker: [Bool]?

  /// U+2581, SentencePiece's stand-in for a space.
  static let marker: [UInt8] = [0xE2, 0x96, 0x81]

  init(
    vocabulary: Vocabulary, rule: Rule, atoms: Atoms, byteFallback: Bool, unknown: Int32?, fuseUnknown: Bool,
    ignoreMerges: Bool
  ) {
    self.vocabulary = vocabulary
    self.rule = rule
    self.atoms = atoms
    self.byteFallback = byteFallback
    self.unknown = unknown
    self.fuseUnknown = fuseUnknown
    self.ignoreMerges = ignoreMerges
    byteAtoms =
      switch atoms {
      case .bytes: (0..<256).map { vocabulary.id(of: [UInt8($0)]) }
      case .scalars: []
      }
    bytesBeforeInnerMarker =
      switch atoms {
      case .bytes: nil
      case .scalars: Self.findInnerMarkers(vocabulary)
      }
  }

  private static func findInnerMarkers(_ vocabulary: Vocabulary) -> [Bool] {
    var found = [Bool](repeating: false, count: 256)
    // A run of markers is one word: a marker may always be preceded by another.
    found[Int(marker[2])] = true
    let bytes = vocabulary.pieces.storage
    for id in 0..<vocabulary.count where vocabulary.kinds[id] == .normal || vocabulary.kinds[id] == .unused {
      let range = vocabulary.pieces.range(id)
      var index = range.lowerBound + 1
      while index + 2 < range.upperBound {
        if bytes[index] == marker[0] && bytes[index + 1] == marker[1] && bytes[index + 2] == marker[2] {
          found[Int(bytes[index - 1])] = true
        }
        index += 1
      }
    }
    return found
  }

  /// Appends the ids of `bytes[start..<end]`.
  func encode(_ bytes: [UInt8], _ start: Int, _ end: Int, _ state: inout EncoderState, _ output: inout [Int32]) {
    guard let inner = bytesBeforeInnerMarker else {
      encodeWord(bytes, start, end, &state, &output)
      return
    }
    var wordStart = start
    var index = start + 1
    while index + 2 < end {
      if bytes[index] == Self.marker[0] && bytes[index + 1] == Self.marker[1] && bytes[index + 2] == Self.marker[2]
        && !inner[Int(bytes[index - 1])]
      {
        encodeWord(bytes, wordStart, index, &state, &output)
        wordStart = index
        index += 3
      } else {
        index += 1
      }
    }
    encodeWord(bytes, wordStart, end, &state, &output)
  }

  private func encodeWord(
    _ bytes: [UInt8], _ start: Int, _ end: Int, _ state: inout EncoderState, _ output: inout [Int32]
  ) {
    if start == end { return }
    let cacheable = end - start <= WordCache.longestWord
    var hash: UInt64 = 0
    if cacheable {
      hash = state.cache.hash(bytes, start, end)
      if state.cache.lookUp(bytes, start, end, hash: hash, into: &output) { return }
    }
    let first = output.count
    merge(bytes, start, end, &state, &output)
    if cacheable { state.cache.insert(bytes, start, end, hash: hash, ids: output[first...]) }
  }

  private func merge(
    _ bytes: [UInt8], _ start: Int, _ end: Int, _ state: inout EncoderState, _ output: inout [Int32]
  ) {
    if ignoreMerges {
      let id = vocabulary.id(of: bytes, start, end)
      if id >= 0 {
        output.append(id)
        return
      }
    }
    state.engine.symbols.removeAll(keepingCapacity: true)
    switch atoms {
    case .bytes: appendByteAtoms(bytes, start, end, &state.engine.symbols)
    case .scalars: appendScalarAtoms(bytes, start, end, &state.engine.symbols)
    }
    switch rule {
    case .pairs(let pairs): state.engine.run(pairs, bytes)
    case .scores(let scores): state.engine.run(scores, bytes)
    }
    let first = output.count
    for symbol in state.engine.symbols {
      if symbol.id >= 0 {
        output.append(symbol.id)
      } else if byteFallback && hasByteIDs(bytes, Int(symbol.start), Int(symbol.end)) {
        for index in Int(symbol.start)..<Int(symbol.end) { output.append(vocabulary.byteIDs[Int(bytes[index])]) }
      } else if let unknown, !(fuseUnknown && output.count > first && output[output.count - 1] == unknown) {
        output.append(unknown)
      }
    }
  }

  private func appendByteAtoms(_ bytes: [UInt8], _ start: Int, _ end: Int, _ symbols: inout [MergeSymbol]) {
    for index in start..<end {
      let id = byteAtoms[Int(bytes[index])]
      if id >= 0 {
        symbols.append(MergeSymbol(id: id, start: Int32(index), end: Int32(index + 1)))
      } else if let unknown {
        if fuseUnknown, let last = symbols.last, last.id == unknown {
          symbols[symbols.count - 1].end = Int32(index + 1)
        } else {
          symbols.append(MergeSymbol(id: unknown, start: Int32(index), end: Int32(index + 1)))
        }
      }
      // Without an unknown piece the reference drops the byte, and its neighbours meet.
    }
  }

  private func appendScalarAtoms(_ bytes: [UInt8], _ start: Int, _ end: Int, _ symbols: inout [MergeSymbol]) {
    var index = start
    while index < end {
      let next = min(index + UTF8Text.sequenceLength(bytes[index]), end)
      let id = vocabulary.id(of: bytes, index, next)
      let symbol = MergeSymbol(id: id, start: Int32(index), end: Int32(next))
      if case .scores = rule {
        // SentencePiece lets unknown scalars take part in merges by their bytes.
        symbols.append(symbol)
      } else if id >= 0 {
        symbols.append(symbol)
      } else if byteFallback && hasByteIDs(bytes, index, next) {
        for position in index..<next {
          symbols.append(
            MergeSymbol(
              id: vocabulary.byteIDs[Int(bytes[position])], start: Int32(position), end: Int32(position + 1)))
        }
      } else if let unknown {
        if fuseUnknown, let last = symbols.last, last.id == unknown {
          symbols[symbols.count - 1].end = Int32(next)
        } else {
          symbols.append(MergeSymbol(id: unknown, start: Int32(index), end: Int32(next)))
        }
      }
      index = next
    }
  }

  private func hasByteIDs(_ bytes: [UInt8], _ start: Int, _ end: Int) -> Bool {
    for index in start..<end where vocabulary.byteIDs[Int(bytes[index])] < 0 { return false }
    return true
  }
}

/// Buffers that one `encode` call reuses from word to word.
struct EncoderState {
  var engine = MergeEngine()
  var cache: WordCache

  init(textLength: Int) { cache = WordCache(textLength: textLength) }
}
