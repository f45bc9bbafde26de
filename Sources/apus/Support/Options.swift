import ApusCUDA
import ApusEngine
import ApusModels
import ArgumentParser
import Foundation

/// Which model, and how it runs: the options that most commands share.
struct ModelOptions: ParsableArguments {
  @Option(
    name: [.customShort("m"), .customLong("model")],
    help: "The model: a name, a file or folder, a URL, or hf:ORG/REPO[:FILE].")
  var name: String = Catalogue.defaultModel

  /// The model's place on this machine; pulls it, with a progress bar, if it isn't here yet.
  func locate() throws -> ModelLocation {
    let store = ModelStore()
    let reference = try store.resolve(name)
    if let location = try store.locate(reference) { return location }
    let bar = ProgressBar()
    return try waitFor { try await store.pull(reference) { bar.show($0) } }
  }

  /// Loads the model, and says how long that took in seconds.
  func load() throws -> (model: LoadedModel, seconds: Double) { try load(locate()) }

  /// The same for a model that is here.
  func load(_ location: ModelLocation) throws -> (model: LoadedModel, seconds: Double) {
    let clock = ContinuousClock()
    let start = clock.now
    let model = try location.load()
    return (model, start.duration(to: clock.now).inSeconds)
  }
}

/// How a model is executed.
struct RunnerArguments: ParsableArguments {
  @Option(help: "Threads that compute (default: one a core).")
  var threads: Int?

  @Option(name: .customLong("context"), help: "Tokens of context (default: the model's, at most 4096).")
  var contextLength: Int?

  @Flag(help: "Compute in f32 on unpacked weights: slow, the oracle of everything fast.")
  var exact = false

  @Option(help: KVLayoutChoice.help)
  var kvLayout: KVLayoutChoice?
  @Option(help: "cpu, or cuda or cuda:N: a GPU, for encoders (bf16; f32 with --exact).")
  var device = DeviceChoice.cpu

  var options: RunnerOptions {
    device.options(
      RunnerOptions(threads: threads, exact: exact, contextLength: contextLength, kvLayout: kvLayout))
  }
}

/// Who computes.
enum DeviceChoice: ExpressibleByArgument {
  case cpu
  case cuda(ordinal: Int)

  init?(argument: String) {
    switch argument {
    case "cpu": self = .cpu
    case "cuda": self = .cuda(ordinal: 0)
    default:
      guard argument.hasPrefix("cuda:"), let ordinal = Int(argument.dropFirst("cuda:".count)) else { return nil }
      self = .cuda(ordinal: ordinal)
    }
  }

  /// The same options for the chosen device.
  func options(_ options: RunnerOptions) -> RunnerOptions {
    guard case .cuda(let ordinal) = self else { return options }
    let elements = options.exact ? CUDADevice.Elements.f32 : .bf16
    let cache = KernelCache(folder: URL(filePath: ModelStore().home).appending(path: "kernels"))
    var chosen = options
    chosen.execution = options.execution ?? .fused(rows: Execution.standardFusedPiece)
    chosen.makeDevice = { ledger in
      try CUDADevice.system(ordinal: ordinal, elements: elements, cache: cache, ledger: ledger)
    }
    return chosen
  }
}

extension KVLayoutChoice: ExpressibleByArgument {
  /// Of the option that chooses one.
  static let help: ArgumentHelp =
    "What layers with low-rank keys and values keep of past tokens: \(allCases.map(\.rawValue).joined(separator: ", "))."
}

/// How tokens are chosen.
struct SamplingArguments: ParsableArguments {
  @Option(name: [.customShort("t"), .long], help: "0 is greedy; higher is more random.")
  var temperature: Double?

  @Option(help: "Keep the k most probable tokens.")
  var topK: Int?

  @Option(help: "Keep the most probable tokens up to this mass.")
  var topP: Double = 1

  @Option(help: "Keep tokens at least this fraction as probable as the best.")
  var minP: Double = 0

  @Option(help: "Keep the tokens nearest to the expected surprise, up to this mass.")
  var typicalP: Double = 1

  @Option(help: "Above 1 discourages tokens of the text so far.")
  var repetitionPenalty: Double = 1

  @Option(help: "How many of the latest tokens the repetition penalty sees (default: all).")
  var repetitionWindow: Int?

  @Option(help: "Subtracted from the logits of tokens that the answer has.")
  var presencePenalty: Double = 0

  @Option(help: "Subtracted from them per occurrence.")
  var frequencyPenalty: Double = 0

  @Option(help: "ID:BIAS added to a token's logit; may be repeated.")
  var logitBias: [TokenBias] = []

  @Option(help: "The same seed gives the same text (default: chosen at random).")
  var seed: UInt64?

  /// `defaultTemperature` counts when the user gave none.
  func options(defaultTemperature: Double) -> SamplingOptions {
    SamplingOptions(
      temperature: temperature ?? defaultTemperature, topK: topK, topP: topP, minP: minP, typicalP: typicalP,
      repetitionPenalty: repetitionPenalty, repetitionWindow: repetitionWindow, presencePenalty: presencePenalty,
      frequencyPenalty: frequencyPenalty,
      logitBias: Dictionary(logitBias.map { ($0.token, $0.bias) }, uniquingKeysWith: { $1 }),
      seed: seed ?? .random(in: 0 ... .max))
  }

  func validate() throws {
    do { try options(defaultTemperature: 0).validate() } catch { throw ValidationError("\(error)") }
  }
}

/// `ID:BIAS` on the command line.
struct TokenBias: ExpressibleByArgument {
  var token: Int32
  var bias: Float

  init?(argument: String) {
    let parts = argument.split(separator: ":", omittingEmptySubsequences: false)
    guard parts.count == 2, let token = Int32(parts[0]), let bias = Float(parts[1]) else { return nil }
    self.token = token
    self.bias = bias
  }
}

/// Text from an argument, a file or stdin.
enum TextInput {
  /// Throws if there is no text at all, or it is not UTF-8.
  static func read(argument: String?, file: String?) throws -> String {
    if let argument {
      if file != nil { throw ValidationError("Give a text or --file, not both.") }
      return argument
    }
    if let file {
      guard let data = FileManager.default.contents(atPath: file) else {
        throw TextInputError(source: file, problem: "it cannot be read: check the path and its permissions")
      }
      return try decode(data, source: file)
    }
    if Terminal.inputIsTerminal { throw ValidationError("Give a text as argument, with --file, or on stdin.") }
    return try decode(FileHandle.standardInput.readDataToEndOfFile(), source: "stdin")
  }

  private static func decode(_ data: Data, source: String) throws -> String {
    guard let text = String(validating: data, as: UTF8.self) else {
      throw TextInputError(source: source, problem: "it is not UTF-8: convert it, for example with iconv")
    }
    return text
  }
}

struct TextInputError: Error, CustomStringConvertible {
  var source: String
  var problem: String
  var description: String { "\(source): \(problem)" }
}
