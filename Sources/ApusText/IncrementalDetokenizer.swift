/// Turns ids into text as they arrive, never giving out half of a UTF-8 sequence.
///
///     var detokenizer = IncrementalDetokenizer(tokenizer: tokenizer)
///     for id in ids { print(detokenizer.append(id), terminator: "") }
///     print(detokenizer.flush())
///
/// The pieces joined are the same text as `Tokenizer.decode` of all ids. O(bytes) in total.
public struct IncrementalDetokenizer: Sendable {
  private let tokenizer: any Tokenizer
  private let skipSpecial: Bool
  private let style: DecodingStyle
  private var decoder = UTF8StreamDecoder()
  private var isAtStart: Bool
  /// The last id's bytes; the memory is used again.
  private var bytes: [UInt8] = []
  private static let usualTokenBytes = 64

  /// `skipSpecial` leaves control tokens out of the text. `continuing` says that the ids go on after earlier text, such
  /// as a prompt: then a space at the start belongs to the text even where the tokenizer puts one before every text.
  public init(tokenizer: any Tokenizer, skipSpecial: Bool = true, continuing: Bool = false) {
    self.tokenizer = tokenizer
    self.skipSpecial = skipSpecial
    isAtStart = !continuing
    style = tokenizer.decodingStyle
    bytes.reserveCapacity(Self.usualTokenBytes)
  }

  /// The text that became complete with this id; empty while a sequence is unfinished.
  public mutating func append(_ id: Int32) -> String {
    if skipSpecial && tokenizer.isControl(id) { return "" }
    bytes.removeAll(keepingCapacity: true)
    tokenizer.appendBytes(of: id, to: &bytes)
    switch style {
    case .plain: break
    case .stripLeadingSpace:
      if isAtStart && bytes.first == 0x20 { bytes.removeFirst() }
    case .words(let cleanup):
      if cleanup { bytes = Self.cleaned(bytes) }
      if isAtStart && bytes.first == 0x20 { bytes.removeFirst() }
    }
    if !bytes.isEmpty || style != .plain { isAtStart = false }
    return decoder.append(bytes)
  }

  /// Ends the text: what is still unfinished becomes U+FFFD. The detokenizer starts over.
  public mutating func flush() -> String {
    isAtStart = true
    return decoder.flush()
  }

  /// Joins punctuation and English contractions to the word before, piece by piece as the reference decoder does.
  private static func cleaned(_ bytes: [UInt8]) -> [UInt8] {
    guard bytes.first == 0x20 else { return bytes }
    switch String(decoding: bytes, as: UTF8.self) {
    case " .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're": return Array(bytes.dropFirst())
    default: return bytes
    }
  }
}

/// Validates UTF-8 that arrives in arbitrary parts; replaces invalid bytes as `String(decoding:)` does.
struct UTF8StreamDecoder: Sendable {
  private var pending: [UInt8] = []

  /// The text that is complete.
  mutating func append(_ bytes: [UInt8]) -> String {
    if pending.isEmpty && bytes.allSatisfy({ $0 < 0x80 }) { return String(decoding: bytes, as: UTF8.self) }
    pending += bytes
    let complete = pending.count - unfinishedLength()
    let text = String(decoding: pending[..<complete], as: UTF8.self)
    pending.removeSubrange(..<complete)
    return text
  }

  mutating func flush() -> String {
    let text = String(decoding: pending, as: UTF8.self)
    pending.removeAll()
    return text
  }

  /// Length of the tail that more bytes could turn into one scalar: 0 to 3 bytes.
  private func unfinishedLength() -> Int {
    for length in 1...3 where length <= pending.count {
      let lead = pending[pending.count - length]
      if lead & 0xC0 == 0x80 { continue }
      let needed: Int
      switch lead {
      case 0xC2...0xDF: needed = 2
      case 0xE0...0xEF: needed = 3
      case 0xF0...0xF4: needed = 4
      default: return 0
      }
      guard length < needed else { return 0 }
      if length >= 2 {
        // The second byte of some leads has a narrower range (Unicode Standard, table 3-7).
        let second = pending[pending.count - length + 1]
        switch lead {
        case 0xE0 where second < 0xA0, 0xED where second > 0x9F, 0xF0 where second < 0x90, 0xF4 where second > 0x8F:
          return 0
        default: break
        }
      }
      return length
    }
    return 0
  }
}
