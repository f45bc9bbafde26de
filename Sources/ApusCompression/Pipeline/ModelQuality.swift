import ApusModels
import Foundation

/// How near an encoder's vectors are to those of the model that it comes from.
public struct EmbeddingQuality: Sendable, Codable, Equatable {
  /// Mean cosine of each text's two vectors.
  public var cosine: Double
  /// Spearman's correlation of the similarities of all pairs of texts.
  public var spearman: Double
  /// Of the ten nearest texts of each, the share that stays.
  public var recall: Double
}

/// Measures models on texts.
public enum ModelQuality {
  private static func runner(_ model: LoadedModel, threads: Int?, exact: Bool) throws -> ModelRunner {
    try ModelRunner(
      model,
      RunnerOptions(
        threads: threads, exact: exact, contextLength: min(Corpus.window, model.contextLength), maxBatchTokens: 2048))
  }

  /// One vector a sequence, of length 1.
  public static func embeddings(
    _ model: LoadedModel, _ sequences: [[Int32]], threads: Int? = nil
  ) throws -> [[Float]] {
    try runner(model, threads: threads, exact: false).embed(sequences)
  }

  public static func compare(_ reference: [[Float]], _ other: [[Float]]) -> EmbeddingQuality {
    let (a, b) = (similarities(reference), similarities(other))
    return EmbeddingQuality(
      cosine: meanCosine(reference, other), spearman: spearman(a.flatMap { $0 }, b.flatMap { $0 }),
      recall: recall(a, b, 10))
  }

  /// Of vectors of length 1.
  public static func meanCosine(_ reference: [[Float]], _ other: [[Float]]) -> Double {
    zip(reference, other).reduce(0) { $0 + dot($1.0, $1.1) } / Double(max(1, reference.count))
  }

  private static func dot(_ a: [Float], _ b: [Float]) -> Double {
    var sum: Double = 0
    for i in a.indices { sum += Double(a[i]) * Double(b[i]) }
    return sum
  }

  /// Row i: those to the texts after i.
  private static func similarities(_ vectors: [[Float]]) -> [[Double]] {
    vectors.indices.map { i in vectors[(i + 1)...].map { dot(vectors[i], $0) } }
  }

  static func spearman(_ a: [Double], _ b: [Double]) -> Double {
    func ranks(_ values: [Double]) -> [Double] {
      let order = values.indices.sorted { values[$0] < values[$1] }
      var ranks = [Double](repeating: 0, count: values.count)
      var first = 0
      while first < order.count {
        var end = first
        while end < order.count, values[order[end]] == values[order[first]] { end += 1 }
        for i in first..<end { ranks[order[i]] = Double(first + end - 1) / 2 }
        first = end
      }
      return ranks
    }
    let (x, y) = (ranks(a), ranks(b))
    let mean = Double(max(0, x.count - 1)) / 2
    var (xy, xx, yy) = (0.0, 0.0, 0.0)
    for i in x.indices {
      xy += (x[i] - mean) * (y[i] - mean)
      xx += (x[i] - mean) * (x[i] - mean)
      yy += (y[i] - mean) * (y[i] - mean)
    }
    return xx > 0 && yy > 0 ? xy / (xx * yy).squareRoot() : 0
  }

  private static func recall(_ a: [[Double]], _ b: [[Double]], _ k: Int) -> Double {
    let count = a.count
    guard count > 1 else { return 1 }
    func nearest(_ all: [[Double]], _ i: Int) -> Set<Int> {
      let others = (0..<count).filter { $0 != i }
      func similarity(_ j: Int) -> Double { i < j ? all[i][j - i - 1] : all[j][i - j - 1] }
      return Set(others.sorted { (similarity($1), $0) < (similarity($0), $1) }.prefix(k))
    }
    let kept = (0..<count).reduce(0) { $0 + nearest(a, $1).intersection(nearest(b, $1)).count }
    return Double(kept) / Double(count * min(k, count - 1))
  }

  /// exp of the mean negative log-likelihood of every token after the first of each sequence.
  public static func perplexity(
    _ model: LoadedModel, _ sequences: [[Int32]], threads: Int? = nil, progress: (Double) -> Void = { _ in }
  ) throws -> Double {
    let runner = try runner(model, threads: threads, exact: false)
    var (sum, count) = (0.0, 0)
    for (i, ids) in sequences.enumerated() where ids.count > 1 {
      let sequence = try runner.makeSequence()
      defer { runner.release(sequence) }
      // Logits are wide: a part at a time.
      for start in stride(from: 0, to: ids.count - 1, by: 64) {
        let part = ids[start..<min(start + 64, ids.count - 1)]
        try runner.forward([ModelRunner.Input(sequence, part, logits: .all)]) { logits in
          for row in 0..<logits.rows { sum += loss(logits[row], of: Int(ids[start + row + 1])) }
        }
        count += part.count
      }
      progress(Double(i + 1) / Double(sequences.count))
    }
    return exp(sum / Double(max(1, count)))
  }

  private static func loss(_ logits: UnsafeMutableBufferPointer<Float>, of token: Int) -> Double {
    let greatest = logits.max() ?? 0
    var total: Float = 0
    for value in logits { total += expf(value - greatest) }
    return Double(greatest) + log(Double(total)) - Double(logits[token])
  }
}
