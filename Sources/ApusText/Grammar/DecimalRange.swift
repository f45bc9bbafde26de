/// Decimal numbers between two bounds, as a grammar over their digits. Bounds and texts are compared digit by digit, not
/// as floating-point numbers; texts have no exponent.
struct DecimalRange {
  /// A bound: a sign, the digits before the point and those after it without trailing zeros.
  struct Bound: Equatable {
    var isNegative = false
    var integer: [UInt8]
    var fraction: [UInt8] = []
    var isInclusive = true

    static let zero = Bound(integer: [0])

    var isZero: Bool { integer == [0] && fraction.isEmpty }

    /// The decimal that a number's shortest text stands for.
    init?(_ value: JinjaValue, isInclusive: Bool) {
      let text: String
      switch value {
      case .integer(let number): text = String(number)
      case .float(let number) where number.isFinite: text = number.description
      default: return nil
      }
      var digits: [UInt8] = []
      var point: Int?
      var exponent = 0
      var rest = text.utf8[...]
      var isNegative = false
      if rest.first == UInt8(ascii: "-") {
        isNegative = true
        rest = rest.dropFirst()
      }
      while let byte = rest.popFirst() {
        switch byte {
        case UInt8(ascii: "."): point = digits.count
        case UInt8(ascii: "e"), UInt8(ascii: "E"):
          exponent = Int(String(Substring(rest))) ?? 0
          rest = rest[rest.endIndex...]
        default: digits.append(byte - 0x30)
        }
      }
      var place = (point ?? digits.count) + exponent
      while place > digits.count { digits.append(0) }
      while place < 0 {
        digits.insert(0, at: 0)
        place += 1
      }
      let integer = Array(digits[..<place].drop { $0 == 0 })
      var fraction = Array(digits[place...])
      while fraction.last == 0 { fraction.removeLast() }
      self.init(
        isNegative: isNegative, integer: integer.isEmpty ? [0] : integer, fraction: fraction, isInclusive: isInclusive)
    }

    init(isNegative: Bool = false, integer: [UInt8], fraction: [UInt8] = [], isInclusive: Bool = true) {
      self.isNegative = isNegative && (integer != [0] || !fraction.isEmpty)
      self.integer = integer
      self.fraction = fraction
      self.isInclusive = isInclusive
    }

    var magnitude: Bound { Bound(integer: integer, fraction: fraction, isInclusive: isInclusive) }
  }

  static let digit = GrammarExpression.bytes([0x30...0x39])

  static let anyInteger = GrammarExpression.sequence([
    .literals([[], [0x2D]]),
    .choice([
      .text("0"),
      .sequence([
        .bytes([0x31...0x39]), .repetition(digit, minimum: 0, maximum: JSONSyntax.longestNumber - 1),
      ]),
    ]),
  ])

  /// Largest exponent of a bound: beyond it a bound has too many digits to spell.
  static let longestBound = 40

  /// Numbers with a fraction, between the bounds that are given.
  static func numbers(from lower: Bound?, to upper: Bound?) -> GrammarExpression {
    let wholeDigits = max(lower?.integer.count ?? 1, upper?.integer.count ?? 1)
    let bounded = max(lower?.fraction.count ?? 0, upper?.fraction.count ?? 0)
    // Near a bound the text must not have more digits than a double tells apart.
    let fraction = max(JSONSyntax.longestNumber - 1 - wholeDigits, bounded, 1)
    return signed(lower, upper, fractionDigits: fraction)
  }

  /// Integers between the bounds that are given. O(digits²).
  static func integers(from lower: Bound?, to upper: Bound?) -> GrammarExpression {
    signed(lower.map { whole($0, isLower: true) }, upper.map { whole($0, isLower: false) }, fractionDigits: 0)
  }

  /// The nearest integer inside the bound, which then belongs to the range.
  private static func whole(_ bound: Bound, isLower: Bool) -> Bound {
    var result = Bound(isNegative: bound.isNegative, integer: bound.integer)
    // Away from zero for a lower bound above it or an upper bound below it.
    let outwards = isLower != bound.isNegative
    if !bound.fraction.isEmpty {
      if outwards { result.integer = successor(bound.integer) }
    } else if !bound.isInclusive {
      if bound.isZero {
        result = Bound(isNegative: !isLower, integer: [1])
      } else {
        result.integer = outwards ? successor(bound.integer) : predecessor(bound.integer)
      }
    }
    return Bound(isNegative: result.isNegative, integer: result.integer)
  }

  private static func successor(_ digits: [UInt8]) -> [UInt8] {
    var digits = digits
    for index in digits.indices.reversed() {
      if digits[index] < 9 {
        digits[index] += 1
        return digits
      }
      digits[index] = 0
    }
    return [1] + digits
  }

  /// Of digits that are not zero.
  private static func predecessor(_ digits: [UInt8]) -> [UInt8] {
    var digits = digits
    for index in digits.indices.reversed() {
      if digits[index] > 0 {
        digits[index] -= 1
        break
      }
      digits[index] = 9
    }
    let trimmed = Array(digits.drop { $0 == 0 })
    return trimmed.isEmpty ? [0] : trimmed
  }

