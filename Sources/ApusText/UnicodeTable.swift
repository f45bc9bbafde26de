/// Unicode facts for tokenizers: categories, canonical normalisation and lower case, one byte per code point.
///
/// The facts come from the reference implementation (see `UnicodeData`), not from the Swift runtime, so that ids do
/// not change with the toolchain's Unicode version. Unpacked once per process; about 1.2 MB, under a millisecond.
struct UnicodeTable: Sendable {
  static let shared = UnicodeTable()

  /// Low five bits: general category in the order of `Category`; then the flags below.
  private(set) var classes: [UInt8]
  private var combining: [UInt32: UInt8] = [:]
  private var decompositions: [UInt32: (UInt32, UInt32)] = [:]
  private var compositions: [UInt64: UInt32] = [:]
  private var lowercase: [UInt32: UInt32] = [:]

  static let whitespaceFlag: UInt8 = 0x20
  /// The code point may change under NFC, or may change what precedes it.
  static let unstableInNFC: UInt8 = 0x40
  /// The code point may change under NFD or be reordered by it.
  static let unstableInNFD: UInt8 = 0x80

  /// General categories in the order in which `UnicodeData.categories` numbers them.
  enum Category: UInt8 {
    case lu, ll, lt, lm, lo, mn, mc, me, nd, nl, no, pc, pd, ps, pe, pi, pf, po, sm, sc, sk, so, zs, zl, zp
    case cc, cf, cs, co, cn
  }

  init() {
    classes = [UInt8](repeating: Category.cn.rawValue, count: 0x110000)
    unpackCategories()
    unpackNormalisation()
  }

  // MARK: Questions

  @inline(__always) func category(_ scalar: UInt32) -> UInt8 { classes[Int(scalar)] & 0x1F }
  @inline(__always) func isLetter(_ scalar: UInt32) -> Bool { category(scalar) <= Category.lo.rawValue }
  @inline(__always) func isMark(_ scalar: UInt32) -> Bool {
    let value = category(scalar)
    return value >= Category.mn.rawValue && value <= Category.me.rawValue
  }
  @inline(__always) func isWhitespace(_ scalar: UInt32) -> Bool {
    classes[Int(scalar)] & Self.whitespaceFlag != 0
  }

  /// The simple lower-case mapping; U+0130 maps to two scalars, which `UTF8Text.lowercased` handles.
  func lowercased(_ scalar: UInt32) -> UInt32 { lowercase[scalar] ?? scalar }

  func combiningClass(_ scalar: UInt32) -> UInt8 {
    classes[Int(scalar)] & Self.unstableInNFD == 0 ? 0 : combining[scalar] ?? 0
  }

  // MARK: Hangul arithmetic (Unicode Standard, section 3.12)

  private static let syllableBase: UInt32 = 0xAC00
  private static let leadBase: UInt32 = 0x1100
  private static let vowelBase: UInt32 = 0x1161
  private static let trailBase: UInt32 = 0x11A7
  private static let leadCount: UInt32 = 19
  private static let vowelCount: UInt32 = 21
  private static let trailCount: UInt32 = 28
  private static let syllableCount: UInt32 = leadCount * vowelCount * trailCount

  // MARK: Normalisation

  /// Appends the full canonical decomposition of a scalar, without reordering.
  private func appendDecomposition(of scalar: UInt32, to output: inout [UInt32]) {
    let syllable = scalar &- Self.syllableBase
    if syllable < Self.syllableCount {
      output.append(Self.leadBase + syllable / (Self.vowelCount * Self.trailCount))
      output.append(Self.vowelBase + syllable % (Self.vowelCount * Self.trailCount) / Self.trailCount)
      let trail = syllable % Self.trailCount
      if trail != 0 { output.append(Self.trailBase + trail) }
    } else if let (first, second) = decompositions[scalar] {
      appendDecomposition(of: first, to: &output)
      if second != 0 { output.append(second) }
    } else {
      output.append(scalar)
    }
  }

