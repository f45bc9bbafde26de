import ApusKernels
import ApusModels

/// Runs a model and its compressed form over one text in step, and gathers what groups read in both.
///
/// Activations are kept for one pass of the text, moments for all of it.
struct PairedCalibration {
  private let original: LoadedModel
  private let compressed: LoadedModel
  private let groups: [LinearGroup]
  private let exact: Bool
  private let threads: Int
  private let pool: ThreadPool

  /// Of both models only the layers up to those of `groups` run.
  init(original: LoadedModel, compressed: LoadedModel, groups: [LinearGroup], exact: Bool, threads: Int) throws {
    let depth = (groups.map(\.layer).max() ?? 0) + 1
    self.original = try original.prefix(layers: depth)
    self.compressed = try compressed.prefix(layers: depth)
    self.groups = groups
    self.exact = exact
    self.threads = threads
    pool = ThreadPool(threads: threads)
  }

  /// By input. `progress` gets the tokens so far.
  func run(_ corpus: Corpus, progress: (Int) -> Void) throws -> [String: ShiftedInputs] {
    let observer = PairObserver(pool)
    let first = try SilentPass(original.tapped(groups) { observer.seeOriginal($1, $0) }, threads: threads, exact: exact)
    let second = try SilentPass(
      compressed.tapped(groups) { observer.seeShifted($1, $0) }, threads: threads, exact: exact)
    var next = 0
    var tokens = 0
    while next < corpus.sequences.count {
      let range = corpus.pass(from: next)
      let sequences = Array(corpus.sequences[range])
      try first.run(sequences)
      try second.run(sequences)
      try observer.throwFailure()
      next = range.upperBound
      tokens += sequences.reduce(0) { $0 + $1.count }
      progress(tokens)
    }
    return observer.moments
  }
}

/// Pairs what both models showed: each shows an input's rows in the same order and pieces.
///
/// `@unchecked Sendable`: only the thread that runs the models touches it.
private final class PairObserver: @unchecked Sendable {
  private(set) var moments: [String: ShiftedInputs] = [:]
  private var waiting: [String: [Matrix<Float>]] = [:]
  private let pool: ThreadPool
  private var failure: (any Error)?

  init(_ pool: ThreadPool) { self.pool = pool }

  func seeOriginal(_ rows: Matrix<Float>, _ input: String) { waiting[input, default: []].append(rows) }

  func seeShifted(_ rows: Matrix<Float>, _ input: String) {
    guard failure == nil, let original = waiting[input]?.removeFirst() else { return }
    do {
      try moments[input, default: ShiftedInputs(size: rows.columns)].add(original: original, shifted: rows, on: pool)
    } catch {
      failure = error
    }
  }

  func throwFailure() throws { if let failure { throw failure } }
}
