import Synchronization

/// An `AutomatonTable` that any number of threads may use: one lock around it, held for one step or one mask.
final class LazyAutomaton: Sendable {
  private let table: Mutex<AutomatonTable>
  let start: Int32

  init(_ network: GrammarNetwork) {
    let fresh = AutomatonTable(network)
    start = fresh.start
    table = Mutex(fresh)
  }

  func withTable<Result>(_ body: (inout AutomatonTable) -> sending Result) -> sending Result {
    table.withLock(body)
  }
}
