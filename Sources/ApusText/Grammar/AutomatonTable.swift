/// The deterministic automaton of a grammar, built as far as it is visited.
///
/// A state is the set of places in which a text so far can be: pairs of a network state and the stack of calls around it.
/// Stacks are shared lists of frames; equal frames, stacks and sets get equal numbers, so a step along a byte that was
/// taken before is one look-up. States are never removed: `LazyAutomaton` starts a new table when one is full.
struct AutomatonTable: ~Copyable {
  /// A call or a repetition that is under way.
  fileprivate struct Frame: Hashable {
    /// State to return to; for a repetition, the complement of its number.
    var place: Int32
    /// Bodies entered so far, if it is a repetition.
    var count: Int32
    var parent: Int32
  }

  /// A place of a text in a form that another table can take over: the innermost frame first.
  struct Place: Sendable {
    var state: Int32
    fileprivate var frames: [Frame]
  }

  static let dead: Int32 = -1
  private static let unknown: Int32 = -2
  /// The frame of the whole text.
  private static let bottom: Int32 = 0

  /// Places kept for one state. A grammar so ambiguous that it needs more loses some of its texts and nothing else: every
  /// place that is kept can be completed.
  private static let placeLimit = 512
  /// Places looked at to take one step.
  private static let stepLimit = 8_192
  /// Places looked at for one mask, after which only known transitions and first bytes are followed: the mask may then
  /// leave out long tokens, never a single byte.
  private static let maskLimit = 400_000
  /// Bytes that are reported as forced at once.
  private static let forcedLimit = 1_024
  /// A table beyond these sizes is given up.
  private static let stateLimit = 20_000
  private static let transitionLimit = 2_000_000
  private static let frameLimit = 500_000
  private static let maskBytes = 8 << 20

  private let network: GrammarNetwork
  private let classCount: Int

  private var frames: [Frame] = [Frame(place: 0, count: 0, parent: 0)]
  private var frameNumbers: [Frame: Int32] = [:]
  /// Network state in the high half, frame in the low half; sorted within a state.
  private var places: [UInt64] = []
  private var placeStarts: [Int32] = [0]
  private var isAccepting: [Bool] = []
  /// `[states, classes]`
  private var transitions: [Int32] = []
  /// Open addressing: state + 1, or 0.
  private var slots = [Int32](repeating: 0, count: 256)
  private var masks: [Int32: TokenMask] = [:]

  // Scratch of one step.
  private var seen = CodeSet()
  private var work: [UInt64] = []
  private var kept: [UInt64] = []
  private var accepts = false
  /// Places looked at since the table was made.
  private var effort = 0

  /// Whether places were dropped at a limit: the table may then refuse texts of the grammar.
  private(set) var hasLostPlaces = false

  private(set) var start: Int32 = 0

  init(_ network: GrammarNetwork) {
    self.network = network
    classCount = network.classBytes.count
    visit(network.start, Self.bottom)
    start = close()
  }

  var stateCount: Int { isAccepting.count }

  var isFull: Bool {
    isAccepting.count > Self.stateLimit || transitions.count > Self.transitionLimit || frames.count > Self.frameLimit
  }

  // MARK: Queries

  /// Whether the text may end in this state.
  func accepts(_ state: Int32) -> Bool { isAccepting[Int(state)] }

  /// Whether any byte may follow. Every place has one, since the network was pruned.
  func continues(_ state: Int32) -> Bool { placeStarts[Int(state)] < placeStarts[Int(state) + 1] }

  /// The state after `bytes`; `dead` if the grammar does not allow them.
  mutating func advance(_ state: Int32, _ bytes: some Sequence<UInt8>) -> Int32 {
    var state = state
    for byte in bytes {
      state = next(state, byte)
      if state == Self.dead { break }
    }
    return state
  }

  /// The bytes that must follow: as long as the text may not end and one byte only may come next.
  mutating func forcedBytes(_ start: Int32) -> [UInt8] {
    var output: [UInt8] = []
    var state = start
    while output.count < Self.forcedLimit, !accepts(state), let byte = onlyByte(state) {
      output.append(byte)
      state = next(state, byte)
      // A step that lost places to a limit could make up a forced byte; dead states cannot follow an only byte.
      if state == Self.dead { break }
    }
    return output
  }

