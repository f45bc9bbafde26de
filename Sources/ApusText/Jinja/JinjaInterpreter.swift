/// What a template may use up.
public struct TemplateLimits: Sendable, Equatable {
  /// Statements, expressions and items of loops and filters, plus one for each 64 bytes of text made.
  public var steps = 20_000_000
  /// Bytes of the rendered text.
  public var outputBytes = 64 << 20
  /// Nesting of statements, expressions and macro calls at run time; bounds the stack.
  public var depth = 300

  public init() {}
}

/// Runs a template's statements. One value per rendering.
struct JinjaInterpreter {
  /// How a statement list ended.
  enum Flow {
    case normal, breakLoop, continueLoop
  }

  private struct Macro {
    var definition: JinjaMacro
    /// The scopes that the body sees besides its own.
    var scopes: [[String: JinjaValue]]?
  }

  private(set) var output = ""
  var scopes: [[String: JinjaValue]]
  private var namespaces: [JinjaMapping] = []
  private var macros: [Macro] = []
  private var loops: [(statement: JinjaStatement.Kind, depth: Int)] = []
  private var steps = 0
  private var depth = 0
  private(set) var line = 0
  let limits: TemplateLimits
  let clock: TemplateClock

  /// Largest result of `range`, as in Jinja's sandbox.
  private static let rangeLimit = 100_000

  init(globals: [String: JinjaValue], limits: TemplateLimits, clock: TemplateClock) {
    scopes = [globals, [:]]
    self.limits = limits
    self.clock = clock
  }

  // MARK: Budget

  func error(_ kind: TemplateError.Kind, _ message: String) -> TemplateError {
    TemplateError(kind, message, line: line)
  }

  mutating func charge(_ amount: Int = 1) throws(TemplateError) {
    steps += amount
    if steps > limits.steps { throw error(.limit, "the template exceeds \(limits.steps) steps") }
  }

  /// Accounts for a text or list that is about to be made: its memory is bounded by the step limit.
  mutating func chargeBytes(_ count: Int) throws(TemplateError) { try charge(1 + count / 64) }

  private mutating func enter() throws(TemplateError) {
    depth += 1
    if depth > limits.depth { throw error(.limit, "the template nests deeper than \(limits.depth) levels") }
  }

  private mutating func write(_ text: String) throws(TemplateError) {
    try chargeBytes(text.utf8.count)
    output += text
    if output.utf8.count > limits.outputBytes {
      throw error(.limit, "the template writes more than \(limits.outputBytes) bytes")
    }
  }

  // MARK: Names

  private func lookUp(_ name: String) -> JinjaValue {
    var index = scopes.count - 1
    while index >= 0 {
      if let value = scopes[index][name] { return value }
      index -= 1
    }
    return JinjaBuiltins.functions.contains(name) ? .object(.function(name)) : .undefined(name: name)
  }

  mutating func assign(_ target: JinjaTarget, _ value: JinjaValue) throws(TemplateError) {
    switch target {
    case .name(let name): scopes[scopes.count - 1][name] = value
    case .names(let targets):
      let items = try iterate(value)
      guard items.count == targets.count else {
        throw error(.type, "cannot unpack \(items.count) values into \(targets.count) names")
      }
      for (target, item) in zip(targets, items) { try assign(target, item) }
    case .attribute(let name, let key):
      guard case .object(.namespace(let index)) = lookUp(name) else {
        throw error(.type, "cannot assign to '\(name).\(key)': '\(name)' is not a namespace")
      }
      namespaces[index][key] = value
    }
  }

  // MARK: Statements

  mutating func run(_ statements: [JinjaStatement]) throws(TemplateError) -> Flow {
    try enter()
    defer { depth -= 1 }
    for statement in statements {
      line = statement.line
      try charge()
      let flow = try run(statement)
      if flow != .normal { return flow }
    }
    return .normal
  }

