import ApusCompute

/// Names of the tensors of low-rank matrices, in files of any format: after the parameter, not after the exporter's name.
public enum LowRankNames {
  /// Of the parameter `layers.3.attention.query.weight`: `layers.3.attention.query.factor.up` `[rows, rank]`.
  public static func up(_ parameter: String) -> String { base(parameter) + ".factor.up" }
  /// Of its own: `layers.3.attention.query.factor.down` `[rank, columns]`.
  public static func down(_ parameter: String) -> String { base(parameter) + ".factor.down" }
  /// Shared with its neighbours: `layers.3.attention.factor.down`.
  public static func sharedDown(_ parameter: String) -> String {
    base(parameter).split(separator: ".").dropLast().joined(separator: ".") + ".factor.down"
  }

  private static func base(_ parameter: String) -> String {
    let suffix = ".weight"
    return parameter.hasSuffix(suffix) ? String(parameter.dropLast(suffix.count)) : parameter
  }
}

/// The low-rank matrices of a file.
struct LowRankFactorTensors {
  private let source: any TensorSource
  private let path: String
  private(set) var used: Set<String> = []
  private var downs: [String: DownFactor] = [:]

  init(_ source: any TensorSource, path: String) {
    self.source = source
    self.path = path
  }

  /// Nil when the file has no factors for the parameter. Throws `ModelFileError` for factors of wrong shapes.
  mutating func weight(_ spec: ParameterSpec) throws -> LowRankWeight? {
    func stored(_ name: String) -> String? { SafetensorsTensor.storedNames(name).first(where: source.contains) }
    guard let upName = stored(LowRankNames.up(spec.path)) else { return nil }
    let shared = LowRankNames.sharedDown(spec.path)
    let downName = stored(LowRankNames.down(spec.path)) ?? stored(shared) ?? shared
    let (up, down) = (try source.tensor(upName), try source.tensor(downName))
    guard !spec.path.hasPrefix("embedding."), up.shape.count == 2, up.shape[0] == spec.rows, up.shape[1] > 0 else {
      throw malformed(upName, up.shape, "[\(spec.rows), rank] of a matrix that is not a table of embeddings")
    }
    guard down.shape == [up.shape[1], spec.columns] else {
      throw malformed(downName, down.shape, "[\(up.shape[1]), \(spec.columns)]")
    }
    used.formUnion([upName, downName])
    let isFirst = downs[downName] == nil
    let factor = downs[downName] ?? DownFactor(StoredWeight(Tensor(down)))
    downs[downName] = factor
    return LowRankWeight(down: factor, up: StoredWeight(Tensor(up)), countsDown: isFirst)
  }

  private func malformed(_ name: String, _ shape: [Int], _ expected: String) -> ModelFileError {
    ModelFileError(kind: .malformed, path: path, what: "tensor '\(name)'", seen: "shape \(shape)", expected: expected)
  }
}
