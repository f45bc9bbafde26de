/// Python's arithmetic on template values.
enum JinjaArithmetic {
  static func apply(
    _ symbol: JinjaOperator, _ left: JinjaValue, _ right: JinjaValue, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    if case .add = symbol, let marked = try addMarkup(left, right, &interpreter) { return marked }
    let (left, right) = (left.plain, right.plain)
    switch (symbol, left, right) {
    case (.add, .string(let a), .string(let b)):
      try interpreter.chargeBytes(a.utf8.count + b.utf8.count)
      return .string(a + b)
    case (.add, .list(let a), .list(let b)):
      try interpreter.charge(a.count + b.count)
      return .list(a + b)
    case (.multiply, .string(let text), _) where right.asInteger != nil:
      return .string(try repeated(text, right.asInteger ?? 0, &interpreter))
    case (.multiply, _, .string(let text)) where left.asInteger != nil:
      return .string(try repeated(text, left.asInteger ?? 0, &interpreter))
    case (.multiply, .list(let items), _) where right.asInteger != nil:
      let (total, overflow) = items.count.multipliedReportingOverflow(by: max(0, right.asInteger ?? 0))
      try interpreter.charge(overflow ? Int.max / 2 : total)
      return .list(Array(repeatElement(items, count: max(0, right.asInteger ?? 0)).joined()))
    case (.modulo, .string(let format), _):
      return .string(try JinjaText.percentFormat(format, right, interpreter))
    default: break
    }
    if let name = [left, right].compactMap({ if case .undefined(let name) = $0 { name } else { nil } }).first {
      throw interpreter.error(.undefined, "'\(name)' is undefined, so '\(symbol.rawValue)' does not apply")
    }
    if let a = left.asInteger, let b = right.asInteger, symbol != .divide {
      return try integers(symbol, a, b, interpreter)
    }
    guard let a = left.asDouble, let b = right.asDouble else {
      throw interpreter.error(
        .type, "'\(symbol.rawValue)' does not apply to a \(left.typeName) and a \(right.typeName)")
    }
    return try floats(symbol, a, b, interpreter)
  }

  /// The sum if one side is marked text and the other is text, which is escaped unless it is marked too.
  private static func addMarkup(
    _ left: JinjaValue, _ right: JinjaValue, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue? {
    let sum: String
    switch (left, right) {
    case (.object(.markup(let a)), .object(.markup(let b))): sum = a + b
    case (.object(.markup(let a)), .string(let b)): sum = a + JinjaText.escaped(b)
    case (.string(let a), .object(.markup(let b))): sum = JinjaText.escaped(a) + b
    default: return nil
    }
    try interpreter.chargeBytes(sum.utf8.count)
    return .object(.markup(sum))
  }

  private static func repeated(
    _ text: String, _ count: Int, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> String {
    let (total, overflow) = text.utf8.count.multipliedReportingOverflow(by: max(0, count))
    try interpreter.chargeBytes(overflow ? Int.max / 2 : total)
    return String(repeating: text, count: max(0, count))
  }

  private static func integers(
    _ symbol: JinjaOperator, _ a: Int, _ b: Int, _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    func checked(_ result: (partialValue: Int, overflow: Bool)) throws(TemplateError) -> JinjaValue {
      if result.overflow { throw interpreter.error(.limit, "the result of '\(symbol.rawValue)' exceeds 64 bits") }
      return .integer(result.partialValue)
    }
    switch symbol {
    case .add: return try checked(a.addingReportingOverflow(b))
    case .subtract: return try checked(a.subtractingReportingOverflow(b))
    case .multiply: return try checked(a.multipliedReportingOverflow(by: b))
    case .floorDivide, .modulo:
      if b == 0 { throw interpreter.error(.type, "division by zero") }
      if b == -1 { return symbol == .modulo ? .integer(0) : try checked(0.subtractingReportingOverflow(a)) }
      // Python rounds towards minus infinity.
      let remainder = a % b
      let isAdjusted = remainder != 0 && (remainder < 0) != (b < 0)
      return .integer(symbol == .modulo ? (isAdjusted ? remainder + b : remainder) : a / b - (isAdjusted ? 1 : 0))
    case .power:
      if b < 0 { return try floats(.power, Double(a), Double(b), interpreter) }
      var result = 1
      var base = a
      var exponent = b
      while exponent > 0 {
        if exponent & 1 == 1 {
          guard case .integer(let product) = try checked(result.multipliedReportingOverflow(by: base)) else { break }
          result = product
        }
        exponent >>= 1
        if exponent > 0 {
          guard case .integer(let square) = try checked(base.multipliedReportingOverflow(by: base)) else { break }
          base = square
        }
      }
      return .integer(result)
    case .divide: return try floats(.divide, Double(a), Double(b), interpreter)
    }
  }

  private static func floats(
    _ symbol: JinjaOperator, _ a: Double, _ b: Double, _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    switch symbol {
    case .add: return .float(a + b)
    case .subtract: return .float(a - b)
    case .multiply: return .float(a * b)
    case .divide, .floorDivide, .modulo:
      if b == 0 { throw interpreter.error(.type, "division by zero") }
      if symbol == .divide { return .float(a / b) }
      let quotient = (a / b).rounded(.down)
      return .float(symbol == .floorDivide ? quotient : a - quotient * b)
    case .power: return .float(JinjaText.power(a, b))
    }
  }
}