  private mutating func run(_ statement: JinjaStatement) throws(TemplateError) -> Flow {
    switch statement.kind {
    case .text(let text): try write(text)
    case .output(let expression): try write(try evaluate(expression).text)
    case .conditional(let branches, let otherwise):
      for branch in branches {
        line = statement.line
        if try evaluate(branch.test).isTrue { return try run(branch.body) }
      }
      return try run(otherwise)
    case .loop(_, let items, _, _, _, _):
      try runLoop(statement.kind, try evaluate(items), depth: 0)
    case .set(let target, let expression): try assign(target, try evaluate(expression))
    case .setBlock(let target, let filters, let body):
      var value = JinjaValue.string(try capture(body))
      for (name, arguments) in filters { value = try applyFilter(name, value, arguments) }
      try assign(target, value)
    case .macro(let definition):
      macros.append(Macro(definition: definition, scopes: nil))
      scopes[scopes.count - 1][definition.name] = .object(.macro(macros.count - 1))
    case .callBlock(let call, let definition):
      macros.append(Macro(definition: definition, scopes: scopes))
      let caller = JinjaValue.object(.caller(macros.count - 1))
      guard case .call(let callee, let arguments) = call else { break }
      try write(try evaluateCall(callee, arguments, caller: caller).text)
    case .filterBlock(let filters, let body):
      var value = JinjaValue.string(try capture(body))
      for (name, arguments) in filters { value = try applyFilter(name, value, arguments) }
      try write(value.text)
    case .with(let bindings, let body):
      var values: [JinjaValue] = []
      for (_, expression) in bindings { values.append(try evaluate(expression)) }
      scopes.append([:])
      defer { scopes.removeLast() }
      for (binding, value) in zip(bindings, values) { try assign(binding.0, value) }
      return try run(body)
    case .generation(let body):
      scopes.append([:])
      defer { scopes.removeLast() }
      return try run(body)
    case .breakLoop: return .breakLoop
    case .continueLoop: return .continueLoop
    }
    return .normal
  }

  /// Runs statements in a scope of their own and returns what they wrote.
  private mutating func capture(_ body: [JinjaStatement]) throws(TemplateError) -> String {
    let outer = output
    output = ""
    scopes.append([:])
    defer { scopes.removeLast() }
    _ = try run(body)
    let text = output
    output = outer
    return text
  }

  private mutating func runLoop(
    _ kind: JinjaStatement.Kind, _ value: JinjaValue, depth loopDepth: Int
  ) throws(TemplateError) {
    guard case .loop(let target, _, let filter, let body, let otherwise, let isRecursive) = kind else { return }
    var items = try iterate(value)
    if let filter {
      var kept: [JinjaValue] = []
      scopes.append([:])
      defer { scopes.removeLast() }
      for item in items {
        try charge()
        try assign(target, item)
        if try evaluate(filter).isTrue { kept.append(item) }
      }
      items = kept
    }
    if items.isEmpty {
      _ = try run(otherwise)
      return
    }
    if isRecursive { loops.append((kind, loopDepth)) }
    defer { if isRecursive { loops.removeLast() } }
    scopes.append([:])
    defer { scopes.removeLast() }
    for (index, item) in items.enumerated() {
      try charge()
      scopes[scopes.count - 1] = [
        "loop": .object(.loop(JinjaLoop(index0: index, items: items, depth: loopDepth)))
      ]
      try assign(target, item)
      if try run(body) == .breakLoop { break }
    }
  }

  // MARK: Iteration

  /// The items that a `for` over the value visits.
  mutating func iterate(_ value: JinjaValue) throws(TemplateError) -> [JinjaValue] {
    switch value.plain {
    case .list(let items): return items
    case .mapping(let mapping): return mapping.keys
    case .undefined: return []
    case .string(let text):
      try chargeBytes(text.utf8.count * 16)
      return text.unicodeScalars.map { .string(String($0)) }
    default: throw error(.type, "a \(value.typeName) cannot be iterated over")
    }
  }

  // MARK: Expressions

  mutating func evaluate(_ expression: JinjaExpression) throws(TemplateError) -> JinjaValue {
    try enter()
    defer { depth -= 1 }
    try charge()
    switch expression {
    case .literal(let value): return value
    case .name(let name): return lookUp(name)
    case .attribute(let base, let name): return try attribute(try evaluate(base), name)
    case .item(let base, let key): return try item(try evaluate(base), try evaluate(key))
    case .slice(let base, let start, let stop, let step):
      return try slice(try evaluate(base), try bound(start), try bound(stop), try bound(step))
    case .call(let callee, let arguments): return try evaluateCall(callee, arguments, caller: nil)
    case .filter(let base, let name, let arguments):
      return try applyFilter(name, try evaluate(base), arguments)
    case .test(let base, let name, let arguments):
      let value = try evaluate(base)
      return .boolean(try test(name, value, try evaluate(arguments).positional))
    case .not(let inner): return .boolean(!(try evaluate(inner).isTrue))
    case .negate(let inner): return try negate(try evaluate(inner))
    case .plus(let inner):
      let value = try evaluate(inner)
      guard value.asDouble != nil else { throw error(.type, "'+' does not apply to a \(value.typeName)") }
      return value
    case .and(let left, let right):
      let value = try evaluate(left)
      return value.isTrue ? try evaluate(right) : value
    case .or(let left, let right):
      let value = try evaluate(left)
      return value.isTrue ? value : try evaluate(right)
    case .binary(let symbol, let left, let right):
      return try JinjaArithmetic.apply(symbol, try evaluate(left), try evaluate(right), &self)
    case .compare(let first, let rest):
      var left = try evaluate(first)
      for (comparison, expression) in rest {
        let right = try evaluate(expression)
        guard try compare(left, comparison, right) else { return .boolean(false) }
        left = right
      }
      return .boolean(true)
    case .concatenate(let parts):
      var text = ""
      for part in parts {
        text += try evaluate(part).text
        try chargeBytes(text.utf8.count)
      }
      return .string(text)
    case .conditional(let test, let then, let otherwise):
      if try evaluate(test).isTrue { return try evaluate(then) }
      if let otherwise { return try evaluate(otherwise) }
      return .undefined(name: "the value of an 'if' without 'else'")
    case .list(let expressions):
      var items: [JinjaValue] = []
      for expression in expressions { items.append(try evaluate(expression)) }
      return .list(items)
    case .mapping(let pairs):
      var mapping = JinjaMapping()
      for (key, value) in pairs {
        let key = try evaluate(key)
        mapping[key] = try evaluate(value)
      }
      return .mapping(mapping)
    }
  }

