/// Who acts: a tenant as itself, and whether it may also do what is an administrator's.
public struct Principal: Sendable, Equatable {
  public var tenant: String
  public var isAdmin: Bool

  public init(tenant: String, isAdmin: Bool = false) {
    self.tenant = tenant
    self.isAdmin = isAdmin
  }

  /// As whom those act who say nothing, on a server without keys.
  public static let defaultTenant = "default"

  /// Throws `CollectionError.invalid` for a name that no tenant can have.
  public func validate() throws { try Check.tenant(tenant, path: "tenant") }

  /// Throws `CollectionError.forbidden`.
  func requireAdmin(_ what: String) throws {
    guard isAdmin else { throw CollectionError.forbidden("only an administrator may \(what)") }
  }
}

public enum TenantState: String, Sendable, Codable, CaseIterable {
  case active
  /// Nothing but administration is answered.
  case inactive
  /// As inactive, and out of memory: its index and the vectors that only it has are on disk. Its members are refused, too.
  case offloaded
}

/// A tenant or group as the catalogue knows it.
public struct Tenant: Sendable, Equatable {
  /// Given out once, also after the tenant is gone.
  public var id: UInt32
  public var name: String
  public var state = TenantState.active
  /// Its own; where one is nil, the collection's default holds.
  public var quotas = TenantQuotas()
  public var groups: [UInt32] = []
}

/// What an administrator changes of a tenant; nil leaves it.
public struct TenantUpdate: Sendable, Equatable {
  public enum Quota<Limit: Sendable & Equatable>: Sendable, Equatable {
    /// The collection's default, where it has one.
    case unlimited
    case at(Limit)

    fileprivate var limit: Limit? { if case .at(let limit) = self { limit } else { nil } }
  }
  public var state: TenantState?
  /// Vectors.
  public var quota: Quota<Int>?
  public var byteQuota: Quota<Int>?
  /// Queries a second.
  public var queryQuota: Quota<Double>?
  /// Names of the groups, all of them.
  public var groups: [String]?

  public init(
    state: TenantState? = nil, quota: Quota<Int>? = nil, byteQuota: Quota<Int>? = nil,
    queryQuota: Quota<Double>? = nil, groups: [String]? = nil
  ) {
    self.state = state
    self.quota = quota
    self.byteQuota = byteQuota
    self.queryQuota = queryQuota
    self.groups = groups
  }

  /// Throws `CollectionError.invalid`.
  func validate() throws {
    for (path, limit) in [("quota", quota?.limit), ("byte_quota", byteQuota?.limit)] {
      if let limit, limit < 0 { throw CollectionError.invalid(path: path, seen: "\(limit)", expected: "0 or more") }
    }
    if let rate = queryQuota?.limit, !(rate.isFinite && rate > 0) {
      throw CollectionError.invalid(path: "query_quota", seen: "\(rate)", expected: "queries a second, above 0")
    }
  }

  /// A tenant's own quotas once it is applied.
  func applied(to quotas: TenantQuotas) -> TenantQuotas {
    TenantQuotas(
      vectors: quota == nil ? quotas.vectors : quota?.limit, bytes: byteQuota == nil ? quotas.bytes : byteQuota?.limit,
      queries: queryQuota == nil ? quotas.queries : queryQuota?.limit)
  }
}

/// The figures of one tenant.
public struct TenantStats: Sendable, Codable, Equatable {
  public var tenant: String
  public var state: TenantState
  /// Its own, and the collection's defaults where it has none.
  public var quotas: TenantQuotas
  public var groups: [String]
  /// Points that it owns.
  public var owned: Int
  /// Vectors that it was granted itself, its own included: what the quota of vectors limits.
  public var held: Int
  /// Points that it may see, by its groups too.
  public var visible: Int
  /// What the quota of bytes limits.
  public var bytes: TenantBytes
  /// Queries that came too fast since the collection was opened.
  public var refusedQueries: Int
  /// For an administrator: they depend on how others' vectors are clustered, and on how busy the machine is.
  public var searches: SearchCounts?
}

/// What a tenant's searches have cost since the collection was opened.
public struct SearchCounts: Sendable, Codable, Equatable {
  public var count = 0
  /// Vectors whose distance was computed.
  public var scanned = 0
  /// Microseconds of time that passed, payloads included.
  public var microseconds = 0

  public init() {}
}
