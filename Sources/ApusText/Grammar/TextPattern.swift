/// A regular language over characters, before it is known how a character is written.
indirect enum TextPattern: Sendable {
  case characters(ScalarSet)
  case sequence([TextPattern])
  case choice([TextPattern])
  /// `maximum` nil means any number.
  case repetition(TextPattern, minimum: Int, maximum: Int?)

  static let anything = TextPattern.repetition(.characters(.all), minimum: 0, maximum: nil)

  static func text(_ text: String) -> TextPattern {
    .sequence(text.unicodeScalars.map { .characters(ScalarSet($0)) })
  }

  /// Fewest characters of a match; saturates.
  var shortest: Int {
    switch self {
    case .characters: 1
    case .sequence(let parts): parts.reduce(0) { Self.sum($0, $1.shortest) }
    case .choice(let parts): parts.map(\.shortest).min() ?? 0
    case .repetition(let part, let minimum, _): Self.product(part.shortest, minimum)
    }
  }

  /// Most characters of a match; nil if there is no bound.
  var longest: Int? {
    switch self {
    case .characters: return 1
    case .sequence(let parts):
      var total = 0
      for part in parts {
        guard let length = part.longest else { return nil }
        total = Self.sum(total, length)
      }
      return total
    case .choice(let parts):
      var longest = 0
      for part in parts {
        guard let length = part.longest else { return nil }
        longest = max(longest, length)
      }
      return longest
    case .repetition(let part, _, let maximum):
      guard let length = part.longest else { return nil }
      if length == 0 { return 0 }
      guard let maximum else { return nil }
      return Self.product(length, maximum)
    }
  }

  private static func sum(_ a: Int, _ b: Int) -> Int {
    let (value, overflow) = a.addingReportingOverflow(b)
    return overflow ? .max : value
  }

  private static func product(_ a: Int, _ b: Int) -> Int {
    let (value, overflow) = a.multipliedReportingOverflow(by: b)
    return overflow ? .max : value
  }
}