  private mutating func bound(_ expression: JinjaExpression?) throws(TemplateError) -> Int? {
    guard let expression else { return nil }
    let value = try evaluate(expression)
    if case .none = value { return nil }
    guard let index = value.asInteger else {
      throw error(.type, "a slice needs integers, found a \(value.typeName)")
    }
    return index
  }

  private func negate(_ value: JinjaValue) throws(TemplateError) -> JinjaValue {
    if case .float(let number) = value { return .float(-number) }
    guard let number = value.asInteger, number != .min else {
      throw error(.type, "'-' does not apply to a \(value.typeName)")
    }
    return .integer(-number)
  }

  mutating func compare(
    _ left: JinjaValue, _ comparison: JinjaComparison, _ right: JinjaValue
  ) throws(TemplateError) -> Bool {
    switch comparison {
    case .equal: return left.isEqual(to: right)
    case .notEqual: return !left.isEqual(to: right)
    case .less: return try order(left, right) < 0
    case .lessOrEqual: return try order(left, right) <= 0
    case .greater: return try order(left, right) > 0
    case .greaterOrEqual: return try order(left, right) >= 0
    case .contained: return try contains(right, left)
    case .notContained: return !(try contains(right, left))
    }
  }

  /// Negative, zero or positive as `left` is before, equal to or after `right`.
  func order(_ left: JinjaValue, _ right: JinjaValue) throws(TemplateError) -> Int {
    if let a = left.asInteger, let b = right.asInteger { return a < b ? -1 : a == b ? 0 : 1 }
    if let a = left.asDouble, let b = right.asDouble { return a < b ? -1 : a == b ? 0 : 1 }
    switch (left.plain, right.plain) {
    case (.string(let a), .string(let b)):
      // UTF-8 sorts as code points do.
      if a.utf8.elementsEqual(b.utf8) { return 0 }
      return a.utf8.lexicographicallyPrecedes(b.utf8) ? -1 : 1
    case (.list(let a), .list(let b)):
      for (x, y) in zip(a, b) {
        let result = try order(x, y)
        if result != 0 { return result }
      }
      return a.count - b.count
    default: throw error(.type, "a \(left.typeName) cannot be ordered with a \(right.typeName)")
    }
  }

  mutating func contains(_ container: JinjaValue, _ element: JinjaValue) throws(TemplateError) -> Bool {
    switch container.plain {
    case .string(let text):
      guard case .string(let part) = element.plain else {
        throw error(.type, "'in' a string needs a string, found a \(element.typeName)")
      }
      try chargeBytes(text.utf8.count)
      return JinjaText.find(Array(part.utf8), in: Array(text.utf8), from: 0) != nil
    case .list(let items):
      try charge(items.count)
      return items.contains { $0.isEqual(to: element) }
    case .mapping(let mapping): return mapping[element] != nil
    case .undefined: return false
    default: throw error(.type, "'in' does not apply to a \(container.typeName)")
    }
  }

  // MARK: Attributes, items, slices

