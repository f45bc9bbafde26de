/// Compiles a JSON Schema to rules. Every subschema becomes a rule that is compiled in its turn, so neither deep nor
/// recursive schemas deepen the stack.
struct JSONSchemaCompiler {
  private struct Pending {
    var rule: Int
    var schema: JinjaValue
    var path: String
  }

  private static let stepsOfMember = 16

  private let options: JSONGrammarOptions
  private(set) var syntax: JSONSyntax
  var references: JSONSchemaReferences
  private var referenceRules: [String: Int] = [:]
  /// Rules of strings that have a pattern and no limits, by the pattern.
  private var patternRules: [String: Int] = [:]
  private var pending: [Pending] = []

  init(_ schema: JinjaValue, options: JSONGrammarOptions) {
    self.options = options
    references = JSONSchemaReferences(schema)
    syntax = JSONSyntax(options: options)
  }

  /// The rule of the whole schema.
  mutating func compile() throws(GrammarError) -> Int {
    let root = try rule(forReference: "#", path: "#")
    while let next = pending.popLast() {
      let expression = try expression(next.schema, path: next.path, depth: 0)
      syntax.rules.set(next.rule, expression)
    }
    return root
  }

  private mutating func rule(for schema: JinjaValue, path: String) -> Int {
    let rule = syntax.rules.reserve(path)
    pending.append(Pending(rule: rule, schema: schema, path: path))
    return rule
  }

  private mutating func rule(forReference pointer: String, path: String) throws(GrammarError) -> Int {
    if let known = referenceRules[pointer] { return known }
    let rule = rule(for: try references.resolve(pointer, path: path), path: pointer)
    referenceRules[pointer] = rule
    return rule
  }

  // MARK: Schemas

  private mutating func expression(
    _ schema: JinjaValue, path: String, depth: Int
  ) throws(GrammarError) -> GrammarExpression {
    try references.step(path)
    guard depth <= GrammarLimits.nesting else {
      throw GrammarError(
        .limit, path: path, seen: "\(depth) combined schemas within each other",
        expected: "at most \(GrammarLimits.nesting)")
    }
    switch schema {
    case .boolean(let isAllowed): return isAllowed ? syntax.anyValue() : .never
    case .mapping(let mapping): return try expression(mapping, path: path, depth: depth)
    default:
      throw GrammarError(
        .malformed, path: path, seen: "a \(schema.typeName)", expected: "a schema: an object, true or false")
    }
  }

  private mutating func expression(
    _ schema: JinjaMapping, path: String, depth: Int
  ) throws(GrammarError) -> GrammarExpression {
    try references.step(path, schema.count)
    try JSONSchemaKeywords.check(schema, path: path)
    if let reference = schema["$ref"] {
      let pointer = try references.pointer(reference, path: path)
      let rest = schema.without("$ref")
      guard JSONSchemaKeywords.constrains(rest) else { return .rule(try rule(forReference: pointer, path: path)) }
      let target = try references.resolve(pointer, path: path)
      let merged = try references.merge(target, .mapping(rest), path: path, depth: 0)
      return try expression(merged, path: path, depth: depth + 1)
    }
    if let parts = schema["allOf"] {
      var merged = JinjaValue.mapping(schema.without("allOf"))
      for (index, part) in try list(parts, path: path + "/allOf").enumerated() {
        merged = try references.merge(merged, part, path: "\(path)/allOf/\(index)", depth: 0)
      }
      return try expression(merged, path: path, depth: depth + 1)
    }
    for keyword in ["anyOf", "oneOf"] {
      guard let parts = schema[keyword] else { continue }
      let rest = schema.without(keyword)
      let isAlone = !JSONSchemaKeywords.constrains(rest)
      var alternatives: [GrammarExpression] = []
      for (index, part) in try list(parts, path: "\(path)/\(keyword)").enumerated() {
        let place = "\(path)/\(keyword)/\(index)"
        let whole = isAlone ? part : try references.merge(.mapping(rest), part, path: place, depth: 0)
        alternatives.append(try expression(whole, path: place, depth: depth + 1))
      }
      return .choice(alternatives)
    }
    let types = try JSONSchemaKeywords.types(schema, path: path)
    if schema["enum"] != nil || schema["const"] != nil { return try enumeration(schema, types, path: path) }
    guard let types else { return syntax.anyValue() }
    var alternatives: [GrammarExpression] = []
    for type in types { alternatives.append(try expression(schema, type: type, path: path)) }
    return alternatives.count == 1 ? alternatives[0] : .choice(alternatives)
  }

