/// What can go wrong in a collection. A point, tenant or collection that is absent and one that the caller may not see
/// give the same error, to the letter.
public enum CollectionError: Error, Equatable {
  case notFound(String)
  /// Something that only an administrator may do, or in another tenant's name.
  case forbidden(String)
  case inactive(tenant: String, state: TenantState)
  /// `limit` is nil where the tenant is another than the caller.
  case quotaExceeded(path: String, tenant: String, quota: StorageQuota, limit: Int?)
  /// `limit` is queries a second, `retryAfter` seconds.
  case tooManyQueries(tenant: String, limit: Double, retryAfter: Double)
  /// A field of a request, by its path.
  case invalid(path: String, seen: String, expected: String)
  case exists(String)
  case embedding(String)
  /// No embedding model of this name runs here; `known` are those that do.
  case unknownModel(String, known: [String])
  /// The embedding model of the collection's name is another than the one that made its vectors; SHA-256 of the weights.
  case otherWeights(model: String, seen: String, expected: String)
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
    case .quotaExceeded(let path, let tenant, let quota, let limit):
      "\(path): the tenant '\(tenant)' can hold no more \(quota.rawValue)"
        + (limit.map { "; its quota is \($0)" } ?? "")
    case .tooManyQueries(let tenant, let limit, let wait):
      "the tenant '\(tenant)' asks more than its \(limit) queries a second: try again in \((wait * 1000).rounded(.up) / 1000) "
        + "seconds"
    case .invalid(let path, let seen, let expected): "\(path) is \(seen), expected \(expected)"
    case .exists(let what): "\(what) exists already"
    case .embedding(let what): what
    case .unknownModel(let name, let known):
      "the embedding model '\(name)' does not run here, "
        + (known.isEmpty ? "and no other does" : "expected one of \(known.joined(separator: ", "))")
    case .otherWeights(let model, let seen, let expected):
      "the embedding model '\(model)' that runs here has the weights \(seen), expected \(expected), which made the "
        + "collection's vectors: run those under this name, or make a new collection and store the texts again"
    case .corrupt(let what): "the collection contradicts itself: \(what)"
    case .unusable(let why): "the collection accepts no writes until it is opened again: \(why)"
    }
  }
}
