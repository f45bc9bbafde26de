import ApusVectors
import Foundation

/// A change of the catalogue as a note in the log. What the index's own mutations say (deletes, groups, dropped tenants) is
/// not said again.
enum CatalogueChange: Codable, Equatable {
  /// The first record of a collection. `cursorKey` seals the cursors of all its replicas.
  case collection(CollectionConfig, cursorKey: Data)
  /// SHA-256 of the embedding model's weights.
  case weights(String)
  case tenant(id: TenantID, name: String)
  /// `quota` is of vectors.
  case settings(id: TenantID, state: TenantState, quota: Int?, byteQuota: Int?, queryQuota: Double?)
  /// What belongs to the vector that the next mutation stores. A crash may cut the log between the two: a point without its
  /// vector never was.
  case point(PointRecord)

  func note() throws -> Mutation {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return .note(Array(try encoder.encode(self)))
  }

  init(note: [UInt8]) throws {
    do {
      self = try JSONDecoder().decode(Self.self, from: Data(note))
    } catch {
      throw CollectionError.corrupt("a note of \(note.count) bytes in the log is none of a catalogue: \(error)")
    }
  }
}

/// A point in the catalogue.
struct PointRecord: Codable, Equatable {
  var id: VectorID
  var owner: TenantID
  var key: PointKey
  var text: String?
  var payload: String?
  var expiresAt: Int?
}