  private func onlyByte(_ state: Int32) -> UInt8? {
    var only: UInt8?
    for place in places[range(state)] {
      for arc in network.byteArcs[network.byteArcs(of: Int32(place >> 32))] {
        guard arc.low == arc.high, only == nil || only == arc.low else { return nil }
        only = arc.low
      }
    }
    return only
  }

  /// The tokens whose bytes may come next; the tokens that end a text are in it where the text may end.
  mutating func mask(_ state: Int32, _ vocabulary: VocabularyTrie) -> TokenMask {
    if let mask = masks[state] { return mask }
    var mask = TokenMask(vocabularySize: vocabulary.vocabularySize)
    if accepts(state) { for token in vocabulary.endTokens { mask.insert(token) } }
    if continues(state) { walk(state, vocabulary, into: &mask) }
    if (masks.count + 1) * mask.words.count * 8 > Self.maskBytes { masks.removeAll(keepingCapacity: true) }
    masks[state] = mask
    return mask
  }

  private mutating func walk(_ state: Int32, _ vocabulary: VocabularyTrie, into mask: inout TokenMask) {
    let effortLimit = effort + Self.maskLimit
    var path = [Int32](repeating: state, count: vocabulary.longestToken + 1)
    let count = vocabulary.nodes.count
    vocabulary.nodes.withUnsafeBufferPointer { nodes in
      var index = 0
      while index < count {
        let node = nodes[index]
        let depth = Int(node.depth)
        let from = path[depth - 1]
        let slot = Int(from) * classCount + Int(network.byteClass[Int(node.byte)])
        var target = transitions[slot]
        if target == Self.unknown {
          target = depth > 1 && effort > effortLimit ? Self.dead : step(from, slot)
        }
        if target == Self.dead {
          index = Int(node.next)
          continue
        }
        path[depth] = target
        if node.token >= 0 {
          mask.insert(node.token)
        } else if node.token != VocabularyTrie.noToken {
          for token in vocabulary.sharedTokens[Int(-2 - node.token)] { mask.insert(token) }
        }
        index += 1
      }
    }
  }

  // MARK: Steps

  private mutating func next(_ state: Int32, _ byte: UInt8) -> Int32 {
    let slot = Int(state) * classCount + Int(network.byteClass[Int(byte)])
    let known = transitions[slot]
    return known == Self.unknown ? step(state, slot) : known
  }

  private func range(_ state: Int32) -> Range<Int> {
    Int(placeStarts[Int(state)])..<Int(placeStarts[Int(state) + 1])
  }

  /// Takes the step from `state` that transition `slot` stands for and remembers it.
  private mutating func step(_ state: Int32, _ slot: Int) -> Int32 {
    let byte = network.classBytes[slot - Int(state) * classCount]
    for index in range(state) {
      let place = places[index]
      let frame = Int32(truncatingIfNeeded: place & 0xFFFF_FFFF)
      for arc in network.byteArcs(of: Int32(place >> 32)) where network.byteArcs[arc].low <= byte {
        if network.byteArcs[arc].high >= byte { visit(network.byteArcs[arc].target, frame) }
      }
    }
    let target = close()
    transitions[slot] = target
    return target
  }

  private mutating func visit(_ state: Int32, _ frame: Int32) {
    let code = UInt64(UInt32(state)) << 32 | UInt64(UInt32(frame))
    if seen.insert(code) { work.append(code) }
  }

  /// Follows all moves that read nothing, and gives the number of the set that results.
  private mutating func close() -> Int32 {
    while let code = work.popLast() {
      effort += 1
      if seen.count > Self.stepLimit && (accepts || !kept.isEmpty) {
        hasLostPlaces = true
        continue
      }
      let frame = Int32(truncatingIfNeeded: code & 0xFFFF_FFFF)
      for index in network.moves(of: Int32(code >> 32)) {
        switch network.moves[index] {
        case .read(let state): kept.append(UInt64(UInt32(state)) << 32 | UInt64(UInt32(frame)))
        case .call(let number):
          let call = network.calls[Int(number)]
          visit(call.start, call.isTail ? frame : self.frame(call.returnState, 0, frame))
        case .count(let number): count(number, 0, frame)
        case .end:
          if frame == Self.bottom {
            accepts = true
          } else {
            let top = frames[Int(frame)]
            if top.place >= 0 { visit(top.place, top.parent) } else { count(~top.place, top.count, top.parent) }
          }
        }
      }
    }
    kept.sort()
    var unique = 0
    for index in kept.indices where index == 0 || kept[index] != kept[index - 1] {
      kept[unique] = kept[index]
      unique += 1
    }
    if unique > Self.placeLimit { hasLostPlaces = true }
    kept.removeSubrange(min(unique, Self.placeLimit)...)
    let state = number()
    seen.removeAll()
    kept.removeAll(keepingCapacity: true)
    accepts = false
    return state
  }

