/// A condition on who else was granted a vector. It narrows what the caller may see and never widens it: the answer is
/// always a part of the caller's own vectors, and a tenant that the caller is not counts as one that has nothing.
public indirect enum AccessFilter: Sendable, Equatable {
  case tenant(TenantID)
  /// All of them; of none: everything that the caller may see.
  case and([AccessFilter])
  /// Any of them; of none: nothing.
  case or([AccessFilter])
  case not(AccessFilter)

  /// Formulas of requests are not deeper.
  public static let maximumDepth = 32

  var depth: Int {
    switch self {
    case .tenant: 1
    case .and(let parts), .or(let parts): 1 + (parts.map(\.depth).max() ?? 0)
    case .not(let part): 1 + part.depth
    }
  }

  /// Whether a vector passes that the tenants for which `has` is true were granted.
  func matches(_ has: (TenantID) -> Bool) -> Bool {
    switch self {
    case .tenant(let tenant): has(tenant)
    case .and(let parts): parts.allSatisfy { $0.matches(has) }
    case .or(let parts): parts.contains { $0.matches(has) }
    case .not(let part): !part.matches(has)
    }
  }

  /// What is certain of all vectors below a node when of each tenant only this is known: it has none of them (false) or
  /// perhaps some (nil).
  func certain(_ known: (TenantID) -> Bool?) -> Bool? {
    switch self {
    case .tenant(let tenant): return known(tenant)
    case .and(let parts):
      var all: Bool? = true
      for part in parts {
        guard let value = part.certain(known) else {
          all = nil
          continue
        }
        if !value { return false }
      }
      return all
    case .or(let parts):
      var any: Bool? = false
      for part in parts {
        guard let value = part.certain(known) else {
          any = nil
          continue
        }
        if value { return true }
      }
      return any
    case .not(let part): return part.certain(known).map { !$0 }
    }
  }

  /// The ascending slots that pass, from those of each tenant below one node.
  func evaluate(_ slots: (TenantID) -> ArraySlice<UInt32>) -> SlotSet {
    switch self {
    case .tenant(let tenant): return SlotSet(slots: Array(slots(tenant)), isComplement: false)
    case .and(let parts):
      return parts.reduce(SlotSet(slots: [], isComplement: true)) { $0.intersection($1.evaluate(slots)) }
    case .or(let parts):
      return parts.reduce(SlotSet(slots: [], isComplement: false)) { $0.union($1.evaluate(slots)) }
    case .not(let part):
      var set = part.evaluate(slots)
      set.isComplement.toggle()
      return set
    }
  }
}

/// Ascending slots, or all but those.
struct SlotSet: Equatable {
  var slots: [UInt32]
  var isComplement: Bool

  func intersection(_ other: SlotSet) -> SlotSet {
    switch (isComplement, other.isComplement) {
    case (false, false):
      SlotSet(slots: Self.merge(slots, other.slots, both: true, first: false, second: false), isComplement: false)
    case (false, true):
      SlotSet(slots: Self.merge(slots, other.slots, both: false, first: true, second: false), isComplement: false)
    case (true, false):
      SlotSet(slots: Self.merge(slots, other.slots, both: false, first: false, second: true), isComplement: false)
    case (true, true):
      SlotSet(slots: Self.merge(slots, other.slots, both: true, first: true, second: true), isComplement: true)
    }
  }

  func union(_ other: SlotSet) -> SlotSet {
    // De Morgan.
    var result = complement.intersection(other.complement)
    result.isComplement.toggle()
    return result
  }

  private var complement: SlotSet { SlotSet(slots: slots, isComplement: !isComplement) }

  /// The numbers that are in both lists, only in the first, only in the second, as asked for.
  private static func merge(_ a: [UInt32], _ b: [UInt32], both: Bool, first: Bool, second: Bool) -> [UInt32] {
    var out: [UInt32] = []
    out.reserveCapacity(first && second ? a.count + b.count : max(a.count, b.count))
    var (i, j) = (0, 0)
    while i < a.count && j < b.count {
      if a[i] == b[j] {
        if both { out.append(a[i]) }
        i += 1
        j += 1
      } else if a[i] < b[j] {
        if first { out.append(a[i]) }
        i += 1
      } else {
        if second { out.append(b[j]) }
        j += 1
      }
    }
    if first { out.append(contentsOf: a[i...]) }
    if second { out.append(contentsOf: b[j...]) }
    return out
  }
}
