import ApusCompute

/// What a runner's passes fill anew each time, kept so that a pass of a shape that was seen before allocates nothing.
final class PassBuffers {
  /// The rows by sequence.
  var batch = Batch()
  /// Rows of which logits are wanted, in order.
  var outputs: [Int32] = []
  private var projections: [[Projection]] = []

  func removeAll() {
    batch.removeAll()
    outputs.removeAll(keepingCapacity: true)
  }

  /// Empty memory for the products of one input: another one for each `linear` inside a `linear`.
  func takeProjections() -> [Projection] { projections.popLast() ?? [] }
  func giveBack(_ empty: consuming [Projection]) { projections.append(empty) }
}
