import Foundation

/// How a tenant calls a point of its own.
public enum PointKey: Sendable, Hashable {
  case integer(Int64)
  case text(String)
}

extension PointKey: CustomStringConvertible, ExpressibleByIntegerLiteral, ExpressibleByStringLiteral {
  public init(integerLiteral value: Int64) { self = .integer(value) }
  public init(stringLiteral value: String) { self = .text(value) }

  public var description: String {
    switch self {
    case .integer(let number): "\(number)"
    case .text(let text): "'\(text)'"
    }
  }
}

extension PointKey: Codable {
  public init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    if let number = try? container.decode(Int64.self) {
      self = .integer(number)
    } else {
      self = .text(try container.decode(String.self))
    }
  }

  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    switch self {
    case .integer(let number): try container.encode(number)
    case .text(let text): try container.encode(text)
    }
  }
}

/// A point as it is stored: a vector, and what belongs to it.
public struct Point: Sendable, Equatable {
  public var key: PointKey
  /// `[dim]`; nil is made of `text` by the collection's model.
  public var vector: [Float]?
  public var text: String?
  /// A JSON object.
  public var payload: String?
  /// When it is gone, in seconds since 1970.
  public var expiresAt: Int?
  /// Names of tenants and groups that may see it too.
  public var shareWith: [String]

  public init(
    _ key: PointKey, vector: [Float]? = nil, text: String? = nil, payload: String? = nil, expiresAt: Int? = nil,
    shareWith: [String] = []
  ) {
    self.key = key
    self.vector = vector
    self.text = text
    self.payload = payload
    self.expiresAt = expiresAt
    self.shareWith = shareWith
  }
}

/// A point as one who may see it gets it.
public struct VisiblePoint: Sendable, Equatable {
  public var key: PointKey
  /// Whose key it is; nil when the owner is gone and others still may see the point.
  public var owner: String?
  public var text: String?
  public var payload: String?
  public var expiresAt: Int?
  /// Under cosine: scaled to length 1.
  public var vector: [Float]?
}

/// Checks of what callers give, with the path of what is wrong.
enum Check {
  static let maximumNameBytes = 256
  static let maximumKeyBytes = 512
  static let maximumTextBytes = 1 << 20

  static func tenant(_ name: String, path: String) throws {
    guard (1...maximumNameBytes).contains(name.utf8.count), !name.unicodeScalars.contains(where: { $0.value < 32 })
    else {
      throw CollectionError.invalid(
        path: path, seen: "a name of \(name.utf8.count) bytes",
        expected: "1 to \(maximumNameBytes) bytes without control characters")
    }
  }

  static func key(_ key: PointKey, path: String) throws {
    guard case .text(let text) = key else { return }
    guard (1...maximumKeyBytes).contains(text.utf8.count), !text.unicodeScalars.contains(where: { $0.value < 32 })
    else {
      throw CollectionError.invalid(
        path: path, seen: "a key of \(text.utf8.count) bytes",
        expected: "1 to \(maximumKeyBytes) bytes without control characters")
    }
  }

  static func payload(_ payload: String, path: String) throws {
    guard payload.utf8.count <= maximumTextBytes else {
      throw CollectionError.invalid(
        path: path, seen: "\(payload.utf8.count) bytes", expected: "at most \(maximumTextBytes)")
    }
    guard (try? JSONSerialization.jsonObject(with: Data(payload.utf8))) is [String: Any] else {
      throw CollectionError.invalid(path: path, seen: "no JSON object", expected: "a JSON object")
    }
  }

  static func text(_ text: String, path: String) throws {
    guard (1...maximumTextBytes).contains(text.utf8.count), !text.utf8.contains(0) else {
      throw CollectionError.invalid(
        path: path, seen: "a text of \(text.utf8.count) bytes",
        expected: "1 to \(maximumTextBytes) bytes without zero bytes")
    }
  }

  static func vector(_ vector: [Float], dim: Int, hasDirection: Bool, path: String) throws {
    guard vector.count == dim else {
      throw CollectionError.invalid(path: path, seen: "\(vector.count) numbers", expected: "\(dim)")
    }
    if let i = vector.firstIndex(where: { !$0.isFinite }) {
      throw CollectionError.invalid(path: "\(path).\(i)", seen: "\(vector[i])", expected: "a finite number")
    }
    if hasDirection && vector.allSatisfy({ $0 == 0 }) {
      throw CollectionError.invalid(path: path, seen: "all zeros", expected: "a vector with a direction: cosine")
    }
  }
}
