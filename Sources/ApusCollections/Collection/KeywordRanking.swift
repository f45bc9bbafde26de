import ApusVectors
import Foundation
import GRDB

/// BM25 over the words that SQLite's FTS5 indexed, with statistics of the visible points only: FTS5's own `bm25` would
/// weigh words by everybody's points, and so show what others have.
///
/// Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009); the average length is
/// that of the points that have one of the words. O(occurrences of the words in all points).
struct KeywordRanking {
  private static let saturation = 1.2
  private static let lengthWeight = 0.75
  /// Words of a query that are looked for.
  private static let maximumWords = 64

  private let database: Database

  init(_ database: Database) { self.database = database }

  /// The ids of `visible` that have one of the words and are `among`, the best first, equals by id.
  func rank(
    _ text: String, visible: [VectorID], among: VectorIDSet?
  ) throws -> [(id: VectorID, score: Double)] {
    let rights = VectorIDSet(visible)
    var occurrences: [[VectorID: Int]] = []
    for word in try words(text) {
      var counts: [VectorID: Int] = [:]
      let statement = try database.cachedStatement(sql: "SELECT doc FROM point_term WHERE term = ?")
      let documents = try Int64.fetchCursor(statement, arguments: [word])
      while let document = try documents.next() {
        if rights.contains(VectorID(document)) { counts[VectorID(document), default: 0] += 1 }
      }
      if !counts.isEmpty { occurrences.append(counts) }
    }
    let matches = Set(occurrences.flatMap(\.keys))
    guard !matches.isEmpty else { return [] }
    let lengths = try self.lengths(matches)
    let average = Double(lengths.values.reduce(0, +)) / Double(matches.count)
    var scores: [VectorID: Double] = [:]
    for counts in occurrences {
      let (having, lacking) = (Double(counts.count), Double(visible.count - counts.count))
      let rarity = log(1 + (lacking + 0.5) / (having + 0.5))
      for (id, count) in counts where among?.contains(id) ?? true {
        let frequency = Double(count)
        let relativeLength = Double(lengths[id] ?? 0) / max(average, 1)
        let damping = Self.saturation * (1 - Self.lengthWeight + Self.lengthWeight * relativeLength)
        scores[id, default: 0] += rarity * frequency * (Self.saturation + 1) / (frequency + damping)
      }
    }
    return scores.map { (id: $0.key, score: $0.value) }.sorted { ($1.score, $0.id) < ($0.score, $1.id) }
  }

  /// The query's words as the index has them, each once.
  private func words(_ text: String) throws -> [String] {
    let tokenizer = try database.makeTokenizer(.unicode61())
    var words: [String] = []
    for (token, _) in try tokenizer.tokenize(query: text) where !words.contains(token) {
      words.append(token)
      if words.count == Self.maximumWords { break }
    }
    return words
  }

  /// Words of each point, from FTS5's own table of sizes: a variable-length number, the most significant seven bits first.
  private func lengths(_ ids: Set<VectorID>) throws -> [VectorID: Int] {
    let statement = try database.cachedStatement(
      sql: "SELECT id, sz FROM point_text_docsize WHERE id IN (SELECT value FROM json_each(?))")
    var lengths: [VectorID: Int] = [:]
    for row in try Row.fetchAll(statement, arguments: [Catalogue.list(ids.sorted())]) {
      var length = 0
      for byte in row["sz"] as Data {
        length = length << 7 | Int(byte & 0x7F)
        if byte & 0x80 == 0 { break }
      }
      lengths[VectorID(row["id"] as Int64)] = length
    }
    return lengths
  }
}

/// Fuses rankings by the ranks alone.
///
/// Source: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
/// Methods" (SIGIR 2009).
enum ReciprocalRank {
  private static let k = 60.0

  /// The best first, equals by id.
  static func fuse(_ rankings: [[VectorID]]) -> [(id: VectorID, score: Double)] {
    var scores: [VectorID: Double] = [:]
    for ranking in rankings {
      for (i, id) in ranking.enumerated() { scores[id, default: 0] += 1 / (k + Double(i + 1)) }
    }
    return scores.map { (id: $0.key, score: $0.value) }.sorted { ($1.score, $0.id) < ($0.score, $1.id) }
  }
}
