/// Compiles rules to a `GrammarNetwork`: arcs for every expression (Thompson's construction), then pruning, the check for
/// left recursion and the removal of empty arcs. Every pass counts its steps and stops at the limits.
struct NetworkBuilder {
  private enum Kind: UInt8 {
    case empty
    case byte
    /// `operand` is the first state of the rule; `target` is where it returns to.
    case call
    /// `operand` is the index of the repetition; `target` is what follows it.
    case count
  }

  private struct Arc {
    var source: Int32
    var target: Int32
    var kind: Kind
    var low: UInt8 = 0
    var high: UInt8 = 0
    var operand: Int32 = 0
  }

  private struct Counter {
    var body: Int32
    var minimum: Int32
    var maximum: Int32?
  }

  private struct Pending {
    var rule: Int
    var nonEmpty: Bool
    var start: Int32
  }

  private let rules: GrammarRules
  private let path: String
  private var arcs: [Arc] = []
  private var counters: [Counter] = []
  private var isEnd: [Bool] = []
  /// The rule that each state belongs to, for errors.
  private var owners: [Int32] = []
  private var currentRule: Int32 = 0
  private var isNullable: [Bool]
  /// First state of each rule, and of its variant that matches no empty text; -1 until needed.
  private var starts: [Int32]
  private var nonEmptyStarts: [Int32]
  private var pending: [Pending] = []
  private var steps = 0

  init(_ rules: GrammarRules, path: String) {
    self.rules = rules
    self.path = path
    isNullable = Array(repeating: false, count: rules.expressions.count)
    starts = Array(repeating: -1, count: rules.expressions.count)
    nonEmptyStarts = starts
  }

  mutating func build(root: Int) throws(GrammarError) -> GrammarNetwork {
    try findNullableRules(root: root)
    let start = try self.start(of: root, nonEmpty: false)
    while let next = pending.popLast() {
      currentRule = Int32(next.rule)
      let end = try newState()
      isEnd[Int(end)] = true
      try add(rules.expressions[next.rule], next.start, end, nonEmpty: next.nonEmpty)
    }
    try prune(start)
    try refuseLeftRecursion()
    return try network(start)
  }

  private mutating func step(_ count: Int = 1) throws(GrammarError) {
    steps += count
    guard steps <= GrammarLimits.steps else {
      throw GrammarError(
        .limit, path: path, seen: "more than \(GrammarLimits.steps) steps to compile it", expected: "a simpler grammar")
    }
  }

  // MARK: Rules that match the empty text

  private mutating func findNullableRules(root: Int) throws(GrammarError) {
    var users: [[Int]] = Array(repeating: [], count: rules.expressions.count)
    var isReached = isNullable
    isReached[root] = true
    var work = [root]
    while let rule = work.popLast() {
      var callees: Set<Int> = []
      try collectCalls(rules.expressions[rule], &callees)
      for callee in callees.sorted() {
        users[callee].append(rule)
        if !isReached[callee] {
          isReached[callee] = true
          work.append(callee)
        }
      }
    }
    work = isReached.indices.filter { isReached[$0] }
    while let rule = work.popLast() {
      if isNullable[rule] { continue }
      guard try nullable(rules.expressions[rule]) else { continue }
      isNullable[rule] = true
      work += users[rule]
    }
  }

  private mutating func collectCalls(_ expression: GrammarExpression, _ callees: inout Set<Int>) throws(GrammarError) {
    try step()
    switch expression {
    case .bytes, .literal, .literals: break
    case .sequence(let parts), .choice(let parts): for part in parts { try collectCalls(part, &callees) }
    case .repetition(let part, _, _): try collectCalls(part, &callees)
    case .rule(let rule): callees.insert(rule)
    }
  }

  private mutating func nullable(_ expression: GrammarExpression) throws(GrammarError) -> Bool {
    try step()
    switch expression {
    case .bytes: return false
    case .literal(let bytes): return bytes.isEmpty
    case .literals(let literals): return literals.contains { $0.isEmpty }
    case .sequence(let parts):
      for part in parts { if try !nullable(part) { return false } }
      return true
    case .choice(let parts):
      for part in parts { if try nullable(part) { return true } }
      return false
    case .repetition(let part, let minimum, _):
      if minimum == 0 { return true }
      return try nullable(part)
    case .rule(let rule): return isNullable[rule]
    }
  }

  // MARK: Arcs

  private mutating func newState() throws(GrammarError) -> Int32 {
    guard isEnd.count < GrammarLimits.states else {
      throw GrammarError(
        .limit, path: path, seen: "more than \(GrammarLimits.states) states", expected: "a smaller grammar")
    }
    isEnd.append(false)
    owners.append(currentRule)
    return Int32(isEnd.count - 1)
  }

