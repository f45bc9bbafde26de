import ApusEngine
import ApusModels
import ArgumentParser

struct BenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench",
    abstract: "Measures how fast models read and write on this machine, and how fast a server answers.",
    discussion: """
      apus bench decode                                       one sequence, one token a step
      apus bench prefill -m qwen2.5-coder-0.5b --tokens 512   one prompt
      apus bench batch --batch 1 --batch 4 --batch 8          several sequences at once
      apus bench serve --url http://127.0.0.1:8080            load on a server, Apus or another

      For decode, prefill and batch, rates are medians over --rounds, after one warm-up. bandwidth_share is the part of
      the measured read bandwidth that reading the weights takes; fma_share the part of the measured f32 peak that the
      arithmetic takes.
      """,
    subcommands: [BenchDecodeCommand.self, BenchPrefillCommand.self, BenchBatchCommand.self, BenchServeCommand.self])
}

struct BenchDecodeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "decode", abstract: "Measures one sequence, one token a step.")

  @OptionGroup var options: BenchOptions

  func run() throws { try options.run(.decode) }
}

struct BenchPrefillCommand: ParsableCommand {
  static let configuration = CommandConfiguration(commandName: "prefill", abstract: "Measures the reading of a prompt.")

  @OptionGroup var options: BenchOptions

  func run() throws { try options.run(.prefill) }
}

struct BenchBatchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "batch", abstract: "Measures several sequences at once.")

  @OptionGroup var options: BenchOptions

  func run() throws { try options.run(.batch) }
}

/// What the benchmarks of the engine have in common.
struct BenchOptions: ParsableArguments {
  @Option(
    name: [.customShort("m"), .customLong("model")], parsing: .singleValue,
    help: "A model; may be repeated (default: \(Catalogue.defaultModel)).")
  var models: [String] = []

  @Option(parsing: .singleValue, help: "Threads; may be repeated (default: one a core).")
  var threads: [Int] = []

  @Option(parsing: .singleValue, help: "Sequences, for batch; may be repeated (default: 1, 4 and 8).")
  var batch: [Int] = []

  @Option(help: "Tokens of the prompt, for prefill, or written by each sequence (default: 512 or 64).")
  var tokens: Int?

  @Option(help: "Tokens of each prompt before decoding.")
  var prompt = 16

  @Option(help: "Rounds.")
  var rounds = 5

  @Flag(help: "Compute in f32 on unpacked weights.")
  var exact = false

  @Option(help: KVLayoutChoice.help)
  var kvLayout: KVLayoutChoice?

  @Flag(help: "Print a JSON list.")
  var json = false

  func run(_ kind: Benchmark.Kind) throws {
    var rows: [BenchRow] = []
    for name in models.isEmpty ? [Catalogue.defaultModel] : models {
      var options = ModelOptions()
      options.name = name
      let model = try options.load().model
      for threads in threads.isEmpty ? [MachineReport.current().cores] : threads {
        let bench = Benchmark(model, RunnerOptions(threads: threads, exact: exact, kvLayout: kvLayout))
        let peaks = MachinePeaks.measure(threads: threads)
        for batch in kind == .batch ? (batch.isEmpty ? [1, 4, 8] : batch) : [1] {
          let result = try bench.run(
            kind, .init(batch: batch, tokens: tokens ?? (kind == .prefill ? 512 : 64), prompt: prompt, rounds: rounds))
          rows.append(BenchRow(model: model.name, kind, result, peaks))
        }
      }
    }
    if json { return try JSONOutput.print(rows) }
    let header = ["model", "threads", "batch", "tokens", "tokens/s", "least", "most", "share of the limit"]
    Terminal.write(Format.table([header] + rows.map(\.cells)) + "\n")
  }
}

/// One row of `bench`, in JSON and as text.
struct BenchRow: Encodable {
  struct Rate: Encodable {
    var median: Double
    var min: Double
    var max: Double
  }

  var model: String
  var threads: Int
  var batch: Int
  var tokens: Int
  var tokensPerS: Rate
  var kvBytesPerToken: Int
  var bandwidthShare: Double?
  var fmaShare: Double?

  init(model: String, _ kind: Benchmark.Kind, _ result: Benchmark.Result, _ peaks: MachinePeaks) {
    self.model = model
    threads = result.threads
    batch = result.batch
    tokens = result.tokens
    kvBytesPerToken = result.kvBytesPerToken
    tokensPerS = Rate(median: result.median, min: result.rates.min() ?? 0, max: result.rates.max() ?? 0)
    if kind == .prefill { fmaShare = result.fmaShare(peaks) } else { bandwidthShare = result.bandwidthShare(peaks) }
  }

  var cells: [String] {
    let share =
      fmaShare.map { "\(Format.number($0)) of f32 peak" } ?? "\(Format.number(bandwidthShare ?? 0)) of bandwidth"
    return [
      model, "\(threads)", "\(batch)", "\(tokens)", Format.number(tokensPerS.median), Format.number(tokensPerS.min),
      Format.number(tokensPerS.max), share,
    ]
  }
}
