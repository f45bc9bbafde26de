import ApusEngine
import ApusModels
import ArgumentParser
import Foundation

struct ModelCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "model",
    abstract: "Fetches, lists, checks and removes models.",
    discussion: """
      apus model ls                                      built-in models, and those that are here
      apus model pull qwen2.5-coder-0.5b                 by name
      apus model pull hf:org/repo:model-q4_k_m.gguf      a file of a Hugging Face repository
      apus model show smollm2-135m --json                where it lies, and what is inside
      """,
    subcommands: [Pull.self, List.self, Show.self, Remove.self, Verify.self])

  struct Pull: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Fetches a model and checks its hashes; goes on where it was cut off.",
      discussion: "apus model pull gemma-3-270m")

    @Argument(help: "A built-in name, a URL, or hf:ORG/REPO[:FILE].") var model: String
    @Flag(help: "Print one JSON object.") var json = false

    func run() throws {
      let store = ModelStore()
      let reference = try store.resolve(model)
      let bar = ProgressBar()
      let location = try waitFor { try await store.pull(reference) { bar.show($0) } }
      if json {
        try JSONOutput.print(ModelRow(location))
      } else if !Terminal.errorIsTerminal {
        Terminal.write(location.path + "\n")
      }
    }
  }

  struct List: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "ls", abstract: "Lists the models that are here and the built-in ones that can be pulled.",
      discussion: "apus model ls --json")

    @Flag(help: "Print a JSON list.") var json = false

    func run() throws {
      let store = ModelStore()
      let here = try store.list()
      let rows =
        here.map { ModelRow($0, store) }
        + Catalogue.models.filter { model in !here.contains { $0.name == model.name } }.map { ModelRow($0) }
      if json { return try JSONOutput.print(rows) }
      let header = ["name", "size", "here", "licence", "source"]
      Terminal.write(
        Format.table(
          [header]
            + rows.map {
              [$0.name, Format.bytes($0.bytes), $0.isHere ? "yes" : "no", $0.licence ?? "", $0.source ?? ""]
            }) + "\n")
    }
  }

  struct Show: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Shows where a model lies and what is inside.", discussion: "apus model show smollm2-135m")

    @Argument(help: "A model that is here.") var model: String
    @Flag(help: "Print one JSON object.") var json = false

    func run() throws {
      let location = try ModelStore().find(model)
      let loaded = try location.load()
      var row = ModelRow(location)
      row.bytes = loaded.fileBytes
      row.architecture = loaded.architecture
      row.parameters = loaded.parameters.elementCount
      row.contextLength = loaded.contextLength
      row.vocabularySize = loaded.vocabularySize
      row.hasChatTemplate = loaded.chatTemplate != nil
      if json { return try JSONOutput.print(row) }
      let lines: [[String]] = [
        ["name", row.name], ["path", row.path ?? ""], ["source", row.source ?? "a path"],
        ["licence", row.licence ?? "unknown"], ["size", Format.bytes(row.bytes)],
        ["architecture", loaded.architecture],
        ["parameters", Format.number(Double(loaded.parameters.elementCount) / 1e6) + " million"],
        ["context", "\(loaded.contextLength) tokens"], ["vocabulary", "\(loaded.vocabularySize) tokens"],
        ["chat template", loaded.chatTemplate == nil ? "no" : "yes"],
      ]
      Terminal.write(Format.table(lines) + "\n")
    }
  }

  struct Remove: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "rm", abstract: "Removes models from the cache.", discussion: "apus model rm gemma-3-270m")

    @Argument(help: "Models that are here.") var models: [String]
    @Flag(help: "Print a JSON list.") var json = false

    func run() throws {
      let store = ModelStore()
      var rows: [RemovedRow] = []
      for model in models {
        let freed = try waitFor { try await store.remove(model) }
        rows.append(RemovedRow(name: model, freedBytes: freed))
        if !json { Terminal.write("removed \(model), \(Format.bytes(freed)) freed\n") }
      }
      if json { try JSONOutput.print(rows) }
    }
  }

  struct Verify: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Computes the hashes of models again.", discussion: "apus model verify smollm2-135m")

    @Argument(help: "Models that are here (default: all).") var models: [String] = []
    @Flag(help: "Print a JSON list.") var json = false

    func run() throws {
      let store = ModelStore()
      var rows: [ModelRow] = []
      for model in try models.isEmpty ? store.list().map(\.name) : models {
        let bar = ProgressBar()
        let manifest = try waitFor { try await store.verify(model) { bar.show($0) } }
        rows.append(ModelRow(manifest, store))
        if !json { Terminal.write("\(model): \(manifest.files.count) files are as they were pulled\n") }
      }
      if json { try JSONOutput.print(rows) }
    }
  }
}

struct RemovedRow: Encodable {
  var name: String
  var freedBytes: Int
}

/// A model in the JSON of `model`.
struct ModelRow: Encodable {
  var name: String
  var path: String?
  var isHere: Bool
  var bytes: Int
  var source: String?
  var licence: String?
  var summary: String?
  var architecture: String?
  var parameters: Int?
  var contextLength: Int?
  var vocabularySize: Int?
  var hasChatTemplate: Bool?
  var files: [String: String]?

  init(_ location: ModelLocation) {
    name = location.name
    path = location.path
    isHere = true
    bytes = location.manifest?.size ?? 0
    source = location.manifest?.source
    licence = location.manifest?.licence
    files = location.manifest.map { Dictionary($0.files.map { ($0.path, $0.sha256) }, uniquingKeysWith: { $1 }) }
  }

  init(_ manifest: ModelManifest, _ store: ModelStore) {
    name = manifest.name
    path = (try? store.find(manifest.name))?.path
    isHere = true
    bytes = manifest.size
    source = manifest.source
    licence = manifest.licence
    files = Dictionary(manifest.files.map { ($0.path, $0.sha256) }, uniquingKeysWith: { $1 })
  }

  init(_ model: CatalogueModel) {
    name = model.name
    isHere = false
    bytes = model.size
    source = "built-in"
    licence = model.licence
    summary = model.summary
    architecture = model.architecture
  }
}
