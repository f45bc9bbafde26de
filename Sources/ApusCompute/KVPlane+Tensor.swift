import ApusKernels

extension KVPlane {
  /// Tokens of a block, in the kernels' layout.
  public static let blockTokens = 16

  /// A view of f32 or f16 blocks that lie one after another in a tensor of `[16 · blocks, heads · width]`; `table`
  /// `[1, ≥ blocks]` i32 names the blocks in order. The caller keeps both alive.
  public init(_ blocks: Tensor, table: Tensor, firstBlock: Int = 0) {
    self.init(
      base: blocks.base, blockStride: 16 * blocks.rowBytes,
      table: UnsafePointer(table.base.assumingMemoryBound(to: Int32.self)), kind: blocks.dtype,
      firstBlock: firstBlock)
  }
}
