import ApusVectors
import Foundation

/// A mutation as a line of JSON, as `apus vectors apply` reads it.
///
///     {"op": "upsert", "id": 7, "vector": [0.5, -1.25], "owner": 1, "tenants": [2, 3]}
///     {"op": "grant", "id": 7, "tenant": 4}     also revoke
///     {"op": "delete", "id": 7}
///     {"op": "drop_tenant", "tenant": 4}
///     {"op": "set_groups", "tenant": 4, "groups": [100]}
///     {"op": "offload", "tenant": 4}            also load
///     {"op": "compact"}
public struct MutationLine: Decodable {
  public let mutation: Mutation

  private enum Key: String, CodingKey, CaseIterable { case op, id, vector, owner, tenants, tenant, groups }
  private static let operations = "upsert, grant, revoke, delete, drop_tenant, set_groups, offload, load, compact"

  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: Key.self)
    func id() throws -> VectorID { try fields.decode(VectorID.self, forKey: .id) }
    func tenant() throws -> TenantID { try fields.decode(TenantID.self, forKey: .tenant) }
    let operation = try fields.decode(String.self, forKey: .op)
    switch operation {
    case "upsert":
      mutation = .upsert(
        id: try id(), vector: try fields.decode([Float].self, forKey: .vector),
        owner: try fields.decodeIfPresent(TenantID.self, forKey: .owner),
        shareWith: try fields.decodeIfPresent([TenantID].self, forKey: .tenants) ?? [])
    case "grant": mutation = .grant(id: try id(), tenant: try tenant())
    case "revoke": mutation = .revoke(id: try id(), tenant: try tenant())
    case "delete": mutation = .delete(id: try id())
    case "drop_tenant": mutation = .dropTenant(try tenant())
    case "set_groups":
      mutation = .setGroups(tenant: try tenant(), groups: try fields.decode([TenantID].self, forKey: .groups))
    case "offload": mutation = .offload(try tenant())
    case "load": mutation = .load(try tenant())
    case "compact": mutation = .compact
    default:
      throw DecodingError.dataCorruptedError(
        forKey: .op, in: fields, debugDescription: "'\(operation)' is none of \(Self.operations)")
    }
  }
}
