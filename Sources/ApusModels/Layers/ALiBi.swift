import ApusCompute
import Foundation

/// Attention with linear biases (Press et al. 2022): score += slope[h] · (key position − query position), where the slopes
/// are the geometric sequence of the paper's section 3.
public struct ALiBi: ScoresConfig {
  public init() {}
  public mutating func visit(_ v: inout some ConfigVisitor) throws {}
  public func shape(_ form: inout AttentionForm) { form.slopes = Self.slopes(heads: form.heads) }

  /// For a power of two: 2^(−8(h+1)/heads); otherwise the slopes of the next lower power, then every other one of its
  /// double.
  static func slopes(heads: Int) -> [Float] {
    func geometric(_ n: Int) -> [Float] { (0..<n).map { Float(pow(2, -8 * Double($0 + 1) / Double(n))) } }
    let power = 1 << (Int.bitWidth - 1 - heads.leadingZeroBitCount)
    if power == heads { return geometric(heads) }
    let more = geometric(2 * power).enumerated().filter { $0.offset % 2 == 0 }.map(\.element)
    return geometric(power) + more.prefix(heads - power)
  }
}