  private mutating func append(_ arc: Arc) throws(GrammarError) {
    guard arcs.count < GrammarLimits.arcs else {
      throw GrammarError(
        .limit, path: path, seen: "more than \(GrammarLimits.arcs) arcs", expected: "a smaller grammar")
    }
    arcs.append(arc)
  }

  private mutating func start(of rule: Int, nonEmpty: Bool) throws(GrammarError) -> Int32 {
    let nonEmpty = nonEmpty && isNullable[rule]
    let known = nonEmpty ? nonEmptyStarts[rule] : starts[rule]
    if known >= 0 { return known }
    let state = try newState()
    owners[Int(state)] = Int32(rule)
    if nonEmpty { nonEmptyStarts[rule] = state } else { starts[rule] = state }
    pending.append(Pending(rule: rule, nonEmpty: nonEmpty, start: state))
    return state
  }

  /// Adds arcs that lead from `source` to `target` over the texts of the expression, with `nonEmpty` over all but the
  /// empty text. Adds none that lead into `source` or out of `target`.
  private mutating func add(
    _ expression: GrammarExpression, _ source: Int32, _ target: Int32, nonEmpty: Bool
  ) throws(GrammarError) {
    try step()
    switch expression {
    case .bytes(let ranges):
      for range in ranges {
        try append(Arc(source: source, target: target, kind: .byte, low: range.lowerBound, high: range.upperBound))
      }
    case .literal(let bytes): try addLiterals([bytes], source, target, nonEmpty)
    case .literals(let literals): try addLiterals(literals, source, target, nonEmpty)
    case .choice(let parts): for part in parts { try add(part, source, target, nonEmpty: nonEmpty) }
    case .rule(let rule):
      let start = try start(of: rule, nonEmpty: nonEmpty)
      try append(Arc(source: source, target: target, kind: .call, operand: start))
    case .sequence(let parts):
      if nonEmpty {
        try addNonEmpty(sequence: parts, source, target)
      } else {
        var state = source
        for (index, part) in parts.enumerated() {
          let next = index == parts.count - 1 ? target : try newState()
          try add(part, state, next, nonEmpty: false)
          state = next
        }
        if parts.isEmpty { try append(Arc(source: source, target: target, kind: .empty)) }
      }
    case .repetition(let part, let minimum, let maximum):
      try addRepetition(part, minimum, maximum, source, target, nonEmpty)
    }
  }

  private mutating func addLiterals(
    _ literals: [[UInt8]], _ source: Int32, _ target: Int32, _ nonEmpty: Bool
  ) throws(GrammarError) {
    var children: [Int64: Int32] = [:]
    var ended: Set<Int32> = []
    for literal in literals where !(nonEmpty && literal.isEmpty) {
      var state = source
      for byte in literal {
        let key = Int64(state) << 8 | Int64(byte)
        if let child = children[key] {
          state = child
        } else {
          let child = try newState()
          children[key] = child
          try append(Arc(source: state, target: child, kind: .byte, low: byte, high: byte))
          state = child
        }
      }
      if ended.insert(state).inserted { try append(Arc(source: state, target: target, kind: .empty)) }
    }
  }

  /// Two lanes: one where nothing was read so far, one where something was. The first leads nowhere at the end.
  private mutating func addNonEmpty(
    sequence parts: [GrammarExpression], _ source: Int32, _ target: Int32
  ) throws(GrammarError) {
    var lane: Int32?
    var canBeEmpty = true
    for (index, part) in parts.enumerated() {
      let next = index == parts.count - 1 ? target : try newState()
      if let lane { try add(part, lane, next, nonEmpty: false) }
      if canBeEmpty {
        try add(part, source, next, nonEmpty: true)
        canBeEmpty = try nullable(part)
      }
      lane = next
    }
  }

  private mutating func addRepetition(
    _ part: GrammarExpression, _ minimum: Int, _ maximum: Int?, _ source: Int32, _ target: Int32, _ nonEmpty: Bool
  ) throws(GrammarError) {
    // Bodies must read something, or a text could be parsed in endless ways: `x*` with an empty `x` is `(x without the
    // empty text)*`, and then it needs no minimum.
    let partIsNullable = try nullable(part)
    let least = partIsNullable ? 0 : minimum
    if least == 0 && !nonEmpty { try append(Arc(source: source, target: target, kind: .empty)) }
    if maximum == 0 { return }
    if least <= 1 && maximum == 1 {
      try add(part, source, target, nonEmpty: partIsNullable)
    } else if least <= 1 && maximum == nil {
      let first = try newState()
      let last = try newState()
      try append(Arc(source: source, target: first, kind: .empty))
      try add(part, first, last, nonEmpty: partIsNullable)
      try append(Arc(source: last, target: first, kind: .empty))
      try append(Arc(source: last, target: target, kind: .empty))
    } else {
      let body = try newState()
      let end = try newState()
      isEnd[Int(end)] = true
      counters.append(
        Counter(body: body, minimum: Int32(max(least, 1)), maximum: maximum.map { Int32(clamping: $0) }))
      let operand = Int32(counters.count - 1)
      try append(Arc(source: source, target: target, kind: .count, operand: operand))
      try add(part, body, end, nonEmpty: partIsNullable)
    }
  }