  /// `value.name`: a method or an attribute first, then an item of that name.
  func attribute(_ value: JinjaValue, _ name: String) throws(TemplateError) -> JinjaValue {
    switch value.plain {
    case .undefined(let missing): throw error(.undefined, "'\(missing)' is undefined, so it has no '\(name)'")
    case .mapping(let mapping):
      if JinjaMethods.ofMapping.contains(name) { return .object(.method(value, name)) }
      return mapping[name] ?? .undefined(name: name)
    case .string:
      return JinjaMethods.ofString.contains(name) ? .object(.method(value, name)) : .undefined(name: name)
    case .list:
      return JinjaMethods.ofList.contains(name) ? .object(.method(value, name)) : .undefined(name: name)
    case .object(.namespace(let index)): return namespaces[index][name] ?? .undefined(name: name)
    case .object(.loop(let loop)): return loopAttribute(loop, value, name)
    case .object(.macro(let index)):
      return name == "name" ? .string(macros[index].definition.name) : .undefined(name: name)
    default: return .undefined(name: name)
    }
  }

  private func loopAttribute(_ loop: JinjaLoop, _ value: JinjaValue, _ name: String) -> JinjaValue {
    let count = loop.items.count
    switch name {
    case "index": return .integer(loop.index0 + 1)
    case "index0": return .integer(loop.index0)
    case "revindex": return .integer(count - loop.index0)
    case "revindex0": return .integer(count - loop.index0 - 1)
    case "first": return .boolean(loop.index0 == 0)
    case "last": return .boolean(loop.index0 == count - 1)
    case "length": return .integer(count)
    case "depth": return .integer(loop.depth + 1)
    case "depth0": return .integer(loop.depth)
    case "previtem":
      return loop.index0 > 0 ? loop.items[loop.index0 - 1] : .undefined(name: "there is no previous item")
    case "nextitem":
      return loop.index0 + 1 < count ? loop.items[loop.index0 + 1] : .undefined(name: "there is no next item")
    case "cycle": return .object(.method(value, name))
    default: return .undefined(name: name)
    }
  }

  /// `value[key]`: an item first, then an attribute of that name.
  func item(_ value: JinjaValue, _ key: JinjaValue) throws(TemplateError) -> JinjaValue {
    switch (value.plain, key.plain) {
    case (.undefined(let missing), _):
      throw error(.undefined, "'\(missing)' is undefined, so it has no item '\(key.text)'")
    case (.mapping(let mapping), _):
      if let found = mapping[key] { return found }
      if case .string(let name) = key, JinjaMethods.ofMapping.contains(name) {
        return .object(.method(value, name))
      }
      return .undefined(name: key.text)
    case (.list(let items), _) where key.asInteger != nil:
      guard let index = key.asInteger.map({ $0 < 0 ? $0 + items.count : $0 }), items.indices.contains(index) else {
        return .undefined(name: "item \(key.text) of a list of \(items.count)")
      }
      return items[index]
    case (.string(let text), _) where key.asInteger != nil:
      let scalars = Array(text.unicodeScalars)
      guard let index = key.asInteger.map({ $0 < 0 ? $0 + scalars.count : $0 }), scalars.indices.contains(index) else {
        return .undefined(name: "character \(key.text) of a string of \(scalars.count)")
      }
      return .string(String(scalars[index]))
    case (_, .string(let name)): return try attribute(value, name)
    default: return .undefined(name: key.text)
    }
  }

  private mutating func slice(
    _ value: JinjaValue, _ start: Int?, _ stop: Int?, _ step: Int?
  ) throws(TemplateError) -> JinjaValue {
    switch value.plain {
    case .list(let items):
      try charge(items.count)
      return .list(try JinjaText.sliceIndices(items.count, start, stop, step, self).map { items[$0] })
    case .string(let text):
      try chargeBytes(text.utf8.count * 4)
      let scalars = Array(text.unicodeScalars)
      var result = String.UnicodeScalarView()
      for index in try JinjaText.sliceIndices(scalars.count, start, stop, step, self) { result.append(scalars[index]) }
      return .string(String(result))
    case .undefined(let name): throw error(.undefined, "'\(name)' is undefined and cannot be sliced")
    default: throw error(.type, "a \(value.typeName) cannot be sliced")
    }
  }

  // MARK: Calls

  struct Arguments {
    var positional: [JinjaValue] = []
    var named: [(String, JinjaValue)] = []

    func named(_ name: String) -> JinjaValue? { named.first { $0.0 == name }?.1 }

    /// The arguments with marked text as ordinary strings.
    var plain: Arguments {
      Arguments(positional: positional.map(\.plain), named: named.map { ($0.0, $0.1.plain) })
    }

    /// The argument by position or by name.
    func value(_ index: Int, _ name: String) -> JinjaValue? {
      index < positional.count ? positional[index] : named(name)
    }
  }

