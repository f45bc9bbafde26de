import ApusCollections

/// Whose keys a server knows, and who may do what is an administrator's.
public struct CallerPolicy: Sendable {
  /// The name of a key's owner, nil for an unknown key; without it everybody may do everything.
  public var keyOwner: (@Sendable (Substring) -> String?)?
  public var roles: Roles
  /// As whom those act who say nothing, on a server without keys.
  public var defaultTenant: String

  public init(
    keyOwner: (@Sendable (Substring) -> String?)? = nil, roles: Roles = Roles(),
    defaultTenant: String = Principal.defaultTenant
  ) {
    self.keyOwner = keyOwner
    self.roles = roles
    self.defaultTenant = defaultTenant
  }

  /// As whom the owner of a key acts, nil on a server without keys. Throws ``CallError``.
  func principal(keyOwner: String?, tenant named: String?) throws -> Principal {
    guard let principal = roles.principal(keyOwner: keyOwner, naming: named, defaultTenant: defaultTenant) else {
      throw CallError.otherTenant
    }
    try principal.validate()
    return principal
  }

  /// The owner of the key that a call brought; nil on a server without keys. Throws ``CallError``.
  func owner(authorization: String?, apiKey: String?) throws -> String? {
    guard let keyOwner else { return nil }
    let bearer = authorization.flatMap { $0.hasPrefix(Self.scheme) ? $0.dropFirst(Self.scheme.count) : nil }
    guard let key = bearer ?? apiKey.map({ $0[...] }) else {
      throw CallError.unauthenticated("this server wants an API key: authorization: Bearer KEY")
    }
    guard let owner = keyOwner(key) else { throw CallError.unauthenticated("the API key is not known") }
    return owner
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
