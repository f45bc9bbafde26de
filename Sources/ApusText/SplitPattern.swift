/// The regular expressions by which public models cut text into words, as hand-written matchers.
///
/// Each matches what a backtracking engine would match at a given position; the expression is in the case's comment.
enum SplitPattern: Sendable, Equatable {
  /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
  case gpt2
  /// `\p{N}` first, then `gpt2` on what lies between, as if the text ended at each number.
  case gpt2DigitsApart
  /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|`
  /// `\s+(?!\S)|\s+`: Qwen 2 with one digit, Llama 3 with up to three.
  case llama3(digits: Int)
  /// GPT-4o: as `llama3`, with words cut where a capital follows a small letter, and contractions kept with the word.
  case o200k(contractions: Bool, digits: Int)
  /// `\p{N}{1,3}`
  case numbers(upTo: Int)
  /// `\p{N}+`
  case numberRun
  /// `[0-9][0-9][0-9]`
  case threeDigits
  /// `[\p{P}\$\+<=>\^~\|]+`
  case punctuationRun
  /// `[一-龥぀-ゟ゠-ヿ]+`
  case cjkRun
  /// DeepSeek V3: ``[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|``
  /// `` ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+``
  case deepSeek3
  /// `\s+`
  case whitespaceRun
  /// `\w+|[^\w\s]+`
  case wordsOrSymbols
  /// Exactly these bytes, which are not empty.
  case literal([UInt8])

  /// The end of the match that starts at `position`, or nil. Looks at nothing beyond `end`.
  @inline(__always)
  func match(_ bytes: [UInt8], at position: Int, end: Int, classes: [UInt8]) -> Int? {
    let scan = Scanner(bytes: bytes, end: end, classes: classes)
    switch self {
    case .gpt2: return scan.gpt2(position, digitsApart: false)
    case .gpt2DigitsApart: return scan.gpt2(position, digitsApart: true)
    case .llama3(let digits): return scan.llama3(position, digits: digits)
    case .o200k(let contractions, let digits):
      return scan.o200k(position, contractions: contractions, digits: digits)
    case .numbers(let limit): return scan.run(position, limit: limit, Scanner.isNumber)
    case .numberRun: return scan.run(position, limit: .max, Scanner.isNumber)
    case .threeDigits: return scan.threeDigits(position)
    case .punctuationRun: return scan.run(position, limit: .max, Scanner.isPunctuationOrMath)
    case .cjkRun: return scan.cjkRun(position)
    case .deepSeek3: return scan.deepSeek3(position)
    case .whitespaceRun: return scan.run(position, limit: .max, Scanner.isSpace)
    case .wordsOrSymbols:
      return scan.run(position, limit: .max, Scanner.isWord)
        ?? scan.run(position, limit: .max) { !Scanner.isWord($0, $1) && !Scanner.isSpace($0, $1) }
    case .literal(let text): return scan.literal(position, text)
    }
  }
}

/// Matchers over one range of bytes. A predicate sees a scalar's class byte (see `UnicodeTable`) and the scalar.
private struct Scanner {
  let bytes: [UInt8]
  let end: Int
  let classes: [UInt8]

  // MARK: Classes

  @inline(__always) static func isLetter(_ flags: UInt8, _ scalar: UInt32) -> Bool { flags & 0x1F <= 4 }
  @inline(__always) static func isMark(_ flags: UInt8, _ scalar: UInt32) -> Bool { (flags & 0x1F) &- 5 <= 2 }
  @inline(__always) static func isNumber(_ flags: UInt8, _ scalar: UInt32) -> Bool { (flags & 0x1F) &- 8 <= 2 }
  @inline(__always) static func isPunctuation(_ flags: UInt8, _ scalar: UInt32) -> Bool { (flags & 0x1F) &- 11 <= 6 }
  @inline(__always) static func isSymbol(_ flags: UInt8, _ scalar: UInt32) -> Bool { (flags & 0x1F) &- 18 <= 3 }
  @inline(__always) static func isSpace(_ flags: UInt8, _ scalar: UInt32) -> Bool {
    flags & UnicodeTable.whitespaceFlag != 0
  }
  /// Neither white space, letter nor number.
  @inline(__always) static func isOther(_ flags: UInt8, _ scalar: UInt32) -> Bool {
    !isSpace(flags, scalar) && !isLetter(flags, scalar) && !isNumber(flags, scalar)
  }
  @inline(__always) static func isNewline(_ scalar: UInt32) -> Bool { scalar == 0x0A || scalar == 0x0D }
  /// `\w`: letters, marks, decimal digits, connector punctuation.
  @inline(__always) static func isWord(_ flags: UInt8, _ scalar: UInt32) -> Bool {
    isLetter(flags, scalar) || isMark(flags, scalar) || flags & 0x1F == 8 || flags & 0x1F == 11
  }
  @inline(__always) static func isPunctuationOrMath(_ flags: UInt8, _ scalar: UInt32) -> Bool {
    if isPunctuation(flags, scalar) { return true }
    switch scalar {
    case 0x24, 0x2B, 0x3C, 0x3D, 0x3E, 0x5E, 0x7E, 0x7C: return true
    default: return false
    }
  }
  /// Capital or title-case letters and what counts with them: `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`.
  @inline(__always) static func isUpperLike(_ flags: UInt8, _ scalar: UInt32) -> Bool {
    let category = flags & 0x1F
    return category != 1 && category <= 7
  }
  /// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
  @inline(__always) static func isLowerLike(_ flags: UInt8, _ scalar: UInt32) -> Bool {
    let category = flags & 0x1F
    return category == 1 || (category >= 3 && category <= 7)
  }

  // MARK: Pieces of matchers

  @inline(__always)
  func read(_ position: Int) -> (scalar: UInt32, flags: UInt8, next: Int) {
    let byte = bytes[position]
    if byte < 0x80 { return (UInt32(byte), classes[Int(byte)], position + 1) }
    let (scalar, next) = UTF8Text.scalar(bytes, at: position)
    return (scalar, classes[Int(scalar)], next)
  }

  /// The end of the run of at most `limit` scalars that satisfy the predicate; nil if there is none.
  @inline(__always)
  func run(_ start: Int, limit: Int = .max, _ predicate: (UInt8, UInt32) -> Bool) -> Int? {
    var position = start
    var count = 0
    while position < end && count < limit {
      let (scalar, flags, next) = read(position)
      if !predicate(flags, scalar) { break }
      position = next
      count += 1
    }
    return count > 0 ? position : nil
  }

  /// `'s|'t|'re|'ve|'m|'ll|'d` after the apostrophe at `position`.
  @inline(__always)
  func contraction(_ position: Int, ignoringCase: Bool) -> Int? {
    guard position + 1 < end else { return nil }
    let fold: UInt8 = ignoringCase ? 0x20 : 0
    func letter(_ index: Int) -> UInt8 {
      let byte = bytes[index]
      return byte >= 0x41 && byte <= 0x5A ? byte | fold : byte
    }
    switch letter(position + 1) {
    case UInt8(ascii: "s"), UInt8(ascii: "t"), UInt8(ascii: "m"), UInt8(ascii: "d"): return position + 2
    case UInt8(ascii: "r"), UInt8(ascii: "v"):
      return position + 2 < end && letter(position + 2) == UInt8(ascii: "e") ? position + 3 : nil
    case UInt8(ascii: "l"):
      return position + 2 < end && letter(position + 2) == UInt8(ascii: "l") ? position + 3 : nil
    case 0xC5 where ignoringCase:
      // U+017F, the long s, is an s to a case-insensitive expression.
      return position + 2 < end && bytes[position + 2] == 0xBF ? position + 3 : nil
    default: return nil
    }
  }

