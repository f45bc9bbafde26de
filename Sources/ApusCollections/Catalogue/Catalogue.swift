import ApusVectors
import Foundation
import GRDB

/// The SQLite side of a collection: who the tenants are, and what belongs to each vector. It holds nothing that the log did
/// not say, and knows up to which record it has applied the log.
struct Catalogue: Sendable {
  let pool: DatabasePool

  /// Milliseconds of waiting for another connection are no reason to fail; seconds.
  private static let busyTimeout = 10.0

  init(path: String, observer: (any TransactionObserver & Sendable)? = nil) throws {
    var configuration = Configuration()
    configuration.busyMode = .timeout(Self.busyTimeout)
    // Deleted text is overwritten where it stood.
    configuration.prepareDatabase { database in
      try database.execute(sql: "PRAGMA secure_delete = ON")
      if let observer, !database.configuration.readonly { database.add(transactionObserver: observer) }
    }
    pool = try DatabasePool(path: path, configuration: configuration)
    var migrator = DatabaseMigrator()
    migrator.registerMigration("catalogue") { try $0.execute(sql: Self.schema) }
    migrator.registerMigration("usage") { try $0.execute(sql: Self.usageSchema) }
    try migrator.migrate(pool)
  }

  private static let schema = """
    CREATE TABLE state (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO state VALUES ('applied', 0), ('nextVector', 1), ('nextTenant', 1);
    CREATE TABLE tenant (
      id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, state TEXT NOT NULL, quota INTEGER, groups TEXT NOT NULL
    ) STRICT;
    CREATE TABLE point (
      id INTEGER PRIMARY KEY, owner INTEGER, key ANY NOT NULL, text TEXT, payload TEXT, expires INTEGER,
      UNIQUE (owner, key)
    ) STRICT;
    CREATE INDEX point_expires ON point (expires) WHERE expires IS NOT NULL;
    CREATE VIEW document AS SELECT id, text FROM point WHERE text IS NOT NULL;
    CREATE VIRTUAL TABLE point_text USING fts5 (text, content = 'document', content_rowid = 'id');
    CREATE VIRTUAL TABLE point_term USING fts5vocab (point_text, instance);
    """

  /// Bytes of a point's key, text and payload.
  private static func size(_ row: String) -> String {
    """
    (CASE typeof(\(row).key) WHEN 'integer' THEN 8 ELSE length(CAST(\(row).key AS BLOB)) END
      + coalesce(length(CAST(\(row).text AS BLOB)), 0) + coalesce(length(CAST(\(row).payload AS BLOB)), 0))
    """
  }

  private static func count(_ row: String, _ sign: String) -> String {
    """
    UPDATE tenant SET points = points \(sign) 1, payloadBytes = payloadBytes \(sign) \(size(row)) WHERE id = \(row).owner;
    UPDATE state SET value = value \(sign) \(size(row)) WHERE name = 'payloadBytes';
    """
  }

  /// Quotas of bytes and queries, and what they are held against: counted with each change of a point, so that a write need
  /// not look at all others.
  private static let usageSchema = """
    ALTER TABLE tenant ADD COLUMN byteQuota INTEGER;
    ALTER TABLE tenant ADD COLUMN queryQuota REAL;
    ALTER TABLE tenant ADD COLUMN points INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE tenant ADD COLUMN payloadBytes INTEGER NOT NULL DEFAULT 0;
    UPDATE tenant SET (points, payloadBytes) =
      (SELECT count(*), coalesce(sum(\(size("point"))), 0) FROM point WHERE owner = tenant.id);
    INSERT INTO state SELECT 'payloadBytes', coalesce(sum(\(size("point"))), 0) FROM point;
    CREATE TRIGGER point_inserted AFTER INSERT ON point BEGIN \(count("NEW", "+")) END;
    CREATE TRIGGER point_deleted AFTER DELETE ON point BEGIN \(count("OLD", "-")) END;
    CREATE TRIGGER point_updated AFTER UPDATE OF owner, key, text, payload ON point
      BEGIN \(count("OLD", "-")) \(count("NEW", "+")) END;
    """

  // MARK: the log

  /// Applies records in their order; those up to `applied` change nothing. Applying a log again that was applied before
  /// ends in the same catalogue.
  struct Applier {
    private let database: Database
    private let applied: Int64
    /// What the next mutation's vector brings.
    private var pending: PointRecord?

    init(_ database: Database) throws {
      self.database = database
      applied = try Catalogue.number("applied", in: database)
    }

    mutating func apply(_ mutation: Mutation, sequence: UInt64) throws {
      if Int64(sequence) > applied { try apply(mutation) }
    }