  private static func signed(_ lower: Bound?, _ upper: Bound?, fractionDigits: Int) -> GrammarExpression {
    var alternatives: [GrammarExpression] = []
    if upper.map({ !$0.isNegative }) ?? true {
      let least = lower.flatMap { $0.isNegative ? nil : $0 } ?? .zero
      alternatives.append(DecimalRange(least, upper, fractionDigits).expression)
    }
    if lower.map({ $0.isNegative }) ?? true {
      // Minus zero is left to the other half.
      var least = Bound.zero
      least.isInclusive = false
      if let upper, upper.isNegative { least = upper.magnitude }
      let half = DecimalRange(least, lower?.magnitude, fractionDigits).expression
      alternatives.append(.sequence([.text("-"), half]))
    }
    return .choice(alternatives)
  }

  // MARK: Numbers that are not negative

  private let lower: Bound
  private let upper: Bound?
  private let fractionDigits: Int

  private init(_ lower: Bound, _ upper: Bound?, _ fractionDigits: Int) {
    self.lower = lower
    self.upper = upper
    self.fractionDigits = fractionDigits
  }

  private var expression: GrammarExpression {
    let longest = upper?.integer.count ?? max(JSONSyntax.longestNumber, lower.integer.count + 1)
    guard lower.integer.count <= longest else { return .never }
    var alternatives: [GrammarExpression] = []
    for length in lower.integer.count...longest {
      let low = length == lower.integer.count ? lower.integer : [1] + [UInt8](repeating: 0, count: length - 1)
      let high = upper.flatMap { $0.integer.count == length ? $0.integer : nil } ?? [UInt8](repeating: 9, count: length)
      alternatives.append(whole(low, high, 0, onLow: true, onHigh: true))
    }
    return .choice(alternatives)
  }

  private static func one(_ low: UInt8, _ high: UInt8) -> GrammarExpression {
    low > high ? .never : .bytes([(0x30 + low)...(0x30 + high)])
  }

  /// Digits from `index` on of numbers of one length; `onLow`: the digits so far are those of `low`.
  private func whole(_ low: [UInt8], _ high: [UInt8], _ index: Int, onLow: Bool, onHigh: Bool) -> GrammarExpression {
    if index == low.count {
      return fraction(
        0, onLower: onLow && low == lower.integer, onUpper: onHigh && upper.map { $0.integer == high } ?? false)
    }
    if !onLow && !onHigh {
      let count = low.count - index
      return .sequence([
        .repetition(Self.digit, minimum: count, maximum: count), fraction(0, onLower: false, onUpper: false),
      ])
    }
    return branches(onLow ? low[index] : 0, onHigh ? high[index] : 9, onLow, onHigh) { onLow, onHigh in
      whole(low, high, index + 1, onLow: onLow, onHigh: onHigh)
    }
  }

  /// One digit of `least...most`, told apart by whether it stays on a bound.
  private func branches(
    _ least: UInt8, _ most: UInt8, _ onLow: Bool, _ onHigh: Bool, _ rest: (Bool, Bool) -> GrammarExpression
  ) -> GrammarExpression {
    guard least <= most else { return .never }
    if least == most { return .sequence([Self.one(least, least), rest(onLow, onHigh)]) }
    var alternatives: [GrammarExpression] = []
    var first = least
    var last = most
    if onLow {
      alternatives.append(.sequence([Self.one(least, least), rest(true, false)]))
      first += 1
    }
    if onHigh {
      alternatives.append(.sequence([Self.one(most, most), rest(false, true)]))
      last -= 1
    }
    if first <= last { alternatives.append(.sequence([Self.one(first, last), rest(false, false)])) }
    return .choice(alternatives)
  }

  /// What may follow `index` digits of the fraction, its point included at 0.
  private func fraction(_ index: Int, onLower: Bool, onUpper: Bool) -> GrammarExpression {
    let lowerDigits = lower.fraction.dropFirst(index)
    let upperDigits = (upper?.fraction ?? []).dropFirst(index)
    let upperIsInclusive = upper?.isInclusive ?? true
    let isWithinLower = !onLower || (lowerDigits.isEmpty && lower.isInclusive)
    let isWithinUpper = !onUpper || !upperDigits.isEmpty || upperIsInclusive
    guard isWithinUpper else { return .never }
    var alternatives: [GrammarExpression] = []
    if isWithinLower { alternatives.append(.empty) }
    if index < fractionDigits {
      let point: GrammarExpression = index == 0 ? .text(".") : .empty
      // On a lower bound whose digits are used up everything is inside, unless the bound itself is not.
      let staysOnLower = onLower && !(lowerDigits.isEmpty && lower.isInclusive)
      let digits: GrammarExpression
      if !staysOnLower && !onUpper {
        digits = .repetition(Self.digit, minimum: 1, maximum: fractionDigits - index)
      } else {
        digits = branches(
          staysOnLower ? lowerDigits.first ?? 0 : 0, onUpper ? upperDigits.first ?? 0 : 9, staysOnLower, onUpper
        ) { onLower, onUpper in
          fraction(index + 1, onLower: onLower, onUpper: onUpper)
        }
      }
      alternatives.append(.sequence([point, digits]))
    }
    return alternatives.count == 1 ? alternatives[0] : .choice(alternatives)
  }
}
