/// A change of an index as it enters the log. Applying the same mutations in the same order gives the same state, to the
/// bit, on every machine: nothing depends on a clock, on chance or on the order of a hash table.
public enum Mutation: Sendable, Equatable {
  /// `VectorWriter.upsert`.
  case upsert(id: VectorID, vector: [Float], owner: TenantID?, shareWith: [TenantID])
  case delete(id: VectorID)
  case grant(id: VectorID, tenant: TenantID)
  case revoke(id: VectorID, tenant: TenantID)
  case dropTenant(TenantID)
  case setGroups(tenant: TenantID, groups: [TenantID])
  /// A trained clustering tree (`ClusterTree.encoded`): all lives over it from here on, in the order of its leaves.
  case adoptTree([UInt8])
  /// Forget deleted vectors.
  case compact
  /// Recall tuning: patience by size class, for the target.
  case tuning([UInt8])
  /// Something that only the layer above understands; the index ignores it.
  case note([UInt8])
  /// `VectorWriter.offload` and `load`.
  case offload(TenantID)
  case load(TenantID)
  /// All of these or, after a crash, none; none of them is a batch.
  case batch([Mutation])

  /// Whether applying it copies all that is there.
  var isRebuilding: Bool {
    switch self {
    case .adoptTree, .compact: true
    default: false
    }
  }

  /// The kind in the log's record header.
  public var kind: UInt8 {
    switch self {
    case .upsert: 1
    case .delete: 2
    case .grant: 3
    case .revoke: 4
    case .dropTenant: 5
    case .setGroups: 6
    case .adoptTree: 7
    case .compact: 8
    case .tuning: 9
    case .note: 10
    case .batch: 11
    case .offload: 12
    case .load: 13
    }
  }

  /// The payload, little endian.
  public var payload: [UInt8] {
    var out: [UInt8] = []
    switch self {
    case .upsert(let id, let vector, let owner, let shareWith):
      out.reserveCapacity(20 + vector.count * 4 + shareWith.count * 4)
      out.append(littleEndian: id)
      out.append(littleEndian: owner ?? .max)
      out.append(littleEndian: UInt32(vector.count))
      out.append(littleEndian: UInt32(shareWith.count))
      for x in vector { out.append(littleEndian: x.bitPattern) }
      for tenant in shareWith { out.append(littleEndian: tenant) }
    case .delete(let id): out.append(littleEndian: id)
    case .grant(let id, let tenant), .revoke(let id, let tenant):
      out.append(littleEndian: id)
      out.append(littleEndian: tenant)
    case .dropTenant(let tenant), .offload(let tenant), .load(let tenant): out.append(littleEndian: tenant)
    case .setGroups(let tenant, let groups):
      out.append(littleEndian: tenant)
      out.append(littleEndian: UInt32(groups.count))
      for group in groups { out.append(littleEndian: group) }
    case .adoptTree(let bytes), .tuning(let bytes), .note(let bytes): out = bytes
    case .compact: break
    case .batch(let parts):
      for part in parts {
        let payload = part.payload
        out.append(part.kind)
        out.append(littleEndian: UInt32(payload.count))
        out += payload
      }
    }
    return out
  }

  /// Those of a batch, or this one.
  var parts: [Mutation] {
    if case .batch(let parts) = self { parts } else { [self] }
  }

  /// Reads what `payload` wrote; throws `VectorError.corrupt`.
  public init(kind: UInt8, payload: UnsafeRawBufferPointer) throws {
    var reader = ByteReader(payload, what: "log record of kind \(kind)")
    func list(_ reader: inout ByteReader, _ count: UInt32) throws -> [UInt32] {
      guard reader.remaining >= Int(count) * 4 else {
        throw VectorError.corrupt("a list of \(count) numbers in \(reader.remaining) bytes")
      }
      return try (0..<count).map { _ in try reader.next(UInt32.self) }
    }
    switch kind {
    case 1:
      let (id, owner) = (try reader.next(UInt64.self), try reader.next(UInt32.self))
      let (dim, shared) = (try reader.next(UInt32.self), try reader.next(UInt32.self))
      let vector = try list(&reader, dim).map { Float(bitPattern: $0) }
      self = .upsert(id: id, vector: vector, owner: owner == .max ? nil : owner, shareWith: try list(&reader, shared))
    case 2: self = .delete(id: try reader.next(UInt64.self))
    case 3: self = .grant(id: try reader.next(UInt64.self), tenant: try reader.next(UInt32.self))
    case 4: self = .revoke(id: try reader.next(UInt64.self), tenant: try reader.next(UInt32.self))
    case 5: self = .dropTenant(try reader.next(UInt32.self))
    case 6:
      let (tenant, count) = (try reader.next(UInt32.self), try reader.next(UInt32.self))
      self = .setGroups(tenant: tenant, groups: try list(&reader, count))
    case 7: self = .adoptTree(Array(try reader.take(reader.remaining)))
    case 8: self = .compact
    case 9: self = .tuning(Array(try reader.take(reader.remaining)))
    case 10: self = .note(Array(try reader.take(reader.remaining)))
    case 12: self = .offload(try reader.next(UInt32.self))
    case 13: self = .load(try reader.next(UInt32.self))
    case 11:
      var parts: [Mutation] = []
      while reader.remaining > 0 {
        let kind = try reader.next(UInt8.self)
        guard kind != 11 else { throw VectorError.corrupt("a batch within a batch") }
        let length = Int(try reader.next(UInt32.self))
        guard length <= reader.remaining else {
          throw VectorError.corrupt("a part of \(length) bytes in \(reader.remaining) bytes of a batch")
        }
        parts.append(try Mutation(kind: kind, payload: try reader.take(length)))
      }
      self = .batch(parts)
    default: throw VectorError.corrupt("a log record of the unknown kind \(kind)")
    }
    guard reader.remaining == 0 else {
      throw VectorError.corrupt("\(reader.remaining) bytes too many in a log record of kind \(kind)")
    }
  }
}
