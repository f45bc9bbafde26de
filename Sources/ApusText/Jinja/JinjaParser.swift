/// Builds the statements of a template from its tokens: recursive descent along Jinja's grammar, with bounded depth.
struct JinjaParser {
  private let tokens: [JinjaToken]
  private var position = 0
  private var depth = 0
  private var loopDepth = 0

  /// Nesting of expressions and statements, and length of operator chains.
  private static let depthLimit = 120
  private static let chainLimit = 200

  private init(_ tokens: [JinjaToken]) { self.tokens = tokens }

  static func parse(_ source: String) throws(TemplateError) -> [JinjaStatement] {
    var parser = JinjaParser(try JinjaLexer.tokenize(source))
    let (body, end) = try parser.statements(until: [])
    if let end { throw TemplateError(.syntax, "unexpected '\(end)'", line: parser.line) }
    return body
  }

  // MARK: Tokens

  private var token: JinjaToken { tokens[position] }
  private var line: Int { tokens[position].line }

  private mutating func advance() -> JinjaToken {
    defer { if position + 1 < tokens.count { position += 1 } }
    return tokens[position]
  }

  private func isSymbol(_ text: String) -> Bool { token.kind == .symbol && token.text == text }
  private func isName(_ text: String) -> Bool { token.kind == .name && token.text == text }

  private mutating func skipSymbol(_ text: String) -> Bool {
    if isSymbol(text) {
      position += 1
      return true
    }
    return false
  }

  private mutating func skipName(_ text: String) -> Bool {
    if isName(text) {
      position += 1
      return true
    }
    return false
  }

  private func unexpected(_ expected: String) -> TemplateError {
    let seen =
      token.kind == .end ? "the end of the template" : token.text.isEmpty ? "the end of the tag" : "'\(token.text)'"
    return TemplateError(.syntax, "expected \(expected), found \(seen)", line: line)
  }

  private mutating func expectSymbol(_ text: String) throws(TemplateError) {
    if !skipSymbol(text) { throw unexpected("'\(text)'") }
  }

  private mutating func expectName() throws(TemplateError) -> String {
    guard token.kind == .name else { throw unexpected("a name") }
    return advance().text
  }

  private mutating func expectBlockEnd() throws(TemplateError) {
    guard token.kind == .blockEnd else { throw unexpected("'%}'") }
    position += 1
  }

  private mutating func enter() throws(TemplateError) {
    depth += 1
    if depth > Self.depthLimit {
      throw TemplateError(.limit, "nesting exceeds \(Self.depthLimit) levels", line: line)
    }
  }

  private func checkChain(_ count: Int) throws(TemplateError) {
    if count > Self.chainLimit {
      throw TemplateError(.limit, "more than \(Self.chainLimit) operators in a row", line: line)
    }
  }

  // MARK: Statements

  /// Statements up to a block whose name is in `ends`; that name is consumed and returned, the rest of its tag is not.
  private mutating func statements(until ends: Set<String>) throws(TemplateError) -> ([JinjaStatement], String?) {
    try enter()
    defer { depth -= 1 }
    var body: [JinjaStatement] = []
    while true {
      let line = self.line
      switch token.kind {
      case .end:
        if ends.isEmpty { return (body, nil) }
        throw TemplateError(
          .syntax, "the template ends where \(ends.sorted().map { "'\($0)'" }.joined(separator: " or ")) is expected",
          line: line)
      case .text:
        body.append(JinjaStatement(kind: .text(advance().text), line: line))
      case .variableBegin:
        position += 1
        let value = try tuple()
        guard token.kind == .variableEnd else { throw unexpected("'}}'") }
        position += 1
        body.append(JinjaStatement(kind: .output(value), line: line))
      case .blockBegin:
        position += 1
        let name = try expectName()
        if ends.contains(name) { return (body, name) }
        if let kind = try statement(name) { body.append(JinjaStatement(kind: kind, line: line)) }
      default:
        throw unexpected("text or a tag")
      }
    }
  }

