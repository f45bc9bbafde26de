/// Who acts: a tenant as itself, and whether it may also do what is an administrator's.
public struct Principal: Sendable, Equatable {
  public var tenant: String
  public var isAdmin: Bool

  public init(tenant: String, isAdmin: Bool = false) {
    self.tenant = tenant
    self.isAdmin = isAdmin
  }

  /// Names of keys that may also do what is an administrator's, and act as any tenant.
  public static let administrators: Set<String> = ["admin"]
  /// As whom those act who say nothing, on a server without keys.
  public static let defaultTenant = "default"

  /// Who acts with a key of this owner's and names that tenant; nil if the owner may not act as it. Without an owner, on a
  /// server without keys, everybody may do everything.
  public init?(
    keyOwner: String?, naming tenant: String?, administrators: Set<String> = Self.administrators,
    defaultTenant: String = Self.defaultTenant
  ) {
    guard let keyOwner else {
      self.init(tenant: tenant ?? defaultTenant, isAdmin: true)
      return
    }
    let isAdmin = administrators.contains(keyOwner)
    guard tenant == nil || tenant == keyOwner || isAdmin else { return nil }
    self.init(tenant: tenant ?? keyOwner, isAdmin: isAdmin)
  }

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
  /// Vectors that it may hold, own and granted; nil for no limit.
  public var quota: Int?
  public var groups: [UInt32] = []
}

/// What an administrator changes of a tenant; nil leaves it.
public struct TenantUpdate: Sendable, Equatable {
  public enum Quota: Sendable, Equatable {
    case unlimited
    case vectors(Int)
  }
  public var state: TenantState?
  public var quota: Quota?
  /// Names of the groups, all of them.
  public var groups: [String]?

  public init(state: TenantState? = nil, quota: Quota? = nil, groups: [String]? = nil) {
    self.state = state
    self.quota = quota
    self.groups = groups
  }
}

/// The figures of one tenant.
public struct TenantStats: Sendable, Codable, Equatable {
  public var tenant: String
  public var state: TenantState
  public var quota: Int?
  public var groups: [String]
  /// Points that it owns.
  public var owned: Int
  /// Vectors that it was granted itself, its own included: what the quota limits.
  public var held: Int
  /// Points that it may see, by its groups too.
  public var visible: Int
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
