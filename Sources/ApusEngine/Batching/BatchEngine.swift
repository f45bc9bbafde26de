import ApusModels
import ApusText
import CSIMD
import Dispatch
import Foundation
import Synchronization

/// The limits of a batching engine.
public struct BatchOptions: Sendable {
  /// Sequences that are computed together.
  public var maxRunning: Int
  /// Requests that may wait, and tokens of their prompts; beyond, requests are refused.
  public var maxQueue: Int
  public var maxQueuedTokens: Int
  /// Events that wait for a slow reader before its sequence is paused.
  public var channelCapacity: Int
  /// A step with a chunk of a prompt takes at most about this multiple of a step without, unless more than twice as
  /// many prompts wait as answers run.
  public var latencyFactor: Double

  /// Tokens of the answer for which there must be room when a sequence is admitted.
  static let answerReserve = 64

  public init(
    maxRunning: Int = 32, maxQueue: Int = 256, maxQueuedTokens: Int = 65_536, channelCapacity: Int = 256,
    latencyFactor: Double = 1.7
  ) {
    self.maxRunning = maxRunning
    self.maxQueue = maxQueue
    self.maxQueuedTokens = maxQueuedTokens
    self.channelCapacity = channelCapacity
    self.latencyFactor = latencyFactor
  }
}

/// What an engine refuses because of its load, not because of the request.
public enum EngineError: Error, Equatable, CustomStringConvertible {
  case queueFull(waiting: Int, limit: Int)
  case tooManyQueuedTokens(waiting: Int, limit: Int)
  case noSuchSequence(String)

  public var description: String {
    switch self {
    case .queueFull(let waiting, let limit): "\(waiting) requests are waiting, the limit is \(limit): try again later"
    case .tooManyQueuedTokens(let waiting, let limit):
      "\(waiting) prompt tokens are waiting, the limit is \(limit): try again later"
    case .noSuchSequence(let id): "there is no running sequence \(id) to fork, or no room for another one"
    }
  }
}

/// Answers many requests with one model at once, on a thread of its own.
///
/// ```swift
/// let engine = try await BatchEngine(model)
/// let answer = try await engine.answer(.text("Once upon a time"), .init(maxTokens: 16))
/// for try await event in answer.events { … }
/// ```
public final class BatchEngine: TextEngine {
  public let contextLength: Int
  private let served: ServedModel
  private let options: BatchOptions
  private let inbox = Inbox()
  private let figures = PublishedStats()
  private let startedAt = ContinuousClock.now

  /// Bytes of KV blocks, touched as they are used.
  public static let defaultPoolBytes = 1 << 30

  /// Makes the runner on the engine's thread and waits for it. Throws what `ModelRunner.init` throws.
  public convenience init(
    _ model: LoadedModel, _ runnerOptions: RunnerOptions = .init(), _ options: BatchOptions = .init()
  ) async throws {
    try await self.init(ServedModel(model), runnerOptions, options)
  }

  init(_ served: ServedModel, _ runnerOptions: RunnerOptions, _ options: BatchOptions) async throws {
    self.served = served
    self.options = options
    var runnerOptions = runnerOptions
    runnerOptions.maxSequences = options.maxRunning
    runnerOptions.kvPoolBytes = runnerOptions.kvPoolBytes ?? Self.defaultPoolBytes
    contextLength = served.contextLength(runnerOptions)
    try await start(runnerOptions)
  }

  deinit { inbox.post(.stop) }

  /// Lets the answers on their way end, refuses new ones, then ends the thread.
  public func stop() { inbox.post(.stop) }

  /// At most 50 ms old while the engine works; never older than what a caller was told: that its request was taken, that
  /// its answer has ended.
  public var stats: EngineStats { figures.value }

  public func limitQueue(to count: Int) { inbox.post(.limitQueue(count)) }

  public var name: String { model.name }
  public var tokenizer: any Tokenizer { model.tokenizer }
  public var chatTemplate: ChatTemplate? { model.chatTemplate }
  public var vocabulary: VocabularyTrie { served.vocabulary }
  private var model: LoadedModel { served.model }

  public func tokens(of prompt: Prompt) throws -> [Int32] { try served.tokens(of: prompt) }

  // MARK: requests

