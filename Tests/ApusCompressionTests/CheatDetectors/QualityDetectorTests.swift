import ApusCompute
import ApusKernels
import Foundation
import Testing

@testable import ApusCompression
@testable import ApusModels

/// Are factors what they are called, is quality measured on other texts, and is the ratio the file's? (The specification's
/// cheats d, g and i.)
@Suite struct QualityDetectorTests {
  // MARK: the metric

  /// Are these factors those of output-PCA for the metric: is what the outputs say loudest kept, and is the loss that is
  /// predicted the one that is measured?
  private func knowsTheMetric(
    _ factors: LowRankFactors, predictedLoss: Double, _ weights: Matrix<Float>, _ metric: InputMetric,
    loudest: Matrix<Double>
  ) -> Bool {
    let whole = weights.multiplied(by: loudest, on: testPool)
    let low = factors.ups[0].multiplied(by: factors.down.multiplied(by: loudest, on: testPool), on: testPool)
    let isKept = low.minus(whole).squaredNorm < 1e-6 * whole.squaredNorm
    let measured = factors.loss(of: [weights], in: metric, on: testPool)
    return isKept && abs(measured - predictedLoss) < 1e-3 * measured
  }

  @Test func `a loud direction is kept and the tail is the loss; plain SVD under another name is seen`() throws {
    let seed: UInt64 = 53
    print("seed \(seed)")
    var random = TestRandom(seed: seed)
    let (n, rank) = (40, 6)
    let weights = random.floatMatrix(32, n)
    var loudest = random.matrix(n, 1)
    let length = loudest.squaredNorm.squareRoot()
    for i in 0..<n { loudest[i, 0] /= length }
    var rows = random.floatMatrix(600, n)
    for i in 0..<rows.rows {
      let size = 300 * Float(random.number())
      for j in 0..<n { rows[i, j] += size * Float(loudest[j, 0]) }
    }
    var statistics = InputStatistics(size: n)
    try statistics.add(rows, on: testPool)
    let metric = try FactorMethod.outputPCA(centred: false).metric(for: statistics)
    func factors(_ method: FactorMethod) throws -> (LowRankFactors, Double) {
      let pca = try OutputPCA(of: [weights], in: try method.metric(for: statistics), on: testPool)
      guard case .lowRank(let factors, let loss) = try pca.factorise(rank: rank, on: testPool) else {
        throw CompressionError(kind: .parameter, what: "factors", seen: "dense", expected: "low rank")
      }
      return (factors, loss)
    }
    let (honest, loss) = try factors(.outputPCA(centred: false))
    #expect(knowsTheMetric(honest, predictedLoss: loss, weights, metric, loudest: loudest))
    for method in [FactorMethod.plain, .activationScaled(alpha: 0.5)] {
      let (other, loss) = try factors(method)
      #expect(!knowsTheMetric(other, predictedLoss: loss, weights, metric, loudest: loudest), "\(method)")
    }
  }

  @Test func `equal singular values and silent inputs keep the identity of tail and loss`() throws {
    var random = TestRandom(seed: 59)
    // All outputs equally loud; and a moment of rank 5 for 24 inputs.
    let equal = random.orthogonal(24)
    let weights = Matrix<Float>(rows: 24, columns: 24, elements: equal.elements.map { Float($0) })
    let few = random.matrix(5, 24)
    let moments = [
      InputMetric.identity,
      try .moment(InputMoment(matrix: few.multiplied(by: few, transposeSelf: true, on: testPool), mean: nil)),
    ]
    for metric in moments {
      let pca = try OutputPCA(of: [weights], in: metric, on: testPool)
      for rank in [1, 5, 11] {
        guard case .lowRank(let factors, let loss) = try pca.factorise(rank: rank, on: testPool) else {
          Issue.record("rank \(rank) is dense")
          continue
        }
        let measured = factors.loss(of: [weights], in: metric, on: testPool)
        #expect(abs(measured - loss) < 1e-5 * pca.energy, "rank \(rank): \(measured), \(loss)")
      }
    }
  }

  // MARK: texts

  /// Glosses of no meaning, each of its own words.
  private func lines(_ range: Range<Int>) -> [String] {
    range.map { "definition \($0) of a bird that flies at height \(7919 * $0 % 1009)" }
  }