    mutating func apply(_ mutation: Mutation) throws {
      let pending = self.pending
      self.pending = nil
      switch mutation {
      case .note(let bytes): try apply(try CatalogueChange(note: bytes))
      case .upsert(let id, _, _, _): if let pending, pending.id == id { try put(pending) }
      case .delete(let id): try remove(id)
      case .dropTenant(let tenant):
        try run("UPDATE point SET owner = NULL WHERE owner = ?", [Int64(tenant)])
        try run("DELETE FROM tenant WHERE id = ?", [Int64(tenant)])
      case .setGroups(let tenant, let groups):
        try run("UPDATE tenant SET groups = ? WHERE id = ?", [Catalogue.encode(groups), Int64(tenant)])
      case .batch(let parts): for part in parts { try apply(part) }
      case .grant, .revoke, .adoptTree, .compact, .tuning, .offload, .load: break
      }
    }

    private mutating func apply(_ change: CatalogueChange) throws {
      switch change {
      case .collection(let config, let key):
        let json = String(decoding: try JSONEncoder().encode(config), as: UTF8.self)
        try run("INSERT OR REPLACE INTO state VALUES ('config', ?), ('cursorKey', ?)", [json, key])
        for (i, field) in config.indexedFields.enumerated() {
          try run("CREATE INDEX IF NOT EXISTS payload_\(i) ON point (\(PayloadFilter.expression(field)))", [])
        }
      case .weights(let digest): try run("INSERT OR REPLACE INTO state VALUES ('weights', ?)", [digest])
      case .tenant(let id, let name):
        try run(
          "INSERT OR REPLACE INTO tenant (id, name, state, groups) VALUES (?, ?, 'active', '[]')", [Int64(id), name])
        try raise("nextTenant", above: Int64(id))
      case .settings(let id, let state, let quota, let byteQuota, let queryQuota):
        try run(
          "UPDATE tenant SET state = ?, quota = ?, byteQuota = ?, queryQuota = ? WHERE id = ?",
          [state.rawValue, quota, byteQuota, queryQuota, Int64(id)])
      case .point(let record): pending = record
      }
    }

    private func put(_ point: PointRecord) throws {
      try removeText(point.id)
      // A later holder of the key, when records are applied again: its own record is still to come.
      let sql = "SELECT id FROM point WHERE owner = ? AND key = ? AND id <> ?"
      let arguments: StatementArguments = [Int64(point.owner), point.key.databaseValue, Int64(point.id)]
      if let later = try Int64.fetchOne(try database.cachedStatement(sql: sql), arguments: arguments) {
        try remove(VectorID(later))
      }
      try run(
        """
        INSERT INTO point VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE
        SET owner = excluded.owner, key = excluded.key, text = excluded.text, payload = excluded.payload,
          expires = excluded.expires
        """,
        [
          Int64(point.id), Int64(point.owner), point.key.databaseValue, point.text, point.payload, point.expiresAt,
        ])
      if let text = point.text {
        try run("INSERT INTO point_text (rowid, text) VALUES (?, ?)", [Int64(point.id), text])
      }
      try raise("nextVector", above: Int64(point.id))
    }

    private func remove(_ id: VectorID) throws {
      try removeText(id)
      try run("DELETE FROM point WHERE id = ?", [Int64(id)])
    }

    /// The full-text index must be told what it forgets.
    private func removeText(_ id: VectorID) throws {
      let statement = try database.cachedStatement(sql: "SELECT text FROM point WHERE id = ?")
      if let text = try String.fetchOne(statement, arguments: [Int64(id)]) {
        try run("INSERT INTO point_text (point_text, rowid, text) VALUES ('delete', ?, ?)", [Int64(id), text])
      }
    }

    private func raise(_ name: String, above number: Int64) throws {
      try run("UPDATE state SET value = max(value, ?) WHERE name = ?", [number + 1, name])
    }

    private func run(_ sql: String, _ arguments: StatementArguments) throws {
      try database.cachedStatement(sql: sql).execute(arguments: arguments)
    }
  }

  static func setApplied(_ sequence: UInt64, in database: Database) throws {
    try database.execute(
      sql: "UPDATE state SET value = max(value, ?) WHERE name = 'applied'", arguments: [Int64(sequence)])
  }

  static func number(_ name: String, in database: Database) throws -> Int64 {
    guard let number = try Int64.fetchOne(database, sql: "SELECT value FROM state WHERE name = ?", arguments: [name])
    else { throw CollectionError.corrupt("the catalogue has no number '\(name)'") }
    return number
  }

  /// What the log says of the collection itself.
  struct Identity: Sendable {
    var config: CollectionConfig
    var cursorKey: Data
    /// SHA-256 of the embedding model's weights, where they are known.
    var weights: String?
  }

  /// Nil when the log has not brought it yet.
  static func identity(in database: Database) throws -> Identity? {
    let sql = "SELECT value FROM state WHERE name = ?"
    guard let json = try String.fetchOne(database, sql: sql, arguments: ["config"]),
      let key = try Data.fetchOne(database, sql: sql, arguments: ["cursorKey"])
    else { return nil }
    return Identity(
      config: try JSONDecoder().decode(CollectionConfig.self, from: Data(json.utf8)), cursorKey: key,
      weights: try String.fetchOne(database, sql: sql, arguments: ["weights"]))
  }