  public func answer(_ prompt: Prompt, _ options: GenerationOptions, for origin: RequestOrigin) async throws
    -> AnswerStream
  {
    try served.checkLength(of: prompt, contextLength: contextLength)
    var tokens = try tokens(of: prompt)
    if tokens.isEmpty {
      guard let bos = tokenizer.specialTokens.bos else { throw GenerationError.emptyPrompt }
      tokens = [bos]
    }
    try check(tokens, options)
    let channel = channel(origin.id)
    let sequence = try Handover(
      EngineSequence(
        id: origin.id, namespace: BlockName(salt: origin.namespace), tokens: tokens, options: options,
        tokenizer: tokenizer, vocabularySize: model.vocabularySize, channel: channel, submitted: seconds()))
    try await submit { .submit(sequence, $0) }
    return AnswerStream(promptTokens: tokens.count, events: AnswerEvents(channel))
  }

  /// Answers on from the first `count` tokens (of prompt and answer) of a running sequence, whose blocks it shares.
  public func fork(_ id: String, at count: Int, _ options: GenerationOptions, for origin: RequestOrigin) async throws
    -> AnswerStream
  {
    precondition(count > 0, "a fork needs at least one token")
    let channel = channel(origin.id)
    let submitted = seconds()
    try await submit { reply in
      .fork(
        id, count,
        { [tokenizer, model] tokens in
          try EngineSequence(
            id: origin.id, namespace: BlockName(salt: origin.namespace), tokens: tokens, options: options,
            tokenizer: tokenizer, vocabularySize: model.vocabularySize, channel: channel, submitted: submitted)
        }, reply)
    }
    return AnswerStream(promptTokens: count, events: AnswerEvents(channel))
  }

  private func submit(_ command: (CheckedContinuation<Void, any Error>) -> Command) async throws {
    try await withCheckedThrowingContinuation { continuation in
      if !inbox.post(command(continuation)) { continuation.resume(throwing: GenerationError.stopped) }
    }
  }

  private func channel(_ id: String) -> EventChannel {
    EventChannel(
      capacity: options.channelCapacity, onRoom: { [inbox] in inbox.post(.wake) },
      onCancel: { [inbox] in inbox.post(.cancel(id)) })
  }

  private func check(_ tokens: [Int32], _ options: GenerationOptions) throws {
    let size = model.vocabularySize
    if let index = tokens.firstIndex(where: { $0 < 0 || $0 >= size }) {
      throw GenerationError.tokenOutOfRange(index: index, token: tokens[index], vocabularySize: size)
    }
    for case let count? in [options.logProbabilities, options.promptLogProbabilities]
    where count < 0 || count > size {
      throw GenerationError.invalidOption(
        name: "top_logprobs", value: "\(count)", expected: "a whole number from 0 to \(size)")
    }
    let (needed, overflows) = tokens.count.addingReportingOverflow(max(options.maxTokens ?? 1, 0))
    if overflows || needed > contextLength {
      throw RunnerError.contextOverflow(tokens: overflows ? .max : needed, contextLength: contextLength)
    }
  }

  // MARK: the thread

  /// Seconds since the engine was made.
  private func seconds() -> Double { startedAt.duration(to: .now).inSeconds }

  private func start(_ runnerOptions: RunnerOptions) async throws {
    let (model, options, inbox, figures, startedAt) = (model, options, inbox, figures, startedAt)
    try await withCheckedThrowingContinuation { (ready: CheckedContinuation<Void, any Error>) in
      let thread = Thread {
        // `Thread.name` does not reach the system on Linux.
        csimd_name_thread("apus-engine")
        do {
          let runner = try ModelRunner(model, runnerOptions)
          let scheduler = Scheduler(runner, options, figures) { startedAt.duration(to: .now).inSeconds }
          scheduler.publishFigures()
          ready.resume()
          Self.loop(scheduler, inbox, options)
        } catch {
          inbox.close()
          ready.resume(throwing: error)
        }
      }
      thread.stackSize = 8 << 20
      thread.start()
    }
  }

  /// How often the outside's copy of the figures is renewed, in seconds.
  private static let publishInterval = 0.05

