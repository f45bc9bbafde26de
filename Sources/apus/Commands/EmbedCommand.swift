import ApusEngine
import ApusModels
import ArgumentParser
import Foundation

struct EmbedCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "embed",
    abstract: "Turns texts into vectors.",
    discussion: """
      apus embed "a swift" "a bird"              two vectors and how alike they are
      apus embed --file paragraphs.txt --json    one text a line
      echo '["a", "b"]' | apus embed --json      a JSON array of strings

      The vectors are pooled and normalised as the model says: their dot product is the cosine.
      """)

  @Option(
    name: [.customShort("m"), .customLong("model")],
    help: "The encoder: a name, a folder with safetensors, a URL, or hf:ORG/REPO.")
  var name = "minilm-l6"
  @OptionGroup(title: "Execution") var runner: RunnerArguments

  @Argument(help: "The texts.")
  var texts: [String] = []

  @Option(name: .shortAndLong, help: "Read the texts from a file, one a line.")
  var file: String?

  @Option(help: "Cut texts to this many tokens (default: the model's context).")
  var maxTokens: Int?

  @Flag(help: "Print one JSON object.")
  var json = false

  func run() throws {
    let texts = try input()
    let (model, loadSeconds) = try modelOptions.load()
    let embedder = try Embedder(model, runner.options, maximumTokens: maxTokens)
    let clock = ContinuousClock()
    let start = clock.now
    let embeddings = try embedder.embed(texts)
    let seconds = start.duration(to: clock.now).inSeconds
    if json {
      try JSONOutput.print(
        EmbedResult(
          model: model.name, embeddings: embeddings,
          timings: .init(
            loadS: loadSeconds, encodeS: seconds, textsPerS: seconds > 0 ? Double(texts.count) / seconds : 0)))
      return
    }
    for (text, vector) in zip(texts, embeddings) {
      let first = vector.prefix(4).map { String(format: "%+.4f", $0) }.joined(separator: " ")
      let likeness = zip(vector, embeddings[0]).reduce(Float(0)) { $0 + $1.0 * $1.1 }
      Terminal.write(
        "\(first) … (\(vector.count) numbers, cosine to the first \(String(format: "%.4f", likeness)))  \(text)\n")
    }
  }

  private var modelOptions: ModelOptions {
    var options = ModelOptions()
    options.name = name
    return options
  }

  private func input() throws -> [String] {
    if !texts.isEmpty {
      if file != nil { throw ValidationError("Give texts or --file, not both.") }
      return texts
    }
    let text = try TextInput.read(argument: nil, file: file == "-" ? nil : file)
    if file != nil {
      var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
      if lines.last == "" { lines.removeLast() }
      return lines
    }
    guard let list = try? JSONDecoder().decode([String].self, from: Data(text.utf8)) else {
      throw TextInputError(source: "stdin", problem: "expected a JSON array of strings; for one text a line use -f -")
    }
    return list
  }
}

/// The JSON of `embed`.
struct EmbedResult: Encodable {
  struct Timings: Encodable {
    var loadS: Double
    var encodeS: Double
    var textsPerS: Double
  }

  var model: String
  var embeddings: [[Float]]
  var timings: Timings
}
