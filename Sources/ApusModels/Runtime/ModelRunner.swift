import ApusCompute
import ApusKernels

public struct RunnerOptions: Sendable {
  /// Nil: one per core.
  public var threads: Int?
  /// f32 arithmetic on dequantised weights and f32 keys and values: the oracle of the fast path.
  public var exact: Bool
  /// The most tokens of one sequence; nil: the model's, at most 4096.
  public var contextLength: Int?
  public var maxSequences: Int
  /// The most tokens in one forward pass.
  public var maxBatchTokens: Int
  /// Bytes of keys and values that all sequences share in blocks; nil gives each sequence memory of its own.
  public var kvPoolBytes: Int?
  /// Nil: streamed for encoders, whole for decoders, whose passes are small.
  public var execution: Execution?
  /// What layers keep of past tokens; nil: what the model's file says.
  public var kvLayout: KVLayoutChoice?
  /// Makes the device that computes, which counts its memory in the ledger; nil: this machine's cores.
  public var makeDevice: (@Sendable (MemoryLedger) throws -> any Device)?

  public init(
    threads: Int? = nil, exact: Bool = false, contextLength: Int? = nil, maxSequences: Int = 1,
    maxBatchTokens: Int = 512, kvPoolBytes: Int? = nil, execution: Execution? = nil,
    kvLayout: KVLayoutChoice? = nil, makeDevice: (@Sendable (MemoryLedger) throws -> any Device)? = nil
  ) {
    self.threads = threads
    self.exact = exact
    self.contextLength = contextLength
    self.maxSequences = maxSequences
    self.maxBatchTokens = maxBatchTokens
    self.kvPoolBytes = kvPoolBytes
    self.execution = execution
    self.kvLayout = kvLayout
    self.makeDevice = makeDevice
  }
}

/// Names a sequence of one runner.
public struct SequenceID: Hashable, Sendable {
  let index: Int
}

public enum RunnerError: Error, CustomStringConvertible, Equatable {
  case contextOverflow(tokens: Int, contextLength: Int)
  case tooManySequences(limit: Int)
  case tokenOutOfRange(token: Int32, vocabulary: Int)
  case emptyInput
  case outOfBlocks(pool: Int)
  case batchTooLarge(tokens: Int, limit: Int)
  case notAnEncoder(String)
  case notAGenerator(String)
  case badOption(String)

  public var description: String {
    switch self {
    case .contextOverflow(let tokens, let length):
      "\(tokens) tokens do not fit the context of \(length): shorten the prompt, raise the context length, or ask for shifting"
    case .tooManySequences(let limit): "\(limit) sequences are in use, which is this runner's limit (maxSequences)"
    case .tokenOutOfRange(let token, let vocabulary):
      "token \(token) is not in the vocabulary of \(vocabulary) tokens"
    case .emptyInput: "there is nothing to run: an input has no tokens"
    case .outOfBlocks(let pool):
      "all \(pool) KV blocks are in use: give the pool more memory, or run fewer or shorter sequences"
    case .batchTooLarge(let tokens, let limit):
      "\(tokens) tokens in one pass, the limit is \(limit) (maxBatchTokens): pass them in parts"
    case .notAnEncoder(let name): "\(name) generates text and gives no embeddings; use an encoder, e.g. minilm-l6"
    case .notAGenerator(let name): "\(name) is an encoder and generates no text; use `embed`, or a language model"
    case .badOption(let text): text
    }
  }
}

/// Rows of logits in the runner's memory, valid while the closure that got them runs.
public struct Logits {
  let tensor: Tensor

  public var rows: Int { tensor.rows }
  public var vocabulary: Int { tensor.columns }

  /// May be changed in place.
  public subscript(row: Int) -> UnsafeMutableBufferPointer<Float> { tensor.withRow(row) { $0 } }
}

/// Bytes by what they are for.
public struct MemoryReport: Sendable, Codable, Equatable {
  /// Weights (mapped from the file, not counted as heap) and tables.
  public var weights: Int
  public var persistent: Int
  public var kv: Int
  /// Of a token.
  public var kvPerToken: Int
  /// The greatest plan of the passes so far, computed before they ran.
  public var transientPlan: Int
  /// What the arena measured.
  public var transientHighWater: Int
}

/// Executes a model for some sequences.
///
/// One call at a time, from one thread; independent runners of the same model can run in parallel.
public final class ModelRunner {
  public struct Input {
    public var sequence: SequenceID
    public var tokens: [Int32]
    public var logits: LogitsRequest

    public init(_ sequence: SequenceID, _ tokens: some Sequence<Int32>, logits: LogitsRequest = .last) {
      self.sequence = sequence
      self.tokens = Array(tokens)
      self.logits = logits
    }
  }

