import ApusCompute
import ApusKernels
import ApusModels

extension LoadedModel {
  /// The same model, which shows what goes into the first matrix of each input's groups, in the order of a pass, on the
  /// thread that runs it.
  func tapped(
    _ groups: [LinearGroup], _ see: @escaping @Sendable (_ input: String, _ rows: Matrix<Float>) -> Void
  ) -> LoadedModel {
    // Groups that read one input see it once.
    var names: [String: String] = [:]
    for group in groups where !names.values.contains(group.input) { names[group.members[0]] = group.input }
    return with(
      parameters: parameters.mapMatrices { spec, weight in
        names[spec.path].map { name in TappedWeight(weight: weight) { see(name, $0) } } ?? weight
      })
  }
}

/// A matrix that shows its inputs.
private struct TappedWeight: Weight {
  let weight: any Weight
  let see: @Sendable (Matrix<Float>) -> Void

  var rows: Int { weight.rows }
  var columns: Int { weight.columns }
  var byteCount: Int { weight.byteCount }
  var form: String { weight.form }

  func project(bias: Tensor?, into out: Tensor, _ run: inout LinearRun) {
    // A plan runs over memory that is not there.
    if !run.device.arena.isCounting {
      see(Matrix(rows: run.x.rows, columns: run.x.columns, elements: run.x.floatArray()))
    }
    weight.project(bias: bias, into: out, &run)
  }

  func gather(_ ids: Tensor, into out: Tensor, on device: any Device) { weight.gather(ids, into: out, on: device) }

  func resident(on device: any Device, _ moved: inout MovedFactors) throws -> any Weight {
    TappedWeight(weight: try weight.resident(on: device, &moved), see: see)
  }
}

/// Runs a model over sequences for what its matrices read; nobody looks at what comes out.
struct SilentPass {
  private let runner: ModelRunner
  /// Tokens of a pass.
  static let batch = 2048

  /// - Parameter exact: on unpacked weights in f32; else as the model will really run.
  init(_ model: LoadedModel, threads: Int, exact: Bool) throws {
    runner = try ModelRunner(
      model,
      RunnerOptions(
        threads: threads, exact: exact, contextLength: min(Corpus.window, model.contextLength),
        maxBatchTokens: Self.batch))
  }

  func run(_ sequences: [[Int32]]) throws {
    if runner.model.isEncoder {
      _ = try runner.embed(sequences)
      return
    }
    for ids in sequences {
      let sequence = try runner.makeSequence()
      defer { runner.release(sequence) }
      try runner.forward([ModelRunner.Input(sequence, ids, logits: .none)]) { _ in }
    }
  }
}

extension Corpus {
  /// The sequences from `first` on that go into one pass: as many as fit, and one at least.
  func pass(from first: Int) -> Range<Int> {
    var end = first
    var tokens = 0
    while end < sequences.count, end == first || tokens + sequences[end].count <= SilentPass.batch {
      tokens += sequences[end].count
      end += 1
    }
    return first..<end
  }
}
