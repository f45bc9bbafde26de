import ApusKernels
import KernelInterface

/// How a clustering tree is trained.
public struct TrainingOptions: Sendable {
  /// k-means iterations a node.
  public var iterations: Int
  /// Vectors per child that a node's k-means looks at, at most.
  public var samplePerChild: Int
  public var seed: UInt64
  public var threads: Int

  public init(iterations: Int = 12, samplePerChild: Int = 256, seed: UInt64 = 42, threads: Int = 2) {
    self.iterations = iterations
    self.samplePerChild = samplePerChild
    self.seed = seed
    self.threads = threads
  }
}

/// Hierarchical k-means. Cost O(iterations · n · branching · dim) a level.
struct ClusterTraining {
  let config: VectorConfig
  let encoding: VectorEncoding
  let options: TrainingOptions
  /// `[count, padded]` f32, encoded.
  let vectors: UnsafePointer<Float>
  let count: Int
  private let kernels = Kernels.current
  private let pool: ThreadPool
  private var random: SplitMix64

  init(
    config: VectorConfig, encoding: VectorEncoding, options: TrainingOptions, vectors: UnsafePointer<Float>, count: Int
  ) {
    self.config = config
    self.encoding = encoding
    self.options = options
    self.vectors = vectors
    self.count = count
    pool = ThreadPool(threads: options.threads)
    random = SplitMix64(state: options.seed)
  }

  private struct Pending {
    var node: Int
    var members: [UInt32]
  }

  /// `progress` gets the share of vectors that have reached their leaf, 0…1; it may throw to stop.
  mutating func train(progress: (Double) throws -> Void) throws -> ClusterTree {
    let padded = encoding.padded
    var firstChild: [UInt32] = [0]
    var childCount: [UInt8] = [0]
    var level: [UInt8] = [0]
    var meanSquare: [Float] = [0]
    let centroids = ChunkedRows(rowBytes: encoding.codeRowBytes, shift: 10)
    let everything = Array(0..<UInt32(count))
    let centre = mean(everything)
    centroids.ensure(0)
    centre.withUnsafeBufferPointer { encoding.encodeCodes($0.baseAddress!, to: centroids.row(0)) }
    meanSquare[0] = meanSquaredDistance(everything, to: centre)
    // In the order of node numbers: the children of a node are consecutive and come after those of the nodes before it.
    var queue = [Pending(node: 0, members: everything)]
    var (next, settled) = (0, 0)
    while next < queue.count {
      let (node, members) = (queue[next].node, queue[next].members)
      queue[next].members = []
      next += 1
      guard members.count > config.leafCapacity, Int(level[node]) < ClusterTree.maximumDepth else {
        settled += members.count
        try progress(Double(settled) / Double(max(count, 1)))
        continue
      }
      let centres = cluster(sample(members, config.branching * options.samplePerChild))
      let (parts, squares) = split(members, by: centres)
      let kept = (0..<config.branching).filter { !parts[$0].isEmpty }
      // Vectors that k-means cannot tell apart stay together.
      guard kept.count >= 2 else {
        settled += members.count
        continue
      }
      firstChild[node] = UInt32(firstChild.count)
      childCount[node] = UInt8(kept.count)
      for child in kept {
        let number = firstChild.count
        firstChild.append(0)
        childCount.append(0)
        level.append(level[node] + 1)
        meanSquare.append(Float(squares[child] / Double(parts[child].count)))
        centroids.ensure(UInt32(number))
        centres.withUnsafeBufferPointer {
          encoding.encodeCodes($0.baseAddress! + child * padded, to: centroids.row(UInt32(number)))
        }
        queue.append(Pending(node: number, members: parts[child]))
      }
    }
    return ClusterTree(
      dim: config.dim, firstChild: firstChild, childCount: childCount, level: level, meanSquare: meanSquare,
      centroids: centroids)
  }

  private mutating func sample(_ members: [UInt32], _ limit: Int) -> [UInt32] {
    var members = members
    members.keepRandom(limit, using: &random)
    return members
  }

  /// Lloyd's k-means over `members`; a cluster that lost all its vectors starts anew at a random one.
  /// Returns `[branching, padded]`.
  private mutating func cluster(_ members: [UInt32]) -> [Float] {
    let (branching, padded) = (config.branching, encoding.padded)
    var centres = [Float](repeating: 0, count: branching * padded)
    let seeds = sample(members, branching)
    for child in 0..<branching { copy(seeds[child % seeds.count], to: &centres, at: child) }
    for _ in 0..<options.iterations {
      let assignment = assign(members, to: centres).nearest
      var sums = [Float](repeating: 0, count: branching * padded)
      var counts = [Int](repeating: 0, count: branching)
      sums.withUnsafeMutableBufferPointer { sums in
        for (i, member) in members.enumerated() {
          let child = Int(assignment[i])
          counts[child] += 1
          kernels.axpy(1, vectors + Int(member) * padded, sums.baseAddress! + child * padded, padded)
        }
      }
      for child in 0..<branching {
        if counts[child] == 0 {
          copy(members[Int(random.next() % UInt64(members.count))], to: &centres, at: child)
        } else {
          for j in 0..<padded { centres[child * padded + j] = sums[child * padded + j] / Float(counts[child]) }
        }
      }
    }
    return centres
  }

