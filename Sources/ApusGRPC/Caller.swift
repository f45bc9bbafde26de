import ApusCollections

/// Whose keys a server knows, and who may do what is an administrator's.
public struct CallerPolicy: Sendable {
  /// The name of a key's owner, nil for an unknown key; without it everybody may do everything.
  public var keyOwner: (@Sendable (Substring) -> String?)?
  /// Names of keys that may also act as any tenant.
  public var admins: Set<String>
  /// As whom those act who say nothing, on a server without keys.
  public var defaultTenant: String

  public init(
    keyOwner: (@Sendable (Substring) -> String?)? = nil, admins: Set<String> = ["admin"],
    defaultTenant: String = "default"
  ) {
    self.keyOwner = keyOwner
    self.admins = admins
    self.defaultTenant = defaultTenant
  }

  /// Who makes a call with this metadata. Throws ``CallError``.
  func principal(authorization: Substring?, apiKey: Substring?, tenant named: String?) throws -> Principal {
    guard let keyOwner else { return Principal(tenant: named ?? defaultTenant, isAdmin: true) }
    let bearer = authorization.flatMap { $0.hasPrefix(Self.scheme) ? $0.dropFirst(Self.scheme.count) : nil }
    guard let key = bearer ?? apiKey else {
      throw CallError.unauthenticated("this server wants an API key: authorization: Bearer KEY")
    }
    guard let owner = keyOwner(key) else { throw CallError.unauthenticated("the API key is not known") }
    let isAdmin = admins.contains(owner)
    guard named == nil || named == owner || isAdmin else { throw CallError.otherTenant }
    return Principal(tenant: named ?? owner, isAdmin: isAdmin)
  }

  private static let scheme = "Bearer "
}

/// Who makes the call that is being answered.
enum Caller {
  @TaskLocal static var principal: Principal?

  /// Throws when nobody was let in, which the interceptor rules out.
  static var current: Principal {
    get throws {
      guard let principal else { throw CallError.unauthenticated("the call has no principal") }
      return principal
    }
  }
}