  /// `\s+(?!\S)|\s+` at white space: leaves the last of several spaces to the word that follows.
  @inline(__always)
  func spaces(_ start: Int, stopAtNumbers: Bool) -> Int {
    var position = start
    var last = start
    while position < end {
      let (scalar, flags, next) = read(position)
      if !Self.isSpace(flags, scalar) {
        if stopAtNumbers && Self.isNumber(flags, scalar) { return position }
        break
      }
      last = position
      position = next
    }
    return position == end || last == start ? position : last
  }

  /// `\s*[\r\n]+|\s+(?!\S)|\s+` at white space: up to the last newline of the run if it has one.
  @inline(__always)
  func spacesOrNewlines(_ start: Int) -> Int {
    var position = start
    var last = start
    var afterNewline = -1
    while position < end {
      let (scalar, flags, next) = read(position)
      if !Self.isSpace(flags, scalar) { break }
      if Self.isNewline(scalar) { afterNewline = next }
      last = position
      position = next
    }
    if afterNewline >= 0 { return afterNewline }
    return position == end || last == start ? position : last
  }

  /// `[\r\n]*`
  @inline(__always)
  func newlines(_ start: Int) -> Int {
    var position = start
    while position < end && (bytes[position] == 0x0A || bytes[position] == 0x0D) { position += 1 }
    return position
  }

  // MARK: Whole expressions

  @inline(__always)
  func gpt2(_ start: Int, digitsApart: Bool) -> Int? {
    let (scalar, flags, next) = read(start)
    if scalar == 0x27, let match = contraction(start, ignoringCase: false) { return match }
    if Self.isLetter(flags, scalar) { return run(next, Self.isLetter) ?? next }
    if Self.isNumber(flags, scalar) { return digitsApart ? next : run(next, Self.isNumber) ?? next }
    if scalar == 0x20 && next < end {
      let (second, secondFlags, after) = read(next)
      if Self.isLetter(secondFlags, second) { return run(after, Self.isLetter) ?? after }
      if Self.isNumber(secondFlags, second) { return digitsApart ? next : run(after, Self.isNumber) ?? after }
      if !Self.isSpace(secondFlags, second) { return run(after, Self.isOther) ?? after }
    }
    if Self.isSpace(flags, scalar) { return spaces(start, stopAtNumbers: digitsApart) }
    return run(next, Self.isOther) ?? next
  }

