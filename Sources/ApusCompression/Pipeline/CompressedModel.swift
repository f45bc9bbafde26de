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
    /// As stored.
    public var bytes: Int
    public var denseBytes: Int
    /// Expected squared error of the outputs over the calibration text, of their energy.
    public var relativeLoss: Double
  }

  /// The model with its factors in memory.
  public private(set) var model: LoadedModel
  public private(set) var groups: [Group] = []
  /// Factors and changed biases, under their names in a file.
  public private(set) var changes = ModelChanges()
  private let encoding: FactorEncoding
  private var weights: [String: any Weight] = [:]

  init(model: LoadedModel, encoding: FactorEncoding) {
    self.model = model
    self.encoding = encoding
  }

  /// Numbers in the groups' matrices, of those that they had.
  public var ratio: Double {
    Double(groups.reduce(0) { $0 + $1.parameters }) / Double(max(1, groups.reduce(0) { $0 + $1.denseParameters }))
  }

  /// Why `ratio` is not the one that was asked for; nil when it is, to 1 %. Ranks are whole numbers of the encoding's blocks
  /// and never above what a matrix has or what spares anything: a ratio may miss, but not in silence.
  public func shortfall(asked: Double) -> String? {
    guard abs(ratio - asked) > 0.01 else { return nil }
    let least = encoding.rankMultiple
    let reason = least > 1 ? "ranks are multiples of \(least) in \(encoding.rawValue)" : "no ranks come nearer"
    let kept = groups.count { $0.rank == nil }
    return String(format: "ratio %.3f instead of %.3f: ", ratio, asked) + reason
      + (kept > 0 ? ", and \(kept) of \(groups.count) inputs are kept whole" : "")
  }

  /// Why the model did not get smaller; nil when it did.
  public var growth: String? {
    let (bytes, before) = groups.reduce(into: (0, 0)) { $0 = ($0.0 + $1.bytes, $0.1 + $1.denseBytes) }
    guard bytes >= before else { return nil }
    return String(
      format: "the layers take %.1f MB, in the original %.1f: its numbers have fewer bits than the factors in ",
      Double(bytes) / 1e6, Double(before) / 1e6) + encoding.rawValue
  }

  private func bytes(_ group: LinearGroup) -> Int {
    group.members.reduce(0) { $0 + model.parameters.byteCount(of: $1) }
  }

  mutating func keep(_ group: LinearGroup) {
    groups.append(
      Group(
        name: group.name, rank: nil, parameters: group.parameters, denseParameters: group.parameters,
        bytes: bytes(group), denseBytes: bytes(group), relativeLoss: 0))
  }

  /// In the order of a pass, whatever the order in which they were made.
  mutating func sortGroups(like names: [String]) {
    let places = Dictionary(uniqueKeysWithValues: names.enumerated().map { ($1, $0) })
    groups.sort { places[$0.name, default: 0] < places[$1.name, default: 0] }
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
        bytes: encoding.dtype.rowBytes(factors.parameters), denseBytes: bytes(group),
        relativeLoss: energy > 0 ? loss / energy : 0))
  }

  /// Puts another whole matrix in place of a group's only one, and adds to its bias.
  mutating func replaceWhole(
    _ group: LinearGroup, by matrix: Matrix<Double>, bias correction: [Float]?, loss: Double, energy: Double
  ) {
    let (member, before) = (group.members[0], bytes(group))
    let narrow = Matrix(rows: matrix.rows, columns: matrix.columns, elements: matrix.elements.map { Float($0) })
    changeMatrix(member, to: narrow)
    let path = LinearGroup.bias(of: member)
    if let correction, let old = model.parameters.vector(path) {
      changeVector(path, to: zip(old.floatArray(), correction).map(+))
    }
    groups.append(
      Group(
        name: group.name, rank: nil, parameters: group.parameters, denseParameters: group.parameters,
        bytes: FactorEncoding.f32.dtype.rowBytes(narrow.elements.count), denseBytes: before,
        relativeLoss: energy > 0 ? loss / energy : 0))
  }

  /// Puts other numbers in place of a matrix, whole and in f32.
  mutating func changeMatrix(_ path: String, to matrix: Matrix<Float>) {
    let tensor = Tensor(matrix.rows, matrix.columns, matrix.elements)
    weights[path] = StoredWeight(tensor)
    changes.replaced.insert(path)
    changes.matrices[path] = NewTensor(
      name: path, shape: [matrix.rows, matrix.columns], dtype: .f32,
      content: .made(matrix.elements.withUnsafeBytes { Array($0) }))
  }

  /// Puts other numbers in place of a vector.
  mutating func changeVector(_ path: String, to values: [Float]) { changes.vectors[path] = values }

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