  private func composition(_ first: UInt32, _ second: UInt32) -> UInt32? {
    let lead = first &- Self.leadBase
    let vowel = second &- Self.vowelBase
    if lead < Self.leadCount && vowel < Self.vowelCount {
      return Self.syllableBase + (lead * Self.vowelCount + vowel) * Self.trailCount
    }
    let syllable = first &- Self.syllableBase
    let trail = second &- Self.trailBase
    if syllable < Self.syllableCount && syllable % Self.trailCount == 0 && trail > 0 && trail < Self.trailCount {
      return first + trail
    }
    return compositions[UInt64(first) << 32 | UInt64(second)]
  }

  /// Canonical decomposition with canonical ordering (UAX #15). O(n log n) in runs of combining marks.
  func decomposed(_ scalars: [UInt32]) -> [UInt32] {
    var output: [UInt32] = []
    output.reserveCapacity(scalars.count + scalars.count / 4)
    for scalar in scalars {
      if classes[Int(scalar)] & Self.unstableInNFD == 0 {
        output.append(scalar)
      } else {
        appendDecomposition(of: scalar, to: &output)
      }
    }
    var start = 0
    while start < output.count {
      guard combiningClass(output[start]) != 0 else {
        start += 1
        continue
      }
      var end = start + 1
      while end < output.count && combiningClass(output[end]) != 0 { end += 1 }
      if end - start > 1 {
        // Stable by construction: ties keep their order through the index.
        let ordered = output[start..<end].enumerated().sorted {
          (combiningClass($0.element), $0.offset) < (combiningClass($1.element), $1.offset)
        }
        for (offset, item) in ordered.enumerated() { output[start + offset] = item.element }
      }
      start = end
    }
    return output
  }

  /// Canonical composition of canonically decomposed scalars (UAX #15). O(n).
  func composed(_ scalars: [UInt32]) -> [UInt32] {
    var output: [UInt32] = []
    output.reserveCapacity(scalars.count)
    var starter = -1
    var lastClass = -1
    for scalar in scalars {
      let scalarClass = Int(combiningClass(scalar))
      if starter >= 0, lastClass < scalarClass || lastClass == -1,
        let composite = composition(output[starter], scalar)
      {
        output[starter] = composite
        continue
      }
      if scalarClass == 0 {
        starter = output.count
        lastClass = -1
      } else {
        lastClass = scalarClass
      }
      output.append(scalar)
    }
    return output
  }

  // MARK: Unpacking

  private mutating func unpackCategories() {
    var reader = LEBReader(UnicodeData.categories)
    var scalar = 0
    while !reader.isAtEnd {
      let length = Int(reader.next())
      let value = reader.byte()
      for index in scalar..<min(scalar + length, classes.count) { classes[index] = value }
      scalar += length
    }
  }

  private mutating func unpackNormalisation() {
    var reader = LEBReader(UnicodeData.combiningClasses)
    var scalar: UInt32 = 0
    combining.reserveCapacity(1024)
    while !reader.isAtEnd {
      scalar += reader.next()
      combining[scalar] = reader.byte()
      classes[Int(scalar)] |= Self.unstableInNFC | Self.unstableInNFD
    }
    reader = LEBReader(UnicodeData.decompositions)
    scalar = 0
    decompositions.reserveCapacity(2200)
    compositions.reserveCapacity(1100)
    while !reader.isAtEnd {
      let head = reader.next()
      scalar += head >> 1
      let first = UInt32(truncatingIfNeeded: Int(scalar) + reader.zigzag())
      let second = reader.next()
      decompositions[scalar] = (first, second)
      classes[Int(scalar)] |= Self.unstableInNFD
      if head & 1 == 1 {
        classes[Int(scalar)] |= Self.unstableInNFC
      } else {
        compositions[UInt64(first) << 32 | UInt64(second)] = scalar
        classes[Int(second)] |= Self.unstableInNFC
      }
    }
    for jamo in Self.vowelBase..<(Self.vowelBase + Self.vowelCount) { classes[Int(jamo)] |= Self.unstableInNFC }
    for jamo in (Self.trailBase + 1)..<(Self.trailBase + Self.trailCount) {
      classes[Int(jamo)] |= Self.unstableInNFC
    }
    for syllable in Self.syllableBase..<(Self.syllableBase + Self.syllableCount) {
      classes[Int(syllable)] |= Self.unstableInNFD
    }
    reader = LEBReader(UnicodeData.lowercase)
    scalar = 0
    lowercase.reserveCapacity(1500)
    while !reader.isAtEnd {
      scalar += reader.next()
      lowercase[scalar] = UInt32(truncatingIfNeeded: Int(scalar) + reader.zigzag())
    }
  }
}

