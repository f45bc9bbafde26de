import ApusVectors

/// What an index should hold, as dictionaries of sets: the oracle of the isolation tests.
struct ShadowModel {
  var vectors: [VectorID: [Float]] = [:]
  var grants: [VectorID: Set<TenantID>] = [:]
  var groups: [TenantID: Set<TenantID>] = [:]
  var offloaded: Set<TenantID> = []

  /// The tenant and the groups that it sees through, all the way up.
  func view(_ tenant: TenantID) -> Set<TenantID> {
    var seen: Set<TenantID> = [tenant]
    var open = [tenant]
    while let next = open.popLast() {
      for group in groups[next] ?? [] where seen.insert(group).inserted { open.append(group) }
    }
    return seen
  }

  func visible(to tenant: TenantID, filter: AccessFilter? = nil) -> Set<VectorID> {
    let view = view(tenant)
    return Set(
      grants.filter { !$0.value.isDisjoint(with: view) && passes($0.value.intersection(view), filter) }.map(\.key))
  }

  private func passes(_ tenants: Set<TenantID>, _ filter: AccessFilter?) -> Bool {
    guard let filter else { return true }
    // By hand, not by the index's own evaluation.
    func holds(_ filter: AccessFilter) -> Bool {
      switch filter {
      case .tenant(let tenant): return tenants.contains(tenant)
      case .and(let parts): return !parts.map(holds).contains(false)
      case .or(let parts): return parts.map(holds).contains(true)
      case .not(let part): return !holds(part)
      }
    }
    return holds(filter)
  }

  mutating func dropTenant(_ tenant: TenantID) {
    for id in grants.keys { grants[id]!.remove(tenant) }
    groups[tenant] = nil
    offloaded.remove(tenant)
  }
}

extension TestRandom {
  /// A formula of at most `depth` over tenants below `tenants`.
  mutating func filter(depth: Int, tenants: Int) -> AccessFilter {
    switch depth <= 1 ? 0 : below(4) {
    case 1: .and((0..<below(4)).map { _ in filter(depth: depth - 1, tenants: tenants) })
    case 2: .or((0..<below(4)).map { _ in filter(depth: depth - 1, tenants: tenants) })
    case 3: .not(filter(depth: depth - 1, tenants: tenants))
    default: .tenant(TenantID(below(tenants)))
    }
  }
}
