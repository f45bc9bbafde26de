/// How patient a search must be for a tenant of a given size: recall at a fixed patience falls as tenants grow.
struct PatienceTable: Sendable {
  static let standard = 32
  /// A class is the tenants of 2ⁿ …< 2ⁿ⁺¹ vectors.
  private var classes: [Int: Int] = [:]
  private(set) var target: Double?

  init() {}

  private static func sizeClass(_ size: Int) -> Int { size < 1 ? 0 : Int.bitWidth - 1 - size.leadingZeroBitCount }

  /// That of the class; beyond the classes that were tuned, that of the nearest, doubled for each class above.
  func patience(size: Int) -> Int {
    let own = Self.sizeClass(size)
    if let found = classes[own] { return found }
    guard let nearest = classes.keys.min(by: { abs($0 - own) < abs($1 - own) }) else { return Self.standard }
    return classes[nearest]! << max(0, min(own - nearest, 8))
  }

  /// The least patience of a ladder whose recall reaches the target, per class.
  init(
    target: Double, queries: [(vector: [Float], tenant: TenantID)], options: SearchOptions,
    search: ([Float], TenantID, SearchOptions) throws -> SearchResult, size: (TenantID) -> Int
  ) throws {
    guard target > 0, target <= 1 else {
      throw VectorError.parameter("target recall", seen: "\(target)", expected: "above 0, at most 1")
    }
    self.target = target
    var byClass: [Int: [(vector: [Float], tenant: TenantID, truth: Set<VectorID>)]] = [:]
    for (vector, tenant) in queries {
      let count = size(tenant)
      guard count > options.exactThreshold else { continue }
      var exact = options
      exact.exact = true
      let truth = try search(vector, tenant, exact).neighbours.map(\.id)
      byClass[Self.sizeClass(count), default: []].append((vector, tenant, Set(truth)))
    }
    for (sizeClass, pairs) in byClass {
      var chosen = Self.ladder.last!
      for patience in Self.ladder {
        var (hit, all) = (0, 0)
        for pair in pairs {
          var asked = options
          asked.patience = patience
          hit += try search(pair.vector, pair.tenant, asked).neighbours.count { pair.truth.contains($0.id) }
          all += pair.truth.count
        }
        if Double(hit) >= target * Double(all) {
          chosen = patience
          break
        }
      }
      classes[sizeClass] = chosen
    }
  }

  /// Steps of about a fifth.
  private static let ladder: [Int] = {
    var steps = [1, 2, 3, 4, 5, 6, 7, 8]
    while steps.last! < 1 << 16 { steps.append(steps.last! * 6 / 5) }
    return steps
  }()
}
