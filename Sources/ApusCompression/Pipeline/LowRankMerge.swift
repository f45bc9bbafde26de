import ApusKernels
import ApusModels

/// Turns low-rank matrices into whole ones again.
public enum LowRankMerge {
  /// What a file needs that has `up · down` in place of the factors: f32 in a folder's safetensors, f16 in a GGUF file.
  ///
  /// Throws `CompressionError` (`parameter`) when the model has no low-rank matrix.
  public static func changes(_ model: LoadedModel, isFolder: Bool) throws(CompressionError) -> ModelChanges {
    var changes = ModelChanges()
    let pool = ThreadPool(threads: ThreadPool.availableThreads)
    for spec in model.parameters.specs where !spec.isVector {
      guard let weight = model.parameters.matrix(spec.path) as? LowRankWeight,
        let up = weight.up as? StoredWeight, let down = weight.down.weight as? StoredWeight
      else { continue }
      func matrix(_ weight: StoredWeight) -> Matrix<Float> {
        Matrix(rows: weight.rows, columns: weight.columns, elements: weight.tensor.floatArray())
      }
      let product = matrix(up).multiplied(by: matrix(down), on: pool)
      let values = product.elements.map { Float($0) }
      let bytes =
        isFolder ? values.withUnsafeBytes { Array($0) } : values.map(Float16.init).withUnsafeBytes { Array($0) }
      changes.matrices[spec.path] = NewTensor(
        name: spec.path, shape: [spec.rows, spec.columns], dtype: isFolder ? .f32 : .f16, content: .made(bytes))
    }
    guard !changes.matrices.isEmpty else {
      throw CompressionError(
        kind: .parameter, what: "model '\(model.name)'", seen: "no low-rank matrix", expected: "a compressed model")
    }
    return changes
  }
}
