import ApusModels

/// Matrices of a model's layer that read one input, and so can share a down factor.
public struct LinearGroup: Sendable, Equatable {
  /// E.g. `layers.3.attention.input`.
  public var name: String
  /// What statistics of the input are kept under; groups may read one input through factors of their own.
  public var input: String
  /// The same part of every layer, e.g. `attention.input`.
  public var kind: String
  public var layer: Int
  /// Paths of the matrices, e.g. `layers.3.attention.query.weight`.
  public var members: [String]
  /// `[rows, columns]` of the matrices on top of each other.
  public var rows: Int
  public var columns: Int
  public var rank = RankRule.allocated

  /// What may be low-rank, by the last parts of its path: all else (embeddings, routers, experts) stays as it is.
  private static let inputs = [
    "attention.query.weight": "attention.input", "attention.key.weight": "attention.input",
    "attention.value.weight": "attention.input", "attention.output.weight": "attention.output",
    "feedForward.gate.weight": "feedForward.input", "feedForward.up.weight": "feedForward.input",
    "feedForward.down.weight": "feedForward.hidden",
  ]

  /// The groups of a model, in the order in which a pass reaches them.
  public static func all(of model: LoadedModel) -> [LinearGroup] {
    var groups: [LinearGroup] = []
    for spec in model.parameters.specs where !spec.isVector {
      let parts = spec.path.split(separator: ".", maxSplits: 2)
      guard parts.count == 3, parts[0] == "layers", let layer = Int(parts[1]), let kind = inputs[String(parts[2])]
      else { continue }
      let name = "layers.\(layer).\(kind)"
      if let index = groups.firstIndex(where: { $0.name == name }) {
        groups[index].members.append(spec.path)
        groups[index].rows += spec.rows
      } else {
        groups.append(
          LinearGroup(
            name: name, input: name, kind: kind, layer: layer, members: [spec.path], rows: spec.rows,
            columns: spec.columns))
      }
    }
    let order = ["attention.input", "attention.output", "feedForward.input", "feedForward.hidden"]
    return groups.sorted { ($0.layer, order.firstIndex(of: $0.kind)!) < ($1.layer, order.firstIndex(of: $1.kind)!) }
  }

  public var parameters: Int { rows * columns }

  /// The bias beside a matrix, as a path.
  static func bias(of member: String) -> String { String(member.dropLast("weight".count)) + "bias" }
}

/// Who says a group's rank.
public enum RankRule: Sendable, Equatable {
  /// An allocator, within a budget of parameters.
  case allocated
  /// This one, whether or not the factors are smaller than the matrices.
  case fixed(Int)
  /// The least that keeps a share of the outputs' energy; the matrices stay as they are when that is all of them.
  case energy(Double)
}

extension LoadedModel {
  /// The numbers of a dense or quantised matrix, in f32. Throws `CompressionError` (`parameter`) when it has another form.
  func dense(_ path: String) throws(CompressionError) -> Matrix<Float> {
    guard let weight = parameters.matrix(path), let stored = weight as? StoredWeight else {
      throw CompressionError(
        kind: .parameter, what: "matrix '\(path)'", seen: parameters.matrix(path)?.form ?? "nothing",
        expected: "a matrix that is stored whole", wayOut: "compress the original model")
    }
    return Matrix(rows: weight.rows, columns: weight.columns, elements: stored.tensor.floatArray())
  }
}