  public let model: LoadedModel
  public let contextLength: Int
  public let options: RunnerOptions
  public let threads: Int
  /// What each layer keeps of a token.
  public let kvLayouts: [KVLayout]
  /// Bytes that a token takes in all layers.
  public let kvBytesPerToken: Int

  /// Who computes, for people.
  public var deviceName: String { device.name }

  private let kvShapes: [KVShape]
  private let ledger = MemoryLedger()
  private let device: any Device
  /// The model's, where the device computes.
  private let parameters: Parameters
  private let execution: Execution
  private let kv: any SequenceKVStore
  /// The shared blocks, where the options ask for them.
  public let paged: PagedKVStore?
  private let rotary: RotaryTables
  private var lengths: [SequenceID: Int] = [:]
  private var plans: [PlanKey: Int] = [:]
  private var greatestPlan = 0
  private let buffers = PassBuffers()

  private struct PlanKey: Hashable {
    var rows: Int
    var outputs: Int
    var segments: Int
  }

  public init(_ model: LoadedModel, _ options: RunnerOptions = .init()) throws {
    if let threads = options.threads, threads < 1 {
      throw RunnerError.badOption("\(threads) threads; at least 1 is needed")
    }
    if let length = options.contextLength, length < 1 || length > model.contextLength {
      throw RunnerError.badOption(
        "a context of \(length) tokens; \(model.name) takes 1 to \(model.contextLength)")
    }
    guard options.maxBatchTokens >= 1, options.maxSequences >= 1 else {
      throw RunnerError.badOption("maxBatchTokens and maxSequences must be at least 1")
    }
    execution = options.execution ?? (model.isEncoder ? .streamed(rows: Execution.standardPiece) : .whole)
    if let rows = execution.piece, rows < 1 {
      throw RunnerError.badOption("pieces of \(rows) rows; at least 1 is needed")
    }
    self.model = model
    self.options = options
    contextLength = options.contextLength ?? min(model.contextLength, 4096)
    threads = options.threads ?? ThreadPool.availableThreads
    if let makeDevice = options.makeDevice {
      device = try makeDevice(ledger)
      guard model.isEncoder || device.runsDecoders else {
        throw RunnerError.badOption("\(model.name) is a decoder, and this device runs encoders: leave the device out")
      }
      parameters = try model.parameters.resident(on: device)
    } else {
      device = CPUDevice(
        threads: threads, precision: options.exact ? .exact : .fast, arena: Arena(capacity: 0, ledger: ledger))
      parameters = model.parameters
    }
    let dtype: DType = options.exact ? .f32 : .f16
    let attentions = model.module.layers.map(\.attention)
    // Narrow rows are stored, and so are for devices that keep a past.
    let choice = device.runsDecoders ? options.kvLayout ?? model.kvLayout : .dense
    func layouts(_ choice: KVLayoutChoice) -> ([KVLayout], [KVShape]) {
      let layouts = attentions.map { $0.kvLayout(model.parameters, choice) }
      return (layouts, zip(attentions, layouts).map { $0.kvShape($1) })
    }
    var (chosen, shapes) = layouts(choice)
    if let bytes = options.kvPoolBytes {
      func blocks() -> Int { bytes / PagedKVStore.blockBytes(shapes, dtype: dtype) }
      if choice == .auto && blocks() * kvBlockTokens < contextLength { (chosen, shapes) = layouts(.rankKV) }
      guard blocks() * kvBlockTokens >= contextLength else {
        throw RunnerError.badOption(
          "a KV pool of \(bytes) bytes holds \(blocks() * kvBlockTokens) tokens; one sequence may have \(contextLength)"
        )
      }
      let store = PagedKVStore(shapes, capacity: contextLength, blocks: blocks(), dtype: dtype, ledger: ledger)
      paged = store
      kv = store
    } else {
      paged = nil
      kv = ContiguousKVStore(shapes, capacity: contextLength, dtype: dtype, ledger: ledger)
    }
    kvLayouts = chosen
    kvShapes = shapes
    kvBytesPerToken = shapes.reduce(0) { $0 + $1.bytesPerToken(dtype) }
    rotary = RotaryTables(ledger: ledger)
  }

  // MARK: sequences

  public func makeSequence() throws -> SequenceID {
    guard lengths.count < options.maxSequences else {
      throw RunnerError.tooManySequences(limit: options.maxSequences)
    }
    let id = SequenceID(index: kv.makeSequence())
    lengths[id] = 0
    return id
  }

  public func release(_ s: SequenceID) {
    lengths[s] = nil
    kv.release(s.index)
  }

