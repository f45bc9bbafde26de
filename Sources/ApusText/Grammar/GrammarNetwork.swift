/// A grammar as a recursive transition network: states with arcs that read a byte, call a rule or count a repetition.
///
/// Every state that remains can reach the end of its rule, so a text that was accepted so far can always be completed.
/// Empty arcs are gone: `moves(of:)` lists what they led to.
struct GrammarNetwork: Sendable {
  /// Reads one byte of `low...high`.
  struct ByteArc: Sendable, Equatable {
    var low: UInt8
    var high: UInt8
    var target: Int32
  }

  /// Enters a rule at `start` and goes on at `returnState` after it.
  struct Call: Sendable, Equatable {
    var start: Int32
    var returnState: Int32
    /// Nothing follows the call in its own rule: no frame is needed.
    var isTail: Bool
  }

  /// Enters `body` between `minimum` and `maximum` times (nil: any number), then goes on at `next`. A body is not empty.
  struct Repetition: Sendable, Equatable {
    var body: Int32
    var next: Int32
    var minimum: Int32
    var maximum: Int32?
  }

  /// What can be done at a state without reading.
  enum Move: Sendable, Equatable {
    /// Stay: the state has byte arcs.
    case read(Int32)
    case call(Int32)
    case count(Int32)
    /// The rule ends here.
    case end
  }

  var start: Int32 = 0
  var stateCount = 0
  var moves: [Move] = []
  var moveStarts: [Int32] = []
  var byteArcs: [ByteArc] = []
  var byteArcStarts: [Int32] = []
  var calls: [Call] = []
  var repetitions: [Repetition] = []
  /// Bytes that no arc tells apart share a class.
  var byteClass = [UInt8](repeating: 0, count: 256)
  /// One byte of each class.
  var classBytes: [UInt8] = [0]

  /// Moves from a state that some arc leads to.
  func moves(of state: Int32) -> Range<Int> { Int(moveStarts[Int(state)])..<Int(moveStarts[Int(state) + 1]) }

  func byteArcs(of state: Int32) -> Range<Int> { Int(byteArcStarts[Int(state)])..<Int(byteArcStarts[Int(state) + 1]) }
}
