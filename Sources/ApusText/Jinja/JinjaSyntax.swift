/// A template's expressions.
indirect enum JinjaExpression: Sendable {
  case literal(JinjaValue)
  case name(String)
  case attribute(JinjaExpression, String)
  case item(JinjaExpression, JinjaExpression)
  case slice(JinjaExpression, start: JinjaExpression?, stop: JinjaExpression?, step: JinjaExpression?)
  case call(JinjaExpression, JinjaArguments)
  case filter(JinjaExpression, String, JinjaArguments)
  case test(JinjaExpression, String, JinjaArguments)
  case not(JinjaExpression)
  case negate(JinjaExpression)
  case plus(JinjaExpression)
  case and(JinjaExpression, JinjaExpression)
  case or(JinjaExpression, JinjaExpression)
  case binary(JinjaOperator, JinjaExpression, JinjaExpression)
  /// `a < b <= c`: each comparison with its right operand.
  case compare(JinjaExpression, [(JinjaComparison, JinjaExpression)])
  case concatenate([JinjaExpression])
  case conditional(test: JinjaExpression, then: JinjaExpression, otherwise: JinjaExpression?)
  case list([JinjaExpression])
  case mapping([(JinjaExpression, JinjaExpression)])
}

struct JinjaArguments: Sendable {
  var positional: [JinjaExpression] = []
  var named: [(String, JinjaExpression)] = []
}

enum JinjaOperator: String, Sendable {
  case add = "+"
  case subtract = "-"
  case multiply = "*"
  case divide = "/"
  case floorDivide = "//"
  case modulo = "%"
  case power = "**"
}

enum JinjaComparison: String, Sendable {
  case equal = "=="
  case notEqual = "!="
  case less = "<"
  case lessOrEqual = "<="
  case greater = ">"
  case greaterOrEqual = ">="
  case contained = "in"
  case notContained = "not in"
}

/// What a `set` or `for` assigns to.
enum JinjaTarget: Sendable {
  case name(String)
  case names([JinjaTarget])
  /// `ns.attribute`
  case attribute(String, String)
}

struct JinjaParameter: Sendable {
  var name: String
  var defaultValue: JinjaExpression?
}

struct JinjaMacro: Sendable {
  var name: String
  var parameters: [JinjaParameter]
  var body: [JinjaStatement]
}

/// A template's statements; each knows its line.
struct JinjaStatement: Sendable {
  indirect enum Kind: Sendable {
    case text(String)
    case output(JinjaExpression)
    case conditional([(test: JinjaExpression, body: [JinjaStatement])], otherwise: [JinjaStatement])
    case loop(
      target: JinjaTarget, items: JinjaExpression, filter: JinjaExpression?, body: [JinjaStatement],
      otherwise: [JinjaStatement], isRecursive: Bool)
    case set(JinjaTarget, JinjaExpression)
    case setBlock(JinjaTarget, filters: [(String, JinjaArguments)], body: [JinjaStatement])
    case macro(JinjaMacro)
    case callBlock(JinjaExpression, JinjaMacro)
    case filterBlock([(String, JinjaArguments)], body: [JinjaStatement])
    case with([(JinjaTarget, JinjaExpression)], body: [JinjaStatement])
    /// `{% generation %}`: marks what the assistant wrote; renders its body.
    case generation([JinjaStatement])
    case breakLoop
    case continueLoop
  }
  var kind: Kind
  var line: Int
}