  /// A repetition after `done` bodies: goes on behind it, into one more body, or both.
  private mutating func count(_ number: Int32, _ done: Int32, _ frame: Int32) {
    let repetition = network.repetitions[Int(number)]
    if done >= repetition.minimum { visit(repetition.next, frame) }
    if let maximum = repetition.maximum {
      if done < maximum { visit(repetition.body, self.frame(~number, done + 1, frame)) }
    } else {
      // Beyond the minimum the count no longer matters.
      visit(repetition.body, self.frame(~number, min(done + 1, repetition.minimum), frame))
    }
  }

  private mutating func frame(_ place: Int32, _ count: Int32, _ parent: Int32) -> Int32 {
    let frame = Frame(place: place, count: count, parent: parent)
    if let number = frameNumbers[frame] { return number }
    let number = Int32(frames.count)
    frames.append(frame)
    frameNumbers[frame] = number
    return number
  }

  /// The number of the set in `kept`; `dead` for the empty one.
  private mutating func number() -> Int32 {
    if kept.isEmpty && !accepts { return Self.dead }
    var hash: UInt64 = accepts ? 1 : 0
    for code in kept { hash = CodeSet.hash(hash ^ code) }
    var slot = Int(truncatingIfNeeded: hash) & (slots.count - 1)
    while slots[slot] != 0 {
      let state = slots[slot] - 1
      if isAccepting[Int(state)] == accepts && places[range(state)].elementsEqual(kept) { return state }
      slot = (slot + 1) & (slots.count - 1)
    }
    let state = Int32(isAccepting.count)
    slots[slot] = state + 1
    places += kept
    placeStarts.append(Int32(places.count))
    isAccepting.append(accepts)
    transitions.append(contentsOf: repeatElement(Self.unknown, count: classCount))
    if isAccepting.count * 2 > slots.count { growSlots() }
    return state
  }

  private mutating func growSlots() {
    slots = Array(repeating: 0, count: slots.count * 2)
    for state in 0..<Int32(isAccepting.count) {
      var hash: UInt64 = isAccepting[Int(state)] ? 1 : 0
      for code in places[range(state)] { hash = CodeSet.hash(hash ^ code) }
      var slot = Int(truncatingIfNeeded: hash) & (slots.count - 1)
      while slots[slot] != 0 { slot = (slot + 1) & (slots.count - 1) }
      slots[slot] = state + 1
    }
  }

  // MARK: Moving to another table

  /// The places of a state, free of this table's numbers. O(places × depth).
  func export(_ state: Int32) -> (places: [Place], accepts: Bool) {
    var output: [Place] = []
    for code in places[range(state)] {
      var list: [Frame] = []
      var frame = Int32(truncatingIfNeeded: code & 0xFFFF_FFFF)
      while frame != Self.bottom {
        list.append(frames[Int(frame)])
        frame = frames[Int(frame)].parent
      }
      output.append(Place(state: Int32(code >> 32), frames: list))
    }
    return (output, accepts(state))
  }

  /// The number that a state of another table of the same network has here.
  mutating func adopt(_ state: (places: [Place], accepts: Bool)) -> Int32 {
    for place in state.places {
      var frame = Self.bottom
      for entry in place.frames.reversed() { frame = self.frame(entry.place, entry.count, frame) }
      kept.append(UInt64(UInt32(place.state)) << 32 | UInt64(UInt32(frame)))
    }
    kept.sort()
    accepts = state.accepts
    let number = number()
    kept.removeAll(keepingCapacity: true)
    accepts = false
    return number
  }

  // MARK: Invariants

  /// Sets are sorted and hold no place twice, every place can read a byte, and every state is found under its own set.
  func checkInvariants() -> Bool {
    for state in 0..<Int32(isAccepting.count) {
      let set = places[range(state)]
      guard zip(set, set.dropFirst()).allSatisfy({ $0 < $1 }), set.count <= Self.placeLimit else { return false }
      for place in set where network.byteArcs(of: Int32(place >> 32)).isEmpty { return false }
    }
    return slots.count { $0 != 0 } == isAccepting.count && Set(slots.filter { $0 != 0 }).count == isAccepting.count
  }
}