  private func copy(_ member: UInt32, to centres: inout [Float], at child: Int) {
    let padded = encoding.padded
    for j in 0..<padded { centres[child * padded + j] = vectors[Int(member) * padded + j] }
  }

  private func split(_ members: [UInt32], by centres: [Float]) -> (parts: [[UInt32]], squares: [Double]) {
    let (nearest, distance) = assign(members, to: centres)
    var parts = [[UInt32]](repeating: [], count: config.branching)
    var squares = [Double](repeating: 0, count: config.branching)
    for (i, member) in members.enumerated() {
      parts[Int(nearest[i])].append(member)
      squares[Int(nearest[i])] += Double(distance[i])
    }
    return (parts, squares)
  }

  /// The nearest centre of each member and its squared distance, by ‖x‖² − 2·x·c + ‖c‖² with one GEMM a block of rows.
  private func assign(_ members: [UInt32], to centres: [Float]) -> (nearest: [UInt8], distance: [Float]) {
    let (branching, padded, vectors, kernels) = (config.branching, encoding.padded, vectors, kernels)
    let block = 256
    var nearest = [UInt8](repeating: 0, count: members.count)
    var distance = [Float](repeating: 0, count: members.count)
    nearest.withUnsafeMutableBufferPointer { nearest in
      distance.withUnsafeMutableBufferPointer { distance in
        centres.withUnsafeBufferPointer { centres in
          let centres = centres.baseAddress!
          let squares = (0..<branching).map { kernels.dot(centres + $0 * padded, centres + $0 * padded, padded) }
          let (nearest, distance) = (nearest.baseAddress!, distance.baseAddress!)
          nonisolated(unsafe) let target = (nearest, distance)
          nonisolated(unsafe) let source = centres
          pool.parallelFor(items: (members.count + block - 1) / block, grain: 1) { range, thread in
            withUnsafeTemporaryAllocation(of: Float.self, capacity: block * (padded + branching)) { memory in
              let rows = memory.baseAddress!
              let products = rows + block * padded
              for item in range {
                let first = item * block
                let count = min(block, members.count - first)
                for i in 0..<count {
                  (rows + i * padded).update(from: vectors + Int(members[first + i]) * padded, count: padded)
                }
                kernels.gemm(
                  GEMMArguments(
                    m: count, n: branching, k: padded, a: rows, lda: padded, b: source, ldb: padded, transposeB: true,
                    c: products, ldc: branching, scratch: pool.scratch(thread)))
                for i in 0..<count {
                  var (best, score) = (0, Float.infinity)
                  for child in 0..<branching {
                    let s = squares[child] - 2 * products[i * branching + child]
                    if s < score { (best, score) = (child, s) }
                  }
                  target.0[first + i] = UInt8(best)
                  target.1[first + i] = max(0, score + kernels.dot(rows + i * padded, rows + i * padded, padded))
                }
              }
            }
          }
        }
      }
    }
    return (nearest, distance)
  }

  private func mean(_ members: [UInt32]) -> [Float] {
    let padded = encoding.padded
    var sum = [Double](repeating: 0, count: padded)
    for member in members { for j in 0..<padded { sum[j] += Double(vectors[Int(member) * padded + j]) } }
    return sum.map { Float($0 / Double(max(members.count, 1))) }
  }

  private func meanSquaredDistance(_ members: [UInt32], to centre: [Float]) -> Float {
    let padded = encoding.padded
    var total = 0.0
    for member in members {
      for j in 0..<padded {
        let d = vectors[Int(member) * padded + j] - centre[j]
        total += Double(d * d)
      }
    }
    return Float(total / Double(max(members.count, 1)))
  }
}

extension [UInt32] {
  /// Keeps at most `limit` elements, any as likely as another, in random order if there were more.
  mutating func keepRandom(_ limit: Int, using random: inout SplitMix64) {
    guard count > limit else { return }
    for i in 0..<limit { swapAt(i, i + Int(random.next() % UInt64(count - i))) }
    removeLast(count - limit)
  }
}

/// Sebastiano Vigna's splitmix64.
package struct SplitMix64: RandomNumberGenerator {
  private var state: UInt64

  package init(state: UInt64) { self.state = state }

  package mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }
}
