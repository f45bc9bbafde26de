/// How many requests ended, and how long they took, by route and status.
struct RequestCounts: Sendable {
  /// Of which there are only so many: nothing in it is a client's to choose.
  struct Kind: Sendable, Hashable {
    var interface: RequestRecord.Interface
    /// Empty where there is no route.
    var method: String
    var route: String
    var status: Int

    init(_ record: RequestRecord) {
      interface = record.interface
      method = record.route == nil ? "" : record.method
      route = record.route ?? ""
      status = record.status ?? 0
    }

    var labels: [(String, String)] {
      [("interface", interface.rawValue), ("method", method), ("route", route), ("status", "\(status)")]
    }
  }

  private(set) var all: [Kind: (count: Int, seconds: Double)] = [:]

  mutating func add(_ record: RequestRecord) {
    let old = all[Kind(record)] ?? (0, 0)
    all[Kind(record)] = (old.count + 1, old.seconds + (record.endedAfter ?? 0))
  }

  /// In the order of the labels.
  var sorted: [(labels: [(String, String)], count: Int, seconds: Double)] {
    all.map { (labels: $0.labels, count: $1.count, seconds: $1.seconds) }
      .sorted { $0.labels.map(\.1).lexicographicallyPrecedes($1.labels.map(\.1)) }
  }
}
