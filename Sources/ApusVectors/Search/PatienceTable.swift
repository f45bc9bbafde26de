/// How patient a search must be for a recall and a tenant's size: recall at a fixed patience falls as tenants grow.
struct PatienceTable: Sendable {
  static let standard = 32

  /// What tuning found for one target.
  private struct Tuned: Sendable {
    var target: Double
    /// Patience by size class, of the classes that had tenants.
    var classes: [Int: Int]
    /// Of every class.
    var patience: [Int]

    init(target: Double, classes: [Int: Int]) {
      self.target = target
      self.classes = classes
      // Beyond the classes that were tuned: that of the nearest, doubled for each class above.
      patience = (0...PatienceTable.greatestClass).map { own in
        guard let nearest = classes.keys.min(by: { (abs($0 - own), $0) < (abs($1 - own), $1) }) else {
          return PatienceTable.standard
        }
        return classes[nearest]! << max(0, min(own - nearest, 8))
      }
    }
  }

  /// A class is the tenants of 2ⁿ …< 2ⁿ⁺¹ vectors.
  private static let greatestClass = 31
  /// The one that was tuned last at the end.
  private var tuned: [Tuned] = []

  init() {}

  init(target: Double, classes: [Int: Int]) { tuned = [Tuned(target: target, classes: classes)] }

  static func sizeClass(_ size: Int) -> Int {
    size < 1 ? 0 : min(greatestClass, Int.bitWidth - 1 - size.leadingZeroBitCount)
  }

  /// The patience for a tenant of `size` vectors, and the recall that it was tuned for: the least that is not below
  /// `target`, or else the greatest; without `target` the one that was tuned last. Before any tuning the standard.
  func patience(size: Int, target: Double?) -> (patience: Int, target: Double?) {
    guard let latest = tuned.last else { return (Self.standard, nil) }
    var best = latest
    if let target {
      for other in tuned {
        let isBetter = best.target < target ? other.target > best.target : (target..<best.target).contains(other.target)
        if isBetter { best = other }
      }
    }
    return (best.patience[Self.sizeClass(size)], best.target)
  }

  /// With what `newer` found: it replaces the same targets, and its last is the last.
  func merged(with newer: PatienceTable) -> PatienceTable {
    var all = self
    all.tuned.removeAll { old in newer.tuned.contains { $0.target == old.target } }
    all.tuned += newer.tuned
    return all
  }

  // MARK: as bytes

  /// `[target f64][classes u8]{[class u8][patience u32]}` for each target; little endian.
  func encoded() -> [UInt8] {
    var out: [UInt8] = []
    for one in tuned {
      out.append(littleEndian: one.target.bitPattern)
      out.append(UInt8(one.classes.count))
      for (sizeClass, patience) in one.classes.sorted(by: { $0.key < $1.key }) {
        out.append(UInt8(sizeClass))
        out.append(littleEndian: UInt32(patience))
      }
    }
    return out
  }

  /// Reads what `encoded` wrote; throws `VectorError.corrupt`.
  init(decoding bytes: UnsafeRawBufferPointer) throws {
    var reader = ByteReader(bytes, what: "tuning table")
    while reader.remaining > 0 {
      let target = Double(bitPattern: try reader.next(UInt64.self))
      guard target > 0, target <= 1 else { throw VectorError.corrupt("a target recall of \(target)") }
      var classes: [Int: Int] = [:]
      for _ in 0..<(try reader.next(UInt8.self)) {
        let sizeClass = Int(try reader.next(UInt8.self))
        let patience = Int(try reader.next(UInt32.self))
        guard sizeClass <= Self.greatestClass, (1...Int(Int32.max)).contains(patience) else {
          throw VectorError.corrupt("patience \(patience) in class \(sizeClass)")
        }
        classes[sizeClass] = patience
      }
      tuned.append(Tuned(target: target, classes: classes))
    }
  }
}

/// Fits the patience of each size class of tenants so that recall reaches a target; exact search is the truth.
///
/// Queries are half vectors of the tenant itself and half vectors of anybody, each left out of its own answer: a query
/// from outside of a tenant's clusters needs more patience than one from inside.
struct PatienceTuning {
  struct Query {
    var vector: [Float]
    var id: VectorID
    var tenant: TenantID
  }

  var target: Double
  var options: SearchOptions
  var search: (Query, SearchOptions) throws -> [VectorID]

  /// Steps of about a fifth.
  static let ladder: [Int] = {
    var steps = [1, 2, 3, 4, 5, 6, 7, 8]
    while steps.last! < 1 << 14 { steps.append(steps.last! * 6 / 5) }
    return steps
  }()

  /// The least patience whose recall reaches the target.
  func patience(_ queries: [Query]) throws -> Int {
    var exact = options
    exact.exact = true
    exact.k = options.k + 1
    let truth = try queries.map { query in Set(try search(query, exact).filter { $0 != query.id }.prefix(options.k)) }
    func reaches(_ patience: Int) throws -> Bool {
      var asked = options
      asked.k = options.k + 1
      asked.patience = patience
      var (hit, all) = (0, 0)
      for (query, truth) in zip(queries, truth) {
        hit += try search(query, asked).filter { $0 != query.id }.prefix(options.k).count { truth.contains($0) }
        all += truth.count
      }
      return Double(hit) >= target * Double(all)
    }
    // Recall grows with patience.
    var (low, high) = (0, Self.ladder.count - 1)
    while low < high {
      let middle = (low + high) / 2
      if try reaches(Self.ladder[middle]) { high = middle } else { low = middle + 1 }
    }
    return Self.ladder[low]
  }
}
