import ApusVectors

/// Files into a store: vectors with the row number as id, and who may see them.
public struct VectorImport {
  public struct Report: Sendable, Codable, Equatable {
    public var vectors = 0
    public var grants = 0
    public init() {}
  }

  private let store: VectorStore

  public init(into store: VectorStore) { self.store = store }

  /// Rows that are logged together: one commit, one wait for the disk. Without a clustering tree a commit copies the list of
  /// each tenant that it touches; as batches grow with what is stored, all copies together are linear in it.
  private func batchRows(stored: Int, rowBytes: Int) -> Int {
    min(max(Self.fewestRows, stored / 8), max(Self.fewestRows, Self.batchBytes / rowBytes))
  }

  private static let fewestRows = 4096
  private static let batchBytes = 32 << 20

  /// Row r of `vectors` becomes the vector `firstID` + r, granted to the tenants in row r of `access`; without `access` to
  /// `tenant`. Ids that are there get the new vector. `progress` gets rows done and rows in all, and may throw to stop:
  /// what was committed stays. The whole of `access` is checked before anything is stored: throws `VectorFileError`.
  public func run(
    vectors: VectorFile, access: AccessMatrix?, tenant: TenantID?, firstID: VectorID = 0,
    progress: (Int, Int) throws -> Void
  ) throws -> Report {
    guard vectors.dim == store.index.config.dim else {
      throw VectorFileError(
        path: vectors.path, field: "dimension", seen: "\(vectors.dim)", expected: "\(store.index.config.dim)",
        wayOut: "give vectors of the collection's dimension, or create another one")
    }
    if let access, access.rows != vectors.count {
      throw VectorFileError(
        path: access.path, field: "rows", seen: "\(access.rows)", expected: "\(vectors.count), as many as vectors",
        wayOut: "give the access matrix of these vectors")
    }
    // What is wrong in the matrix must not show when half of the rows are stored.
    try access?.validate()
    var report = Report()
    var reader = try access?.reader()
    var rights = AccessBatch()
    let (dim, rows) = (vectors.dim, try vectors.reader())
    var values: [Float] = []
    while true {
      let batch = batchRows(stored: store.index.stats.vectors, rowBytes: 4 * dim)
      let range = try rows.next(batch, into: &values)
      guard let first = range.first else { break }
      if reader != nil { _ = try reader!.next(range.count, into: &rights) }
      let mutations = (0..<range.count).map { row in
        let tenants = reader == nil ? tenant.map { [$0] } ?? [] : Array(rights[row])
        report.grants += tenants.count
        return Mutation.upsert(
          id: firstID + VectorID(first + row), vector: Array(values[row * dim..<(row + 1) * dim]), owner: nil,
          shareWith: tenants)
      }
      try store.commit(mutations)
      report.vectors += range.count
      try progress(report.vectors, vectors.count)
    }
    return report
  }

  /// Grants or revokes rows (id, tenant) of `pairs` [n, 2]. Returns how many changed something.
  public func change(_ pairs: IntegerFile, revoke: Bool, progress: (Int, Int) throws -> Void) throws -> Int {
    var (changed, done) = (0, 0)
    try pairs.forEachBatch(rows: 1 << 16) { first, values in
      var mutations: [Mutation] = []
      mutations.reserveCapacity(values.count / 2)
      for row in 0..<values.count / 2 {
        guard let id = VectorID(exactly: values[2 * row]), let tenant = TenantID(exactly: values[2 * row + 1]) else {
          throw VectorFileError(
            path: pairs.path, field: "row \(first + row)", seen: "(\(values[2 * row]), \(values[2 * row + 1]))",
            expected: "an id and a tenant, neither negative", wayOut: "correct the row")
        }
        mutations.append(revoke ? .revoke(id: id, tenant: tenant) : .grant(id: id, tenant: tenant))
      }
      changed += try store.commit(mutations).changed
      done += mutations.count
      try progress(done, pairs.count)
    }
    return changed
  }
}
