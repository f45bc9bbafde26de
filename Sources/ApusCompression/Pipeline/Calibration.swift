import ApusKernels
import ApusModels

/// Runs a model over a text and gathers what goes into its matrices.
public struct Calibration {
  public let model: LoadedModel
  public let groups: [LinearGroup]
  private let threads: Int
  private let pool: ThreadPool

  public init(_ model: LoadedModel, groups: [LinearGroup]? = nil, threads: Int? = nil) {
    self.model = model
    self.groups = groups ?? LinearGroup.all(of: model)
    self.threads = threads ?? ThreadPool.availableThreads
    pool = ThreadPool(threads: self.threads)
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
    statistics.lines.formUnion(corpus.lines)
    let observer = InputObserver(statistics, pool)
    let pass = try SilentPass(model.tapped(groups) { observer.see($1, $0) }, threads: threads, exact: true)
    var kept = next
    while next < corpus.sequences.count {
      let range = corpus.pass(from: next)
      try pass.run(Array(corpus.sequences[range]))
      try observer.throwFailure()
      observer.statistics.tokens += corpus.sequences[range].reduce(0) { $0 + $1.count }
      next = range.upperBound
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

/// What tapped matrices have seen.
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

  func see(_ rows: Matrix<Float>, _ input: String) {
    guard failure == nil else { return }
    do {
      try statistics.add(rows, to: input, on: pool)
    } catch {
      failure = error
    }
  }

  func throwFailure() throws { if let failure { throw failure } }
}
