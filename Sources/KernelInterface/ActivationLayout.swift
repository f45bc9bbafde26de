/// Where the int8 form of an activation matrix lies in memory: the same at every instruction-set level.
///
/// A row of the matrix is the sum of `terms` int8 rows, one after another: with two, the second is what rounding the
/// first left over, and the pair is as good as 15 bits. `rows` counts int8 rows.
///
/// Rows are cut into *panels* of 12, and the rest into 8, 4, 2, 1. Inside a panel of `m` rows everything is interleaved
/// so that a micro-kernel walks it with one pointer:
/// - values: `[k/4][m][4]` int8 (four consecutive k of one row are one dword, broadcast against 16 weight rows);
/// - scales: `[k/32][m]` f32 (value = scale · int8);
/// - sums:   `[k/16][m]` int32, the sum of the int8 values of 16 consecutive k.
///
/// `k` must be a multiple of 32. Each panel starts at a multiple of 64 bytes.
public struct ActivationLayout: Sendable {
  public static let panelRows = 12

  /// int8 rows: the matrix has `rows / terms`.
  public let rows: Int
  public let k: Int
  /// 1 or 2.
  public let terms: Int

  /// For a matrix `[matrixRows, k]`.
  public init(matrixRows: Int, k: Int, terms: Int = 1) {
    precondition(
      matrixRows > 0 && k > 0 && k % 32 == 0, "activation layout needs rows > 0 and k a positive multiple of 32")
    precondition(terms == 1 || terms == 2, "a row is the sum of 1 or 2 int8 rows, not \(terms)")
    self.rows = matrixRows * terms
    self.k = k
    self.terms = terms
  }

  public struct Panel: Sendable {
    public var firstRow: Int
    public var rows: Int
    /// Offset in bytes from the start of the buffer.
    public var offset: Int

    public init(firstRow: Int, rows: Int, offset: Int) {
      self.firstRow = firstRow
      self.rows = rows
      self.offset = offset
    }
  }

  /// Bytes of a panel of `m` rows, rounded up to 64.
  @inlinable public func panelBytes(_ m: Int) -> Int { (m * (k + k / 32 * 4 + k / 16 * 4) + 63) & ~63 }

  /// Offset of the scales inside a panel of `m` rows.
  @inlinable public func scalesOffset(_ m: Int) -> Int { m * k }
  /// Offset of the sums inside a panel of `m` rows.
  @inlinable public func sumsOffset(_ m: Int) -> Int { m * (k + k / 32 * 4) }

  @inlinable public var panelCount: Int { rows / 12 + (rows % 12).nonzeroBitCount }

  /// Panel number `i`, in the order of rows. Complexity: O(1).
  @inlinable public func panel(_ i: Int) -> Panel {
    let full = rows / 12
    if i < full { return Panel(firstRow: i * 12, rows: 12, offset: i * panelBytes(12)) }
    var first = full * 12
    var offset = full * panelBytes(12)
    var rest = rows % 12
    for _ in full..<i {
      let m = 1 << (Int.bitWidth - 1 - rest.leadingZeroBitCount)
      first += m
      offset += panelBytes(m)
      rest -= m
    }
    return Panel(firstRow: first, rows: 1 << (Int.bitWidth - 1 - rest.leadingZeroBitCount), offset: offset)
  }

  /// Bytes of the whole buffer.
  @inlinable public var bytes: Int {
    let last = panel(panelCount - 1)
    return last.offset + panelBytes(last.rows)
  }
}
