import ApusCompute
import ApusKernels

/// How a matrix is stored, and so how `x · Wᵀ` is computed from what is stored.
///
/// Dense and block-quantised matrices are `StoredWeight`. Another form (low-rank factors, per-row adapter deltas) composes
/// products of its parts; nothing above this contract knows which form a model's matrices have.
public protocol Weight: Sendable {
  /// Outputs.
  var rows: Int { get }
  /// Inputs.
  var columns: Int { get }
  /// Bytes as stored.
  var byteCount: Int { get }
  /// For people, e.g. `Q4_K`.
  var form: String { get }
  /// Adds `out = x · Wᵀ + bias` to a run over the same x, or executes it at once on `run.device`.
  func project(bias: Tensor?, into out: Tensor, _ run: inout LinearRun)
  /// Row `i` of out becomes row `ids[i]` of W.
  func gather(_ ids: Tensor, into out: Tensor, on device: any Device)
  /// The same numbers where the device computes.
  func resident(on device: any Device, _ moved: inout MovedFactors) throws -> any Weight
  /// The matrix where it is stored whole.
  var stored: Tensor? { get }
  /// The two narrow matrices whose product this one is, where `up` is stored whole; nil for a matrix of another form.
  var factors: FactorPair? { get }
}

extension Weight {
  public var stored: Tensor? { nil }
  public var factors: FactorPair? { nil }
}

/// What was moved to a device of factors that several matrices share, so that they share it there.
public struct MovedFactors {
  private var moved: [ObjectIdentifier: DownFactor] = [:]

  mutating func resident(_ factor: DownFactor, on device: any Device) throws -> DownFactor {
    if let known = moved[ObjectIdentifier(factor)] { return known }
    let new = DownFactor(try factor.weight.resident(on: device, &self))
    moved[ObjectIdentifier(factor)] = new
    return new
  }
}

/// `W = up · down`, where `up` `[rows, rank]` is stored whole.
public struct FactorPair: Sendable {
  public var down: DownFactor
  public var up: Tensor
  public var rank: Int { down.rank }
}

/// Products of one input, collected so that a device can do them together.
public struct LinearRun {
  public let device: any Device
  /// `[rows, k]`.
  public let x: Tensor
  public let activations: ActivationPrecision
  public private(set) var projections: [Projection]
  /// Of factors that several matrices share; they lie in the arena above `mark`.
  private var products: [(factor: DownFactor, out: Tensor)] = []
  private let mark: Arena.Mark

  /// `projections` is empty memory to collect in.
  init(
    _ x: Tensor, activations: ActivationPrecision, on device: any Device, collecting projections: consuming [Projection]
  ) {
    self.device = device
    self.x = x
    self.activations = activations
    self.projections = projections
    mark = device.arena.mark()
  }

  public mutating func append(_ projection: Projection) { projections.append(projection) }

  /// `x · factorᵀ` `[rows, rank]`, computed once a run; valid until the run ends.
  mutating func product(with factor: DownFactor) -> Tensor {
    if let known = products.first(where: { $0.factor === factor }) { return known.out }
    let out = device.arena.tensor(x.rows, factor.rank)
    apply(factor.weight, bias: nil, to: x, into: out)
    products.append((factor, out))
    return out
  }

  /// Computes `x · factorᵀ` to the caller's memory, where the matrices of the run that read through the factor find it.
  mutating func keep(_ factor: DownFactor, in out: Tensor) {
    apply(factor.weight, bias: nil, to: x, into: out)
    products.append((factor, out))
  }

  /// Computes `out = input · Wᵀ + bias` at once.
  func apply(_ weight: any Weight, bias: Tensor?, to input: Tensor, into out: Tensor) {
    var run = LinearRun(input, activations: activations, on: device, collecting: [])
    weight.project(bias: bias, into: out, &run)
    _ = run.finish()
  }

  /// Computes what was collected, and gives the memory back, empty.
  mutating func finish() -> [Projection] {
    if !projections.isEmpty { device.linear(x, projections, activations: activations) }
    if !products.isEmpty { device.arena.release(mark) }
    var memory: [Projection] = []
    swap(&memory, &projections)
    memory.removeAll(keepingCapacity: true)
    return memory
  }
}

/// A matrix stored whole, dense or block-quantised, in memory or in a mapped file.
public struct StoredWeight: Weight {
  public let tensor: Tensor

  public init(_ tensor: Tensor) { self.tensor = tensor }

  public var rows: Int { tensor.rows }
  public var columns: Int { tensor.columns }
  public var byteCount: Int { tensor.byteCount }
  public var form: String { tensor.dtype.name }
  public var stored: Tensor? { tensor }

  public func project(bias: Tensor?, into out: Tensor, _ run: inout LinearRun) {
    run.append(Projection(tensor, bias: bias, out: out))
  }

  public func gather(_ ids: Tensor, into out: Tensor, on device: any Device) {
    device.gatherRows(tensor, ids, into: out)
  }

  public func resident(on device: any Device, _ moved: inout MovedFactors) throws -> any Weight {
    StoredWeight(try device.resident(tensor, .matrix))
  }
}