  /// A body that ends with `{% end %}`.
  private mutating func body(_ end: String) throws(TemplateError) -> [JinjaStatement] {
    try expectBlockEnd()
    let (body, _) = try statements(until: [end])
    try expectBlockEnd()
    return body
  }

  private mutating func statement(_ name: String) throws(TemplateError) -> JinjaStatement.Kind? {
    switch name {
    case "if": return try conditional()
    case "for": return try loop()
    case "set": return try set()
    case "macro": return try macro()
    case "call": return try callBlock()
    case "filter":
      let filters = try filterChain(first: true)
      return .filterBlock(filters, body: try body("endfilter"))
    case "with": return try with()
    case "generation": return .generation(try body("endgeneration"))
    case "break", "continue":
      guard loopDepth > 0 else { throw TemplateError(.syntax, "'\(name)' outside of a loop", line: line) }
      try expectBlockEnd()
      return name == "break" ? .breakLoop : .continueLoop
    case "extends", "include", "import", "from", "block", "do", "autoescape", "trans":
      throw TemplateError(.unsupported, "'\(name)' is not part of chat templates", line: line)
    default:
      throw TemplateError(.syntax, "unknown tag '\(name)'", line: line)
    }
  }

  private mutating func conditional() throws(TemplateError) -> JinjaStatement.Kind {
    var branches: [(test: JinjaExpression, body: [JinjaStatement])] = []
    var test = try tuple(withConditional: false)
    while true {
      try expectBlockEnd()
      let (body, end) = try statements(until: ["elif", "else", "endif"])
      branches.append((test, body))
      if end == "elif" {
        test = try tuple(withConditional: false)
        continue
      }
      var otherwise: [JinjaStatement] = []
      if end == "else" { otherwise = try self.body("endif") } else { try expectBlockEnd() }
      return .conditional(branches, otherwise: otherwise)
    }
  }

  private mutating func loop() throws(TemplateError) -> JinjaStatement.Kind {
    let target = try self.target()
    guard skipName("in") else { throw unexpected("'in'") }
    let items = try tuple(withConditional: false)
    let filter = skipName("if") ? try expression() : nil
    let isRecursive = skipName("recursive")
    try expectBlockEnd()
    loopDepth += 1
    let (body, end) = try statements(until: ["else", "endfor"])
    loopDepth -= 1
    var otherwise: [JinjaStatement] = []
    if end == "else" { otherwise = try self.body("endfor") } else { try expectBlockEnd() }
    return .loop(
      target: target, items: items, filter: filter, body: body, otherwise: otherwise, isRecursive: isRecursive)
  }

  private mutating func target() throws(TemplateError) -> JinjaTarget {
    var targets = [try singleTarget()]
    var isTuple = false
    while skipSymbol(",") {
      isTuple = true
      if token.kind != .name && !isSymbol("(") { break }
      if isName("in") { break }
      targets.append(try singleTarget())
    }
    return isTuple ? .names(targets) : targets[0]
  }

  private mutating func singleTarget() throws(TemplateError) -> JinjaTarget {
    try enter()
    defer { depth -= 1 }
    if skipSymbol("(") {
      let inner = try target()
      try expectSymbol(")")
      return inner
    }
    let name = try expectName()
    if ["true", "false", "none", "True", "False", "None"].contains(name) {
      throw TemplateError(.syntax, "cannot assign to '\(name)'", line: line)
    }
    if skipSymbol(".") { return .attribute(name, try expectName()) }
    return .name(name)
  }

  private mutating func set() throws(TemplateError) -> JinjaStatement.Kind {
    let target = try self.target()
    if skipSymbol("=") {
      let value = try tuple()
      try expectBlockEnd()
      return .set(target, value)
    }
    let filters = try filterChain(first: false)
    return .setBlock(target, filters: filters, body: try body("endset"))
  }

