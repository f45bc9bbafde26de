/// Finds stop strings in text that arrives in parts, also across the parts' borders.
///
///     var matcher = StopMatcher(stops: ["\nUser:"])
///     let step = matcher.append("…\nUs")   // emits "…", holds "\nUs" back
///
/// Text is given out as soon as it can no longer belong to a stop string. O(text × stops).
public struct StopMatcher: Sendable {
  /// What one part of text led to.
  public struct Step: Sendable, Equatable {
    /// Text that is safe to give out.
    public var text: String
    /// The stop string that was hit; everything from it on is dropped.
    public var stop: String?

    public init(text: String, stop: String?) {
      self.text = text
      self.stop = stop
    }
  }

  private let stops: [[UInt8]]
  private var held: [UInt8] = []
  private var hasStopped = false

  /// Empty stop strings are ignored.
  public init(stops: [String]) {
    self.stops = stops.filter { !$0.isEmpty }.map { Array($0.utf8) }
  }

  /// Takes the next text. After a stop nothing more is given out.
  public mutating func append(_ text: String) -> Step {
    if hasStopped { return Step(text: "", stop: nil) }
    if stops.isEmpty { return Step(text: text, stop: nil) }
    held += text.utf8
    return scan(isEnd: false)
  }

  /// Ends the text: gives out what was held back, up to a stop string if it holds a whole one.
  public mutating func flush() -> Step {
    if hasStopped { return Step(text: "", stop: nil) }
    return scan(isEnd: true)
  }

  private mutating func scan(isEnd: Bool) -> Step {
    var index = 0
    while index < held.count {
      for stop in stops where held[index...].starts(with: stop) {
        let before = String(decoding: held[..<index], as: UTF8.self)
        held.removeAll()
        hasStopped = true
        return Step(text: before, stop: String(decoding: stop, as: UTF8.self))
      }
      // From here on the text may be the beginning of a stop string: keep it.
      if !isEnd && stops.contains(where: { $0.starts(with: held[index...]) }) { break }
      index += 1
    }
    let safe = String(decoding: held[..<index], as: UTF8.self)
    held.removeSubrange(..<index)
    return Step(text: safe, stop: nil)
  }
}