  /// Tokens whose keys and values are kept.
  public func length(of s: SequenceID) -> Int { lengths[s] ?? 0 }

  /// Forgets the tokens from `length` on.
  public func truncate(_ s: SequenceID, to length: Int) {
    precondition(length >= 0 && length <= self.length(of: s), "truncate to \(length) of \(self.length(of: s))")
    lengths[s] = length
  }

  /// Says that the store holds the first `tokens` tokens of a new sequence already.
  public func adopt(_ s: SequenceID, tokens: Int) {
    precondition(tokens >= length(of: s) && tokens <= contextLength)
    lengths[s] = tokens
  }

  // MARK: passes

  /// Appends tokens to their sequences, prefill and decode alike, and gives the logits asked for, in the inputs' order.
  public func forward<R>(_ inputs: [Input], _ body: (Logits) throws -> R) throws -> R {
    var tokens = TokenBatch()
    for input in inputs { tokens.append(input.sequence, input.tokens, logits: input.logits) }
    return try forward(tokens, body)
  }

  /// The same from a batch that the caller keeps. Allocates nothing on the heap when a batch of as many rows and sequences
  /// has been computed before.
  public func forward<R>(_ tokens: TokenBatch, _ body: (Logits) throws -> R) throws -> R {
    guard !model.isEncoder else { throw RunnerError.notAGenerator(model.name) }
    try layOut(tokens)
    let batch = buffers.batch
    let outputs = buffers.outputs
    let mode: Mode = batch.segments.allSatisfy { $0.firstPosition == 0 } ? .prefill : .extend
    // In pieces, the plan depends on how long each sequence is.
    let key =
      execution == .whole
      ? PlanKey(rows: batch.rows, outputs: outputs.count, segments: batch.segments.count) : nil
    try reserve(key) { planner in run(tokens.tokens, outputs, batch, mode, kv, on: planner) { _ in } }
    let result = try run(tokens.tokens, outputs, batch, mode, kv, on: device) { try body(Logits(tensor: $0)) }
    for part in tokens.parts { lengths[part.sequence]! += part.count }
    return result
  }

  /// Checks the tokens, lays them out as rows in `buffers`, and sees that there is room for their keys and values.
  private func layOut(_ tokens: TokenBatch) throws {
    buffers.removeAll()
    for part in tokens.parts {
      guard part.count > 0 else { throw RunnerError.emptyInput }
      let past = length(of: part.sequence)
      guard past + part.count <= contextLength else {
        throw RunnerError.contextOverflow(tokens: past + part.count, contextLength: contextLength)
      }
      let first = buffers.batch.rows
      buffers.batch.append(sequence: part.sequence.index, rows: part.count, firstPosition: past)
      switch part.logits {
      case .none: break
      case .last: buffers.outputs.append(Int32(first + part.count - 1))
      case .all: for row in first..<first + part.count { buffers.outputs.append(Int32(row)) }
      }
    }
    try check(tokens.tokens)
    for part in tokens.parts {
      try kv.prepare(part.sequence.index, tokens: length(of: part.sequence) + part.count)
    }
  }

  /// One row per input, pooled as the encoder says. Inputs are packed into passes of at most `maxBatchTokens` tokens (one
  /// longer input makes its own).
  public func embed(_ inputs: [[Int32]]) throws -> [[Float]] {
    guard model.isEncoder else { throw RunnerError.notAnEncoder(model.name) }
    var results: [[Float]] = []
    var next = 0
    while next < inputs.count {
      var batch = Batch()
      var ids: [Int32] = []
      while next < inputs.count, ids.isEmpty || ids.count + inputs[next].count <= options.maxBatchTokens {
        let input = inputs[next]
        guard !input.isEmpty else { throw RunnerError.emptyInput }
        guard input.count <= model.contextLength else {
          throw RunnerError.contextOverflow(tokens: input.count, contextLength: model.contextLength)
        }
        batch.append(sequence: batch.segments.count, rows: input.count, firstPosition: 0)
        ids += input
        next += 1
      }
      try check(ids)
      let store = TransientKVStore(kvShapes)
      try reserve(nil) { planner in encode(ids, batch, store, on: planner) { _ in } }
      try encode(ids, batch, store, on: device) { out in
        let elements = try device.read(out)
        for row in 0..<out.rows { results.append(Array(elements[row * out.columns..<(row + 1) * out.columns])) }
      }
    }
    return results
  }

