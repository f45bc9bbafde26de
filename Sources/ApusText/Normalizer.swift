/// One step that rewrites text before it is cut into words.
enum Normalizer: Sendable, Equatable {
  case nfc
  case nfd
  case nfkc
  case nfkd
  case lowercase
  /// Removes nonspacing marks.
  case stripAccents
  case replace([UInt8], with: [UInt8])
  case prepend([UInt8])
  case strip(left: Bool, right: Bool)
  /// BERT's: drops controls, spaces out CJK, strips accents, lower-cases.
  case bert(cleanText: Bool, spaceCJK: Bool, stripAccents: Bool, lowercase: Bool)
  /// SentencePiece's compiled replacement table.
  case charsMap(CharsMap)
  /// Two or more spaces become one (`Replace` of ` {2,}`).
  case collapseSpaces([UInt8])

  func apply(_ bytes: [UInt8]) -> [UInt8] {
    switch self {
    case .nfc: return UTF8Text.nfc(bytes)
    case .nfd: return UTF8Text.nfd(bytes)
    case .nfkc: return UTF8Text.nfkc(bytes)
    case .nfkd: return UTF8Text.nfkd(bytes)
    case .lowercase: return UTF8Text.lowercased(bytes)
    case .stripAccents: return Self.without(BertTable.mark, bytes)
    case .replace(let pattern, let replacement): return Self.replacing(bytes, pattern, replacement)
    case .prepend(let prefix): return bytes.isEmpty ? bytes : prefix + bytes
    case .strip(let left, let right): return Self.stripped(bytes, left, right)
    case .bert(let clean, let spaceCJK, let stripAccents, let lowercase):
      return Self.bert(bytes, clean, spaceCJK, stripAccents, lowercase)
    case .charsMap(let map): return map.apply(bytes)
    case .collapseSpaces(let replacement): return Self.collapsingSpaces(bytes, replacement)
    }
  }

  /// Leaves out the scalars that carry a flag of `BertTable`.
  private static func without(_ flag: UInt8, _ bytes: [UInt8]) -> [UInt8] {
    let flags = BertTable.shared.flags
    var output: [UInt8] = []
    output.reserveCapacity(bytes.count)
    var position = 0
    while position < bytes.count {
      let (scalar, next) = UTF8Text.scalar(bytes, at: position)
      if flags[Int(scalar)] & flag == 0 { output.append(contentsOf: bytes[position..<next]) }
      position = next
    }
    return output
  }

  static func replacing(_ bytes: [UInt8], _ pattern: [UInt8], _ replacement: [UInt8]) -> [UInt8] {
    guard let first = pattern.first, bytes.contains(first) else { return bytes }
    var output: [UInt8] = []
    output.reserveCapacity(bytes.count + bytes.count / 2)
    var position = 0
    while position < bytes.count {
      if bytes[position] == first && bytes[position...].starts(with: pattern) {
        output.append(contentsOf: replacement)
        position += pattern.count
      } else {
        output.append(bytes[position])
        position += 1
      }
    }
    return output
  }

  private static func collapsingSpaces(_ bytes: [UInt8], _ replacement: [UInt8]) -> [UInt8] {
    var output: [UInt8] = []
    output.reserveCapacity(bytes.count)
    var position = 0
    while position < bytes.count {
      var end = position
      while end < bytes.count && bytes[end] == 0x20 { end += 1 }
      if end - position >= 2 {
        output.append(contentsOf: replacement)
        position = end
      } else {
        output.append(bytes[position])
        position += 1
      }
    }
    return output
  }

  private static func stripped(_ bytes: [UInt8], _ left: Bool, _ right: Bool) -> [UInt8] {
    let table = UnicodeTable.shared
    var start = 0
    var end = bytes.count
    while left && start < end {
      let (scalar, next) = UTF8Text.scalar(bytes, at: start)
      if !table.isWhitespace(scalar) { break }
      start = next
    }
    while right && end > start {
      let (scalar, previous) = UTF8Text.scalarBefore(bytes, end)
      if !table.isWhitespace(scalar) { break }
      end = previous
    }
    return Array(bytes[start..<end])
  }