  private mutating func expression(
    _ schema: JinjaMapping, type: String, path: String
  ) throws(GrammarError) -> GrammarExpression {
    switch type {
    case "null": return .text("null")
    case "boolean": return .literals([Array("true".utf8), Array("false".utf8)])
    case "integer", "number": return try number(schema, isInteger: type == "integer", path: path)
    case "string": return try string(schema, path: path)
    case "array": return try array(schema, path: path)
    default: return try object(schema, path: path)
    }
  }

  private mutating func enumeration(
    _ schema: JinjaMapping, _ types: [String]?, path: String
  ) throws(GrammarError) -> GrammarExpression {
    for key in schema.keys {
      guard case .string(let name) = key, JSONSchemaKeywords.constraints.contains(name) else { continue }
      guard ["enum", "const", "type"].contains(name) else {
        throw GrammarError(
          .unsupported, path: "\(path)/\(name)", seen: "'\(name)' beside 'enum' or 'const'",
          expected: "'type' beside them")
      }
    }
    var values: [JinjaValue] = []
    if let list = schema["enum"] { values = try self.list(list, path: path + "/enum") }
    if let constant = schema["const"] {
      values = schema["enum"] == nil || values.contains { $0.isSameJSON(as: constant) } ? [constant] : []
    }
    try references.step(path, values.count)
    var scalars: [[UInt8]] = []
    var alternatives: [GrammarExpression] = []
    for value in values where schema["type"] == nil || (types ?? []).contains(where: value.hasJSONType) {
      let expression = try syntax.value(value)
      switch expression {
      case .literal(let bytes): scalars.append(bytes)
      default: alternatives.append(expression)
      }
    }
    if !scalars.isEmpty { alternatives.append(.literals(scalars)) }
    return .choice(alternatives)
  }

  private func list(_ value: JinjaValue, path: String) throws(GrammarError) -> [JinjaValue] {
    guard case .list(let items) = value else {
      throw GrammarError(.malformed, path: path, seen: "a \(value.typeName)", expected: "a list")
    }
    return items
  }

  private func count(_ schema: JinjaMapping, _ keyword: String, path: String) throws(GrammarError) -> Int? {
    guard let value = schema[keyword] else { return nil }
    let count: Int?
    switch value {
    case .integer(let number): count = number
    case .float(let number) where number >= 0 && number < 1e9 && number == number.rounded(): count = Int(number)
    default: count = nil
    }
    guard let count, count >= 0 else {
      throw GrammarError(
        .malformed, path: "\(path)/\(keyword)", seen: value.shortJSON, expected: "an integer that is not negative")
    }
    return count
  }

  private func limits(
    _ schema: JinjaMapping, _ least: String, _ most: String, path: String
  ) throws(GrammarError) -> (minimum: Int, maximum: Int?) {
    let minimum = try count(schema, least, path: path) ?? 0
    let maximum = try count(schema, most, path: path)
    guard minimum <= GrammarLimits.repetitions else {
      throw GrammarError(
        .limit, path: "\(path)/\(least)", seen: "\(minimum)", expected: "at most \(GrammarLimits.repetitions)")
    }
    // A maximum beyond the limit is as good as none: the text would never get there.
    return (minimum, maximum.flatMap { $0 > GrammarLimits.repetitions ? nil : $0 })
  }

  // MARK: Strings and numbers