  private mutating func filterChain(first: Bool) throws(TemplateError) -> [(String, JinjaArguments)] {
    var filters: [(String, JinjaArguments)] = []
    if first { filters.append(try filterCall()) }
    while skipSymbol("|") {
      try checkChain(filters.count)
      filters.append(try filterCall())
    }
    return filters
  }

  private mutating func filterCall() throws(TemplateError) -> (String, JinjaArguments) {
    var name = try expectName()
    while skipSymbol(".") { name += "." + (try expectName()) }
    let arguments = isSymbol("(") ? try self.arguments() : JinjaArguments()
    return (name, arguments)
  }

  private mutating func parameters() throws(TemplateError) -> [JinjaParameter] {
    try expectSymbol("(")
    var parameters: [JinjaParameter] = []
    while !isSymbol(")") {
      if !parameters.isEmpty { try expectSymbol(",") }
      if isSymbol(")") { break }
      let name = try expectName()
      parameters.append(JinjaParameter(name: name, defaultValue: skipSymbol("=") ? try expression() : nil))
    }
    try expectSymbol(")")
    return parameters
  }

  private mutating func macro() throws(TemplateError) -> JinjaStatement.Kind {
    let name = try expectName()
    let parameters = try self.parameters()
    let outerLoops = loopDepth
    loopDepth = 0
    defer { loopDepth = outerLoops }
    return .macro(JinjaMacro(name: name, parameters: parameters, body: try body("endmacro")))
  }

  private mutating func callBlock() throws(TemplateError) -> JinjaStatement.Kind {
    let parameters = isSymbol("(") ? try self.parameters() : []
    let call = try expression()
    guard case .call = call else { throw TemplateError(.syntax, "'call' needs a call", line: line) }
    let outerLoops = loopDepth
    loopDepth = 0
    defer { loopDepth = outerLoops }
    return .callBlock(call, JinjaMacro(name: "caller", parameters: parameters, body: try body("endcall")))
  }

  private mutating func with() throws(TemplateError) -> JinjaStatement.Kind {
    var bindings: [(JinjaTarget, JinjaExpression)] = []
    while token.kind != .blockEnd {
      if !bindings.isEmpty { try expectSymbol(",") }
      let target = try singleTarget()
      try expectSymbol("=")
      bindings.append((target, try expression()))
    }
    return .with(bindings, body: try body("endwith"))
  }

  // MARK: Expressions

  /// An expression, or several with commas between, which make a list.
  private mutating func tuple(withConditional: Bool = true) throws(TemplateError) -> JinjaExpression {
    let first = withConditional ? try expression() : try or()
    guard isSymbol(",") else { return first }
    var items = [first]
    while skipSymbol(",") {
      if token.kind == .blockEnd || token.kind == .variableEnd || isSymbol(")") || isName("recursive") { break }
      items.append(withConditional ? try expression() : try or())
    }
    return .list(items)
  }

  private mutating func expression() throws(TemplateError) -> JinjaExpression {
    try enter()
    defer { depth -= 1 }
    var value = try or()
    var count = 0
    while skipName("if") {
      count += 1
      try checkChain(count)
      let test = try or()
      let otherwise = skipName("else") ? try expression() : nil
      value = .conditional(test: test, then: value, otherwise: otherwise)
    }
    return value
  }

  private mutating func or() throws(TemplateError) -> JinjaExpression {
    var left = try and()
    var count = 0
    while skipName("or") {
      count += 1
      try checkChain(count)
      left = .or(left, try and())
    }
    return left
  }

  private mutating func and() throws(TemplateError) -> JinjaExpression {
    var left = try not()
    var count = 0
    while skipName("and") {
      count += 1
      try checkChain(count)
      left = .and(left, try not())
    }
    return left
  }

  private mutating func not() throws(TemplateError) -> JinjaExpression {
    var count = 0
    while skipName("not") {
      count += 1
      try checkChain(count)
    }
    var value = try comparison()
    for _ in 0..<count { value = .not(value) }
    return value
  }