  @inline(__always)
  func llama3(_ start: Int, digits: Int) -> Int? {
    let (scalar, flags, next) = read(start)
    if scalar == 0x27, let match = contraction(start, ignoringCase: true) { return match }
    if Self.isLetter(flags, scalar) { return run(next, Self.isLetter) ?? next }
    if Self.isNumber(flags, scalar) { return digits > 1 ? run(next, limit: digits - 1, Self.isNumber) ?? next : next }
    if !Self.isNewline(scalar), next < end, let match = run(next, Self.isLetter) { return match }
    if scalar == 0x20 && next < end, let match = run(next, Self.isOther) { return newlines(match) }
    if Self.isSpace(flags, scalar) { return spacesOrNewlines(start) }
    return newlines(run(next, Self.isOther) ?? next)
  }

  /// `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(contraction)?`
  /// `|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(contraction)?`
  /// `|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
  @inline(__always)
  func o200k(_ start: Int, contractions: Bool, digits: Int) -> Int? {
    let (scalar, flags, next) = read(start)
    let mayPrecede = !Self.isNewline(scalar) && !Self.isLetter(flags, scalar) && !Self.isNumber(flags, scalar)
    var word: Int?
    if mayPrecede && next < end { word = smallWord(next) }
    if word == nil { word = smallWord(start) }
    if word == nil && mayPrecede && next < end { word = capitalWord(next) }
    if word == nil { word = capitalWord(start) }
    if let word {
      if contractions, word < end, bytes[word] == 0x27, let match = contraction(word, ignoringCase: true) {
        return match
      }
      return word
    }
    if Self.isNumber(flags, scalar) { return digits > 1 ? run(next, limit: digits - 1, Self.isNumber) ?? next : next }
    if scalar == 0x20 && next < end, let match = run(next, Self.isOther) { return newlinesOrSlashes(match) }
    if Self.isSpace(flags, scalar) { return spacesOrNewlines(start) }
    return newlinesOrSlashes(run(next, Self.isOther) ?? next)
  }

  /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+`: the first part gives back what the second needs.
  private func smallWord(_ start: Int) -> Int? {
    let upper = run(start, Self.isUpperLike) ?? start
    if let match = run(upper, Self.isLowerLike) { return match }
    // Backtrack to the last scalar of the first part that may also end the word.
    var position = upper
    while position > start {
      let (scalar, previous) = UTF8Text.scalarBefore(bytes, position)
      if Self.isLowerLike(classes[Int(scalar)], scalar) { return run(previous, Self.isLowerLike) }
      position = previous
    }
    return nil
  }

  private func capitalWord(_ start: Int) -> Int? {
    guard let upper = run(start, Self.isUpperLike) else { return nil }
    return run(upper, Self.isLowerLike) ?? upper
  }

  private func newlinesOrSlashes(_ start: Int) -> Int {
    var position = start
    while position < end && (bytes[position] == 0x0A || bytes[position] == 0x0D || bytes[position] == 0x2F) {
      position += 1
    }
    return position
  }

  func threeDigits(_ start: Int) -> Int? {
    guard start + 3 <= end else { return nil }
    for index in start..<(start + 3) where bytes[index] < 0x30 || bytes[index] > 0x39 { return nil }
    return start + 3
  }

  func cjkRun(_ start: Int) -> Int? {
    run(start) { _, scalar in
      (scalar >= 0x4E00 && scalar <= 0x9FA5) || (scalar >= 0x3040 && scalar <= 0x30FF)
    }
  }

  func deepSeek3(_ start: Int) -> Int? {
    let (scalar, flags, next) = read(start)
    func isASCIILetter(_ byte: UInt8) -> Bool { (byte | 0x20) >= 0x61 && (byte | 0x20) <= 0x7A }
    let isASCIIPunctuation =
      scalar < 0x80 && (Self.isPunctuation(flags, scalar) || Self.isSymbol(flags, scalar))
    if isASCIIPunctuation && next < end && isASCIILetter(bytes[next]) {
      var position = next
      while position < end && isASCIILetter(bytes[position]) { position += 1 }
      return position
    }
    func isLetterOrMark(_ flags: UInt8, _ scalar: UInt32) -> Bool { flags & 0x1F <= 7 }
    func isPunctuationOrSymbol(_ flags: UInt8, _ scalar: UInt32) -> Bool {
      Self.isPunctuation(flags, scalar) || Self.isSymbol(flags, scalar)
    }
    let mayPrecede =
      !Self.isNewline(scalar) && !Self.isLetter(flags, scalar) && !isPunctuationOrSymbol(flags, scalar)
    if mayPrecede && next < end, let match = run(next, isLetterOrMark) { return match }
    if let match = run(start, isLetterOrMark) { return match }
    if scalar == 0x20 && next < end, let match = run(next, isPunctuationOrSymbol) { return newlines(match) }
    if let match = run(start, isPunctuationOrSymbol) { return newlines(match) }
    if Self.isSpace(flags, scalar) { return spacesOrNewlines(start) }
    return nil
  }

  func literal(_ start: Int, _ text: [UInt8]) -> Int? {
    guard start + text.count <= end else { return nil }
    for index in text.indices where bytes[start + index] != text[index] { return nil }
    return start + text.count
  }
}
