import ApusModels
import ApusText
import Synchronization

/// An engine that takes memory only while it is asked: the weights stay mapped from their file, the KV pool and the threads
/// come with the first request and go when none has come for a while.
public final class OnDemandEngine: TextEngine {
  private struct State {
    var engine: BatchEngine?
    /// The engine on its way; requests that come meanwhile wait for the same one.
    var loading: Task<BatchEngine, any Error>?
    var isStopped = false
    /// Of the engines to come.
    var options: BatchOptions
    /// Figures of engines that are gone.
    var past = EngineStats()
  }

  public let contextLength: Int
  private let served: ServedModel
  private let runnerOptions: RunnerOptions
  private let idleAfter: Duration?
  private let state: Mutex<State>

  /// `idleAfter` nil keeps the engine once it is there. Throws what `BatchEngine.init` throws about the model's kind.
  public init(
    _ model: LoadedModel, _ runnerOptions: RunnerOptions = .init(), _ options: BatchOptions = .init(),
    idleAfter: Duration? = nil
  ) throws {
    served = try ServedModel(model)
    self.runnerOptions = runnerOptions
    self.idleAfter = idleAfter
    state = Mutex(State(options: options))
    contextLength = served.contextLength(runnerOptions)
  }

  public var isLoaded: Bool { state.withLock { $0.engine != nil } }

  public var stats: EngineStats {
    state.withLock { state in
      guard let engine = state.engine else { return state.past }
      return engine.stats.adding(state.past)
    }
  }

  public var name: String { served.model.name }
  public var tokenizer: any Tokenizer { served.model.tokenizer }
  public var chatTemplate: ChatTemplate? { served.model.chatTemplate }
  public var vocabulary: VocabularyTrie { served.vocabulary }

  public func tokens(of prompt: Prompt) throws -> [Int32] { try served.tokens(of: prompt) }

  public func answer(_ prompt: Prompt, _ options: GenerationOptions, for origin: RequestOrigin) async throws
    -> AnswerStream
  {
    try served.checkLength(of: prompt, contextLength: contextLength)
    let tokens = Prompt.tokens(try tokens(of: prompt))
    do {
      return try await load().answer(tokens, options, for: origin)
    } catch GenerationError.stopped where !state.withLock({ $0.isStopped }) {
      // It was unloaded in the same moment.
      return try await load().answer(tokens, options, for: origin)
    }
  }

  public func stop() {
    let engine = state.withLock { state in
      state.isStopped = true
      defer { state.engine = nil }
      return state.engine
    }
    engine?.stop()
  }

  public func limitQueue(to count: Int) {
    let engine = state.withLock { state in
      state.options.maxQueue = count
      return state.engine
    }
    engine?.limitQueue(to: count)
  }

  /// Loads the engine if it is not there, for callers that want it ready before the first request.
  public func warmUp() async throws { _ = try await load() }

  private func load() async throws -> BatchEngine {
    let task: Task<BatchEngine, any Error> = try state.withLock { state in
      if state.isStopped { throw GenerationError.stopped }
      if let engine = state.engine { return Task { engine } }
      if let loading = state.loading { return loading }
      let task = Task { [served, runnerOptions, options = state.options] in
        try await BatchEngine(served, runnerOptions, options)
      }
      state.loading = task
      return task
    }
    do {
      let engine = try await task.value
      let isNew = state.withLock { state in
        guard state.loading == task else { return false }
        state.loading = nil
        state.engine = engine
        // It may have changed while the engine was made.
        engine.limitQueue(to: state.options.maxQueue)
        return true
      }
      if isNew, idleAfter != nil { watch(engine) }
      return engine
    } catch {
      state.withLock { if $0.loading == task { $0.loading = nil } }
      throw error
    }
  }

  /// Unloads the engine when nothing has happened for `idleAfter`.
  private func watch(_ engine: BatchEngine) {
    guard let idleAfter else { return }
    Task { [weak self, weak engine] in
      var lastSteps = -1
      while true {
        try? await Task.sleep(for: idleAfter)
        guard let self, let engine else { return }
        let stats = engine.stats
        if stats.steps == lastSteps && stats.sequences.isEmpty { return self.unload(engine) }
        lastSteps = stats.steps
      }
    }
  }

  private func unload(_ engine: BatchEngine) {
    let isCurrent = state.withLock { state in
      guard state.engine === engine else { return false }
      state.engine = nil
      state.past = engine.stats.adding(state.past)
      state.past.blocksUsed = 0
      state.past.blocksCached = 0
      return true
    }
    if isCurrent { engine.stop() }
  }
}
