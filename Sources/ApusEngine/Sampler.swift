import ApusText

/// Chooses the next token of one sequence from its logits, as ``SamplingOptions`` say.
///
/// A value: it holds the options, the penalties' counts and scratch space, and no generator state, because random
/// numbers are a function of seed and position (``Philox``). Once its scratch has grown, `sample` allocates nothing.
///
/// ```swift
/// var sampler = try Sampler(.init(temperature: 0.7, topP: 0.9, seed: 1), vocabularySize: 49152, prompt: ids)
/// let token = try sampler.sample(logits, position: ids.count)
/// sampler.accept(token)
/// ```
public struct Sampler: Sendable {
  public let options: SamplingOptions
  /// How many logits a row has.
  public let vocabularySize: Int

  private let random: Philox
  private var history: TokenHistory
  private var candidates: [Candidate] = []
  /// For sorting candidates.
  private var scratch: [Candidate] = []
  private var blockMasses: [Double] = []
  private var unchanged: [Float] = []

  /// A token that the filters have left, with its weight relative to the most probable one.
  struct Candidate: Sendable, Equatable {
    var token: Int32
    /// (logit − greatest logit) / temperature: 0 or less.
    var exponent: Float
    /// e to the exponent.
    var weight: Float
    /// What a filter sorts by.
    var key: Float = 0
  }

  /// Throws ``SamplingError/invalidOption(name:value:expected:)``. The prompt counts for the repetition penalty only.
  public init(_ options: SamplingOptions, vocabularySize: Int, prompt: some Sequence<Int32> = []) throws {
    try options.validate(vocabularySize: vocabularySize)
    self.options = options
    self.vocabularySize = vocabularySize
    random = Philox(key: options.seed)
    history = TokenHistory(options, vocabularySize: vocabularySize)
    for token in prompt { history.append(token, isGenerated: false) }
  }

  /// Takes memory for an answer of so many tokens.
  mutating func reserve(tokens count: Int) { history.reserve(tokens: count) }

  /// Tells the penalties that the answer goes on with this token.
  public mutating func accept(_ token: Int32) {
    history.append(token, isGenerated: true)
  }

  /// The token for one position, from its logits `[vocabulary]`, which bias and penalties overwrite.
  ///
  /// `position` counts tokens from the start of the sequence and selects the random number; a token outside the mask is
  /// never chosen. Throws ``SamplingError/noChoice(position:vocabularySize:)``. O(vocabulary), plus a sort of what the
  /// filters keep.
  public mutating func sample(
    _ logits: UnsafeMutableBufferPointer<Float>, position: Int, mask: TokenMask? = nil
  ) throws -> Int32 {
    precondition(logits.count == vocabularySize, "\(logits.count) logits for \(vocabularySize) tokens")
    mask?.apply(to: logits)
    for (token, bias) in options.logitBias { logits[Int(token)] += bias }
    history.penalize(logits, options)

    let x = UnsafeBufferPointer(logits)
    let greatest = VectorMath.maximum(x)
    guard greatest.value.isFinite else {
      throw SamplingError.noChoice(position: position, vocabularySize: vocabularySize)
    }
    if options.temperature < Self.greedyBelow { return Int32(greatest.index) }

    let scale = Float(1 / options.temperature)
    let number = random.uniform(position: UInt64(position))
    guard filter(x, maximum: greatest.value, scale: scale) else {
      return drawFromAll(x, maximum: greatest.value, scale: scale, number: number)
    }
    return draw(number)
  }

  /// As `sample`, and reports the model's own log-probabilities: of the token, and of the `count` most probable ones.
  public mutating func sample(
    _ logits: UnsafeMutableBufferPointer<Float>, position: Int, top count: Int, mask: TokenMask? = nil
  ) throws -> (token: Int32, report: TokenLogProbabilities) {
    // Bias and penalties overwrite the logits.
    unchanged.removeAll(keepingCapacity: true)
    unchanged.append(contentsOf: logits)
    let token = try sample(logits, position: position, mask: mask)
    let report = unchanged.withUnsafeBufferPointer { LogSoftmax($0)(chosen: token, top: count) }
    return (token, report)
  }

