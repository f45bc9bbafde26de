/// A set of texts, given byte by byte: what constrained decoding lets a model write.
///
///     let grammar = try Grammar(jsonSchema: #"{"type": "object", "properties": {"age": {"type": "integer"}}}"#)
///     let vocabulary = VocabularyTrie(tokenizer)                  // once per tokenizer
///     var matcher = TokenGrammar(grammar, vocabulary: vocabulary).makeMatcher()
///     matcher.mask().apply(to: logits)                            // then sample a token
///     guard matcher.accept(token) else { return }
///
/// A grammar is context-free: rules may refer to each other and to themselves, except at their own beginning. An
/// immutable value; copies share storage. Compiling is bounded by `GrammarLimits`, whatever the source.
public struct Grammar: Sendable {
  let network: GrammarNetwork

  init(_ rules: GrammarRules, root: Int, path: String) throws(GrammarError) {
    var builder = NetworkBuilder(rules, path: path)
    network = try builder.build(root: root)
  }

  /// Number of states of the compiled automaton.
  public var stateCount: Int { network.stateCount }
}

extension Grammar {
  /// Exactly these texts. Throws `GrammarError` if there is none, or they are too large.
  public init(choice texts: [String]) throws(GrammarError) {
    guard !texts.isEmpty else {
      throw GrammarError(.unsatisfiable, path: "choice", seen: "an empty list", expected: "at least one text")
    }
    var bytes = 0
    for text in texts { bytes += text.utf8.count }
    try GrammarLimits.check(bytes: bytes, path: "choice")
    var rules = GrammarRules()
    let root = rules.define("root", .literals(texts.map { Array($0.utf8) }))
    try self.init(rules, root: root, path: "choice")
  }

  /// The texts that a regular expression matches from their beginning to their end; `^` and `$` may be left out.
  ///
  /// Supported: literals, classes, `\d \w \s` (ASCII) and their negations, `.` (no line end), groups, alternation and
  /// the quantifiers `? * + {m} {m,} {m,n}`. Throws `GrammarError` for lookaround, back-references and `\b`.
  public init(regex source: String) throws(GrammarError) {
    let expression = try RegularExpression(source, path: "regex")
    var characters = CharacterEncoder()
    let root = characters.rules.reserve("root")
    let branches = expression.branches.map { branch in characters.utf8(branch.pattern) }
    characters.rules.set(root, .choice(branches))
    try self.init(characters.rules, root: root, path: "regex")
  }

  /// The texts of a grammar in llama.cpp's GBNF notation; the rule `root` is the whole text.
  ///
  /// Throws `GrammarError` that names the place; left recursion is refused.
  public init(ebnf source: String) throws(GrammarError) {
    var parser = EBNFParser(source)
    let root = try parser.parse()
    try self.init(parser.characters.rules, root: root, path: "ebnf")
  }

  /// Any JSON object, nested at most `JSONGrammarOptions.nesting` levels deep.
  public static func jsonObject(options: JSONGrammarOptions = JSONGrammarOptions()) throws(GrammarError) -> Grammar {
    var syntax = JSONSyntax(options: options)
    let root = syntax.anyObject()
    return try Grammar(syntax.rules, root: root, path: "json_object")
  }

  /// The JSON texts that are valid under a JSON Schema given as text. As `init(jsonSchema:options:)` for a value.
  public init(
    jsonSchema source: String, options: JSONGrammarOptions = JSONGrammarOptions()
  ) throws(GrammarError) {
    try GrammarLimits.check(bytes: source.utf8.count, path: "#")
    let schema: JinjaValue
    do {
      schema = try JinjaValue(json: source)
    } catch {
      throw GrammarError(.malformed, path: "#", seen: "text that is not JSON (\(error))", expected: "a JSON Schema")
    }
    try self.init(jsonSchema: schema, options: options)
  }

  /// The JSON texts that are valid under a JSON Schema, with members in the schema's order.
  ///
  /// Every text of the grammar is valid; not every valid text is in the grammar: members come in the schema's order
  /// with additional ones last, white space is bounded (`JSONWhitespace`), `integer` is written without a fraction, and
  /// a schema without `type` takes the types that its keywords speak about. `oneOf` is read as `anyOf`. Throws
  /// `GrammarError` with the JSON pointer of a keyword that changes validity and is not supported.
  public init(
    jsonSchema schema: JinjaValue, options: JSONGrammarOptions = JSONGrammarOptions()
  ) throws(GrammarError) {
    var compiler = JSONSchemaCompiler(schema, options: options)
    let root = try compiler.compile()
    try self.init(compiler.syntax.rules, root: root, path: "#")
  }
}