  private mutating func comparison() throws(TemplateError) -> JinjaExpression {
    let first = try sum()
    var rest: [(JinjaComparison, JinjaExpression)] = []
    while true {
      try checkChain(rest.count)
      if token.kind == .symbol, let comparison = JinjaComparison(rawValue: token.text) {
        position += 1
        rest.append((comparison, try sum()))
      } else if skipName("in") {
        rest.append((.contained, try sum()))
      } else if isName("not") && tokens[min(position + 1, tokens.count - 1)].text == "in"
        && tokens[min(position + 1, tokens.count - 1)].kind == .name
      {
        position += 2
        rest.append((.notContained, try sum()))
      } else {
        return rest.isEmpty ? first : .compare(first, rest)
      }
    }
  }

  private mutating func sum() throws(TemplateError) -> JinjaExpression {
    var left = try concatenation()
    var count = 0
    while isSymbol("+") || isSymbol("-") {
      count += 1
      try checkChain(count)
      let symbol = advance().text
      left = .binary(symbol == "+" ? .add : .subtract, left, try concatenation())
    }
    return left
  }

  private mutating func concatenation() throws(TemplateError) -> JinjaExpression {
    var parts = [try product()]
    while skipSymbol("~") { parts.append(try product()) }
    return parts.count == 1 ? parts[0] : .concatenate(parts)
  }

  private mutating func product() throws(TemplateError) -> JinjaExpression {
    var left = try power()
    var count = 0
    while token.kind == .symbol, ["*", "/", "//", "%"].contains(token.text),
      let symbol = JinjaOperator(rawValue: token.text)
    {
      count += 1
      try checkChain(count)
      position += 1
      left = .binary(symbol, left, try power())
    }
    return left
  }

  private mutating func power() throws(TemplateError) -> JinjaExpression {
    var left = try unary(withFilters: true)
    var count = 0
    while skipSymbol("**") {
      count += 1
      try checkChain(count)
      left = .binary(.power, left, try unary(withFilters: true))
    }
    return left
  }

  private mutating func unary(withFilters: Bool) throws(TemplateError) -> JinjaExpression {
    try enter()
    defer { depth -= 1 }
    var value: JinjaExpression
    if skipSymbol("-") {
      value = .negate(try unary(withFilters: false))
    } else if skipSymbol("+") {
      value = .plus(try unary(withFilters: false))
    } else {
      value = try primary()
    }
    value = try postfix(value)
    return withFilters ? try filtersAndTests(value) : value
  }

  private mutating func primary() throws(TemplateError) -> JinjaExpression {
    try enter()
    defer { depth -= 1 }
    switch token.kind {
    case .name:
      let name = advance().text
      switch name {
      case "true", "True": return .literal(.boolean(true))
      case "false", "False": return .literal(.boolean(false))
      case "none", "None": return .literal(.none)
      default: return .name(name)
      }
    case .string:
      var text = advance().text
      while token.kind == .string { text += advance().text }
      return .literal(.string(text))
    case .integer:
      let text = token.text
      guard let number = Int(text) else {
        throw TemplateError(.limit, "the integer \(text) exceeds 64 bits", line: line)
      }
      position += 1
      return .literal(.integer(number))
    case .float:
      guard let number = Double(token.text) else { throw unexpected("a number") }
      position += 1
      return .literal(.float(number))
    case .symbol:
      if skipSymbol("(") {
        if skipSymbol(")") { return .list([]) }
        let inner = try tuple()
        try expectSymbol(")")
        return inner
      }
      if skipSymbol("[") { return .list(try items(until: "]")) }
      if skipSymbol("{") { return try mapping() }
      throw unexpected("an expression")
    default: throw unexpected("an expression")
    }
  }

  private mutating func items(until end: String) throws(TemplateError) -> [JinjaExpression] {
    var items: [JinjaExpression] = []
    while !isSymbol(end) {
      if !items.isEmpty {
        try expectSymbol(",")
        if isSymbol(end) { break }
      }
      items.append(try expression())
    }
    try expectSymbol(end)
    return items
  }

