/// A string that is one token wherever it occurs, before the model sees the text.
public struct AddedToken: Sendable, Equatable {
  public var id: Int32
  public var content: String
  /// Only where no word character touches it.
  public var singleWord: Bool
  /// Takes the white space before it along.
  public var stripsLeft: Bool
  /// Takes the white space after it along.
  public var stripsRight: Bool
  /// Is looked for in normalised text rather than in the text as given.
  public var isNormalized: Bool
  /// Steers the model; recognised in text only when asked for.
  public var isSpecial: Bool

  public init(
    id: Int32, content: String, singleWord: Bool = false, stripsLeft: Bool = false, stripsRight: Bool = false,
    isNormalized: Bool = false, isSpecial: Bool = false
  ) {
    self.id = id
    self.content = content
    self.singleWord = singleWord
    self.stripsLeft = stripsLeft
    self.stripsRight = stripsRight
    self.isNormalized = isNormalized
    self.isSpecial = isSpecial
  }
}

/// Finds added tokens in text: leftmost first, the longest of those that start at one place.
struct AddedTokenMatcher: Sendable {
  struct Match {
    var token: Int
    var start: Int
    var end: Int
  }

  /// Longer contents are refused when a tokenizer is built: it bounds the work at one position of the text.
  static let longestContent = 512

  let tokens: [AddedToken]
  private var texts = ByteStrings()
  private var vocabulary: Vocabulary
  /// The distinct lengths of the tokens that start with a byte, longest first: each is one look-up.
  private var lengthsByFirstByte: [[Int]] = Array(repeating: [], count: 256)

  var isEmpty: Bool { tokens.isEmpty }

  /// Tokens with empty text are never found. Of equal texts the first counts.
  init(_ tokens: [AddedToken], texts: [[UInt8]]) {
    self.tokens = tokens
    var lengths: [Set<Int>] = Array(repeating: [], count: 256)
    for text in texts {
      self.texts.append(text)
      if let first = text.first { lengths[Int(first)].insert(text.count) }
    }
    vocabulary = Vocabulary(pieces: self.texts, kinds: Array(repeating: .userDefined, count: tokens.count))
    for byte in 0..<256 { lengthsByFirstByte[byte] = lengths[byte].sorted(by: >) }
  }

  /// The longest token at `position`, or nil. O(number of distinct lengths that its first byte has).
  @inline(__always)
  private func longest(_ bytes: [UInt8], _ position: Int, _ end: Int) -> Int? {
    for length in lengthsByFirstByte[Int(bytes[position])] where position + length <= end {
      let token = vocabulary.id(of: bytes, position, position + length)
      if token >= 0 { return Int(token) }
    }
    return nil
  }

  /// All matches in `bytes[start..<end]`, in order, without overlap. `includeSpecial` as in `EncodingOptions`.
  func matches(_ bytes: [UInt8], _ start: Int, _ end: Int, includeSpecial: Bool) -> [Match] {
    var found: [Match] = []
    if tokens.isEmpty { return found }
    let classes = UnicodeTable.shared.classes
    var position = start
    var covered = start
    while position < end {
      guard !lengthsByFirstByte[Int(bytes[position])].isEmpty, let index = longest(bytes, position, end) else {
        position += 1
        continue
      }
      let token = tokens[index]
      let length = texts.range(index).count
      var match = Match(token: index, start: position, end: position + length)
      position = match.end
      // As in the reference, a match that is refused still consumes its text.
      if token.isSpecial && !includeSpecial { continue }
      if token.singleWord {
        if match.start > start, isWord(UTF8Text.scalarBefore(bytes, match.start).scalar, classes) { continue }
        if match.end < end, isWord(UTF8Text.scalar(bytes, at: match.end).scalar, classes) { continue }
      }
      if token.stripsLeft {
        while match.start > covered {
          let (scalar, previous) = UTF8Text.scalarBefore(bytes, match.start)
          if classes[Int(scalar)] & UnicodeTable.whitespaceFlag == 0 { break }
          match.start = previous
        }
      }
      if token.stripsRight {
        while match.end < end {
          let (scalar, next) = UTF8Text.scalar(bytes, at: match.end)
          if classes[Int(scalar)] & UnicodeTable.whitespaceFlag == 0 { break }
          match.end = next
        }
        position = match.end
      }
      covered = match.end
      found.append(match)
    }
    return found
  }

  private func isWord(_ scalar: UInt32, _ classes: [UInt8]) -> Bool {
    let category = classes[Int(scalar)] & 0x1F
    return category <= 8 || category == UnicodeTable.Category.pc.rawValue
  }
}
