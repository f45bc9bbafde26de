import ApusVectors

/// What a collection is; fixed when it is created.
public struct CollectionConfig: Sendable, Codable, Equatable {
  public var name: String
  public var vectors: VectorConfig
  /// Makes vectors from the texts of points and queries; nil takes vectors only.
  public var embeddingModel: String?
  /// Paths in payloads, such as `lang` or `author.name`, that filters may name.
  public var indexedFields: [String]

  public static let maximumFields = 32

  public init(
    name: String, vectors: VectorConfig, embeddingModel: String? = nil, indexedFields: [String] = []
  ) {
    self.name = name
    self.vectors = vectors
    self.embeddingModel = embeddingModel
    self.indexedFields = indexedFields
  }

  /// Throws `VectorError.configuration` and `CollectionError.invalid`.
  public func validate() throws {
    try Self.validate(name: name)
    try vectors.validate()
    guard indexedFields.count <= Self.maximumFields else {
      throw CollectionError.invalid(
        path: "indexed_fields", seen: "\(indexedFields.count) fields", expected: "at most \(Self.maximumFields)")
    }
    for (i, field) in indexedFields.enumerated() {
      guard Self.isPath(field), !indexedFields[..<i].contains(field) else {
        throw CollectionError.invalid(
          path: "indexed_fields.\(i)", seen: "'\(field)'",
          expected: "a path of letters, digits, - and _, with points between its parts, given once")
      }
    }
  }

  /// A name is also a folder's: letters, digits, `.`, `-` and `_`, a letter or digit first, at most 64.
  public static func validate(name: String) throws {
    let bytes = Array(name.utf8)
    guard (1...64).contains(bytes.count), isWord(bytes[0]), bytes.allSatisfy({ isWord($0) || ".-_".utf8.contains($0) })
    else {
      throw CollectionError.invalid(
        path: "name", seen: "'\(name)'",
        expected: "1 to 64 letters, digits, points, - and _, a letter or digit first")
    }
  }

  private static func isPath(_ field: String) -> Bool {
    field.utf8.count <= 256
      && field.split(separator: ".", omittingEmptySubsequences: false).allSatisfy { part in
        !part.isEmpty && part.utf8.allSatisfy { isWord($0) || "-_".utf8.contains($0) }
      }
  }

  private static func isWord(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"):
      true
    default: false
    }
  }
}
