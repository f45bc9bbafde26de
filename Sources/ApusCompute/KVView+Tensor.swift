import ApusKernels

extension KVView {
  /// Tokens of a block, in the kernels' layout.
  public static let blockTokens = 16

  /// A view of f32 or f16 blocks that lie one after another in two tensors of `[16 · blocks, kvHeads · headDim]`; `table`
  /// `[1, ≥ blocks]` i32 names the blocks in order. The caller keeps the tensors alive.
  public init(keys: Tensor, values: Tensor, table: Tensor) {
    self.init(
      k: keys.base, v: values.base, blockStride: 16 * keys.rowBytes,
      table: UnsafePointer(table.base.assumingMemoryBound(to: Int32.self)), kind: keys.dtype)
  }
}
