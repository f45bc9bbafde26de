import ApusKernels
import KernelInterface

/// Why a clustering tree should be trained, or trained anew. Searches stay right without; they look at more.
public enum TrainingNeed: Sendable, Equatable {
  /// There is none yet.
  case untrained
  /// So many vectors share a leaf, four times what training leaves in one at most.
  case grown(vectorsPerLeaf: Double)
  /// The mean squared distance of vectors to the centroids of their leaves, in that of the training vectors.
  case drifted(ratio: Double)
}

extension TrainingNeed: CustomStringConvertible {
  public var description: String {
    switch self {
    case .untrained: "no clustering tree yet"
    case .grown(let count): "\(Int(count.rounded())) vectors a leaf"
    case .drifted(let ratio): "vectors lie \(Int((100 * ratio).rounded())) % as far from centroids as at training"
    }
  }
}

extension VectorIndex {
  /// Below so many vectors a tree spares nothing.
  static let fewestForTraining = 4096
  /// Fresh vectors of the same kind are a fifth farther away than those that the centroids are the means of.
  static let driftLimit = 1.5

  /// Why `train` would help, judged from a sample of what is stored; nil when it would not. O(n) for the draw, some
  /// milliseconds for the sample; writers wait while it is copied.
  public func trainingNeed(sample limit: Int = 2048, seed: UInt64 = 11) -> TrainingNeed? {
    let (count, tree) = writer.withLock { ($0.writer.liveCount, $0.writer.generation.tree) }
    guard count >= Self.fewestForTraining else { return nil }
    guard tree.nodeCount > 1 else { return .untrained }
    let perLeaf = Double(min(count, Self.trainingSample)) / Double(tree.leafCount)
    if perLeaf > Double(4 * config.leafCapacity) { return .grown(vectorsPerLeaf: perLeaf) }
    let sample = writer.withLock { $0.writer.sample(limit, seed: seed) }
    let ratio = tree.spread(sample.rows, count: sample.count, encoding: encoding, kernels: Kernels.current)
    return ratio > Self.driftLimit ? .drifted(ratio: ratio) : nil
  }

  /// Vectors that training looks at, at most.
  public static let trainingSample = 1 << 18

  private var encoding: VectorEncoding { VectorEncoding(dim: config.dim, metric: config.metric) }
}

extension ClusterTree {
  var leafCount: Int { firstChild.count { $0 == 0 } }

  /// The mean squared distance of rows (`[count, padded]` f32) to the centroids of their leaves, divided by what the
  /// leaves' training vectors had; 1 where both are 0.
  func spread(_ rows: [Float], count: Int, encoding: VectorEncoding, kernels: KernelTable) -> Double {
    var (seen, trained) = (0.0, 0.0)
    withUnsafeTemporaryAllocation(byteCount: encoding.codeRowBytes, alignment: 64) { row in
      rows.withUnsafeBufferPointer { rows in
        for i in 0..<count {
          let x = rows.baseAddress! + i * encoding.padded
          encoding.encodeCodes(x, to: row.baseAddress!)
          let leaf = leaf(of: path(codeRow: row.baseAddress!, kernels: kernels))
          seen += Double(squaredDistance(codeRow: row.baseAddress!, to: leaf, kernels: kernels))
          trained += Double(meanSquare[Int(leaf)])
        }
      }
    }
    return trained > 0 ? seen / trained : seen > 0 ? .infinity : 1
  }
}
