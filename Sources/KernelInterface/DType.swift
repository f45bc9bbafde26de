/// How the numbers of a tensor are stored.
///
/// The block-quantised kinds have the byte layout of the GGUF format (ggml's `block_q4_0` …): a row is a whole number of
/// blocks, each `blockElements` weights in `blockBytes` bytes. Raw values are GGUF's type numbers.
public enum DType: UInt32, Sendable, CaseIterable, Hashable {
  case f32 = 0
  case f16 = 1
  case q4_0 = 2
  case q4_1 = 3
  case q5_0 = 6
  case q5_1 = 7
  case q8_0 = 8
  case q2_K = 10
  case q3_K = 11
  case q4_K = 12
  case q5_K = 13
  case q6_K = 14
  case i32 = 26
  case bf16 = 30

  /// Elements that share one block; 1 for the dense kinds.
  @inlinable public var blockElements: Int {
    switch self {
    case .f32, .f16, .bf16, .i32: 1
    case .q4_0, .q4_1, .q5_0, .q5_1, .q8_0: 32
    case .q2_K, .q3_K, .q4_K, .q5_K, .q6_K: 256
    }
  }

  /// Bytes of one block.
  @inlinable public var blockBytes: Int {
    switch self {
    case .f32, .i32: 4
    case .f16, .bf16: 2
    case .q4_0: 18
    case .q4_1: 20
    case .q5_0: 22
    case .q5_1: 24
    case .q8_0: 34
    case .q2_K: 84
    case .q3_K: 110
    case .q4_K: 144
    case .q5_K: 176
    case .q6_K: 210
    }
  }

  /// True for the block-quantised kinds.
  @inlinable public var isQuantized: Bool { blockElements > 1 }

  /// Bytes of a row of `elements`, which must be a multiple of `blockElements`.
  @inlinable public func rowBytes(_ elements: Int) -> Int { elements / blockElements * blockBytes }

  /// The field's usual spelling, e.g. `Q4_K`.
  public var name: String {
    switch self {
    case .f32: "F32"
    case .f16: "F16"
    case .bf16: "BF16"
    case .i32: "I32"
    case .q4_0: "Q4_0"
    case .q4_1: "Q4_1"
    case .q5_0: "Q5_0"
    case .q5_1: "Q5_1"
    case .q8_0: "Q8_0"
    case .q2_K: "Q2_K"
    case .q3_K: "Q3_K"
    case .q4_K: "Q4_K"
    case .q5_K: "Q5_K"
    case .q6_K: "Q6_K"
    }
  }
}
