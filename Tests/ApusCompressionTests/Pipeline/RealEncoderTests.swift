import ApusKernels
import Foundation
import Testing

@testable import ApusCompression
@testable import ApusModels

private func realEncoder() -> ModelLocation? { try? ModelStore().find("minilm-l6") }

/// MiniLM compressed, written, read, streamed and multiplied out again. The texts are this repository's own.
@Suite(.enabled(if: realEncoder() != nil, "minilm-l6 is not on this machine: apus model pull minilm-l6"))
struct RealEncoderTests {
  private static func lines(_ file: String) throws -> [String] {
    let root = URL(filePath: #filePath).appending(path: "../../../..").standardizedFileURL
    return try String(contentsOf: root.appending(path: file), encoding: .utf8).split(separator: "\n").map(String.init)
      .filter { $0.count > 40 && $0.contains(" ") }
  }

  @Test func `MiniLM at seven tenths: nearer than plain SVD, and the same from its file`() throws {
    let location = try #require(realEncoder())
    let model = try location.load()
    let learned = Corpus(text: try Self.lines("README.md").joined(separator: "\n"), for: model, limit: 6000)
    let fresh = Corpus(text: try Self.lines("CONTRIBUTING.md").joined(separator: "\n"), for: model, limit: 2000)
    #expect(learned.digest != fresh.digest && Set(learned.sequences).isDisjoint(with: fresh.sequences))
    var statistics = CalibrationStatistics(model: try location.weightsDigest(), corpus: learned.digest)
    try Calibration(model, threads: 2).run(learned, into: &statistics)
    #expect(statistics.inputs.count == 24 && statistics.tokens == learned.tokens)

    let reference = try ModelQuality.embeddings(model, fresh.sequences, threads: 2)
    func small(_ method: FactorMethod?) throws -> CompressedModel {
      let compressor = try ModelCompressor(model, statistics: statistics, method: method, threads: 2)
      return try compressor.compressed(compressor.ranks(ratio: 0.7, by: UniformAllocator()))
    }
    func cosine(_ model: LoadedModel) throws -> Double {
      ModelQuality.meanCosine(reference, try ModelQuality.embeddings(model, fresh.sequences, threads: 2))
    }
    let best = try small(nil)
    let (good, plain) = (try cosine(best.model), try cosine(try small(.plain).model))
    #expect(good > 0.8 && good > plain + 0.1, "\(good) against \(plain)")
    #expect(best.ratio <= 0.7 && best.ratio > 0.68)

    let folder = FileManager.default.temporaryDirectory.appending(path: "apus-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: folder) }
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    let file = folder.appending(path: "small")
    try LoadedModel.rewrite(
      URL(filePath: location.path), best.changes, metadata: [("apus.svd.corpus_sha256", learned.digest)], to: file)
    let read = try LoadedModel.load(file)
    #expect(read.fileBytes < model.fileBytes - 12_000_000)
    #expect(read.parameters.byteCount == best.model.parameters.byteCount)
    let again = try ModelQuality.embeddings(read, fresh.sequences, threads: 2)
    #expect(again == (try ModelQuality.embeddings(best.model, fresh.sequences, threads: 1)))

    // In pieces the same bits; lengths that are no multiple of anything.
    let streamed = try ModelRunner(
      read, RunnerOptions(threads: 2, maxBatchTokens: 1500, execution: .streamed(rows: 57)))
    let pieces = try streamed.embed(fresh.sequences)
    #expect(pieces == again)
    #expect(streamed.memory.transientPlan == streamed.memory.transientHighWater)

    let merged = folder.appending(path: "merged")
    try LoadedModel.rewrite(file, try LowRankMerge.changes(read, isFolder: true), metadata: [], to: merged)
    let whole = try ModelQuality.embeddings(try LoadedModel.load(merged), fresh.sequences, threads: 2)
    #expect(
      zip(whole, again).allSatisfy { pair in zip(pair.0, pair.1).reduce(Float(0)) { $0 + $1.0 * $1.1 } > 0.99999 })
    #expect(throws: CompressionError.self) { try LowRankMerge.changes(model, isFolder: true) }

    // Factors of 8 and 4 bits in a folder: smaller than in f32, read as what they are, and multiplied out like others.
    var bytes = read.fileBytes
    for encoding in [FactorEncoding.q8_0, .q4_0] {
      let compressor = try ModelCompressor(model, statistics: statistics, encoding: encoding, threads: 2)
      let small = try compressor.compressed(compressor.ranks(ratio: 0.7, by: UniformAllocator()))
      #expect(abs(small.ratio - 0.7) < 0.01, "\(small.ratio)")
      let place = folder.appending(path: encoding.rawValue)
      try LoadedModel.rewrite(URL(filePath: location.path), small.changes, metadata: [], to: place)
      let again = try LoadedModel.load(place)
      #expect(again.fileBytes < bytes - 3_000_000)
      bytes = again.fileBytes
      let embedded = try ModelQuality.embeddings(again, fresh.sequences, threads: 2)
      #expect(embedded == (try ModelQuality.embeddings(small.model, fresh.sequences, threads: 1)))
      #expect(ModelQuality.meanCosine(reference, embedded) > (encoding == .q8_0 ? good - 0.01 : 0.7))
      let whole = folder.appending(path: "merged-\(encoding.rawValue)")
      try LoadedModel.rewrite(place, try LowRankMerge.changes(again, isFolder: true), metadata: [], to: whole)
      let merged = try ModelQuality.embeddings(try LoadedModel.load(whole), fresh.sequences, threads: 2)
      #expect(ModelQuality.meanCosine(embedded, merged) > 0.998)
    }
    #expect(try LoadedModel.note("apus.svd.corpus_sha256", of: file) == learned.digest)
    #expect(try LoadedModel.note("apus.svd.nothing", of: file) == nil)

    // Factors of a wrong shape, and statistics of another model.
    var broken = best.changes
    let index = try #require(broken.factors.firstIndex { $0.name.hasSuffix(".factor.up") })
    broken.factors[index].shape = [broken.factors[index].shape[1], broken.factors[index].shape[0]]
    let bad = folder.appending(path: "bad")
    try LoadedModel.rewrite(URL(filePath: location.path), broken, metadata: [], to: bad)
    #expect { try LoadedModel.load(bad) } throws: { ($0 as? ModelFileError)?.kind == .malformed }
    let path = folder.appending(path: "stats").path
    try statistics.write(to: path)
    #expect(throws: CompressionError.self) { try CalibrationStatistics(path: path, model: "another") }
  }
}
