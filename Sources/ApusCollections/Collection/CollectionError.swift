/// What can go wrong in a collection. A point, tenant or collection that is absent and one that the caller may not see
/// give the same error, to the letter.
public enum CollectionError: Error, Equatable {
  case notFound(String)
  /// Something that only an administrator may do, or in another tenant's name.
  case forbidden(String)
  case inactive(tenant: String, state: TenantState)
  /// `limit` is nil where the tenant is another than the caller.
  case quotaExceeded(path: String, tenant: String, limit: Int?)
  /// A field of a request, by its path.
  case invalid(path: String, seen: String, expected: String)
  case exists(String)
  case embedding(String)
  /// No embedding model of this name runs here; `known` are those that do.
  case unknownModel(String, known: [String])
  /// The files contradict each other.
  case corrupt(String)
  /// An earlier write failed half-way: what is on disk is known only after opening again.
  case unusable(String)
}

extension CollectionError: CustomStringConvertible {
  public var description: String {
    switch self {
    case .notFound(let what): "\(what) does not exist"
    case .forbidden(let what): what
    case .inactive(let tenant, let state):
      "the tenant '\(tenant)' is \(state.rawValue); an administrator can make it active"
    case .quotaExceeded(let path, let tenant, let limit):
      "\(path): the tenant '\(tenant)' can hold no more vectors" + (limit.map { "; its quota is \($0)" } ?? "")
    case .invalid(let path, let seen, let expected): "\(path) is \(seen), expected \(expected)"
    case .exists(let what): "\(what) exists already"
    case .embedding(let what): what
    case .unknownModel(let name, let known):
      "the embedding model '\(name)' does not run here, "
        + (known.isEmpty ? "and no other does" : "expected one of \(known.joined(separator: ", "))")
    case .corrupt(let what): "the collection contradicts itself: \(what)"
    case .unusable(let why): "the collection accepts no writes until it is opened again: \(why)"
    }
  }
}
