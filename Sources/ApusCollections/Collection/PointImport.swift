/// Stores the points of a file of JSON lines, and makes vectors of their texts on the way.
///
/// The first of a record's tenants owns the point, the others may see it too. A record whose point is there, with the same
/// text and payload and seen by all its tenants, is passed over, so that an import that was cut off goes on where it was.
///
/// ```swift
/// let report = try await PointImport(JSONLinesFile(path: "paragraphs.jsonl"), into: collection).run { print($0, $1) }
/// ```
public struct PointImport: Sendable {
  public struct Report: Sendable, Codable, Equatable {
    /// Records of the file.
    public var points = 0
    /// Texts that vectors were made of.
    public var embedded = 0
    /// Records that changed nothing.
    public var unchanged = 0
  }

  private struct Entry: Sendable {
    var line: Int
    var owner: String
    var point: Point
  }

  private let file: JSONLinesFile
  private let collection: VectorCollection
  private let owner: String?
  /// Records that are read, embedded and stored together.
  private static let batchRecords = 512

  /// `owner` owns all points, whose tenants then only see them.
  public init(_ file: JSONLinesFile, into collection: VectorCollection, owner: String? = nil) {
    self.file = file
    self.collection = collection
    self.owner = owner
  }

  /// `progress` gets records done and records in all. The whole file is checked before the first point is stored; while a
  /// batch is embedded, the one before it is stored.
  ///
  /// Throws `VectorFileError` with the line, `CollectionError`, and what the collection's embedder throws.
  public func run(progress: (Int, Int) -> Void = { _, _ in }) async throws -> Report {
    let total = try check()
    var report = Report()
    var reader = file.reader()
    var ready: [Entry] = []
    progress(0, total)
    while true {
      let batch = try read(&reader)
      let changed = try batch.compactMap(changed)
      async let embedded = embedding(changed)
      try store(ready)
      progress(report.points, total)
      ready = try await embedded
      report.embedded += changed.count { $0.point.vector == nil }
      report.unchanged += batch.count - changed.count
      report.points += batch.count
      if batch.isEmpty { return report }
    }
  }

  // MARK: reading

  /// Reads the file once for its mistakes; returns its records.
  private func check() throws -> Int {
    struct Name: Hashable {
      var owner: String
      var key: PointKey
    }
    var lines: [Name: Int] = [:]
    var reader = file.reader()
    while let record = try reader.next() {
      let entry = try entry(record, line: reader.line)
      if let first = lines.updateValue(reader.line, forKey: Name(owner: entry.owner, key: entry.point.key)) {
        throw error(
          reader.line, seen: "\(entry.point.key) of '\(entry.owner)', as in line \(first)", expected: "each id once")
      }
    }
    return lines.count
  }

  private func read(_ reader: inout JSONLinesReader) throws -> [Entry] {
    var batch: [Entry] = []
    while batch.count < Self.batchRecords, let record = try reader.next() {
      batch.append(try entry(record, line: reader.line))
    }
    return batch
  }

  private func entry(_ record: VectorRecord, line: Int) throws -> Entry {
    let names = record.tenants.map(\.description)
    guard let owner = owner ?? names.first else {
      throw error(line, seen: "no tenant", expected: "tenants, the owner first, or one owner for all")
    }
    guard record.vector != nil || record.text != nil else {
      throw error(line, seen: "neither text nor vector", expected: "one of them")
    }
    let key: PointKey =
      switch record.id {
      case .integer(let number): .integer(number)
      case .text(let text): .text(text)
      }
    do {
      try Check.key(key, path: "id")
      try Check.tenant(owner, path: "tenants.0")
      try record.text.map { try Check.text($0, path: "text") }
    } catch CollectionError.invalid(let path, let seen, let expected) {
      throw error(line, seen: "\(path) of \(seen)", expected: expected)
    }
    var seenBy: [String] = []
    for name in names where name != owner && !seenBy.contains(name) { seenBy.append(name) }
    return Entry(
      line: line, owner: owner,
      point: Point(key, vector: record.vector, text: record.text, payload: record.payload, shareWith: seenBy))
  }

  private func error(_ line: Int, seen: String, expected: String) -> VectorFileError {
    VectorFileError(
      path: file.path, field: "line \(line)", seen: seen, expected: expected, wayOut: "mend or delete that line")
  }

  // MARK: storing

  /// The entry if it changes anything, with the vector that its text has already.
  private func changed(_ entry: Entry) throws -> Entry? {
    guard entry.point.vector == nil, let old = try stored(entry, for: entry.owner), old.text == entry.point.text else {
      return entry
    }
    if try old.payload == entry.point.payload && old.expiresAt == nil
      && entry.point.shareWith.allSatisfy({ try stored(entry, for: $0) != nil })
    {
      return nil
    }
    var entry = entry
    entry.point.vector = old.vector
    return entry
  }

  private func stored(_ entry: Entry, for tenant: String) throws -> VisiblePoint? {
    do {
      return try collection.get(entry.point.key, of: entry.owner, as: Principal(tenant: tenant))
    } catch CollectionError.notFound { return nil } catch CollectionError.inactive { return nil }
  }

  private func embedding(_ entries: [Entry]) async throws -> [Entry] {
    let points = try await collection.embedding(entries.map(\.point))
    return zip(entries, points).map { Entry(line: $0.line, owner: $0.owner, point: $1) }
  }

  private func store(_ entries: [Entry]) throws {
    for (owner, entries) in Dictionary(grouping: entries, by: \.owner).sorted(by: { $0.key < $1.key }) {
      do {
        try collection.upsert(entries.map(\.point), as: Principal(tenant: owner))
      } catch CollectionError.invalid(let path, let seen, let expected) {
        throw CollectionError.invalid(path: place(path, in: entries), seen: seen, expected: expected)
      } catch CollectionError.quotaExceeded(let path, let tenant, let quota, let limit) {
        throw CollectionError.quotaExceeded(path: place(path, in: entries), tenant: tenant, quota: quota, limit: limit)
      }
    }
  }

  /// `points.3.vector` as the file's reader knows it: `paragraphs.jsonl, line 17, vector`.
  private func place(_ path: String, in entries: [Entry]) -> String {
    let parts = path.split(separator: ".", maxSplits: 2)
    guard parts.count > 1, parts[0] == "points", let i = Int(parts[1]), entries.indices.contains(i) else { return path }
    return (["\(file.path), line \(entries[i].line)"] + parts.dropFirst(2).map(String.init)).joined(separator: ", ")
  }
}
