/// Bounds on what compiling a grammar may cost, so that a hostile source is refused in milliseconds. They count steps and
/// not time: the same source is refused on every machine.
public enum GrammarLimits {
  /// Longest source, in bytes.
  public static let sourceBytes = 256 * 1024
  /// Longest regular expression, in bytes.
  public static let regexBytes = 32 * 1024
  /// States of the compiled automaton.
  public static let states = 100_000
  /// Arcs of the compiled automaton.
  public static let arcs = 400_000
  /// Steps of each pass over the grammar.
  public static let steps = 300_000
  /// Subschemas and keywords visited, references and merged copies included.
  public static let schemaSteps = 50_000
  /// Groups within groups, or schemas within schemas; protects the stack of the caller.
  public static let nesting = 96
  /// Largest repetition count.
  public static let repetitions = 1_000_000

  static func check(bytes: Int, limit: Int = sourceBytes, path: String) throws(GrammarError) {
    guard bytes <= limit else {
      throw GrammarError(.limit, path: path, seen: "\(bytes) bytes", expected: "at most \(limit)")
    }
  }
}
