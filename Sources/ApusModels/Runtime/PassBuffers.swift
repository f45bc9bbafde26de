import ApusCompute

/// What a runner's passes fill anew each time, kept so that a pass of a shape that was seen before allocates nothing.
final class PassBuffers {
  /// The rows by sequence.
  var batch = Batch()
  /// Rows of which logits are wanted, in order.
  var outputs: [Int32] = []
  private var numbers: [Int32] = []
  private var projections: [[Projection]] = []

  func removeAll() {
    batch.removeAll()
    outputs.removeAll(keepingCapacity: true)
  }

  /// The numbers `first ..< first + count`, valid until the next call.
  func counting(from first: Int = 0, count: Int) -> [Int32] {
    numbers.removeAll(keepingCapacity: true)
    for number in first..<first + count { numbers.append(Int32(number)) }
    return numbers
  }

  /// Empty memory for the products of one input: another one for each `linear` inside a `linear`.
  func takeProjections() -> [Projection] { projections.popLast() ?? [] }
  func giveBack(_ empty: consuming [Projection]) { projections.append(empty) }
}
