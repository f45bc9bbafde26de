/// Why a template could not be read or rendered.
public struct TemplateError: Error, Sendable, Equatable, CustomStringConvertible {
  public enum Kind: String, Sendable {
    /// The source is not a template.
    case syntax
    /// A value that does not exist was used.
    case undefined
    /// An operation does not apply to its operands.
    case type
    /// The template itself refused its input, by `raise_exception`.
    case raised
    /// The template did more work, wrote more text or nested deeper than allowed.
    case limit
    /// The template asks for something outside the supported subset.
    case unsupported
  }

  public var kind: Kind
  public var message: String
  /// Line of the template, from 1; 0 where no line applies.
  public var line: Int

  public init(_ kind: Kind, _ message: String, line: Int = 0) {
    self.kind = kind
    self.message = message
    self.line = line
  }

  public var description: String {
    let place = line > 0 ? "chat template, line \(line)" : "chat template"
    return kind == .raised ? "\(place): the template refuses this input: \(message)" : "\(place): \(message)"
  }
}
