import ApusEngine
import ApusModels
import ApusText
import ArgumentParser
import Foundation

struct ScoreCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "score",
    abstract: "Tells how probable a text is, token by token, and its perplexity.",
    discussion: """
      apus score "The capital of France is Paris."
      apus score -f chapter.txt --top 5 --json
      apus score --ids ids.json --logits out.npy --exact

      --ids takes a JSON array of token ids instead of a text. --logits writes float32 [tokens, vocabulary].
      """)

  @OptionGroup(title: "Model") var model: ModelOptions
  @OptionGroup(title: "Execution") var runner: RunnerArguments

  @Argument(help: "The text.")
  var text: String?

  @Option(name: .shortAndLong, help: "Read the text from a file; - is stdin.")
  var file: String?

  @Option(help: "Score these token ids, a JSON array in a file.")
  var ids: String?

  @Option(help: "Report this many of the most probable tokens at each place.")
  var top = 0

  @Flag(help: "Compute one token at a time, as decoding does.")
  var step = false

  @Option(help: "Write all logits to this file, in NumPy's format.")
  var logits: String?

  @Flag(help: "Print one JSON object.")
  var json = false

  func validate() throws {
    if top < 0 { throw ValidationError("--top is \(top), expected 0 or more.") }
    if ids != nil && (text != nil || file != nil) { throw ValidationError("Give a text or --ids, not both.") }
  }

  func run() throws {
    let givenIDs = try ids.map(Self.readIDs)
    let text = try givenIDs == nil ? TextInput.read(argument: text, file: file == "-" ? nil : file) : nil
    let (model, _) = try model.load()
    let tokens = givenIDs ?? model.tokenizer.encode(text!)
    let scorer = try Scorer(model, runner.options, tokens: tokens.count)
    let score: Score
    if let logits {
      let writer = try NPYWriter(path: logits, rows: tokens.count, columns: model.vocabularySize)
      score = try scorer.score(tokens, top: top, stepwise: step) { try writer.append($0) }
    } else {
      score = try scorer.score(tokens, top: top, stepwise: step)
    }
    if json {
      try JSONOutput.print(ScoreResult(model: model.name, score, hasTop: top > 0))
    } else {
      printTable(score, model.tokenizer)
    }
  }

  private func printTable(_ score: Score, _ tokenizer: any Tokenizer) {
    func piece(_ id: Int32) -> String { String(decoding: tokenizer.bytes(of: id), as: UTF8.self).debugDescription }
    let rows = score.tokens.indices.map { i in
      let best = top > 0 ? score.top[i].map { "\(piece($0.token)) \(Format.number(Double($0.logProbability)))" } : []
      return [
        "\(score.tokens[i])", piece(score.tokens[i]),
        score.logProbabilities[i].map { String(format: "%.4f", $0) } ?? "", best.joined(separator: "  "),
      ]
    }
    Terminal.write(Format.table(rows) + "\n")
    if let perplexity = score.perplexity { Terminal.write("perplexity \(Format.number(perplexity))\n") }
  }

  private static func readIDs(_ path: String) throws -> [Int32] {
    guard let data = FileManager.default.contents(atPath: path) else {
      throw TextInputError(source: path, problem: "it cannot be read: check the path and its permissions")
    }
    guard let ids = try? JSONDecoder().decode([Int32].self, from: data) else {
      throw TextInputError(source: path, problem: "expected a JSON array of token ids")
    }
    return ids
  }
}

/// The JSON of `score`.
struct ScoreResult: Encodable {
  var model: String
  var tokens: [Int32]
  var logprobs: [Float?]
  var perplexity: Double?
  var top: [[TokenReport.Entry]]?

  init(model: String, _ score: Score, hasTop: Bool) {
    self.model = model
    tokens = score.tokens
    logprobs = score.logProbabilities
    perplexity = score.perplexity
    top = hasTop ? score.top.map { $0.map { TokenReport.Entry($0) } } : nil
  }
}