  private mutating func string(_ schema: JinjaMapping, path: String) throws(GrammarError) -> GrammarExpression {
    let (minimum, maximum) = try limits(schema, "minLength", "maxLength", path: path)
    if let maximum, maximum < minimum { return .never }
    var pattern: TextPattern?
    var keyword = "pattern"
    if let value = schema["pattern"] {
      guard case .string(let source) = value else {
        throw GrammarError(
          .malformed, path: path + "/pattern", seen: "a \(value.typeName)", expected: "a regular expression")
      }
      if minimum == 0 && maximum == nil && schema["format"] == nil, let known = patternRules[source] {
        return .rule(known)
      }
      pattern = try RegularExpression(source, path: path + "/pattern").searched
    }
    if let value = schema["format"] {
      guard case .string(let name) = value else {
        throw GrammarError(.malformed, path: path + "/format", seen: "a \(value.typeName)", expected: "a format's name")
      }
      if !JSONFormats.annotations.contains(name) {
        guard let source = JSONFormats.expression(name) else {
          throw GrammarError(
            .unsupported, path: path + "/format", seen: "'\(name)'", expected: JSONFormats.names)
        }
        guard pattern == nil else {
          throw GrammarError(
            .unsupported, path: path + "/format", seen: "'format' and 'pattern' at once", expected: "one of them")
        }
        keyword = "format"
        pattern = .choice(try RegularExpression(source, path: path + "/format").branches.map(\.pattern))
      }
    }
    guard let pattern else {
      if minimum == 0 && maximum == nil { return syntax.string() }
      return syntax.string(minimum: minimum, maximum: maximum)
    }
    if keyword == "pattern" && minimum == 0 && maximum == nil, case .string(let source)? = schema["pattern"] {
      let rule = syntax.rules.define(path, syntax.string(pattern))
      patternRules[source] = rule
      return .rule(rule)
    }
    let isWithin = pattern.shortest >= minimum && (maximum.map { (pattern.longest ?? .max) <= $0 } ?? true)
    if isWithin { return syntax.string(pattern) }
    let counted = try CountedPattern(pattern, minimum: minimum, maximum: maximum, path: "\(path)/\(keyword)")
    return syntax.string(counted)
  }

  private mutating func number(
    _ schema: JinjaMapping, isInteger: Bool, path: String
  ) throws(GrammarError) -> GrammarExpression {
    if let step = schema["multipleOf"] {
      guard isInteger, step.isSameJSON(as: .integer(1)) else {
        throw GrammarError(.unsupported, path: path + "/multipleOf", seen: "'multipleOf'", expected: "numeric bounds")
      }
    }
    let lower = try bound(schema, "minimum", "exclusiveMinimum", isLower: true, path: path)
    let upper = try bound(schema, "maximum", "exclusiveMaximum", isLower: false, path: path)
    if lower == nil && upper == nil { return isInteger ? DecimalRange.anyInteger : syntax.number() }
    return isInteger
      ? DecimalRange.integers(from: lower, to: upper) : DecimalRange.numbers(from: lower, to: upper)
  }

  /// The tighter of an inclusive and an exclusive bound.
  private func bound(
    _ schema: JinjaMapping, _ inclusive: String, _ exclusive: String, isLower: Bool, path: String
  ) throws(GrammarError) -> DecimalRange.Bound? {
    var best: (value: Double, bound: DecimalRange.Bound)?
    for keyword in [inclusive, exclusive] {
      guard let value = schema[keyword] else { continue }
      var isExclusive = keyword == exclusive
      // Draft 4 has a flag here that speaks about the other keyword.
      if isExclusive, case .boolean = value { continue }
      if !isExclusive, case .boolean(true)? = schema[exclusive] { isExclusive = true }
      guard let number = value.jsonNumber, let bound = DecimalRange.Bound(value, isInclusive: !isExclusive) else {
        throw GrammarError(.malformed, path: "\(path)/\(keyword)", seen: value.shortJSON, expected: "a number")
      }
      let digits = max(bound.integer.count, bound.fraction.count)
      if digits > DecimalRange.longestBound || bound.integer.count > JSONSyntax.longestNumber + 3 {
        // No number that the grammar writes is beyond such a bound on the far side.
        if bound.fraction.count <= DecimalRange.longestBound && bound.isNegative == isLower { continue }
        throw GrammarError(
          .unsupported, path: "\(path)/\(keyword)", seen: value.shortJSON,
          expected: "bounds of at most \(JSONSyntax.longestNumber + 3) digits")
      }
      if let current = best {
        let isTighter = isLower ? number > current.value : number < current.value
        guard isTighter || (number == current.value && isExclusive) else { continue }
      }
      best = (number, bound)
    }
    return best?.bound
  }

  // MARK: Arrays and objects

