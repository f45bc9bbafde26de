import ApusCompute
import ApusModels

/// A model some of whose matrices are low-rank, in memory, and what its file needs.
public struct CompressedModel {
  /// What became of a group.
  public struct Group: Sendable, Codable {
    public var name: String
    /// Nil: kept as it was.
    public var rank: Int?
    public var parameters: Int
    public var denseParameters: Int
    /// Expected squared error of the outputs over the calibration text, of their energy.
    public var relativeLoss: Double
  }

  /// The model with its factors in memory.
  public private(set) var model: LoadedModel
  public private(set) var groups: [Group] = []
  /// Factors and changed biases, under their names in a file.
  public private(set) var changes = ModelChanges()
  private let encoding: FactorEncoding
  private var weights: [String: LowRankWeight] = [:]

  init(model: LoadedModel, encoding: FactorEncoding) {
    self.model = model
    self.encoding = encoding
  }

  /// Numbers in the groups' matrices, of those that they had.
  public var ratio: Double {
    Double(groups.reduce(0) { $0 + $1.parameters }) / Double(max(1, groups.reduce(0) { $0 + $1.denseParameters }))
  }

  mutating func keep(_ group: LinearGroup) {
    groups.append(
      Group(
        name: group.name, rank: nil, parameters: group.parameters, denseParameters: group.parameters, relativeLoss: 0))
  }

  mutating func replace(_ group: LinearGroup, by factors: LowRankFactors, loss: Double, energy: Double) throws {
    let down = encoding.encode(factors.down.elements)
    let factor = DownFactor(StoredWeight(Tensor(factors.rank, group.columns, dtype: encoding.dtype, bytes: down)))
    let isShared = group.members.count > 1
    let first = group.members[0]
    changes.factors.append(
      NewTensor(
        name: isShared ? LowRankNames.sharedDown(first) : LowRankNames.down(first),
        shape: [factors.rank, group.columns], dtype: encoding.dtype, content: .made(down)))
    for (i, (member, up)) in zip(group.members, factors.ups).enumerated() {
      let bytes = encoding.encode(up.elements)
      weights[member] = LowRankWeight(
        down: factor, up: StoredWeight(Tensor(up.rows, up.columns, dtype: encoding.dtype, bytes: bytes)),
        countsDown: i == 0)
      changes.factors.append(
        NewTensor(
          name: LowRankNames.up(member), shape: [up.rows, up.columns], dtype: encoding.dtype, content: .made(bytes)))
      changes.replaced.insert(member)
      let bias = LinearGroup.bias(of: member)
      if let corrections = factors.biasCorrections, let old = model.parameters.vector(bias) {
        changes.vectors[bias] = zip(old.floatArray(), corrections[i]).map(+)
      }
    }
    groups.append(
      Group(
        name: group.name, rank: factors.rank, parameters: factors.parameters, denseParameters: group.parameters,
        relativeLoss: energy > 0 ? loss / energy : 0))
  }

  /// Goes on with what became of more groups: `other` began with this model.
  mutating func append(_ other: CompressedModel) {
    model = other.model
    groups += other.groups
    changes.factors += other.changes.factors
    changes.replaced.formUnion(other.changes.replaced)
    changes.vectors.merge(other.changes.vectors) { $1 }
  }

  mutating func finish() {
    let (weights, vectors) = (weights, changes.vectors)
    model = model.with(
      parameters: model.parameters.mapMatrices { weights[$0.path] ?? $1 }
        .mapVectors { spec, old in vectors[spec.path].map { Tensor(1, $0.count, $0) } ?? old })
  }
}
