import ApusCollections
import ApusEngine
import ApusModels
import Crypto
import Foundation
import Synchronization

/// What all routes share: the models, who may ask, and whether the server is leaving.
final class ServerState: Sendable {
  let engines: [any TextEngine]
  let encoders: [any EmbeddingEngine]
  /// What the models' files say, by the models' names; engines without files have none.
  let files: [String: ModelDescription]
  /// Nil lets everybody in.
  let keys: KeyRing?
  /// Who of the keys' owners is an administrator.
  let roles: Roles
  let requests: RequestLog
  /// Where requests are read before an engine gets them.
  let preparation: PreparationPool
  let started = Date()
  private let isDrainingFlag = Mutex(false)
  /// Separates the callers' namespaces; made anew at each start, so that nobody can guess one.
  private let secret = SymmetricKey(size: .bits256)

  init(
    engines: [any TextEngine], encoders: [any EmbeddingEngine], files: [ModelDescription] = [], keys: KeyRing?,
    roles: Roles = Roles(), requests: RequestLog = RequestLog(), preparation: PreparationPool = PreparationPool()
  ) {
    self.engines = engines
    self.encoders = encoders
    self.files = Dictionary(files.map { ($0.name, $0) }) { first, _ in first }
    self.keys = keys
    self.roles = roles
    self.requests = requests
    self.preparation = preparation
  }

  /// New requests are refused, those under way go on.
  var isDraining: Bool { isDrainingFlag.withLock { $0 } }
  func drain() { isDrainingFlag.withLock { $0 = true } }

  /// Whether no request is under way, and no engine has anything to do.
  var isIdle: Bool { !requests.isAnswering && engines.allSatisfy { $0.stats.sequences.isEmpty } }

  /// The engine, whose answers are noted in the record of the request that asks. Throws ``OpenAIError`` with status 404.
  func engine(named name: String) throws -> any TextEngine {
    guard let engine = engines.first(where: { $0.name == name }) else {
      throw OpenAIError.unknownModel(name, known: engines.map(\.name))
    }
    guard let recorder = RequestRecorder.current else { return engine }
    recorder.update { $0.model = name }
    return RecordingEngine(engine: engine, recorder: recorder)
  }

  func encoder(named name: String) throws -> any EmbeddingEngine {
    guard let encoder = encoders.first(where: { $0.name == name }) else {
      throw OpenAIError.unknownModel(name, known: encoders.map(\.name))
    }
    guard let recorder = RequestRecorder.current else { return encoder }
    recorder.update { $0.model = name }
    return RecordingEncoder(encoder: encoder, recorder: recorder)
  }

  /// The namespace of a caller's prompts: HMAC-SHA256 of who they are, narrowed (never widened) by a salt that the request
  /// brings.
  func namespace(of principal: String, salt: String?) -> String {
    var code = HMAC<SHA256>(key: secret)
    for part in [principal, salt ?? ""] {
      // With its length, so that no two pairs look alike.
      withUnsafeBytes(of: UInt64(part.utf8.count).littleEndian) { code.update(data: $0) }
      code.update(data: Data(part.utf8))
    }
    return Data(code.finalize()).base64EncodedString()
  }
}

/// API keys and whom they stand for.
///
/// A file holds one key a line, `name:key` or only a key; blank lines and lines that begin with # are skipped. Keys are
/// kept as SHA-256, so that comparing takes the same time whatever the guess. A key without a name stands for one made of
/// its hash, not of its line: what its owner has stored must not go to the next key when a line is removed.
public final class KeyRing: Sendable {
  public struct FileError: Error, CustomStringConvertible {
    var path: String
    var problem: String
    public var description: String { "\(path): \(problem)" }
  }

  private let path: String
  private let names: Mutex<[SHA256.Digest: String]>

  /// Throws ``FileError``, or what reading the file throws.
  public init(file path: String) throws {
    self.path = path
    names = Mutex(try Self.read(path))
  }

  /// Reads the file again; after an error the keys stay as they were.
  public func reload() throws {
    let read = try Self.read(path)
    names.withLock { $0 = read }
  }

  /// The names of all keys' owners.
  public var owners: Set<String> { names.withLock { Set($0.values) } }

  /// The name of a key's owner; nil for an unknown key.
  func principal(for key: some StringProtocol) -> String? {
    let digest = SHA256.hash(data: Data(key.utf8))
    return names.withLock { $0[digest] }
  }

  private static func read(_ path: String) throws -> [SHA256.Digest: String] {
    let text = try String(contentsOfFile: path, encoding: .utf8)
    var names: [SHA256.Digest: String] = [:]
    for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
      let line = line.trimmingCharacters(in: .whitespaces)
      if line.isEmpty || line.hasPrefix("#") { continue }
      let parts = line.split(separator: ":", maxSplits: 1)
      let key = parts.count == 2 ? parts[1].trimmingCharacters(in: .whitespaces) : line
      guard key.utf8.count >= shortestKey else {
        throw FileError(
          path: path,
          problem: "the key in line \(index + 1) has \(key.utf8.count) bytes, expected \(shortestKey) or more")
      }
      let digest = SHA256.hash(data: Data(key.utf8))
      let unnamed = "key-" + Array(digest.prefix(hashBytes)).hex
      names[digest] = parts.count == 2 ? parts[0].trimmingCharacters(in: .whitespaces) : unnamed
    }
    guard !names.isEmpty else { throw FileError(path: path, problem: "it holds no key, expected one a line") }
    return names
  }

  private static let shortestKey = 8
  /// Of a hash that name a key: 48 bits tell keys apart and give none away.
  private static let hashBytes = 6
}