  private mutating func array(_ schema: JinjaMapping, path: String) throws(GrammarError) -> GrammarExpression {
    let (minimum, maximum) = try limits(schema, "minItems", "maxItems", path: path)
    if let maximum, maximum < minimum { return .never }
    var first: [GrammarExpression] = []
    var rest = JinjaValue.boolean(true)
    var restPath = path + "/items"
    var prefix = schema["prefixItems"]
    var prefixPath = path + "/prefixItems"
    if let items = schema["items"] { rest = items }
    if case .list? = schema["items"] {
      // Before 2020 a list in `items` was what `prefixItems` is now.
      prefix = schema["items"]
      prefixPath = restPath
      restPath = path + "/additionalItems"
      rest = schema["additionalItems"] ?? .boolean(true)
    }
    if let prefix {
      for (index, item) in try list(prefix, path: prefixPath).enumerated() {
        first.append(.rule(rule(for: item, path: "\(prefixPath)/\(index)")))
      }
    }
    let item: GrammarExpression? =
      if case .boolean(false) = rest { nil } else { .rule(rule(for: rest, path: restPath)) }
    if item == nil && minimum > first.count { return .never }
    if let maximum, maximum < first.count { first.removeSubrange(maximum...) }
    // From the last item to the first: what may follow `index` items, commas included.
    var tail = GrammarExpression.empty
    let restMaximum = maximum.map { $0 - first.count }
    if let item, restMaximum != 0 {
      let more = max(minimum - first.count, 0)
      if first.isEmpty {
        let list = syntax.list(item, minimum: max(more, 1), maximum: restMaximum)
        return syntax.braces("[", list, canBeEmpty: more == 0, "]")
      }
      tail = .repetition(.sequence([syntax.comma(), item]), minimum: more, maximum: restMaximum)
    }
    for index in first.indices.reversed() {
      let comma = index == 0 ? GrammarExpression.empty : syntax.comma()
      let here = GrammarExpression.sequence([comma, first[index], tail])
      // Whether the first item may be missing is for the brackets.
      let isRequired = index == 0 || index < minimum
      tail = .rule(syntax.rules.define("\(prefixPath)/\(index)", isRequired ? here : .optional(here)))
    }
    return syntax.braces("[", first.isEmpty ? nil : tail, canBeEmpty: minimum == 0, "]")
  }

  private mutating func object(_ schema: JinjaMapping, path: String) throws(GrammarError) -> GrammarExpression {
    var properties = JinjaMapping()
    if let value = schema["properties"] {
      guard case .mapping(let mapping) = value else {
        throw GrammarError(.malformed, path: path + "/properties", seen: "a \(value.typeName)", expected: "an object")
      }
      properties = mapping
    }
    var required: Set<String> = []
    var requiredNames: [String] = []
    for (index, name) in try list(schema["required"] ?? .list([]), path: path + "/required").enumerated() {
      guard case .string(let name) = name else {
        throw GrammarError(
          .malformed, path: "\(path)/required/\(index)", seen: "a \(name.typeName)", expected: "a property's name")
      }
      if required.insert(name).inserted { requiredNames.append(name) }
    }
    let additional = schema["additionalProperties"] ?? .boolean(options.additionalPropertiesByDefault)
    let additionalPath = path + "/additionalProperties"
    // A member takes far more of the automaton than of the schema: what would be too large is refused before it is made.
    try references.step(path, Self.stepsOfMember * properties.count + required.count)
    // A required member without a schema of its own must fit the additional ones.
    for name in requiredNames where properties[name] == nil { properties[name] = additional }
    var additionalRule: Int?
    switch additional {
    case .boolean(false): break
    default: additionalRule = rule(for: additional, path: additionalPath)
    }

    // What may follow once a member has been written, from the last property to the first.
    var rest: GrammarExpression = .empty
    var first: [GrammarExpression] = []
    var names: [String] = []
    for key in properties.keys { names.append(key.text) }
    if let additionalRule {
      let key = syntax.string(except: names)
      let pair = GrammarExpression.rule(
        syntax.rules.define("\(additionalPath) member", .sequence([key, syntax.colon(), .rule(additionalRule)])))
      rest = .rule(
        syntax.rules.define(
          "\(additionalPath) members",
          .repetition(.sequence([syntax.comma(), pair]), minimum: 0, maximum: nil)))
      first.append(.sequence([pair, rest]))
    }
    for (index, name) in names.enumerated().reversed() {
      let place = "\(path)/properties/\(JSONSchemaReferences.escaped(name))"
      let value = rule(for: properties.values[index], path: place)
      let pair = GrammarExpression.rule(
        syntax.rules.define(
          "\(place) member", .sequence([.literal(JSONSyntax.quoted(name)), syntax.colon(), .rule(value)])))
      // Written first, a member that is required rules out that a later one is first.
      if required.contains(name) { first.removeAll() }
      first.append(.sequence([pair, rest]))
      let following = GrammarExpression.sequence([syntax.comma(), pair, rest])
      rest = .rule(
        syntax.rules.define(
          "\(place) and later", required.contains(name) ? following : .choice([following, rest])))
    }
    return syntax.braces("{", .choice(first), canBeEmpty: required.isEmpty, "}")
  }
}