  /// Temperatures below this are greedy: f32 logits divided by less leave one token anyway.
  private static let greedyBelow = 1e-5

  // MARK: filters

  /// Runs the filters that are on, and leaves what they keep in `candidates`; false when none is on.
  private mutating func filter(_ x: UnsafeBufferPointer<Float>, maximum: Float, scale: Float) -> Bool {
    var isFiltered = false
    if let k = options.topK, k < x.count {
      keepGreatest(k, of: x, maximum: maximum, scale: scale)
      isFiltered = true
    }
    if options.topP < 1 {
      if isFiltered {
        for i in candidates.indices { candidates[i].key = -candidates[i].exponent }
        keepSmallestKeys(mass: options.topP * candidateMass)
      } else {
        let total = sumBlocks(x, maximum: maximum, scale: scale, weighted: false).mass
        keepSmallestKeys(
          of: x, maximum: maximum, scale: scale, center: 0, mass: options.topP * total)
        isFiltered = true
      }
    }
    if options.minP > 0 {
      let lowest = Float(options.minP)
      if isFiltered {
        candidates.removeAll { $0.weight < lowest }
      } else {
        collect(x, maximum: maximum, scale: scale, center: 0, within: .infinity, weight: lowest)
        isFiltered = true
      }
    }
    if options.typicalP < 1 {
      if isFiltered {
        var mass = 0.0
        var moment = 0.0
        for c in candidates {
          mass += Double(c.weight)
          if c.weight > 0 { moment += Double(c.weight) * Double(c.exponent) }
        }
        let center = Float(moment / mass)
        for i in candidates.indices { candidates[i].key = abs(candidates[i].exponent - center) }
        keepSmallestKeys(mass: options.typicalP * mass)
      } else {
        let sums = sumBlocks(x, maximum: maximum, scale: scale, weighted: true)
        keepSmallestKeys(
          of: x, maximum: maximum, scale: scale, center: Float(sums.weighted / sums.mass),
          mass: options.typicalP * sums.mass)
        isFiltered = true
      }
    }
    return isFiltered
  }

  /// The k greatest logits, the lower id among equals, in descending order: a heap of k over one pass that compares eight
  /// logits at a time with the heap's least.
  private mutating func keepGreatest(_ k: Int, of x: UnsafeBufferPointer<Float>, maximum: Float, scale: Float) {
    candidates.removeAll(keepingCapacity: true)
    // Until the end `exponent` holds the logit. `isWorse` puts the candidate to replace first at the root.
    func isWorse(_ a: Candidate, _ b: Candidate) -> Bool {
      a.exponent < b.exponent || (a.exponent == b.exponent && a.token > b.token)
    }
    var i = 0
    while i < x.count, candidates.count < k {
      if !x[i].isNaN { candidates.append(Candidate(token: Int32(i), exponent: x[i], weight: 0)) }
      i += 1
    }
    candidates.withUnsafeMutableBufferPointer { heap in
      func siftDown(_ start: Int) {
        var parent = start
        let moved = heap[parent]
        while true {
          var child = 2 * parent + 1
          if child >= heap.count { break }
          if child + 1 < heap.count, isWorse(heap[child + 1], heap[child]) { child += 1 }
          if !isWorse(heap[child], moved) { break }
          heap[parent] = heap[child]
          parent = child
        }
        heap[parent] = moved
      }
      for start in stride(from: heap.count / 2 - 1, through: 0, by: -1) { siftDown(start) }
      func offer(_ index: Int) {
        if x[index] > heap[0].exponent {
          heap[0] = Candidate(token: Int32(index), exponent: x[index], weight: 0)
          siftDown(0)
        }
      }
      while i + VectorMath.width <= x.count {
        if any(VectorMath.load(x.baseAddress!, i) .> heap[0].exponent) {
          for j in i..<i + VectorMath.width { offer(j) }
        }
        i += VectorMath.width
      }
      while i < x.count {
        offer(i)
        i += 1
      }
    }
    candidates.sort(through: &scratch) { isWorse($1, $0) }
    for j in candidates.indices {
      candidates[j].exponent = (candidates[j].exponent - maximum) * scale
      candidates[j].weight = VectorMath.exp(candidates[j].exponent)
    }
  }

