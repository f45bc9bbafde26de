/// Global functions and tests.
enum JinjaBuiltins {
  static let functions: Set<String> = [
    "range", "namespace", "raise_exception", "strftime_now", "dict", "cycler", "joiner", "lipsum",
  ]

  static func call(
    _ name: String, _ arguments: JinjaInterpreter.Arguments, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    switch name {
    case "range": return try interpreter.range(arguments)
    case "namespace": return try interpreter.makeNamespace(arguments)
    case "raise_exception":
      let message = arguments.value(0, "message")?.text ?? ""
      throw interpreter.error(.raised, message.isEmpty ? "it gives no reason" : message)
    case "strftime_now":
      guard case .string(let format)? = arguments.value(0, "format") else {
        throw interpreter.error(.type, "'strftime_now' needs a format")
      }
      return .string(interpreter.clock.format(format))
    case "dict":
      var mapping = JinjaMapping()
      switch arguments.positional.first {
      case .mapping(let initial)?: mapping = initial
      case .list(let pairs)?:
        for pair in pairs {
          guard case .list(let items) = pair, items.count == 2 else {
            throw interpreter.error(.type, "'dict' needs pairs")
          }
          mapping[items[0]] = items[1]
        }
      case nil: break
      case let other?: throw interpreter.error(.type, "'dict' does not take a \(other.typeName)")
      }
      for (name, value) in arguments.named { mapping[name] = value }
      return .mapping(mapping)
    default: throw interpreter.error(.unsupported, "the function '\(name)'")
    }
  }
}

extension JinjaInterpreter {
  /// `value is name(arguments)`.
  mutating func test(
    _ name: String, _ value: JinjaValue, _ arguments: [JinjaValue]
  ) throws(TemplateError) -> Bool {
    func argument() throws(TemplateError) -> JinjaValue {
      guard let first = arguments.first else { throw error(.type, "the test '\(name)' needs a value to compare with") }
      return first
    }
    let value = value.plain
    switch name {
    case "defined": return !value.isUndefined
    case "undefined": return value.isUndefined
    case "none": if case .none = value { return true } else { return false }
    case "string": if case .string = value { return true } else { return false }
    case "mapping": if case .mapping = value { return true } else { return false }
    case "boolean": if case .boolean = value { return true } else { return false }
    case "integer": if case .integer = value { return true } else { return false }
    case "float": if case .float = value { return true } else { return false }
    case "number": return value.asDouble != nil
    case "true": if case .boolean(true) = value { return true } else { return false }
    case "false": if case .boolean(false) = value { return true } else { return false }
    case "iterable", "sequence":
      switch value {
      case .string, .list, .mapping: return true
      case .undefined: return true
      default: return false
      }
    case "callable":
      switch value {
      case .object(.macro), .object(.caller), .object(.function), .object(.method): return true
      default: return false
      }
    case "eq", "equalto", "==": return value.isEqual(to: try argument())
    case "ne", "!=": return !value.isEqual(to: try argument())
    case "lt", "lessthan", "<": return try order(value, try argument()) < 0
    case "le", "<=": return try order(value, try argument()) <= 0
    case "gt", "greaterthan", ">": return try order(value, try argument()) > 0
    case "ge", ">=": return try order(value, try argument()) >= 0
    case "in": return try contains(try argument(), value)
    case "sameas":
      let other = try argument()
      return value.typeName == other.typeName && value.isEqual(to: other)
    case "odd", "even":
      guard let number = value.asInteger else { throw error(.type, "'\(name)' needs an integer") }
      return (number & 1 == 1) == (name == "odd")
    case "divisibleby":
      guard let number = value.asInteger, let divisor = try argument().asInteger, divisor != 0 else {
        throw error(.type, "'divisibleby' needs integers and a divisor other than 0")
      }
      return divisor == -1 || number % divisor == 0
    case "upper": return try JinjaMethods.call(.string(value.text), "isupper", Arguments(), &self).isTrue
    case "lower": return try JinjaMethods.call(.string(value.text), "islower", Arguments(), &self).isTrue
    case "filter": return JinjaFilters.names.contains(value.text)
    case "test": return JinjaBuiltins.tests.contains(value.text)
    case "escaped": return false
    default: throw error(.unsupported, "the test '\(name)'")
    }
  }
}

extension JinjaBuiltins {
  static let tests: Set<String> = [
    "defined", "undefined", "none", "string", "mapping", "boolean", "integer", "float", "number", "true", "false",
    "iterable", "sequence", "callable", "eq", "equalto", "==", "ne", "!=", "lt", "lessthan", "<", "le", "<=", "gt",
    "greaterthan", ">", "ge", ">=", "in", "sameas", "odd", "even", "divisibleby", "upper", "lower", "filter", "test",
    "escaped",
  ]
}
