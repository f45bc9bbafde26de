/// A response that later requests can read, continue or delete.
struct StoredResponse: Sendable, Equatable {
  var id: String
  /// Whose it is: nobody else is told that it exists.
  var owner: String
  /// The response that it continues.
  var previous: String?
  /// Seconds since 1970.
  var created: Int
  /// The response object as JSON.
  var body: String
  /// The request's own items as a JSON array.
  var input: String
}

/// Keeps responses. Every replica of a server may read them; a response is there before its last event is sent.
protocol ResponseStore: Sendable {
  /// Returns when the response is safe from a crash of the process.
  func save(_ response: StoredResponse) async throws
  /// The response; nil if the owner has none of that id.
  func response(_ id: String, of owner: String) async throws -> StoredResponse?
  /// The response and those that it continues, oldest first; nil if one of them is gone.
  func conversation(endingAt id: String, of owner: String) async throws -> [StoredResponse]?
  /// Whether there was one to delete.
  func delete(_ id: String, of owner: String) async throws -> Bool
}