  // MARK: tenants

  private static func encode(_ groups: [TenantID]) -> String { "[\(groups.map(String.init).joined(separator: ","))]" }

  private static func tenant(_ row: Row) throws -> Tenant {
    guard let state = TenantState(rawValue: row["state"]) else {
      throw CollectionError.corrupt("tenant \(row["id"] as Int64) is in the unknown state '\(row["state"] as String)'")
    }
    let groups = try JSONDecoder().decode([TenantID].self, from: Data((row["groups"] as String).utf8))
    return Tenant(
      id: TenantID(row["id"] as Int64), name: row["name"], state: state,
      quotas: TenantQuotas(vectors: row["quota"], bytes: row["byteQuota"], queries: row["queryQuota"]), groups: groups)
  }

  static func tenant(_ name: String, in database: Database) throws -> Tenant? {
    let statement = try database.cachedStatement(sql: "SELECT * FROM tenant WHERE name = ?")
    return try Row.fetchOne(statement, arguments: [name]).map(tenant)
  }

  static func tenants(in database: Database) throws -> [Tenant] {
    try Row.fetchAll(database, sql: "SELECT * FROM tenant ORDER BY id").map(tenant)
  }

  /// At most so many tenants whose names come after this one, in the order of the names' bytes.
  static func tenants(after name: String?, count: Int, in database: Database) throws -> [Tenant] {
    let statement = try database.cachedStatement(sql: "SELECT * FROM tenant WHERE name > ? ORDER BY name LIMIT ?")
    // No name is empty.
    return try Row.fetchAll(statement, arguments: [name ?? "", count]).map(tenant)
  }

  /// The points that a tenant owns, also those that have expired and are not swept yet, and the bytes of their keys, texts
  /// and payloads. O(1).
  static func usage(of tenant: TenantID, in database: Database) throws -> (points: Int, payloads: Int) {
    let statement = try database.cachedStatement(sql: "SELECT points, payloadBytes FROM tenant WHERE id = ?")
    guard let row = try Row.fetchOne(statement, arguments: [Int64(tenant)]) else { return (0, 0) }
    return (row[0], row[1])
  }

  // MARK: points

  static func point(_ row: Row) -> PointRecord {
    PointRecord(
      id: VectorID(row["id"] as Int64), owner: (row["owner"] as Int64?).map { TenantID($0) } ?? .max,
      key: PointKey(row["key"]), text: row["text"], payload: row["payload"], expiresAt: row["expires"])
  }

  static func point(_ key: PointKey, of owner: TenantID, in database: Database) throws -> PointRecord? {
    let statement = try database.cachedStatement(sql: "SELECT * FROM point WHERE owner = ? AND key = ?")
    return try Row.fetchOne(statement, arguments: [Int64(owner), key.databaseValue]).map(point)
  }

  /// Those of `ids` that are there, by their ids.
  static func points(_ ids: [VectorID], in database: Database) throws -> [VectorID: PointRecord] {
    let statement = try database.cachedStatement(
      sql: "SELECT * FROM point WHERE id IN (SELECT value FROM json_each(?))")
    let rows = try Row.fetchAll(statement, arguments: [list(ids)])
    return Dictionary(rows.map { (VectorID($0["id"] as Int64), point($0)) }) { first, _ in first }
  }

  /// Ids as SQLite's `json_each` reads them.
  static func list(_ ids: [VectorID]) -> String { "[\(ids.map(String.init).joined(separator: ","))]" }

  /// What was deleted leaves the files: from the full-text index, from free pages and from the journal. Nobody reads
  /// meanwhile.
  func erase() throws {
    try pool.barrierWriteWithoutTransaction { database in
      // Its tombstones still hold the words.
      try database.execute(sql: "INSERT INTO point_text (point_text) VALUES ('rebuild')")
      try database.execute(sql: "VACUUM")
      try Self.flush(database)
    }
  }

  /// Brings all to the database file and its disk, and empties the journal.
  static func flush(_ database: Database) throws {
    let row = try Row.fetchOne(database, sql: "PRAGMA wal_checkpoint(TRUNCATE)")
    guard let row, row[0] as Int == 0 else {
      throw CollectionError.corrupt("another process reads the catalogue and keeps its journal")
    }
  }
}

extension PointKey {
  var databaseValue: DatabaseValue {
    switch self {
    case .integer(let number): number.databaseValue
    case .text(let text): text.databaseValue
    }
  }

  init(_ value: DatabaseValue) {
    if case .int64(let number) = value.storage {
      self = .integer(number)
    } else {
      self = .text(String.fromDatabaseValue(value) ?? "")
    }
  }
}
