import ApusCompute
import ApusKernels

/// A matrix parameter of a module: where to find it, not what is in it.
public struct MatrixParameter: Sendable, Hashable {
  let index: Int
  /// Outputs.
  public let rows: Int
  /// Inputs.
  public let columns: Int
}

/// A vector parameter of a module.
public struct VectorParameter: Sendable, Hashable {
  let index: Int
  public let count: Int
}

/// What a module declared about one parameter.
public struct ParameterSpec: Sendable, Hashable {
  /// Where in the model, e.g. `layers.3.attention.query.weight`.
  public var path: String
  public var rows: Int
  public var columns: Int
  public var isVector: Bool
  /// An optional parameter that a file doesn't have is left out (a bias).
  public var isOptional: Bool
}

/// Collects the parameters of a model while its config tree makes the modules.
public struct Builder {
  /// All parameters, in the order of declaration.
  public final class Table {
    public fileprivate(set) var specs: [ParameterSpec] = []
    public init() {}
  }

  public let path: String
  public let table: Table

  public init() {
    path = ""
    table = Table()
  }

  private init(path: String, table: Table) {
    self.path = path
    self.table = table
  }

  /// The builder of a child part.
  public func child(_ name: String) -> Builder {
    Builder(path: path.isEmpty ? name : path + "." + name, table: table)
  }

  public func child(_ name: String, _ index: Int) -> Builder { child(name).child(String(index)) }

  /// Declares `[rows, columns]`, used as `x · Wᵀ`.
  public func matrix(_ name: String, _ rows: Int, _ columns: Int, optional: Bool = false) -> MatrixParameter {
    MatrixParameter(index: add(name, rows, columns, isVector: false, optional), rows: rows, columns: columns)
  }

  /// Declares `[count]`.
  public func vector(_ name: String, _ count: Int, optional: Bool = false) -> VectorParameter {
    VectorParameter(index: add(name, 1, count, isVector: true, optional), count: count)
  }

  private func add(_ name: String, _ rows: Int, _ columns: Int, isVector: Bool, _ isOptional: Bool) -> Int {
    let spec = ParameterSpec(
      path: child(name).path, rows: rows, columns: columns, isVector: isVector, isOptional: isOptional)
    precondition(!table.specs.contains { $0.path == spec.path }, "two parameters are called \(spec.path)")
    table.specs.append(spec)
    return table.specs.count - 1
  }
}

/// The values of a model's parameters.
public struct Parameters: Sendable {
  enum Value: Sendable {
    case matrix(any Weight)
    case vector(Tensor)
    case absent
  }

  public let specs: [ParameterSpec]
  let values: [Value]

  /// - Parameter load: gives the value of a parameter: f32 `[1, n]` for a vector; nil only for optional ones.
  public init(
    _ specs: [ParameterSpec], matrix: (ParameterSpec) throws -> (any Weight)?,
    vector: (ParameterSpec) throws -> Tensor?
  ) throws {
    self.specs = specs
    values = try specs.map { spec in
      if spec.isVector { return try vector(spec).map(Value.vector) ?? .absent }
      return try matrix(spec).map(Value.matrix) ?? .absent
    }
    for (spec, value) in zip(specs, values) {
      if case .absent = value, !spec.isOptional {
        throw ConfigError(path: spec.path, problem: "the model has no such parameter")
      }
    }
  }

  private init(_ specs: [ParameterSpec], _ values: [Value]) { (self.specs, self.values) = (specs, values) }

  /// The same with what `change` makes of each matrix.
  public func mapMatrices(_ change: (ParameterSpec, any Weight) throws -> any Weight) rethrows -> Parameters {
    try map { spec, value in
      if case .matrix(let weight) = value { .matrix(try change(spec, weight)) } else { value }
    }
  }

  /// The same with what `change` makes of each vector.
  public func mapVectors(_ change: (ParameterSpec, Tensor) throws -> Tensor) rethrows -> Parameters {
    try map { spec, value in
      if case .vector(let tensor) = value { .vector(try change(spec, tensor)) } else { value }
    }
  }

  /// The same numbers where the device computes. Throws what the device throws.
  func resident(on device: any Device) throws -> Parameters {
    var moved = MovedFactors()
    return try map { _, value in
      switch value {
      case .matrix(let weight): .matrix(try weight.resident(on: device, &moved))
      case .vector(let tensor): .vector(try device.resident(tensor, .vector))
      case .absent: .absent
      }
    }
  }

  private func map(_ change: (ParameterSpec, Value) throws -> Value) rethrows -> Parameters {
    Parameters(specs, try zip(specs, values).map { try change($0, $1) })
  }

  private func value(_ path: String) -> Value {
    specs.firstIndex { $0.path == path }.map { values[$0] } ?? .absent
  }

  /// The vector at a path, `[1, n]` f32, if the model has one there.
  public func vector(_ path: String) -> Tensor? {
    if case .vector(let t) = value(path) { t } else { nil }
  }

  /// The matrix at a path, if the model has one there.
  public func matrix(_ path: String) -> (any Weight)? {
    if case .matrix(let w) = value(path) { w } else { nil }
  }

  subscript(_ p: MatrixParameter) -> (any Weight)? {
    guard case .matrix(let w) = values[p.index] else { return nil }
    return w
  }

  subscript(_ p: VectorParameter) -> Tensor? {
    guard case .vector(let t) = values[p.index] else { return nil }
    return t
  }

  /// Elements of all parameters.
  public var elementCount: Int {
    zip(specs, values).reduce(0) { sum, pair in
      if case .absent = pair.1 { return sum }
      return sum + pair.0.rows * pair.0.columns
    }
  }

  /// Bytes of all parameters as they are stored.
  public var byteCount: Int { values.reduce(0) { $0 + Self.bytes($1) } }

  /// Bytes of the parameter at a path as it is stored; 0 if the model has none there.
  public func byteCount(of path: String) -> Int {
    zip(specs, values).first { $0.0.path == path }.map { Self.bytes($0.1) } ?? 0
  }

  private static func bytes(_ value: Value) -> Int {
    switch value {
    case .matrix(let w): w.byteCount
    case .vector(let t): t.byteCount
    case .absent: 0
    }
  }
}