  // MARK: Checks

  /// Arcs in order of the state that `key` gives for each; `starts[s]..<starts[s + 1]` are those of state s.
  private func index(_ keys: [(state: Int32, arc: Int32)]) -> (starts: [Int32], arcs: [Int32]) {
    var starts = [Int32](repeating: 0, count: isEnd.count + 1)
    for key in keys { starts[Int(key.state) + 1] += 1 }
    for state in 0..<isEnd.count { starts[state + 1] += starts[state] }
    var next = starts
    var sorted = [Int32](repeating: 0, count: keys.count)
    for key in keys {
      sorted[Int(next[Int(key.state)])] = key.arc
      next[Int(key.state)] += 1
    }
    return (starts, sorted)
  }

  /// The states from which the end of their rule can be reached; with `erasing`, without reading a byte.
  private func statesThatEnd(erasing: Bool) -> [Bool] {
    var keys: [(state: Int32, arc: Int32)] = []
    for (number, arc) in arcs.enumerated() {
      keys.append((arc.target, Int32(number)))
      if arc.kind == .call { keys.append((arc.operand, Int32(number))) }
      if arc.kind == .count { keys.append((counters[Int(arc.operand)].body, Int32(number))) }
    }
    let users = index(keys)
    var ends = isEnd
    var work = isEnd.indices.filter { isEnd[$0] }
    while let state = work.popLast() {
      for position in Int(users.starts[state])..<Int(users.starts[state + 1]) {
        let arc = arcs[Int(users.arcs[position])]
        guard !ends[Int(arc.source)], ends[Int(arc.target)] else { continue }
        let holds =
          switch arc.kind {
          case .empty: true
          case .byte: !erasing
          case .call: ends[Int(arc.operand)]
          case .count: ends[Int(counters[Int(arc.operand)].body)]
          }
        if holds {
          ends[Int(arc.source)] = true
          work.append(Int(arc.source))
        }
      }
    }
    return ends
  }

  /// Drops what cannot be completed, so that no accepted text is a dead end.
  private mutating func prune(_ start: Int32) throws(GrammarError) {
    let ends = statesThatEnd(erasing: false)
    guard ends[Int(start)] else {
      throw GrammarError(
        .unsatisfiable, path: path, seen: "its parts contradict each other or never end",
        expected: "a grammar with at least one finite text")
    }
    arcs.removeAll { arc in
      switch arc.kind {
      case .empty, .byte: !ends[Int(arc.target)]
      case .call: !ends[Int(arc.target)] || !ends[Int(arc.operand)]
      case .count: !ends[Int(arc.target)] || !ends[Int(counters[Int(arc.operand)].body)]
      }
    }
  }

  /// A rule that can call itself before it reads a byte would never get to reading one.
  private mutating func refuseLeftRecursion() throws(GrammarError) {
    let erasable = statesThatEnd(erasing: true)
    let outgoing = index(arcs.enumerated().map { ($1.source, Int32($0)) })
    /// Longest chain of calls from each state; 0: not visited, -1: in progress.
    var depth = [Int32](repeating: 0, count: isEnd.count)
    var stack: [(state: Int32, position: Int32, half: Bool)] = []
    for root in 0..<Int32(isEnd.count) where depth[Int(root)] == 0 {
      stack.append((root, outgoing.starts[Int(root)], false))
      depth[Int(root)] = -1
      var longest: [Int32] = [1]
      while let top = stack.last {
        guard top.position < outgoing.starts[Int(top.state) + 1] else {
          let value = longest.removeLast()
          depth[Int(top.state)] = value
          stack.removeLast()
          if !longest.isEmpty { longest[longest.count - 1] = max(longest[longest.count - 1], value + 1) }
          continue
        }
        // Each arc has up to two successors that need no byte: what it enters, and what follows if that can be empty.
        let arc = arcs[Int(outgoing.arcs[Int(top.position)])]
        var successor: Int32?
        switch (arc.kind, top.half) {
        case (.empty, false): successor = arc.target
        case (.call, false): successor = arc.operand
        case (.count, false): successor = counters[Int(arc.operand)].body
        case (.call, true): successor = erasable[Int(arc.operand)] ? arc.target : nil
        default: successor = nil
        }
        if top.half || arc.kind == .byte || arc.kind == .empty {
          stack[stack.count - 1].position += 1
          stack[stack.count - 1].half = false
        } else {
          stack[stack.count - 1].half = true
        }
        guard let successor else { continue }
        switch depth[Int(successor)] {
        case -1:
          throw GrammarError(
            .unsupported, path: "\(path), rule '\(rules.names[Int(owners[Int(successor)])])'", seen: "left recursion",
            expected: "rules that read something before they refer to themselves")
        case 0:
          depth[Int(successor)] = -1
          stack.append((successor, outgoing.starts[Int(successor)], false))
          longest.append(1)
        case let known: longest[longest.count - 1] = max(longest[longest.count - 1], known + 1)
        }
      }
    }
    if let deepest = depth.max(), deepest > Self.longestChain {
      throw GrammarError(
        .limit, path: path, seen: "\(deepest) rules that begin with each other",
        expected: "at most \(Self.longestChain)")
    }
  }

