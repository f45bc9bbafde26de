import ApusCollections
import ApusEngine
import ApusServer
import ArgumentParser
import Synchronization

/// Which encoder reads texts, and how it runs.
struct EncoderArguments: ParsableArguments {
  @Option(
    name: .shortAndLong, help: "The embedding model: a name, a folder or hf:ORG/REPO (default: the collection's).")
  var model: String?

  @Option(help: "Threads that compute (default: one a core).")
  var threads: Int?
}

/// The encoder of a command, once it is loaded.
final class CommandEmbedder: TextEmbedder {
  private let arguments: EncoderArguments
  private let loaded = Mutex<EngineEmbedder?>(nil)

  init(_ arguments: EncoderArguments) { self.arguments = arguments }

  /// Loads the model that was asked for, or else this one; returns its own name. For the main thread: it waits.
  @discardableResult
  func load(_ name: String) throws -> String {
    var options = ModelOptions()
    options.name = arguments.model ?? name
    let location = try options.locate()
    let (model, _) = try options.load(location)
    let (threads, digest) = (arguments.threads, try location.weightsDigest())
    let engine = try waitFor { try await EncoderEngine(model, .init(threads: threads), weightsDigest: digest) }
    loaded.withLock { $0 = EngineEmbedder([engine]) }
    return engine.name
  }

  private func embedder(_ model: String) throws -> EngineEmbedder {
    guard let embedder = loaded.withLock({ $0 }) else { throw CollectionError.unknownModel(model, known: []) }
    return embedder
  }

  func dim(of model: String) throws -> Int { try embedder(model).dim(of: model) }
  func weightsDigest(of model: String) throws -> String? { try embedder(model).weightsDigest(of: model) }

  func embed(_ texts: [String], model: String) async throws -> [[Float]] {
    try await embedder(model).embed(texts, model: model)
  }
}