/// How BERT's normalizer and pre-tokenizer see each code point. They know an older version of Unicode than the regex
/// engine does, so they have a table of their own, unpacked when a WordPiece tokenizer is first used.
struct BertTable: Sendable {
  static let shared = BertTable()

  static let dropped: UInt8 = 1
  static let accent: UInt8 = 2
  static let punctuation: UInt8 = 4
  /// Removed by the normalizer `StripAccents`, which takes all marks.
  static let mark: UInt8 = 8

  let flags: [UInt8]

  private init() {
    var reader = LEBReader(UnicodeData.bert)
    var flags: [UInt8] = []
    flags.reserveCapacity(0x110000)
    while !reader.isAtEnd {
      let length = Int(reader.next())
      flags.append(contentsOf: repeatElement(reader.byte(), count: length))
    }
    self.flags = flags
  }
}

/// Compatibility decompositions, unpacked when a tokenizer first asks for form KC or KD.
struct CompatibilityTable: Sendable {
  static let shared = CompatibilityTable()

  private var expansions: [UInt32: [UInt32]] = [:]

  private init() {
    var reader = LEBReader(UnicodeData.compatibility)
    var scalar: UInt32 = 0
    while !reader.isAtEnd {
      scalar += reader.next()
      var expansion: [UInt32] = []
      var last = Int(scalar)
      for _ in 0..<reader.next() {
        last += reader.zigzag()
        expansion.append(UInt32(truncatingIfNeeded: last))
      }
      expansions[scalar] = expansion
    }
  }

  /// The scalars with each one that has a compatibility decomposition replaced by it, in full.
  func expanded(_ scalars: [UInt32]) -> [UInt32] {
    var output: [UInt32] = []
    output.reserveCapacity(scalars.count)
    for scalar in scalars {
      if scalar >= 0x80, let expansion = expansions[scalar] {
        output.append(contentsOf: expansion)
      } else {
        output.append(scalar)
      }
    }
    return output
  }
}

/// Reads LEB128 numbers out of base64 text that the generator wrote.
private struct LEBReader {
  private var bytes: [UInt8] = []
  private var position = 0

  init(_ base64: StaticString) {
    base64.withUTF8Buffer { text in
      bytes.reserveCapacity(text.count * 3 / 4)
      var bits: UInt32 = 0
      var count = 0
      for character in text {
        let value: UInt8
        switch character {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): value = character - UInt8(ascii: "A")
        case UInt8(ascii: "a")...UInt8(ascii: "z"): value = character - UInt8(ascii: "a") + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): value = character - UInt8(ascii: "0") + 52
        case UInt8(ascii: "+"): value = 62
        case UInt8(ascii: "/"): value = 63
        default: continue
        }
        bits = bits << 6 | UInt32(value)
        count += 6
        if count >= 8 {
          count -= 8
          bytes.append(UInt8(truncatingIfNeeded: bits >> UInt32(count)))
        }
      }
    }
  }

  var isAtEnd: Bool { position >= bytes.count }

  mutating func byte() -> UInt8 {
    defer { position += 1 }
    return bytes[position]
  }

  mutating func next() -> UInt32 {
    var value: UInt32 = 0
    var shift: UInt32 = 0
    while true {
      let part = byte()
      value |= UInt32(part & 0x7F) << shift
      if part < 0x80 { return value }
      shift += 7
    }
  }

  mutating func zigzag() -> Int {
    let value = Int(next())
    return value & 1 == 0 ? value >> 1 : -((value + 1) >> 1)
  }
}