  /// Cuts `candidates` to the smallest keys (the lower id among equals) whose weights reach `mass`; at least one.
  private mutating func keepSmallestKeys(mass: Double) {
    candidates.sort(through: &scratch) { $0.key < $1.key || ($0.key == $1.key && $0.token < $1.token) }
    var sum = 0.0
    var count = 0
    while count < candidates.count, count == 0 || sum < mass {
      sum += Double(candidates[count].weight)
      count += 1
    }
    candidates.removeLast(candidates.count - count)
  }

  /// The same over all tokens, with key = |exponent − center|: collects ever wider key ranges until the mass is inside, so
  /// that only few tokens are sorted.
  private mutating func keepSmallestKeys(
    of x: UnsafeBufferPointer<Float>, maximum: Float, scale: Float, center: Float, mass: Double
  ) {
    var width: Float = 2
    while true {
      collect(x, maximum: maximum, scale: scale, center: center, within: width, weight: 0)
      // The margin keeps a sum that differs in its last bits from ending the search one width early.
      if candidateMass >= mass * (1 + 1e-6) || width > Self.widestKey { break }
      width *= 2
    }
    keepSmallestKeys(mass: mass)
  }

  /// Beyond this |exponent| the weight is 0 in f32.
  private static let widestKey: Float = 128

  /// Fills `candidates`, in order of id, with the tokens whose key is at most `within` and whose weight is at least
  /// `weight`.
  private mutating func collect(
    _ x: UnsafeBufferPointer<Float>, maximum: Float, scale: Float, center: Float, within: Float, weight: Float
  ) {
    candidates.removeAll(keepingCapacity: true)
    func consider(_ index: Int) {
      let exponent = (x[index] - maximum) * scale
      let key = abs(exponent - center)
      guard key <= within else { return }
      let w = VectorMath.exp(exponent)
      if w >= weight { candidates.append(Candidate(token: Int32(index), exponent: exponent, weight: w, key: key)) }
    }
    // Everything below this logit fails one of the two tests; a little lower, because rounding differs.
    let lowestExponent = max(center - within, weight > 0 ? VectorMath.logLowerBound(weight) : -.infinity)
    let lowest = maximum + (lowestExponent - 1e-3 * abs(lowestExponent)) / scale
    var i = 0
    while i + VectorMath.width <= x.count {
      if any(VectorMath.load(x.baseAddress!, i) .>= lowest) {
        for j in i..<i + VectorMath.width { consider(j) }
      }
      i += VectorMath.width
    }
    while i < x.count {
      consider(i)
      i += 1
    }
  }

  private var candidateMass: Double {
    candidates.reduce(into: 0.0) { $0 += Double($1.weight) }
  }

  // MARK: drawing

  /// Inverts the cumulative distribution of `candidates` in their order.
  private func draw(_ number: Double) -> Int32 {
    let target = number * candidateMass
    var sum = 0.0
    var last = candidates[0].token
    for c in candidates where c.weight > 0 {
      sum += Double(c.weight)
      last = c.token
      if sum > target { break }
    }
    return last
  }