  @Test func `a text from the calibration is refused, also in part and in another order`() throws {
    let model = try RandomModel.encoder(seed: 1)
    let decoder = try RandomModel.decoder(seed: 1)
    let learned = lines(0..<300)
    for model in [model, decoder] {
      let corpus = Corpus(text: learned.joined(separator: "\n"), for: model)
      var statistics = CalibrationStatistics(model: "m", corpus: corpus.digest)
      try Calibration(model, groups: Array(LinearGroup.all(of: model).prefix(1)), threads: 1)
        .run(corpus, into: &statistics)
      let folder = TestFolder()
      try statistics.write(to: folder.path + "/s")
      let known = try CalibrationStatistics(path: folder.path + "/s").lines
      #expect(known == corpus.lines && known.count == 300)

      func refusal(_ text: [String]) -> CompressionError.Kind? {
        kind { try known.requireUnseen(Corpus(text: text.joined(separator: "\n"), for: model), "text") }
      }
      #expect(refusal(lines(300..<500)) == nil)
      #expect(refusal(learned) == .seenText)
      let part = Array(learned[40..<80].reversed()) + lines(900..<1000)
      #expect(refusal(part) == .seenText)
      // Comparing hashes of the whole texts, as a manifest would, sees nothing here.
      #expect(Corpus(text: part.joined(separator: "\n"), for: model).digest != statistics.corpus)
      // One line in two hundred may come by chance.
      #expect(refusal(lines(300..<500) + [learned[3]]) == nil)
    }
  }

  @Test func `only lines that were read count`() throws {
    for model in [try RandomModel.encoder(seed: 1), try RandomModel.decoder(seed: 1)] {
      let text = lines(0..<100).joined(separator: "\n")
      let part = Corpus(text: text, for: model, limit: text.utf8.count / 2)
      #expect((45...55).contains(part.lines.count), "\(part.lines.count)")
      #expect(part.lines.shared(with: LineHashes(lines(0..<40).joined(separator: "\n"))) == 40)
      #expect(part.lines.shared(with: LineHashes(lines(60..<100).joined(separator: "\n"))) == 0)
    }
    #expect(LineHashes(base64: LineHashes(lines(0..<9).joined(separator: "\n")).base64)?.count == 9)
    #expect(LineHashes(base64: "?") == nil && LineHashes(base64: "AAAA") == nil)
  }

  // MARK: the ratio

  /// Numbers in a file's factors and in the matrices that it keeps, of those that the original has.
  private func ratioOfFile(_ path: String, _ small: CompressedModel, _ groups: [LinearGroup]) throws -> Double {
    let file = try SafetensorsFile(path: path)
    let stored = try file.tensorNames.reduce(0) { $0 + (try file.tensor($1)).elementCount }
    let kept = zip(groups, small.groups).reduce(0) { $0 + ($1.1.rank == nil ? $1.0.parameters : 0) }
    return Double(stored + kept) / Double(groups.reduce(0) { $0 + $1.parameters })
  }

  /// Gives no layer less than half of its parameters, whatever is asked for.
  private struct Clamping: RankAllocator {
    func ranks(for layers: [RankedLayer], budget: Int) throws(CompressionError) -> [RankChoice] {
      layers.map { .rank(max(1, Int($0.breakEven / 2))) }
    }
  }

  @Test(arguments: FactorEncoding.allCases)
  func `the ratio is that of the file, a miss is said, and a clamped rank is seen`(encoding: FactorEncoding) throws {
    let model = try RandomModel.encoder(dim: 192, heads: 4, headDim: 48, hidden: 384, seed: 1)
    let corpus = Corpus(text: RandomModel.text(200, seed: 2), for: model, limit: 2000)
    var statistics = CalibrationStatistics(model: "m", corpus: corpus.digest)
    try Calibration(model, threads: 2).run(corpus, into: &statistics)
    let compressor = try ModelCompressor(model, statistics: statistics, encoding: encoding, threads: 2)
    let folder = TestFolder()
    func isTold(_ asked: Double, _ small: CompressedModel, claimed: Double, _ said: String?) throws -> Bool {
      let path = folder.path + "/f.safetensors"
      try ModelFileWriter.safetensors(small.changes.factors, to: path)
      let real = try ratioOfFile(path, small, compressor.groups)
      return abs(real - claimed) < 1e-3 && (abs(real - asked) <= 0.0101 || said != nil)
    }
    for asked in [0.25, 0.5, 0.73, 0.9, 0.99, 1] {
      let small = try compressor.compressed(compressor.ranks(ratio: asked, by: UniformAllocator()))
      #expect(small.ratio <= asked)
      #expect(try isTold(asked, small, claimed: small.ratio, small.shortfall(asked: asked)), "\(asked)")
    }
    let clamped = try compressor.compressed(compressor.ranks(ratio: 0.2, by: Clamping()))
    #expect(try !isTold(0.2, clamped, claimed: 0.2, nil))
    #expect(clamped.shortfall(asked: 0.2) != nil)
  }
}
