import ApusCompute
import ApusKernels
import ApusModels

/// Runs a model over a text and gathers what goes into its matrices.
public struct Calibration {
  public let model: LoadedModel
  public let groups: [LinearGroup]
  private let options: RunnerOptions
  private let pool: ThreadPool
  /// Tokens of a pass.
  private static let batch = 2048

  public init(_ model: LoadedModel, groups: [LinearGroup]? = nil, threads: Int? = nil) {
    self.model = model
    self.groups = groups ?? LinearGroup.all(of: model)
    let threads = threads ?? ThreadPool.availableThreads
    options = RunnerOptions(
      threads: threads, exact: true, contextLength: min(Corpus.window, model.contextLength),
      maxBatchTokens: Self.batch)
    pool = ThreadPool(threads: threads)
  }

  /// Adds the sequences of `corpus` that `statistics` has not seen. `checkpoint` gets what there is from time to time, and
  /// may throw to stop: what was kept can go on later.
  public func run(
    _ corpus: Corpus, into statistics: inout CalibrationStatistics, progress: (_ tokens: Int) -> Void = { _ in },
    checkpoint: (CalibrationStatistics) throws -> Void = { _ in }
  ) throws {
    var seen = 0
    var next = 0
    while next < corpus.sequences.count, seen < statistics.tokens {
      seen += corpus.sequences[next].count
      next += 1
    }
    let observer = InputObserver(statistics, pool)
    let observed = observer.observing(model, groups)
    let runner = try ModelRunner(observed, options)
    var kept = next
    while next < corpus.sequences.count {
      var end = next
      var tokens = 0
      while end < corpus.sequences.count, end == next || tokens + corpus.sequences[end].count <= Self.batch {
        tokens += corpus.sequences[end].count
        end += 1
      }
      let sequences = Array(corpus.sequences[next..<end])
      if model.isEncoder {
        _ = try runner.embed(sequences)
      } else {
        for ids in sequences {
          let sequence = try runner.makeSequence()
          defer { runner.release(sequence) }
          try runner.forward([ModelRunner.Input(sequence, ids, logits: .none)]) { _ in }
        }
      }
      try observer.throwFailure()
      observer.statistics.tokens += tokens
      next = end
      progress(observer.statistics.tokens)
      if next - kept >= 64 {
        kept = next
        try checkpoint(observer.statistics)
      }
    }
    statistics = observer.statistics
    try checkpoint(statistics)
  }
}

/// What observed matrices have seen.
///
/// `@unchecked Sendable`: only the thread that runs the model touches it.
private final class InputObserver: @unchecked Sendable {
  var statistics: CalibrationStatistics
  private let pool: ThreadPool
  private var failure: (any Error)?

  init(_ statistics: CalibrationStatistics, _ pool: ThreadPool) {
    self.statistics = statistics
    self.pool = pool
  }

  /// The model with eyes on the first matrix of each group.
  func observing(_ model: LoadedModel, _ groups: [LinearGroup]) -> LoadedModel {
    let names = Dictionary(uniqueKeysWithValues: groups.map { ($0.members[0], $0.name) })
    return model.with(
      parameters: model.parameters.mapMatrices { spec, weight in
        names[spec.path].map { ObservedWeight(weight, input: $0, self) } ?? weight
      })
  }

  func see(_ x: Tensor, _ input: String) {
    guard failure == nil else { return }
    do {
      try statistics.add(Matrix(rows: x.rows, columns: x.columns, elements: x.floatArray()), to: input, on: pool)
    } catch {
      failure = error
    }
  }

  func throwFailure() throws { if let failure { throw failure } }
}

/// A matrix that shows its inputs.
private struct ObservedWeight: Weight {
  private let weight: any Weight
  private let input: String
  private let observer: InputObserver

  init(_ weight: any Weight, input: String, _ observer: InputObserver) {
    self.weight = weight
    self.input = input
    self.observer = observer
  }

  var rows: Int { weight.rows }
  var columns: Int { weight.columns }
  var byteCount: Int { weight.byteCount }
  var form: String { weight.form }

  func project(bias: Tensor?, into out: Tensor, _ run: inout LinearRun) {
    // A plan runs over memory that is not there.
    if !run.device.arena.isCounting { observer.see(run.x, input) }
    weight.project(bias: bias, into: out, &run)
  }

  func gather(_ ids: Tensor, into out: Tensor, on device: any Device) { weight.gather(ids, into: out, on: device) }

  func resident(on device: any Device, _ moved: inout MovedFactors) throws -> any Weight {
    ObservedWeight(try weight.resident(on: device, &moved), input: input, observer)
  }
}