  mutating func evaluate(_ arguments: JinjaArguments) throws(TemplateError) -> Arguments {
    var result = Arguments()
    for expression in arguments.positional { result.positional.append(try evaluate(expression)) }
    for (name, expression) in arguments.named { result.named.append((name, try evaluate(expression))) }
    return result
  }

  private mutating func evaluateCall(
    _ callee: JinjaExpression, _ arguments: JinjaArguments, caller: JinjaValue?
  ) throws(TemplateError) -> JinjaValue {
    let function = try evaluate(callee)
    return try call(function, try evaluate(arguments), caller: caller)
  }

  mutating func call(
    _ function: JinjaValue, _ arguments: Arguments, caller: JinjaValue? = nil
  ) throws(TemplateError) -> JinjaValue {
    switch function {
    case .object(.macro(let index)), .object(.caller(let index)):
      return try callMacro(index, arguments, caller: caller)
    case .object(.function(let name)): return try JinjaBuiltins.call(name, arguments, &self)
    case .object(.method(let value, let name)): return try JinjaMethods.call(value.plain, name, arguments.plain, &self)
    case .object(.loop(let loop)):
      guard let (kind, _) = loops.last, let items = arguments.positional.first else {
        throw error(.type, "'loop(…)' needs a recursive loop and a list")
      }
      return .string(try captureLoop(kind, items, depth: loop.depth + 1))
    case .undefined(let name): throw error(.undefined, "'\(name)' is undefined and cannot be called")
    default: throw error(.type, "a \(function.typeName) cannot be called")
    }
  }

  private mutating func captureLoop(
    _ kind: JinjaStatement.Kind, _ items: JinjaValue, depth: Int
  ) throws(TemplateError) -> String {
    let outer = output
    output = ""
    try runLoop(kind, items, depth: depth)
    let text = output
    output = outer
    return text
  }

  private mutating func callMacro(
    _ index: Int, _ arguments: Arguments, caller: JinjaValue?
  ) throws(TemplateError) -> JinjaValue {
    let macro = macros[index]
    var extra = Arguments()
    let saved = scopes
    // A macro sees the template's own names, not those of the place that calls it.
    scopes = (macro.scopes ?? Array(scopes.prefix(2))) + [[:]]
    defer { scopes = saved }
    for (position, parameter) in macro.definition.parameters.enumerated() {
      let value: JinjaValue
      if let given = arguments.value(position, parameter.name) {
        value = given
      } else if let expression = parameter.defaultValue {
        value = try evaluate(expression)
      } else {
        value = .undefined(name: parameter.name)
      }
      scopes[scopes.count - 1][parameter.name] = value
    }
    extra.positional = Array(arguments.positional.dropFirst(macro.definition.parameters.count))
    var keywords = JinjaMapping()
    for (name, value) in arguments.named where !macro.definition.parameters.contains(where: { $0.name == name }) {
      keywords[name] = value
    }
    scopes[scopes.count - 1]["varargs"] = .list(extra.positional)
    scopes[scopes.count - 1]["kwargs"] = .mapping(keywords)
    if let caller { scopes[scopes.count - 1]["caller"] = caller }
    let outer = output
    output = ""
    let line = self.line
    _ = try run(macro.definition.body)
    self.line = line
    let text = output
    output = outer
    return .string(text)
  }

  // MARK: State for built-ins

  mutating func makeNamespace(_ arguments: Arguments) throws(TemplateError) -> JinjaValue {
    var values = JinjaMapping()
    if case .mapping(let initial)? = arguments.positional.first { values = initial }
    for (name, value) in arguments.named { values[name] = value }
    namespaces.append(values)
    return .object(.namespace(namespaces.count - 1))
  }

  mutating func range(_ arguments: Arguments) throws(TemplateError) -> JinjaValue {
    var numbers: [Int] = []
    for value in arguments.positional {
      guard let number = value.asInteger else {
        throw error(.type, "'range' needs integers, found a \(value.typeName)")
      }
      numbers.append(number)
    }
    let start = numbers.count > 1 ? numbers[0] : 0
    let step = numbers.count > 2 ? numbers[2] : 1
    guard let stop = numbers.count > 1 ? numbers[1] : numbers.first, numbers.count <= 3, step != 0 else {
      throw error(.type, "'range' needs one to three integers and a step other than 0")
    }
    var items: [JinjaValue] = []
    var value = start
    while step > 0 ? value < stop : value > stop {
      if items.count >= Self.rangeLimit {
        throw error(.limit, "'range' gives more than \(Self.rangeLimit) numbers")
      }
      items.append(.integer(value))
      let (next, overflow) = value.addingReportingOverflow(step)
      if overflow { break }
      value = next
    }
    try charge(items.count)
    return .list(items)
  }
}
