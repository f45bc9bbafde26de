/// How patient a search must be for a tenant of a given size: recall at a fixed patience falls as tenants grow.
struct PatienceTable: Sendable {
  static let standard = 32
  /// A class is the tenants of 2ⁿ …< 2ⁿ⁺¹ vectors.
  private var classes: [Int: Int] = [:]
  private(set) var target: Double?

  init() {}

  static func sizeClass(_ size: Int) -> Int { size < 1 ? 0 : Int.bitWidth - 1 - size.leadingZeroBitCount }

  /// That of the class; beyond the classes that were tuned, that of the nearest, doubled for each class above.
  func patience(size: Int) -> Int {
    let own = Self.sizeClass(size)
    if let found = classes[own] { return found }
    guard let nearest = classes.keys.min(by: { abs($0 - own) < abs($1 - own) }) else { return Self.standard }
    return classes[nearest]! << max(0, min(own - nearest, 8))
  }

  init(target: Double, classes: [Int: Int]) {
    self.target = target
    self.classes = classes
  }

  // MARK: as bytes

  func encoded() -> [UInt8] {
    var out: [UInt8] = []
    out.append(littleEndian: (target ?? 0).bitPattern)
    for (sizeClass, patience) in classes.sorted(by: { $0.key < $1.key }) {
      out.append(UInt8(sizeClass))
      out.append(littleEndian: UInt32(patience))
    }
    return out
  }

  init(decoding bytes: UnsafeRawBufferPointer) throws {
    var reader = ByteReader(bytes, what: "tuning table")
    let target = Double(bitPattern: try reader.next(UInt64.self))
    guard target >= 0, target <= 1 else { throw VectorError.corrupt("a target recall of \(target)") }
    self.target = target == 0 ? nil : target
    while reader.remaining > 0 {
      let sizeClass = Int(try reader.next(UInt8.self))
      let patience = Int(try reader.next(UInt32.self))
      guard sizeClass < 32, patience >= 1 else {
        throw VectorError.corrupt("patience \(patience) in class \(sizeClass)")
      }
      classes[sizeClass] = patience
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
