/// What the owner of a key may do.
public enum Role: String, Sendable, CaseIterable {
  /// May also do what is an administrator's, and act as any tenant.
  case admin
  /// Acts as the tenant of its own name, and as no other.
  case tenant
}

/// Who is an administrator: the one place that decides it.
///
/// ```swift
/// let roles = Roles(["ops": .admin, "admin": .tenant])
/// roles.principal(keyOwner: "ops", naming: "alice")   // acts as alice, with an administrator's rights
/// ```
public struct Roles: Sendable, Equatable {
  private let given: [String: Role]

  /// `given` are roles by the names of keys' owners. Of whom nothing is said: the key named `admin` is an administrator's,
  /// every other a tenant's.
  public init(_ given: [String: Role] = [:]) { self.given = given }

  private static let usual: [String: Role] = ["admin": .admin]

  public func role(of keyOwner: String) -> Role { given[keyOwner] ?? Self.usual[keyOwner] ?? .tenant }

  /// Who acts with a key of this owner's and names that tenant; nil if the owner may not act as it. Without an owner, on a
  /// server without keys, everybody may do everything.
  public func principal(
    keyOwner: String?, naming tenant: String?, defaultTenant: String = Principal.defaultTenant
  ) -> Principal? {
    guard let keyOwner else { return Principal(tenant: tenant ?? defaultTenant, isAdmin: true) }
    let isAdmin = role(of: keyOwner) == .admin
    guard tenant == nil || tenant == keyOwner || isAdmin else { return nil }
    return Principal(tenant: tenant ?? keyOwner, isAdmin: isAdmin)
  }
}