  private static func loop(_ scheduler: Scheduler, _ inbox: Inbox, _ options: BatchOptions) {
    var options = options
    var isStopping = false
    var canGoOn = true
    var commands: [Command] = []
    var replies: [(to: CheckedContinuation<Void, any Error>, result: Result<Void, any Error>)] = []
    var published = ContinuousClock.now
    while true {
      if canGoOn {
        inbox.take(&commands)
      } else {
        inbox.waitAndTake(&commands)
        scheduler.wake()
      }
      for command in commands {
        switch command {
        case .submit(let handover, let reply):
          if isStopping {
            replies.append((reply, .failure(GenerationError.stopped)))
          } else if let error = overload(scheduler, options, handover.sequence) {
            scheduler.refuse(error.1)
            replies.append((reply, .failure(error.0)))
          } else {
            scheduler.submit(handover.sequence)
            replies.append((reply, .success(())))
          }
        case .fork(let id, let count, let make, let reply):
          let result = Result {
            if try !scheduler.fork(id, at: count, as: make) { throw EngineError.noSuchSequence(id) }
          }
          replies.append((reply, result))
        case .cancel(let id): scheduler.cancel(id)
        case .wake: break
        case .limitQueue(let count): options.maxQueue = count
        case .stop: isStopping = true
        }
      }
      commands.removeAll(keepingCapacity: true)
      if !replies.isEmpty {
        // First the figures: who has its reply finds its request there.
        scheduler.publishFigures()
        for reply in replies { reply.to.resume(with: reply.result) }
        replies.removeAll(keepingCapacity: true)
      }
      canGoOn = scheduler.step()
      #if DEBUG
        if !canGoOn { scheduler.checkInvariants() }
      #endif
      if !canGoOn || published.duration(to: .now).inSeconds > publishInterval {
        scheduler.publishFigures()
        published = .now
      }
      if isStopping && scheduler.isIdle {
        inbox.close()
        return
      }
    }
  }

  private static func overload(_ scheduler: Scheduler, _ options: BatchOptions, _ s: EngineSequence) -> (
    EngineError, String
  )? {
    let waiting = scheduler.waiting
    if waiting.count >= options.maxQueue {
      return (.queueFull(waiting: waiting.count, limit: options.maxQueue), "queue_requests")
    }
    let tokens = waiting.reduce(s.tokens.count) { $0 + $1.tokens.count }
    if !waiting.isEmpty && tokens > options.maxQueuedTokens {
      return (.tooManyQueuedTokens(waiting: tokens, limit: options.maxQueuedTokens), "queue_tokens")
    }
    return nil
  }
}

/// A sequence on its way to the engine's thread.
///
/// Unchecked Sendable: it is made by the submitting task, which keeps no reference to it, and then only touched by the
/// engine's thread; the inbox's lock orders the two.
private final class Handover: @unchecked Sendable {
  let sequence: EngineSequence
  init(_ sequence: EngineSequence) { self.sequence = sequence }
}

private enum Command: Sendable {
  case submit(Handover, CheckedContinuation<Void, any Error>)
  case fork(
    String, Int, @Sendable ([Int32]) throws -> EngineSequence, CheckedContinuation<Void, any Error>)
  case cancel(String)
  /// A reader has caught up.
  case wake
  case limitQueue(Int)
  case stop
}

/// Commands from any thread to the engine's.
private final class Inbox: Sendable {
  private struct State {
    var commands: [Command] = []
    var isParked = false
    var isClosed = false
  }

  private let state = Mutex(State())
  private let signal = DispatchSemaphore(value: 0)

  /// False when the engine's thread has ended.
  @discardableResult
  func post(_ command: Command) -> Bool {
    let (isOpen, wakes) = state.withLock { state in
      if state.isClosed { return (false, false) }
      state.commands.append(command)
      defer { state.isParked = false }
      return (true, state.isParked)
    }
    if wakes { signal.signal() }
    return isOpen
  }

  /// Moves what has come to `commands`, which is empty, and keeps its memory for what comes next.
  func take(_ commands: inout [Command]) {
    precondition(commands.isEmpty)
    state.withLock { swap(&$0.commands, &commands) }
  }

  /// Parks until there is a command.
  func waitAndTake(_ commands: inout [Command]) {
    let parks = state.withLock { state in
      state.isParked = state.commands.isEmpty
      return state.isParked
    }
    if parks { signal.wait() }
    take(&commands)
  }

  /// Refuses what comes from now on, and what waits.
  func close() {
    let left = state.withLock { state in
      state.isClosed = true
      defer { state.commands.removeAll() }
      return state.commands
    }
    for command in left {
      switch command {
      case .submit(_, let reply), .fork(_, _, _, let reply): reply.resume(throwing: GenerationError.stopped)
      case .cancel, .wake, .limitQueue, .stop: break
      }
    }
  }
}
