import ApusVectors
import GRDB

/// What a tenant may have and ask in a collection; nil is no limit.
public struct TenantQuotas: Sendable, Codable, Equatable {
  /// Vectors that it holds, own and granted.
  public var vectors: Int?
  /// Bytes that it stores, as ``TenantBytes`` counts them.
  public var bytes: Int?
  /// Searches, scrolls and counts a second; those of one second may come at once.
  public var queries: Double?

  public init(vectors: Int? = nil, bytes: Int? = nil, queries: Double? = nil) {
    self.vectors = vectors
    self.bytes = bytes
    self.queries = queries
  }

  /// These, and others where these are not set.
  func over(_ others: TenantQuotas) -> TenantQuotas {
    TenantQuotas(
      vectors: vectors ?? others.vectors, bytes: bytes ?? others.bytes, queries: queries ?? others.queries)
  }
}

/// What a tenant stores in a collection. A shared vector is its owner's; who was granted it has the grant.
public struct TenantBytes: Sendable, Codable, Equatable {
  /// Of its own points, as f32.
  public var vectors: Int
  /// Keys, texts and payloads of its own points.
  public var payloads: Int
  /// Of each vector that it holds: the id in its tree, and its name in the list of those who may see the vector.
  public var grants: Int

  public var total: Int { vectors + payloads + grants }

  static let perGrant = 8

  init(points: Int, payloads: Int, held: Int, dim: Int) {
    vectors = points * dim * MemoryLayout<Float>.size
    self.payloads = payloads
    grants = held * Self.perGrant
  }
}

/// What tenants would have once a batch is applied, against what they may.
struct QuotaCheck {
  private struct Account {
    var tenant: Tenant
    var quotas: TenantQuotas
    /// Vectors that it holds, with those of the batch.
    var held: Int
    /// Bytes before the batch; of use only with a limit.
    var bytesBefore: Int?
  }

  private let collection: VectorCollection
  /// Who learns its limits; others only that there is one.
  private let caller: TenantID
  private let database: Database
  private var accounts: [TenantID: Account] = [:]

  init(_ collection: VectorCollection, caller: TenantID, in database: Database) {
    self.collection = collection
    self.caller = caller
    self.database = database
  }

  /// Counts a vector for a tenant, unless it has the one that is there. Before the batch's part that brings it. Throws
  /// `quotaExceeded`.
  mutating func take(_ tenant: Tenant, id: VectorID?, path: String) throws {
    let quotas = collection.quotas(of: tenant)
    guard quotas.vectors != nil || quotas.bytes != nil else { return }
    var account = try accounts[tenant.id] ?? open(tenant, quotas)
    defer { accounts[tenant.id] = account }
    if let id, collection.store.index.isGranted(id, to: tenant.id) { return }
    if let limit = quotas.vectors, account.held >= limit { throw exceeded(tenant, .vectors, limit, path) }
    account.held += 1
  }

  private func open(_ tenant: Tenant, _ quotas: TenantQuotas) throws -> Account {
    var account = Account(tenant: tenant, quotas: quotas, held: collection.store.index.count(of: tenant.id))
    if quotas.bytes != nil { account.bytesBefore = try bytes(account) }
    return account
  }

  private func bytes(_ account: Account) throws -> Int {
    let usage = try Catalogue.usage(of: account.tenant.id, in: database)
    return TenantBytes(
      points: usage.points, payloads: usage.payloads, held: account.held, dim: collection.config.vectors.dim
    ).total
  }

  /// Whether all that was counted leaves everybody within its bytes; who has too many already may still store less. After
  /// the batch's last part. Throws `quotaExceeded`.
  func checkBytes(path: String) throws {
    for account in accounts.values.sorted(by: { $0.tenant.id < $1.tenant.id }) {
      guard let limit = account.quotas.bytes, let before = account.bytesBefore else { continue }
      let after = try bytes(account)
      if after > limit && after > before { throw exceeded(account.tenant, .bytes, limit, path) }
    }
  }

  private func exceeded(_ tenant: Tenant, _ quota: StorageQuota, _ limit: Int, _ path: String) -> CollectionError {
    .quotaExceeded(path: path, tenant: tenant.name, quota: quota, limit: tenant.id == caller ? limit : nil)
  }
}

/// Which quota of storage a write would exceed.
public enum StorageQuota: String, Sendable {
  case vectors
  case bytes
}