  private mutating func mapping() throws(TemplateError) -> JinjaExpression {
    var pairs: [(JinjaExpression, JinjaExpression)] = []
    while !isSymbol("}") {
      if !pairs.isEmpty {
        try expectSymbol(",")
        if isSymbol("}") { break }
      }
      let key = try expression()
      try expectSymbol(":")
      pairs.append((key, try expression()))
    }
    try expectSymbol("}")
    return .mapping(pairs)
  }

  private mutating func postfix(_ start: JinjaExpression) throws(TemplateError) -> JinjaExpression {
    var value = start
    var count = 0
    while true {
      count += 1
      try checkChain(count)
      if skipSymbol(".") {
        if token.kind == .integer, let index = Int(token.text) {
          position += 1
          value = .item(value, .literal(.integer(index)))
        } else {
          value = .attribute(value, try expectName())
        }
      } else if isSymbol("[") {
        value = try subscripted(value)
      } else if isSymbol("(") {
        value = .call(value, try arguments())
      } else {
        return value
      }
    }
  }

  private mutating func subscripted(_ base: JinjaExpression) throws(TemplateError) -> JinjaExpression {
    try expectSymbol("[")
    var parts: [JinjaExpression?] = [nil]
    var isSlice = false
    while !isSymbol("]") {
      if skipSymbol(":") {
        isSlice = true
        parts.append(nil)
        guard parts.count <= 3 else { throw unexpected("']'") }
      } else {
        guard parts[parts.count - 1] == nil else { throw unexpected("']'") }
        parts[parts.count - 1] = try expression()
      }
    }
    try expectSymbol("]")
    if isSlice {
      return .slice(base, start: parts[0], stop: parts[1], step: parts.count > 2 ? parts[2] : nil)
    }
    guard let index = parts[0] else { throw unexpected("an index") }
    return .item(base, index)
  }

  private mutating func arguments() throws(TemplateError) -> JinjaArguments {
    try expectSymbol("(")
    var arguments = JinjaArguments()
    var isFirst = true
    while !isSymbol(")") {
      if !isFirst {
        try expectSymbol(",")
        if isSymbol(")") { break }
      }
      isFirst = false
      if isSymbol("*") || isSymbol("**") {
        throw TemplateError(.unsupported, "unpacking arguments with '\(token.text)'", line: line)
      }
      let next = tokens[min(position + 1, tokens.count - 1)]
      if token.kind == .name && next.kind == .symbol && next.text == "=" {
        let name = advance().text
        position += 1
        arguments.named.append((name, try expression()))
      } else {
        guard arguments.named.isEmpty else { throw unexpected("a named argument") }
        arguments.positional.append(try expression())
      }
    }
    try expectSymbol(")")
    return arguments
  }

  private mutating func filtersAndTests(_ start: JinjaExpression) throws(TemplateError) -> JinjaExpression {
    var value = start
    var count = 0
    while true {
      count += 1
      try checkChain(count)
      if skipSymbol("|") {
        let (name, arguments) = try filterCall()
        value = .filter(value, name, arguments)
      } else if skipName("is") {
        value = try test(value)
      } else if isSymbol("(") {
        value = .call(value, try arguments())
      } else {
        return value
      }
    }
  }

  private mutating func test(_ value: JinjaExpression) throws(TemplateError) -> JinjaExpression {
    let isNegated = skipName("not")
    let name = try expectName()
    var arguments = JinjaArguments()
    if isSymbol("(") {
      arguments = try self.arguments()
    } else {
      let takesArgument: Bool
      switch token.kind {
      case .name: takesArgument = !["else", "or", "and", "if", "is", "in", "not", "recursive"].contains(token.text)
      case .string, .integer, .float: takesArgument = true
      case .symbol: takesArgument = isSymbol("[") || isSymbol("{")
      default: takesArgument = false
      }
      if takesArgument { arguments.positional = [try postfix(try primary())] }
    }
    let result = JinjaExpression.test(value, name, arguments)
    return isNegated ? .not(result) : result
  }
}