  /// Bytes of transient memory that a pass over whole sequences of these lengths needs, to the byte: an encoder's, or a
  /// decoder's prefill with the logits of each last token. `onUse` gets the bytes in use after every change.
  public func plan(_ lengths: [Int], onUse: ((Int) -> Void)? = nil) throws -> Int {
    var batch = Batch()
    for (sequence, length) in lengths.enumerated() {
      guard length > 0 else { throw RunnerError.emptyInput }
      let limit = model.isEncoder ? model.contextLength : contextLength
      guard length <= limit else { throw RunnerError.contextOverflow(tokens: length, contextLength: limit) }
      batch.append(sequence: sequence, rows: length, firstPosition: 0)
    }
    let planner = device.planner()
    planner.arena.onUse = onUse
    let ids = [Int32](repeating: 0, count: batch.rows)
    if model.isEncoder {
      encode(ids, batch, TransientKVStore(kvShapes), on: planner) { _ in }
    } else {
      let outputs = batch.segments.map { Int32($0.rows.upperBound - 1) }
      run(ids, outputs, batch, .prefill, KeptElsewhere(), on: planner) { _ in }
    }
    return planner.arena.highWater
  }

  /// Keys and values that lie in no transient memory, as in every store that keeps them.
  private final class KeptElsewhere: KVStore {
    func withSegments(
      of layer: Int, _ batch: Batch, on device: any Device, _ body: ([AttentionSegment]) -> Void
    ) {
      // No device that only counts looks at them.
      let nowhere = KVPlane(
        base: UnsafeMutableRawPointer(bitPattern: 64)!, blockStride: 0, table: UnsafePointer(bitPattern: 64)!,
        kind: .f32)
      body(
        batch.segments.map {
          AttentionSegment(rows: $0.rows, firstPosition: $0.firstPosition, keys: nowhere, values: nowhere)
        })
    }
  }

  /// Runs `body`, whose passes tell `onUse` the bytes of transient memory in use after every change.
  public func recordingMemory<R>(_ onUse: @escaping (Int) -> Void, _ body: () throws -> R) rethrows -> R {
    device.arena.onUse = onUse
    defer { device.arena.onUse = nil }
    return try body()
  }

  private func check(_ ids: [Int32]) throws {
    guard !ids.isEmpty else { throw RunnerError.emptyInput }
    for id in ids where id < 0 || id >= model.vocabularySize {
      throw RunnerError.tokenOutOfRange(token: id, vocabulary: model.vocabularySize)
    }
  }

  /// Plans a pass and makes the arena large enough for it.
  private func reserve(_ key: PlanKey?, _ pass: (any Device) throws -> Void) throws {
    if let key, plans[key] != nil { return }
    let planner = device.planner()
    try pass(planner)
    let plan = planner.arena.highWater
    if let key { plans[key] = plan }
    greatestPlan = max(greatestPlan, plan)
    try device.arena.reserve(plan)
  }

  private func scope(_ batch: Batch, _ mode: Mode, _ store: any KVStore, on device: any Device) -> Scope {
    Scope(
      device: device, parameters: parameters, mode: mode, batch: batch,
      positions: device.integers(batch.positions), kv: store, kvLayouts: kvLayouts, rotary: rotary,
      execution: execution,
      buffers: buffers)
  }

  private func run<R>(
    _ ids: [Int32], _ outputs: [Int32], _ batch: Batch, _ mode: Mode, _ store: any KVStore, on device: any Device,
    _ body: (Tensor) throws -> R
  ) rethrows -> R {
    try device.temporaries {
      let logits = device.arena.tensor(outputs.count, model.module.headColumns)
      device.temporaries {
        let c = scope(batch, mode, store, on: device)
        let hidden = model.module.hidden(device.integers(ids), c)
        if !outputs.isEmpty {
          let rows = c.tensor(outputs.count, hidden.columns)
          device.gatherRows(hidden, device.integers(outputs), into: rows)
          model.module.head(rows, into: logits, c)
        }
      }
      return try body(logits)
    }
  }

  private func encode(
    _ ids: [Int32], _ batch: Batch, _ store: any KVStore, on device: any Device,
    _ body: (Tensor) throws -> Void
  ) rethrows {
    try device.temporaries {
      let out = device.arena.tensor(batch.segments.count, model.module.headColumns)
      device.temporaries {
        let c = scope(batch, .eval, store, on: device)
        model.module.head(model.module.hidden(device.integers(ids), c), into: out, c)
      }
      try body(out)
    }
  }

  public var memory: MemoryReport {
    MemoryReport(
      weights: model.parameters.byteCount, persistent: ledger.highWater(.persistent), kv: ledger.highWater(.kv),
      kvPerToken: kvBytesPerToken,
      transientPlan: greatestPlan, transientHighWater: ledger.highWater(.transient))
  }
}