  private static func bert(
    _ bytes: [UInt8], _ clean: Bool, _ spaceCJK: Bool, _ stripAccents: Bool, _ lowercase: Bool
  ) -> [UInt8] {
    let classes = UnicodeTable.shared.classes
    let flags = BertTable.shared.flags
    var output: [UInt8] = []
    output.reserveCapacity(bytes.count)
    var position = 0
    while position < bytes.count {
      let (scalar, next) = UTF8Text.scalar(bytes, at: position)
      if clean && flags[Int(scalar)] & BertTable.dropped != 0 {
        // left out
      } else if clean && classes[Int(scalar)] & UnicodeTable.whitespaceFlag != 0 {
        output.append(0x20)
      } else if spaceCJK && isCJK(scalar) {
        output.append(0x20)
        output.append(contentsOf: bytes[position..<next])
        output.append(0x20)
      } else {
        output.append(contentsOf: bytes[position..<next])
      }
      position = next
    }
    if stripAccents { output = without(BertTable.accent, UTF8Text.nfd(output)) }
    return lowercase ? UTF8Text.lowercased(output) : output
  }

  /// The ideograph blocks that BERT's reference code spaces out.
  private static func isCJK(_ scalar: UInt32) -> Bool {
    switch scalar {
    case 0x4E00...0x9FFF, 0x3400...0x4DBF, 0x20000...0x2A6DF, 0x2A700...0x2B73F, 0x2B740...0x2B81F,
      0x2B920...0x2CEAF, 0xF900...0xFAFF, 0x2F800...0x2FA1F:
      return true
    default: return false
    }
  }
}

/// SentencePiece's `precompiled_charsmap`: a double-array trie from byte strings to replacements.
///
/// Layout (sentencepiece, src/normalizer.cc and the darts-clone library): a little-endian UInt32 with the trie's size in
/// bytes, the trie's 32-bit units, then NUL-terminated replacements that the trie's values index.
struct CharsMap: Sendable, Equatable {
  private let units: [UInt32]
  private let replacements: [UInt8]

  /// Nil where the sizes do not fit together.
  init?(_ blob: [UInt8]) {
    guard blob.count >= 4 else { return nil }
    func word(_ offset: Int) -> UInt32 {
      UInt32(blob[offset]) | UInt32(blob[offset + 1]) << 8 | UInt32(blob[offset + 2]) << 16
        | UInt32(blob[offset + 3]) << 24
    }
    let size = Int(word(0))
    guard size > 0, size % 4 == 0, size <= blob.count - 4 else { return nil }
    units = (0..<(size / 4)).map { word(4 + 4 * $0) }
    replacements = Array(blob[(4 + size)...])
    var length = 0
    for byte in replacements {
      length = byte == 0 ? 0 : length + 1
      if length > Self.longestReplacement { return nil }
    }
  }

  /// The longest real replacement has 33 bytes (U+FDFA under NFKC); the limit bounds how much a text can grow.
  private static let longestReplacement = 64

  /// The longest prefix of `bytes[start..<end]` that the trie holds, as (its end, replacement index).
  private func longestMatch(_ bytes: [UInt8], _ start: Int, _ end: Int) -> (Int, Int)? {
    var node = 0
    var best: (Int, Int)?
    guard !units.isEmpty else { return nil }
    node ^= offset(units[0])
    var position = start
    while position < end {
      node ^= Int(bytes[position])
      guard node < units.count, units[node] & (1 << 31 | 0xFF) == UInt32(bytes[position]) else { break }
      let hasLeaf = units[node] >> 8 & 1 == 1
      node ^= offset(units[node])
      position += 1
      if hasLeaf && node < units.count { best = (position, Int(units[node] & 0x7FFF_FFFF)) }
    }
    return best
  }

  private func offset(_ unit: UInt32) -> Int { Int((unit >> 10) << ((unit & (1 << 9)) >> 6)) }

  /// Replaces the longest matches from left to right. The reference first tries whole grapheme clusters of fewer than
  /// six bytes, then single scalars; so does this.
  func apply(_ bytes: [UInt8]) -> [UInt8] {
    var output: [UInt8] = []
    output.reserveCapacity(bytes.count)
    let text = String(decoding: bytes, as: UTF8.self)
    for character in text {
      let cluster = Array(String(character).utf8)
      if cluster.count < 6, let (_, index) = longestMatch(cluster, 0, cluster.count) {
        append(index, to: &output)
        continue
      }
      var position = 0
      while position < cluster.count {
        let next = min(position + UTF8Text.sequenceLength(cluster[position]), cluster.count)
        if let (_, index) = longestMatch(cluster, position, next) {
          append(index, to: &output)
        } else {
          output.append(contentsOf: cluster[position..<next])
        }
        position = next
      }
    }
    return String(validating: output, as: UTF8.self) == nil
      ? Array(String(decoding: output, as: UTF8.self).utf8) : output
  }

  private func append(_ index: Int, to output: inout [UInt8]) {
    var position = index
    while position < replacements.count && replacements[position] != 0 {
      output.append(replacements[position])
      position += 1
    }
  }
}
