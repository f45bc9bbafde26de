import Testing

@testable import ApusCollections

@Suite struct RolesTests {
  @Test func `of whom nothing is said, the key named admin is an administrator's`() {
    let usual = Roles()
    #expect(usual.role(of: "admin") == .admin)
    for name in ["alice", "Admin", "admin2", "", "administrator"] { #expect(usual.role(of: name) == .tenant) }
    let said = Roles(["ops": .admin, "admin": .tenant, "alice": .tenant])
    #expect(said.role(of: "ops") == .admin && said.role(of: "admin") == .tenant && said.role(of: "bob") == .tenant)
  }

  @Test func `an administrator acts as anybody, a tenant as itself, and everybody as anybody without keys`() {
    let roles = Roles(["ops": .admin, "admin": .tenant])
    func acts(_ owner: String?, _ named: String?) -> Principal? { roles.principal(keyOwner: owner, naming: named) }
    #expect(acts("ops", "alice") == Principal(tenant: "alice", isAdmin: true))
    #expect(acts("ops", nil) == Principal(tenant: "ops", isAdmin: true))
    #expect(acts("alice", nil) == Principal(tenant: "alice") && acts("alice", "alice") == Principal(tenant: "alice"))
    #expect(acts("alice", "bob") == nil && acts("admin", "bob") == nil)
    #expect(acts("admin", nil) == Principal(tenant: "admin"))
    #expect(acts(nil, "bob") == Principal(tenant: "bob", isAdmin: true))
    #expect(acts(nil, nil) == Principal(tenant: Principal.defaultTenant, isAdmin: true))
  }
}
