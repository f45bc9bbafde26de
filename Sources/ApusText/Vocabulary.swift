/// What a vocabulary entry is for. Raw values are those of GGUF's `tokenizer.ggml.token_type`.
public enum TokenKind: UInt8, Sendable {
  /// Ordinary text.
  case normal = 1
  /// Stands for text that no piece covers.
  case unknown = 2
  /// Steers the model (`<|im_end|>`, `[CLS]`); never text unless the caller asks to parse special tokens.
  case control = 3
  /// A fixed string that is always kept whole in text, such as `<tool_call>` or a run of newlines.
  case userDefined = 4
  /// Reserved; never produced.
  case unused = 5
  /// One byte of text that no other piece covers.
  case byte = 6
}

/// The pieces of a tokenizer: id to bytes by index, bytes to id by an open-addressing table over the flat storage.
struct Vocabulary: Sendable {
  /// Bytes of each id in the alphabet that the model merges: raw bytes for byte-level BPE, `▁` for spaces in
  /// SentencePiece, `##` prefixes in WordPiece.
  let pieces: ByteStrings
  let kinds: [TokenKind]
  /// Id of the piece for byte b, or -1.
  private(set) var byteIDs: [Int32]
  /// High half: hash tag; low half: id + 1; 0 means empty.
  private var slots: [UInt64]
  private let mask: Int
  private let seed = ByteHash.seed

  var count: Int { pieces.count }

  /// Indexes the pieces. Of equal pieces the one with the lowest id is found. O(bytes).
  init(pieces: ByteStrings, kinds: [TokenKind]) {
    precondition(pieces.count == kinds.count)
    self.pieces = pieces
    self.kinds = kinds
    byteIDs = [Int32](repeating: -1, count: 256)
    var capacity = 16
    while capacity * 5 < pieces.count * 8 { capacity *= 2 }
    slots = [UInt64](repeating: 0, count: capacity)
    mask = capacity - 1
    for id in 0..<pieces.count {
      switch kinds[id] {
      case .normal, .unused, .userDefined:
        insert(id)
      case .byte:
        if let byte = Self.byteValue(of: pieces[id]), byteIDs[Int(byte)] < 0 { byteIDs[Int(byte)] = Int32(id) }
      case .unknown, .control:
        break
      }
    }
  }

  private mutating func insert(_ id: Int) {
    let range = pieces.range(id)
    let hash = ByteHash.hash(pieces.storage, range.lowerBound, range.upperBound, seed: seed)
    let tag = hash & 0xFFFF_FFFF_0000_0000
    var slot = Int(truncatingIfNeeded: hash) & mask
    while slots[slot] != 0 {
      if slots[slot] & 0xFFFF_FFFF_0000_0000 == tag {
        let other = pieces.range(Int(slots[slot] & 0xFFFF_FFFF) - 1)
        if equal(pieces.storage, range.lowerBound, range.upperBound, other) { return }
      }
      slot = (slot + 1) & mask
    }
    slots[slot] = tag | UInt64(id + 1)
  }

  @inline(__always)
  private func equal(_ bytes: [UInt8], _ start: Int, _ end: Int, _ range: Range<Int>) -> Bool {
    guard range.count == end - start else { return false }
    var offset = 0
    while offset < end - start {
      if bytes[start + offset] != pieces.storage[range.lowerBound + offset] { return false }
      offset += 1
    }
    return true
  }

  /// The id whose piece is exactly `bytes[start..<end]`, or -1. Controls, unknown and byte pieces are not found.
  @inline(__always)
  func id(of bytes: [UInt8], _ start: Int, _ end: Int) -> Int32 {
    let hash = ByteHash.hash(bytes, start, end, seed: seed)
    let tag = hash & 0xFFFF_FFFF_0000_0000
    var slot = Int(truncatingIfNeeded: hash) & mask
    while slots[slot] != 0 {
      if slots[slot] & 0xFFFF_FFFF_0000_0000 == tag {
        let id = Int(slots[slot] & 0xFFFF_FFFF) - 1
        if equal(bytes, start, end, pieces.range(id)) { return Int32(truncatingIfNeeded: id) }
      }
      slot = (slot + 1) & mask
    }
    return -1
  }

  func id(of bytes: [UInt8]) -> Int32 { id(of: bytes, 0, bytes.count) }

  /// The byte that a piece written `<0xAB>` stands for.
  static func byteValue(of piece: ArraySlice<UInt8>) -> UInt8? {
    guard piece.count == 6, piece.starts(with: "<0x".utf8), piece.last == UInt8(ascii: ">") else { return nil }
    let digits = piece.dropFirst(3).dropLast()
    return UInt8(String(decoding: digits, as: UTF8.self), radix: 16)
  }

  /// Every piece is found under its own bytes or under an equal piece with a lower id.
  func checkInvariants() -> Bool {
    for id in 0..<count where kinds[id] == .normal {
      let range = pieces.range(id)
      let found = self.id(of: pieces.storage, range.lowerBound, range.upperBound)
      guard found >= 0 && found <= Int32(id) && pieces[Int(found)] == pieces[id] else { return false }
    }
    return true
  }
}
