/// A piece of the text that a grammar describes, for grammars that are put together from several sources.
///
///     let grammar = try Grammar(.sequence([.text("answer: "), .jsonSchema(schema, name: "schema")]))
public indirect enum GrammarPart: Sendable {
  /// Exactly this text.
  case text(String)
  /// JSON that is valid under a schema; an error's path begins with `name`.
  case jsonSchema(JinjaValue, name: String, options: JSONGrammarOptions = JSONGrammarOptions())
  case sequence([GrammarPart])
  case choice([GrammarPart])
  /// At least one, with the separator between them.
  case list(GrammarPart, separator: String)
  /// Text that may end anywhere, until the marker has been written: then `rest` must follow. The marker is not empty.
  case textUntil(String, then: GrammarPart)
  /// Any text, also none, whose first character is none of these ASCII ones.
  case textNotBeginning(with: String)
}

extension Grammar {
  /// The texts of `part`. Throws `GrammarError` as the initialisers for its sources do, with `name` as the path where the
  /// whole is too large.
  public init(_ part: GrammarPart, name: String = "grammar") throws(GrammarError) {
    var assembler = GrammarAssembler()
    let root = try assembler.rule(of: part)
    try self.init(assembler.rules, root: root, path: name)
  }
}

/// Gathers the rules of all parts in one table.
private struct GrammarAssembler {
  var rules = GrammarRules()

  mutating func rule(of part: GrammarPart) throws(GrammarError) -> Int {
    let expression = try expression(of: part)
    return rules.define("part", expression)
  }

  private mutating func expression(of part: GrammarPart) throws(GrammarError) -> GrammarExpression {
    switch part {
    case .text(let text): return .text(text)
    case .sequence(let parts): return .sequence(try expressions(of: parts))
    case .choice(let parts): return .choice(try expressions(of: parts))
    case .list(let item, let separator):
      let item = GrammarExpression.rule(try rule(of: item))
      let more = GrammarExpression.sequence([.text(separator), item])
      return .sequence([item, .repetition(more, minimum: 0, maximum: nil)])
    case .textUntil(let marker, let rest): return try search(Array(marker.utf8), then: rest)
    case .textNotBeginning(let characters):
      let refused = Set(characters.utf8)
      let first = (0...UInt8.max).filter { !refused.contains($0) }.map { $0...$0 }
      let all = GrammarExpression.bytes([0...UInt8.max])
      return .optional(.sequence([.bytes(first), .repetition(all, minimum: 0, maximum: nil)]))
    case .jsonSchema(let schema, let name, let options):
      do throws(GrammarError) {
        var compiler = JSONSchemaCompiler(schema, options: options)
        let root = try compiler.compile()
        return .rule(rules.append(compiler.syntax.rules) + root)
      } catch {
        throw GrammarError(error.kind, path: name + error.path, seen: error.seen, expected: error.expected)
      }
    }
  }

  private mutating func expressions(of parts: [GrammarPart]) throws(GrammarError) -> [GrammarExpression] {
    var expressions: [GrammarExpression] = []
    for part in parts { expressions.append(try expression(of: part)) }
    return expressions
  }

  /// One rule for each length of the marker's beginning that has just been written; which one a byte leads to is as in
  /// Knuth, Morris and Pratt's search (1977).
  private mutating func search(_ marker: [UInt8], then rest: GrammarPart) throws(GrammarError) -> GrammarExpression {
    let places = marker.map { _ in rules.reserve("text") }
    let end = GrammarExpression.rule(try rule(of: rest))
    var rows: [[Int]] = []
    // The place that all bytes but the first of a failed match lead to.
    var border = 0
    for (place, next) in marker.enumerated() {
      var row = place == 0 ? Array(repeating: 0, count: 256) : rows[border]
      row[Int(next)] = place + 1
      if place > 0 { border = rows[border][Int(next)] }
      rows.append(row)
      var alternatives: [GrammarExpression] = [.empty]
      for target in Set(row).sorted() {
        let bytes = row.indices.filter { row[$0] == target }.map { UInt8($0)...UInt8($0) }
        alternatives.append(.sequence([.bytes(bytes), target == marker.count ? end : .rule(places[target])]))
      }
      rules.set(places[place], .choice(alternatives))
    }
    return .rule(places[0])
  }
}
