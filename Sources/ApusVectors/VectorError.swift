/// What can go wrong in a vector index.
public enum VectorError: Error, Equatable {
  case configuration(field: String, value: Int, allowed: ClosedRange<Int>)
  case dimension(seen: Int, expected: Int)
  /// NaN or infinity at this place of the vector.
  case notFinite(index: Int)
  /// Cosine has no answer for the zero vector.
  case zeroVector
  case unknownVector(VectorID)
  /// The tenant, or a group that the asking one is in, is out of memory.
  case offloaded(TenantID)
  case parameter(String, seen: String, expected: String)
  /// The data contradict themselves.
  case corrupt(String)
  /// A result did not pass the check of rights at the exit: nothing was returned.
  case isolation(String)
  case full(String)
}

extension VectorError: CustomStringConvertible {
  public var description: String {
    switch self {
    case .configuration(let field, let value, let allowed):
      "\(field) is \(value); it must lie in \(allowed.lowerBound)…\(allowed.upperBound)"
    case .dimension(let seen, let expected): "the vector has \(seen) numbers; the collection has \(expected)"
    case .notFinite(let index): "number \(index) of the vector is not finite; NaN and infinity have no distance"
    case .zeroVector: "the vector is all zeros, which has no direction; the collection's metric is cosine"
    case .unknownVector(let id): "no vector has the id \(id)"
    case .offloaded(let tenant): "the tenant \(tenant) is offloaded; load it first"
    case .parameter(let name, let seen, let expected): "\(name) is \(seen); expected \(expected)"
    case .corrupt(let what): "the index contradicts itself: \(what). Restore a snapshot, or open with salvage"
    case .isolation(let what): "a result failed the check of rights and was withheld: \(what). Please report this"
    case .full(let what): "the index is full: \(what)"
    }
  }
}
