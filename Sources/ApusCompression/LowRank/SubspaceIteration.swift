import ApusKernels

/// The leading eigenvalues and eigenvectors of a symmetric positive semidefinite operator that is known only by what it
/// does to vectors.
///
/// Each power step costs one application to `count + oversampling` vectors and one orthonormalisation: worth it for a
/// quarter of the spectrum or less. Source: Halko, Martinsson and Tropp, "Finding structure with randomness", 2011,
/// algorithm 4.4.
public struct SubspaceIteration: Sendable {
  /// Vectors beyond those that are asked for; the last of the subspace are the slowest to turn.
  public var oversampling: Int
  /// Applications before the last. An eigenvalue's error shrinks with each by the square of its ratio to the first one
  /// left out.
  public var powerSteps: Int
  /// Where the random start comes from: the same seed, the same result.
  public var seed: UInt64

  public init(oversampling: Int = 64, powerSteps: Int = 3, seed: UInt64 = 1) {
    self.oversampling = oversampling
    self.powerSteps = powerSteps
    self.seed = seed
  }

  /// The `count` leading eigenpairs of an operator on vectors of length `n`. `apply` gets vectors as the rows of a matrix
  /// `[vectors, n]` and returns what the operator makes of each.
  ///
  /// Throws `parameter` when `count` is not in 1…n, `notFinite` when the operator's results are not, and what `apply`
  /// throws.
  public func leading(
    _ count: Int, n: Int, on pool: ThreadPool, _ apply: (Matrix<Double>) throws -> Matrix<Double>
  ) throws -> SymmetricEigen {
    guard (1...max(1, n)).contains(count), n > 0 else {
      throw CompressionError(
        kind: .parameter, what: "eigenpairs", seen: "\(count)", expected: "between 1 and the operator's size, \(n)")
    }
    let size = min(n, count + oversampling)
    var random = SplitMix64(seed: seed)
    var subspace = Matrix<Double>(
      rows: size, columns: n, elements: (0..<size * n).map { _ in random.signedUnit() })
    for step in 0..<powerSteps {
      subspace.orthonormaliseRows(seed: seed &+ UInt64(step), on: pool)
      subspace = try apply(subspace)
      try subspace.requireFinite("what the operator returned")
    }
    subspace.orthonormaliseRows(seed: seed &+ UInt64(powerSteps), on: pool)
    let image = try apply(subspace)
    // Rayleigh and Ritz: the operator within the subspace.
    let inside = try SymmetricEigen(subspace.multiplied(by: image, transposeOther: true, on: pool), on: pool)
    var vectors = inside.vectors.rows(0..<count).multiplied(by: subspace, on: pool)
    vectors.makeSignsCanonical()
    return SymmetricEigen(values: Array(inside.values[..<count]), vectors: vectors)
  }
}
