import ApusCompute
import ApusKernels
import ApusModels

/// Puts a published checkpoint's factors in place of a model's matrices.
public struct FactorImport {
  /// The model that the checkpoint was made from.
  public let base: LoadedModel
  public let encoding: FactorEncoding
  private let pool: ThreadPool

  /// Of a matrix's energy, lost in factors, from which on they are not of this matrix: a matrix of other origin loses all
  /// of it and adds as much.
  private static let strangeLoss = 0.98
  /// Of a tensor's energy: what a quantised base has rounded away, and no more.
  private static let sameWithin = 0.02

  public init(into base: LoadedModel, encoding: FactorEncoding, threads: Int? = nil) {
    self.base = base
    self.encoding = encoding
    pool = ThreadPool(threads: threads ?? ThreadPool.availableThreads)
  }

  /// The base with the checkpoint's factors, biases, norms and whatever else it changed.
  ///
  /// Factors that would take more than their matrix (those of heads mostly do) are multiplied out. Each group's loss is of
  /// the matrix itself. Throws `CompressionError`: `shape` for factors that do not fit the base, `otherSource` when they give
  /// nothing of its matrices, `layout` for an architecture whose names are not known.
  public func model(from checkpoint: FactorCheckpoint) throws -> CompressedModel {
    guard base.architecture != Gemma3.architecture else {
      throw CompressionError(
        kind: .layout, what: "model '\(base.name)'", seen: "architecture '\(base.architecture)'",
        expected: "a Llama, a Qwen2 or a BERT, whose names the published layouts use")
    }
    var result = CompressedModel(model: base, encoding: encoding)
    var losses: [Double] = []
    for entry in checkpoint.entries {
      let path = entry.parameter + ".weight"
      let dense = try base.dense(path)
      guard entry.up.rows == dense.rows, entry.down.columns == dense.columns else {
        throw CompressionError(
          kind: .shape, what: "factors of '\(path)'", seen: "[\(entry.up.rows), \(entry.down.columns)]",
          expected: "[\(dense.rows), \(dense.columns)], as \(base.name) has it",
          wayOut: "give the model that they were made from")
      }
      let up = rows(entry.up, of: entry.parameter)
      var corrections: [[Float]]?
      if let bias = entry.bias, let old = base.parameters.vector(entry.parameter + ".bias") {
        let turned = rows(Matrix(rows: bias.count, columns: 1, elements: bias), of: entry.parameter).elements
        corrections = [zip(turned, old.floatArray()).map { $0 - $1 }]
      }
      let factors = LowRankFactors(down: entry.down, ups: [up], biasCorrections: corrections)
      let loss = factors.loss(of: [dense], in: .identity, on: pool)
      let energy = dense.elements.reduce(0.0) { $0 + Double($1) * Double($1) }
      losses.append(loss / max(energy, .leastNormalMagnitude))
      let group = LinearGroup(
        name: entry.parameter, input: entry.parameter, kind: entry.parameter,
        layer: Int(entry.parameter.split(separator: ".")[1]) ?? 0, members: [path], rows: dense.rows,
        columns: dense.columns)
      if factors.parameters >= group.parameters {
        result.replaceWhole(
          group, by: up.multiplied(by: entry.down, on: pool), bias: corrections?[0], loss: loss, energy: energy)
      } else {
        try result.replace(group, by: factors.padded(to: encoding.rankMultiple), loss: loss, energy: energy)
      }
    }
    let middle = losses.sorted()[losses.count / 2]
    guard middle < Self.strangeLoss else {
      throw CompressionError(
        kind: .otherSource, what: checkpoint.path,
        seen: "factors that lose \(Int(middle * 100)) % of the matrices of '\(base.name)'",
        expected: "factors of this model", wayOut: "give the model that they were made from")
    }
    for (path, values) in checkpoint.others.sorted(by: { $0.key < $1.key }) { try bringOver(path, values, &result) }
    result.finish()
    return result
  }

  /// What is not low-rank, where it is not what the base has.
  private func bringOver(_ path: String, _ values: Matrix<Float>, _ result: inout CompressedModel) throws {
    let name = String(path.split(separator: ".").dropLast().joined(separator: "."))
    if let old = base.parameters.vector(path) {
      guard old.columns == values.elements.count else { throw misfit(path, values, [old.columns]) }
      let column = Matrix(rows: values.elements.count, columns: 1, elements: values.elements)
      let new = path.hasSuffix(".bias") ? rows(column, of: name).elements : values.elements
      if !isSame(new, old.floatArray()) { result.changeVector(path, to: new) }
    } else if let old = base.parameters.matrix(path) {
      guard old.rows == values.rows, old.columns == values.columns else {
        throw misfit(path, values, [old.rows, old.columns])
      }
      let new = rows(values, of: name)
      if !isSame(new.elements, try base.dense(path).elements) { result.changeMatrix(path, to: new) }
    }
    // A tied head is written twice; the base has it once.
  }

  private func misfit(_ path: String, _ values: Matrix<Float>, _ expected: [Int]) -> CompressionError {
    CompressionError(
      kind: .shape, what: "'\(path)'", seen: "[\(values.rows), \(values.columns)]",
      expected: "\(expected), as \(base.name) has it", wayOut: "give the model that the checkpoint was made from")
  }

  private func isSame(_ a: [Float], _ b: [Float]) -> Bool {
    var (difference, energy) = (0.0, 0.0)
    for i in a.indices {
      difference += Double((a[i] - b[i]) * (a[i] - b[i]))
      energy += Double(b[i] * b[i])
    }
    return difference <= Self.sameWithin * energy
  }

  /// The rows as the base has them: where RoPE pairs neighbours, those of queries and keys lie in another order than in
  /// transformers, whose RoPE pairs the halves of a head.
  private func rows(_ matrix: Matrix<Float>, of parameter: String) -> Matrix<Float> {
    let parts = parameter.split(separator: ".")
    guard parts.count == 4, parts[0] == "layers", parts[3] == "query" || parts[3] == "key", let layer = Int(parts[1]),
      layer < base.config.layers.count, let block = base.config.layers[layer] as? Block,
      let attention = block.attention as? Attention, let rope = attention.qkv as? RoPE, rope.pairing == .interleaved
    else { return matrix }
    let half = attention.headDim / 2
    var result = matrix
    for head in 0..<matrix.rows / attention.headDim {
      for i in 0..<half {
        for side in 0..<2 {
          let to = head * attention.headDim + 2 * i + side
          let from = head * attention.headDim + side * half + i
          for column in 0..<matrix.columns { result[to, column] = matrix[from, column] }
        }
      }
    }
    return result
  }
}
