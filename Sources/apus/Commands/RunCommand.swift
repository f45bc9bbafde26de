import ApusEngine
import ApusModels
import ApusText
import ArgumentParser
import Foundation

struct RunCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run",
    abstract: "Continues a text, or answers a question with --chat.",
    discussion: """
      apus run "The swift is a bird that"
      apus run --chat "Name three birds." -n 60 --temperature 0
      git diff | apus run --chat -m qwen2.5-coder-0.5b -f - 
      apus run "Once upon a time" --seed 7 --json

      The text is an argument, a file (-f), or stdin. The answer goes to stdout as it is written, timings to stderr.
      """)

  @OptionGroup(title: "Model") var model: ModelOptions
  @OptionGroup(title: "Execution") var runner: RunnerArguments
  @OptionGroup(title: "Sampling") var sampling: SamplingArguments

  @Argument(help: "The text to continue.")
  var prompt: String?

  @Option(name: .shortAndLong, help: "Read the text from a file; - is stdin.")
  var file: String?

  @Flag(help: "Put the text through the model's chat template, as a user's message.")
  var chat = false

  @Option(help: "A system message, with --chat.")
  var system: String?

  @Option(
    name: [.customShort("n"), .long], help: "The most tokens to write (default: 256, or what the context holds).")
  var maxTokens: Int?

  @Option(help: "End before this text; may be repeated.")
  var stop: [String] = []

  @Flag(name: .customLong("ignore-eos"), help: "Go on after the model's end token.")
  var ignoreEOS = false

  @Flag(help: "When the context is full, drop the older half of it and go on.")
  var shift = false

  @Option(help: "Report log-probabilities, with this many of the best, in the JSON.")
  var logprobs: Int?

  @Flag(help: "Print timings to stderr also when it is no terminal.")
  var timings = false

  @Flag(help: "Print one JSON object instead of the text.")
  var json = false

  private static let defaultMaxTokens = 256
  private static let defaultTemperature = 0.7

  func validate() throws {
    if system != nil && !chat { throw ValidationError("--system needs --chat.") }
    if let maxTokens, maxTokens < 0 { throw ValidationError("--max-tokens is \(maxTokens), expected 0 or more.") }
  }

  func run() throws {
    let text = try TextInput.read(argument: prompt, file: file == "-" ? nil : file)
    let (model, loadSeconds) = try model.load()
    let generator = try TextGenerator(model, runner.options)
    var messages = system.map { [ChatMessage(role: "system", content: $0)] } ?? []
    messages.append(ChatMessage(role: "user", content: text))
    let tokens = try model.tokens(of: chat ? .chat(messages: messages.map(\.jinjaValue)) : .text(text))
    let room = max(0, generator.contextLength - tokens.count)
    let options = GenerationOptions(
      sampling: sampling.options(defaultTemperature: Self.defaultTemperature),
      maxTokens: maxTokens ?? (shift ? Self.defaultMaxTokens : max(1, min(Self.defaultMaxTokens, room))), stop: stop,
      ignoreEOS: ignoreEOS, logProbabilities: logprobs, overflow: shift ? .shift(keep: 4) : .error)

    var reports: [TokenReport] = []
    let answer = try Interrupt().cancelling { cancellation in
      try generator.generate(tokens, options, cancellation: cancellation) { event in
        switch event {
        case .started, .prompt: break
        case .token(let token):
          if let report = token.logProbabilities { reports.append(TokenReport(token.id, report)) }
          if !json { Terminal.write(token.text) }
        case .finished(let generation): if !json { Terminal.write(generation.tail + "\n") }
        }
      }
    }
    if json {
      try JSONOutput.print(
        RunResult(
          model: model.name, answer, loadSeconds: loadSeconds, logprobs: logprobs == nil ? nil : reports,
          memory: generator.memory))
    }
    if timings || (Terminal.errorIsTerminal && !json) { Terminal.note(Self.summary(answer, loadSeconds)) }
    if answer.finishReason == .cancelled { throw ExitCode(Interrupt.status) }
  }

  static func summary(_ answer: Generation, _ loadSeconds: Double?) -> String {
    let t = answer.timings
    let load = loadSeconds.map { "loaded in \(Format.seconds($0)), " } ?? ""
    return Style.dim.apply(
      load + "read \(t.prefillTokens) tokens at \(Format.number(t.prefillTokensPerSecond))/s, "
        + "wrote \(answer.tokens.count) at \(Format.number(t.decodeTokensPerSecond))/s, \(answer.finishReason.rawValue)",
      on: STDERR_FILENO)
  }
}

/// The JSON of `run`.
struct RunResult: Encodable {
  struct Timings: Encodable {
    var loadS: Double
    var prefillS: Double
    var decodeS: Double
    var prefillTokensPerS: Double
    var decodeTokensPerS: Double
  }

  var model: String
  var promptTokens: Int
  var tokens: [Int32]
  var text: String
  var finishReason: FinishReason
  var logprobs: [TokenReport]?
  var timings: Timings
  /// Bytes.
  var memory: MemoryReport

  init(model: String, _ answer: Generation, loadSeconds: Double, logprobs: [TokenReport]?, memory: MemoryReport) {
    self.model = model
    promptTokens = answer.promptTokens
    tokens = answer.tokens
    text = answer.text
    finishReason = answer.finishReason
    self.logprobs = logprobs
    self.memory = memory
    timings = Timings(
      loadS: loadSeconds, prefillS: answer.timings.prefill, decodeS: answer.timings.decode,
      prefillTokensPerS: answer.timings.prefillTokensPerSecond,
      decodeTokensPerS: answer.timings.decodeTokensPerSecond)
  }
}

/// A token's log-probability with the best ones, in JSON.
struct TokenReport: Encodable {
  struct Entry: Encodable {
    var id: Int32
    var logprob: Float

    init(_ entry: TokenLogProbability) {
      id = entry.token
      logprob = entry.logProbability
    }
  }

  var id: Int32
  var logprob: Float
  var top: [Entry]

  init(_ id: Int32, _ report: TokenLogProbabilities) {
    self.id = id
    logprob = report.chosen
    top = report.top.map { Entry($0) }
  }
}
