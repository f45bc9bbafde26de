/// SentencePiece's unigram language model: the segmentation with the best sum of scores (Viterbi).
struct UnigramModel: Sendable {
  let vocabulary: Vocabulary
  let scores: [Double]
  let unknown: Int32?
  let byteFallback: Bool
  private let trie: PieceTrie
  private let unknownScore: Double

  /// Larger scores are refused when a tokenizer is built, so that no sum of scores overflows.
  static let largestScore = 1e30

  /// Longer pieces are refused when a tokenizer is built: it bounds the work at one position of the text.
  static let longestPiece = 1024

  /// How much worse than the worst piece an unknown scalar scores (sentencepiece, unigram_model.cc).
  private static let unknownPenalty = 10.0

  init(vocabulary: Vocabulary, scores: [Double], unknown: Int32?, byteFallback: Bool) {
    self.vocabulary = vocabulary
    self.scores = scores
    self.unknown = unknown
    self.byteFallback = byteFallback
    trie = PieceTrie(vocabulary)
    var worst = Double.infinity
    for id in 0..<vocabulary.count where vocabulary.kinds[id] == .normal || vocabulary.kinds[id] == .userDefined {
      worst = min(worst, scores[id])
    }
    unknownScore = (worst.isFinite ? worst : 0) - Self.unknownPenalty
  }

  /// Appends the ids of `bytes[start..<end]`. O(length × longest piece).
  func encode(_ bytes: [UInt8], _ start: Int, _ end: Int, _ state: inout EncoderState, _ output: inout [Int32]) {
    let cacheable = end - start <= WordCache.longestWord
    var hash: UInt64 = 0
    if cacheable {
      hash = state.cache.hash(bytes, start, end)
      if state.cache.lookUp(bytes, start, end, hash: hash, into: &output) { return }
    }
    let first = output.count
    segment(bytes, start, end, &output)
    if cacheable { state.cache.insert(bytes, start, end, hash: hash, ids: output[first...]) }
  }

  private func segment(_ bytes: [UInt8], _ start: Int, _ end: Int, _ output: inout [Int32]) {
    let count = end - start
    var best = [Double](repeating: -.infinity, count: count + 1)
    var back = [(from: Int32, id: Int32)](repeating: (-1, -1), count: count + 1)
    best[0] = 0
    var position = 0
    while position < count {
      let scalarEnd = min(position + UTF8Text.sequenceLength(bytes[start + position]), count)
      var hasScalar = false
      let base = best[position]
      trie.forEachPrefix(bytes, start + position, end) { stop, id in
        let length = stop - start
        if length == scalarEnd { hasScalar = true }
        let score = base + scores[Int(id)]
        if score > best[length] {
          best[length] = score
          back[length] = (Int32(position), id)
        }
      }
      if !hasScalar {
        let score = base + unknownScore
        if score > best[scalarEnd] {
          best[scalarEnd] = score
          back[scalarEnd] = (Int32(position), -1)
        }
      }
      position = scalarEnd
    }
    var path: [(from: Int, to: Int, id: Int32)] = []
    var to = count
    while to > 0 {
      let step = back[to]
      path.append((Int(step.from), to, step.id))
      to = Int(step.from)
    }
    var index = path.count - 1
    while index >= 0 {
      let step = path[index]
      if step.id >= 0 {
        output.append(step.id)
        index -= 1
        continue
      }
      // Neighbouring unknown scalars are one unknown piece.
      var stop = step.to
      while index > 0 && path[index - 1].id < 0 {
        index -= 1
        stop = path[index].to
      }
      index -= 1
      let range = (start + step.from)..<(start + stop)
      if byteFallback && range.allSatisfy({ vocabulary.byteIDs[Int(bytes[$0])] >= 0 }) {
        for position in range { output.append(vocabulary.byteIDs[Int(bytes[position])]) }
      } else if let unknown {
        output.append(unknown)
      }
    }
  }
}

/// A byte trie over a vocabulary in flat arrays: children of a node are found by hashing (node, byte).
struct PieceTrie: Sendable {
  private struct Slot {
    var key: UInt64
    var node: Int32
  }
  private static let empty = UInt64.max
  private var slots: [Slot] = []
  private var ids: [Int32] = [-1]
  private var mask = 0
  private let seed = ByteHash.seed

  init(_ vocabulary: Vocabulary) {
    grow(to: 1 << 12)
    for id in 0..<vocabulary.count where vocabulary.kinds[id] == .normal || vocabulary.kinds[id] == .userDefined {
      var node: Int32 = 0
      let piece = vocabulary.pieces[id]
      if piece.isEmpty { continue }
      for byte in piece { node = child(node, byte) ?? addChild(node, byte) }
      if ids[Int(node)] < 0 { ids[Int(node)] = Int32(id) }
    }
  }

  @inline(__always)
  private func key(_ node: Int32, _ byte: UInt8) -> UInt64 { UInt64(UInt32(bitPattern: node)) << 8 | UInt64(byte) }

  @inline(__always)
  private func child(_ node: Int32, _ byte: UInt8) -> Int32? {
    let key = key(node, byte)
    var slot = Int(truncatingIfNeeded: ByteHash.hash(key, seed: seed)) & mask
    while slots[slot].key != Self.empty {
      if slots[slot].key == key { return slots[slot].node }
      slot = (slot + 1) & mask
    }
    return nil
  }

  private mutating func addChild(_ node: Int32, _ byte: UInt8) -> Int32 {
    if ids.count * 3 > slots.count * 2 { grow(to: slots.count * 2) }
    let child = Int32(ids.count)
    ids.append(-1)
    place(Slot(key: key(node, byte), node: child))
    return child
  }

  private mutating func place(_ entry: Slot) {
    var slot = Int(truncatingIfNeeded: ByteHash.hash(entry.key, seed: seed)) & mask
    while slots[slot].key != Self.empty { slot = (slot + 1) & mask }
    slots[slot] = entry
  }

  private mutating func grow(to capacity: Int) {
    let old = slots
    slots = [Slot](repeating: Slot(key: Self.empty, node: 0), count: capacity)
    mask = capacity - 1
    for entry in old where entry.key != Self.empty { place(entry) }
  }

  /// Calls `body` with the end and id of every piece that `bytes[start..<end]` starts with, shortest first.
  @inline(__always)
  func forEachPrefix(_ bytes: [UInt8], _ start: Int, _ end: Int, _ body: (Int, Int32) -> Void) {
    var node: Int32 = 0
    var position = start
    while position < end, let next = child(node, bytes[position]) {
      node = next
      position += 1
      if ids[Int(node)] >= 0 { body(position, ids[Int(node)]) }
    }
  }
}
