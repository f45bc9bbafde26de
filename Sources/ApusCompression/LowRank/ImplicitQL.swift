import ApusKernels

/// The eigenvalues and eigenvectors of a tridiagonal matrix by QL with implicit shifts (Bowdler, Martin, Reinsch and
/// Wilkinson, "The QR and QL algorithms for symmetric matrices", 1968; EISPACK's tql2).
///
/// The rotations are recorded and applied to the eigenvectors in batches, to panels of 16 columns that stay in the cache:
/// a panel sees the same rotations in the same order whoever turns it.
struct ImplicitQL {
  /// The eigenvalues, in no order. `[n]`.
  private(set) var diagonal: [Double]
  private var offDiagonal: [Double]
  /// Column j of Q in row j of every panel: `[n / 16, n, 16]`, zeros beyond column n.
  private var panels: [Double]
  private var sweeps: [RotationSweep] = []
  private var coefficients: [Double] = []
  private let pool: ThreadPool
  /// Half an ulp of the greatest row of T.
  private let rounding: Double

  /// Sweeps that an eigenvalue may take; two are usual.
  private static let mostSweeps = 60
  /// Sweeps after which an off-diagonal element that is rounding beside the whole matrix counts as nothing, though its
  /// neighbours are as small: each sweep that reaches a large element makes such an error anew.
  private static let patientSweeps = 12
  /// Numbers in a batch: 2 MB, far less than the panels that are read for it.
  private static let batchCoefficients = 1 << 18
  private static let width = RotationSweep.panelColumns

  /// Diagonalises T. Complexity: about 3 n³ multiplications and as many additions.
  init(_ tridiagonal: consuming Tridiagonalisation, on pool: ThreadPool) throws(CompressionError) {
    self.pool = pool
    diagonal = tridiagonal.diagonal
    offDiagonal = tridiagonal.offDiagonal
    rounding = .ulpOfOne / 2 * zip(diagonal, offDiagonal).reduce(0) { max($0, abs($1.0) + abs($1.1)) }
    panels = Self.panels(of: tridiagonal.basis, pool)
    for l in diagonal.indices { try findEigenvalue(l) }
    flush()
  }

  private static func panels(of basis: Matrix<Double>, _ pool: ThreadPool) -> [Double] {
    let n = basis.rows
    let count = (n + width - 1) / width
    var panels = [Double](repeating: 0, count: count * n * width)
    panels.withUnsafeMutableBufferPointer { panels in
      let panels = panels
      basis.elements.withUnsafeBufferPointer { basis in
        pool.parallelFor(items: n, grain: width) { rows, _ in
          for row in rows {
            let panel = row / width * n * width + row % width
            for j in 0..<n { panels[panel + j * width] = basis[row * n + j] }
          }
        }
      }
    }
    return panels
  }

  /// Component `i` of the eigenvector of `diagonal[j]`.
  func component(_ i: Int, of j: Int) -> Double {
    panels[(i / Self.width * diagonal.count + j) * Self.width + i % Self.width]
  }

  /// Sweeps until the off-diagonal element at `l` is nothing beside its neighbours.
  private mutating func findEigenvalue(_ l: Int) throws(CompressionError) {
    for count in 0..<Self.mostSweeps {
      let floor = count < Self.patientSweeps ? 0 : rounding
      var m = l
      while m + 1 < diagonal.count,
        abs(offDiagonal[m]) > max(floor, .ulpOfOne / 2 * (abs(diagonal[m]) + abs(diagonal[m + 1])))
      { m += 1 }
      if m == l { return }
      sweep(from: m, to: l)
      if coefficients.count >= Self.batchCoefficients { flush() }
    }
    throw CompressionError(
      kind: .notConverged, what: "eigenvalue \(l) of \(diagonal.count)", seen: "\(Self.mostSweeps) sweeps of QL",
      expected: "convergence in a few", wayOut: "please report this matrix")
  }

  private mutating func sweep(from m: Int, to l: Int) {
    // Wilkinson's shift: the eigenvalue of the leading 2×2 block that is nearer to its first element.
    let half = (diagonal[l + 1] - diagonal[l]) / (2 * offDiagonal[l])
    let root = (half * half + 1).squareRoot()
    var g = diagonal[m] - diagonal[l] + offDiagonal[l] / (half + (half < 0 ? -root : root))
    var (s, c, p) = (1.0, 1.0, 0.0)
    var count = 0
    for i in (l..<m).reversed() {
      let f = s * offDiagonal[i]
      let b = c * offDiagonal[i]
      let r = Self.hypotenuse(f, g)
      offDiagonal[i + 1] = r
      if r == 0 {
        // The matrix falls apart here: the next sweep sees two.
        diagonal[i + 1] -= p
        offDiagonal[m] = 0
        sweeps.append(RotationSweep(top: m, count: count))
        return
      }
      s = f / r
      c = g / r
      g = diagonal[i + 1] - p
      let t = (diagonal[i] - g) * s + 2 * c * b
      p = s * t
      diagonal[i + 1] = g + p
      g = c * t - b
      coefficients.append(c)
      coefficients.append(s)
      count += 1
    }
    diagonal[l] -= p
    offDiagonal[l] = g
    offDiagonal[m] = 0
    sweeps.append(RotationSweep(top: m, count: count))
  }

  /// √(a² + b²) without underflow of the squares.
  private static func hypotenuse(_ a: Double, _ b: Double) -> Double {
    let square = a * a + b * b
    if square > 1e-280 { return square.squareRoot() }
    let largest = max(abs(a), abs(b))
    if largest == 0 { return 0 }
    let ratio = min(abs(a), abs(b)) / largest
    return largest * (1 + ratio * ratio).squareRoot()
  }

  /// Applies the recorded rotations to every panel.
  private mutating func flush() {
    let kernel = Kernels.current.rotatePanel
    let panelSize = diagonal.count * Self.width
    let count = (diagonal.count + Self.width - 1) / Self.width
    let (pool, sweeps, coefficients) = (pool, sweeps, coefficients)
    panels.withUnsafeMutableBufferPointer { panels in
      guard let base = panels.baseAddress else { return }
      pool.parallelFor(items: count, grain: 1) { range, _ in
        for panel in range { kernel(base + panel * panelSize, sweeps, sweeps.count, coefficients) }
      }
    }
    self.sweeps.removeAll(keepingCapacity: true)
    self.coefficients.removeAll(keepingCapacity: true)
  }
}
