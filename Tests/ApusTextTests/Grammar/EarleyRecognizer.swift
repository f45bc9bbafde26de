/// A slow and obvious recogniser of context-free grammars over bytes (Earley, CACM 1970), to check the automaton against.
struct EarleyRecognizer {
  enum Symbol: Hashable {
    case bytes(Set<UInt8>)
    case rule(Int)
  }

  fileprivate struct Item: Hashable {
    var rule: Int
    var alternative: Int
    var dot: Int
    var origin: Int
  }

  /// What is known at one place of a text.
  private struct Column {
    var items: Set<Item> = []
    var waiting: [Int: [Item]] = [:]
    var scans: [Item] = []
    /// Rules that match the empty text here.
    var empty: Set<Int> = []
    var ends = false
  }

  /// Alternatives of each rule; rule 0 is the whole text.
  private let rules: [[[Symbol]]]
  private var columns: [Column] = []

  /// Alternatives that can never be completed are left out: a prefix counts only if some text goes on from it.
  init(_ rules: [[[Symbol]]]) {
    var productive = Set<Int>()
    func isProductive(_ symbols: [Symbol]) -> Bool {
      symbols.allSatisfy { symbol in
        switch symbol {
        case .bytes(let set): !set.isEmpty
        case .rule(let rule): productive.contains(rule)
        }
      }
    }
    var before = -1
    while before != productive.count {
      before = productive.count
      for (rule, alternatives) in rules.enumerated() where alternatives.contains(where: isProductive) {
        productive.insert(rule)
      }
    }
    self.rules = rules.map { $0.filter(isProductive) }
    columns = [close(self.rules[0].indices.map { Item(rule: 0, alternative: $0, dot: 0, origin: 0) }, at: 0)]
  }

  /// Whether some text begins with the bytes so far.
  var begins: Bool { columns.last.map { !$0.items.isEmpty } ?? false }

  /// Whether the bytes so far are a whole text.
  var ends: Bool { columns.last?.ends ?? false }

  /// The same recogniser further along.
  func advanced(by bytes: some Sequence<UInt8>) -> EarleyRecognizer {
    var copy = self
    for byte in bytes where copy.begins { copy.advance(byte) }
    return copy
  }

  private mutating func advance(_ byte: UInt8) {
    var next: [Item] = []
    for item in columns[columns.count - 1].scans {
      guard case .bytes(let set) = rules[item.rule][item.alternative][item.dot], set.contains(byte) else { continue }
      next.append(item.moved)
    }
    columns.append(close(next, at: columns.count))
  }

  private func close(_ start: [Item], at position: Int) -> Column {
    var column = Column()
    var work = start
    while let item = work.popLast() {
      guard column.items.insert(item).inserted else { continue }
      let symbols = rules[item.rule][item.alternative]
      guard item.dot < symbols.count else {
        if item.rule == 0 && item.origin == 0 { column.ends = true }
        if item.origin == position { column.empty.insert(item.rule) }
        let waiting = item.origin == position ? column.waiting[item.rule] : columns[item.origin].waiting[item.rule]
        work += (waiting ?? []).map(\.moved)
        continue
      }
      switch symbols[item.dot] {
      case .bytes: column.scans.append(item)
      case .rule(let rule):
        column.waiting[rule, default: []].append(item)
        if column.empty.contains(rule) { work.append(item.moved) }
        work += rules[rule].indices.map { Item(rule: rule, alternative: $0, dot: 0, origin: position) }
      }
    }
    return column
  }
}

extension EarleyRecognizer.Item {
  fileprivate var moved: Self {
    var copy = self
    copy.dot += 1
    return copy
  }
}
