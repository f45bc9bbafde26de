import KernelInterface

/// How the numbers of factors are stored.
public enum FactorEncoding: String, Sendable, CaseIterable {
  case f32
  case bf16
  /// 8 bits in blocks of 32 with a scale each, as GGUF has it.
  case q8_0
  /// 4 bits in blocks of 32 with a scale each, as GGUF has it.
  case q4_0

  public var dtype: DType {
    switch self {
    case .f32: .f32
    case .bf16: .bf16
    case .q8_0: .q8_0
    case .q4_0: .q4_0
    }
  }

  /// Ranks are multiples of this: a row of `up` is whole blocks.
  public var rankMultiple: Int { dtype.blockElements }

  /// The bytes of rows of whole blocks, one after another.
  public func encode(_ values: [Float]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(dtype.rowBytes(values.count))
    func append(_ value: some FixedWidthInteger) {
      withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }
    switch self {
    case .f32: return values.withUnsafeBytes { Array($0) }
    case .bf16: for value in values { append(Self.bf16(value)) }
    case .q8_0:
      for block in stride(from: 0, to: values.count, by: 32) {
        let part = values[block..<block + 32]
        let scale = part.lazy.map(abs).max()! / 127
        append(Float16(scale).bitPattern)
        for value in part { append(Int8(scale > 0 ? (value / scale).rounded() : 0)) }
      }
    case .q4_0:
      for block in stride(from: 0, to: values.count, by: 32) {
        let part = Array(values[block..<block + 32])
        // The value of the greatest size is exact: −8 times the scale.
        let greatest = part.max { abs($0) < abs($1) }!
        let scale = greatest / -8
        append(Float16(scale).bitPattern)
        func code(_ value: Float) -> UInt8 { UInt8(min(15, max(0, (scale != 0 ? value / scale : 0) + 8.5))) }
        for i in 0..<16 { bytes.append(code(part[i]) | code(part[i + 16]) << 4) }
      }
    }
    return bytes
  }

  /// To the nearest, ties to even.
  private static func bf16(_ value: Float) -> UInt16 {
    let bits = value.bitPattern
    return UInt16(truncatingIfNeeded: (bits &+ 0x7FFF &+ (bits >> 16 & 1)) >> 16)
  }
}