  /// Calls that may have to be entered to read one byte; the automaton's work for a byte grows with it.
  private static let longestChain: Int32 = 4_096

  // MARK: The network

  private mutating func network(_ start: Int32) throws(GrammarError) -> GrammarNetwork {
    var network = GrammarNetwork()
    network.start = start
    network.stateCount = isEnd.count
    let outgoing = index(arcs.enumerated().map { ($1.source, Int32($0)) })
    var operands = [Int32](repeating: 0, count: arcs.count)
    var isEntry = [Bool](repeating: false, count: isEnd.count)
    isEntry[Int(start)] = true
    for (number, arc) in arcs.enumerated() where arc.kind != .empty {
      isEntry[Int(arc.target)] = true
      switch arc.kind {
      case .call:
        isEntry[Int(arc.operand)] = true
        operands[number] = Int32(network.calls.count)
        network.calls.append(.init(start: arc.operand, returnState: arc.target, isTail: false))
      case .count:
        let counter = counters[Int(arc.operand)]
        isEntry[Int(counter.body)] = true
        operands[number] = Int32(network.repetitions.count)
        network.repetitions.append(
          .init(body: counter.body, next: arc.target, minimum: counter.minimum, maximum: counter.maximum))
      case .byte, .empty: break
      }
    }
    // Byte arcs by state, and the classes of bytes that they tell apart.
    var isBorder = [Bool](repeating: false, count: 257)
    for state in 0..<isEnd.count {
      network.byteArcStarts.append(Int32(network.byteArcs.count))
      for position in Int(outgoing.starts[state])..<Int(outgoing.starts[state + 1]) {
        let arc = arcs[Int(outgoing.arcs[position])]
        guard arc.kind == .byte else { continue }
        network.byteArcs.append(.init(low: arc.low, high: arc.high, target: arc.target))
        isBorder[Int(arc.low)] = true
        isBorder[Int(arc.high) + 1] = true
      }
    }
    network.byteArcStarts.append(Int32(network.byteArcs.count))
    network.classBytes = [0]
    for byte in 1..<256 {
      if isBorder[byte] { network.classBytes.append(UInt8(byte)) }
      network.byteClass[byte] = UInt8(network.classBytes.count - 1)
    }
    try addMoves(to: &network, isEntry, outgoing, operands)
    for (number, call) in network.calls.enumerated() {
      let moves = network.moves[network.moves(of: call.returnState)]
      network.calls[number].isTail = moves.count == 1 && moves.first == .end
    }
    return network
  }

  private mutating func addMoves(
    to network: inout GrammarNetwork, _ isEntry: [Bool], _ outgoing: (starts: [Int32], arcs: [Int32]),
    _ operands: [Int32]
  ) throws(GrammarError) {
    var seen = [Int32](repeating: -1, count: isEnd.count)
    var stack: [Int32] = []
    for state in 0..<Int32(isEnd.count) {
      network.moveStarts.append(Int32(network.moves.count))
      guard isEntry[Int(state)] else { continue }
      seen[Int(state)] = state
      stack.append(state)
      while let current = stack.popLast() {
        try step()
        if isEnd[Int(current)] { network.moves.append(.end) }
        if !network.byteArcs(of: current).isEmpty { network.moves.append(.read(current)) }
        for position in Int(outgoing.starts[Int(current)])..<Int(outgoing.starts[Int(current) + 1]) {
          let number = Int(outgoing.arcs[position])
          switch arcs[number].kind {
          case .byte: break
          case .call: network.moves.append(.call(operands[number]))
          case .count: network.moves.append(.count(operands[number]))
          case .empty:
            let target = arcs[number].target
            if seen[Int(target)] != state {
              seen[Int(target)] = state
              stack.append(target)
            }
          }
        }
      }
    }
    network.moveStarts.append(Int32(network.moves.count))
  }
}
