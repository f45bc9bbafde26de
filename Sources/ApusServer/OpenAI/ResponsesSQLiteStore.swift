import Foundation
import GRDB

/// Keeps responses in a SQLite file.
///
/// The journal is a write-ahead log: a row that was committed survives the process being killed at any moment.
struct SQLiteResponseStore: ResponseStore {
  private let database: DatabasePool
  /// Seconds after which a response is forgotten.
  private let lifetime: Int

  /// 30 days, as long as OpenAI keeps them.
  static let defaultLifetime = 30 * 24 * 3600
  /// Responses that one `save` forgets at most, so that none takes long.
  private static let forgottenAtOnce = 64

  /// Opens the file, and makes it and its table if they are not there.
  init(path: String, lifetime: Int = Self.defaultLifetime) throws {
    self.lifetime = lifetime
    database = try DatabasePool(path: path)
    var migrator = DatabaseMigrator()
    migrator.registerMigration("responses") { database in
      try database.create(table: "response") { table in
        table.column("id", .text).notNull().primaryKey()
        table.column("owner", .text).notNull()
        table.column("previous", .text)
        table.column("created", .integer).notNull()
        table.column("body", .text).notNull()
        table.column("input", .text).notNull()
      }
    }
    migrator.registerMigration("expiry") { database in
      try database.create(index: "response-created", on: "response", columns: ["created"])
    }
    try migrator.migrate(database)
  }

  func save(_ response: StoredResponse) async throws {
    try await database.write { database in
      try database.execute(
        sql: """
          INSERT INTO response (id, owner, previous, created, body, input) VALUES (?, ?, ?, ?, ?, ?)
          ON CONFLICT (id) DO UPDATE SET body = excluded.body, input = excluded.input
            WHERE owner = excluded.owner
          """,
        arguments: [
          response.id, response.owner, response.previous, response.created, response.body, response.input,
        ])
      try database.execute(
        sql: "DELETE FROM response WHERE id IN (SELECT id FROM response WHERE created < ? ORDER BY created LIMIT ?)",
        arguments: [oldest, Self.forgottenAtOnce])
    }
  }

  /// When the oldest response that is still kept was made, in seconds since 1970.
  private var oldest: Int { Int(Date().timeIntervalSince1970) - lifetime }

  func response(_ id: String, of owner: String) async throws -> StoredResponse? {
    try await database.read { try fetch(id, of: owner, in: $0) }
  }

  func conversation(endingAt id: String, of owner: String) async throws -> [StoredResponse]? {
    try await database.read { database in
      var chain: [StoredResponse] = []
      var next: String? = id
      while let id = next {
        guard let response = try fetch(id, of: owner, in: database) else { return nil }
        chain.append(response)
        next = response.previous
      }
      return chain.reversed()
    }
  }

  func delete(_ id: String, of owner: String) async throws -> Bool {
    try await database.write { database in
      try database.execute(sql: "DELETE FROM response WHERE id = ? AND owner = ?", arguments: [id, owner])
      return database.changesCount > 0
    }
  }

  private func fetch(_ id: String, of owner: String, in database: Database) throws -> StoredResponse? {
    try Row.fetchOne(
      database, sql: "SELECT * FROM response WHERE id = ? AND owner = ? AND created >= ?",
      arguments: [id, owner, oldest]
    ).map {
      StoredResponse(
        id: $0["id"], owner: $0["owner"], previous: $0["previous"], created: $0["created"], body: $0["body"],
        input: $0["input"])
    }
  }
}