  /// Inverts the cumulative distribution of all tokens in order of id: block sums first, then within one block.
  private mutating func drawFromAll(
    _ x: UnsafeBufferPointer<Float>, maximum: Float, scale: Float, number: Double
  ) -> Int32 {
    let target = number * sumBlocks(x, maximum: maximum, scale: scale, weighted: false).mass
    var sum = 0.0
    var last: Int32 = 0
    for (b, blockMass) in blockMasses.enumerated() where blockMass > 0 {
      let range = block(b, of: x.count)
      if sum + blockMass <= target {
        sum += blockMass
        continue
      }
      for i in range {
        let weight = VectorMath.exp((x[i] - maximum) * scale)
        if weight > 0 {
          sum += Double(weight)
          last = Int32(i)
          if sum > target { return last }
        }
      }
    }
    // Rounding left the target a hair above the sum: the last token that can be drawn.
    for i in stride(from: x.count - 1, through: 0, by: -1)
    where VectorMath.exp((x[i] - maximum) * scale) > 0 { return Int32(i) }
    return last
  }

  private func block(_ index: Int, of count: Int) -> Range<Int> {
    let start = index * VectorMath.blockSize
    return start..<min(start + VectorMath.blockSize, count)
  }

  /// Fills `blockMasses` and returns the sums over all tokens of eʸ and y·eʸ.
  private mutating func sumBlocks(
    _ x: UnsafeBufferPointer<Float>, maximum: Float, scale: Float, weighted: Bool
  ) -> (mass: Double, weighted: Double) {
    blockMasses.removeAll(keepingCapacity: true)
    var total = (mass: 0.0, weighted: 0.0)
    for b in 0..<(x.count + VectorMath.blockSize - 1) / VectorMath.blockSize {
      let sums = VectorMath.blockSum(
        x, block(b, of: x.count), maximum: maximum, scale: scale, weighted: weighted)
      blockMasses.append(sums.mass)
      total.mass += sums.mass
      total.weighted += sums.weighted
    }
    return total
  }
}

/// Which tokens a sequence holds, for the penalties; keeps nothing when they are off.
struct TokenHistory: Sendable {
  private let window: Int
  private var recent: [Int32] = []
  private var next = 0
  /// Per token 0 if it never came, else 1 + how often it stands in the window.
  private var windowCounts: [Int32] = []
  private var windowTokens: [Int32] = []
  private var answerCounts: [Int32] = []
  private var answerTokens: [Int32] = []

  init(_ options: SamplingOptions, vocabularySize: Int) {
    let repeats = options.repetitionPenalty != 1 && options.repetitionWindow != 0
    window = repeats ? options.repetitionWindow ?? .max : 0
    if repeats { windowCounts = Array(repeating: 0, count: vocabularySize) }
    if options.presencePenalty != 0 || options.frequencyPenalty != 0 {
      answerCounts = Array(repeating: 0, count: vocabularySize)
    }
  }

  mutating func reserve(tokens count: Int) {
    if !windowCounts.isEmpty { windowTokens.reserveCapacity(windowTokens.count + count) }
    if window != .max { recent.reserveCapacity(min(window, recent.count + count)) }
    if !answerCounts.isEmpty { answerTokens.reserveCapacity(count) }
  }

  mutating func append(_ token: Int32, isGenerated: Bool) {
    let index = Int(token)
    if windowCounts.indices.contains(index) {
      if window != .max {
        if recent.count < window {
          recent.append(token)
        } else {
          windowCounts[Int(recent[next])] -= 1
          recent[next] = token
          next = (next + 1) % window
        }
      }
      if windowCounts[index] == 0 {
        windowTokens.append(token)
        windowCounts[index] = 1
      }
      windowCounts[index] += 1
    }
    if isGenerated, answerCounts.indices.contains(index) {
      if answerCounts[index] == 0 { answerTokens.append(token) }
      answerCounts[index] += 1
    }
  }

  func penalize(_ logits: UnsafeMutableBufferPointer<Float>, _ options: SamplingOptions) {
    let repetition = Float(options.repetitionPenalty)
    for token in windowTokens where windowCounts[Int(token)] > 1 {
      let x = logits[Int(token)]
      logits[Int(token)] = x > 0 ? x / repetition : x * repetition
    }
    let presence = Float(options.presencePenalty)
    let frequency = Float(options.frequencyPenalty)
    for token in answerTokens {
      logits[Int(token)] -= presence + frequency * Float(answerCounts[Int(token)])
    }
  }
}
