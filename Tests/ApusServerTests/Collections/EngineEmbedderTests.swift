import ApusCollections
import ApusEngine
import ApusText
import Foundation
import Synchronization
import Testing
import TestSupport

@testable import ApusServer

@Suite struct EngineEmbedderTests {
  /// Reads at most 16 bytes between `[` and `]`; a text's vector has its a, b and c, and is of length 1.
  private final class Encoder: EmbeddingEngine {
    struct BracketTokenizer: Tokenizer {
      private let bytes = ByteTokenizer()
      var vocabularySize: Int { bytes.vocabularySize }
      var specialTokens: SpecialTokens { bytes.specialTokens }
      var decodingStyle: DecodingStyle { .plain }
      func encode(_ text: String, options: EncodingOptions) -> [Int32] {
        let ids = bytes.encode(text, options: options)
        return options.addSpecial ? [91] + ids + [93] : ids
      }
      func bytes(of id: Int32) -> [UInt8] { bytes.bytes(of: id) }
      func kind(of id: Int32) -> TokenKind { bytes.kind(of: id) }
    }

    let name = "encoder"
    let contextLength = 18
    let dimensions = 3
    let tokenizer: any Tokenizer = BracketTokenizer()
    let calls = Mutex<[[[Int32]]]>([])

    static func vector(_ tokens: some Sequence<Int32>) -> [Float] {
      var counts: [Float] = [0.01, 0.01, 0.01]
      for token in tokens where (97...99).contains(token) { counts[Int(token) - 97] += 1 }
      let length = counts.reduce(0) { $0 + $1 * $1 }.squareRoot()
      return counts.map { $0 / length }
    }

    func embed(_ inputs: [[Int32]]) throws -> [[Float]] {
      calls.withLock { $0.append(inputs) }
      return inputs.map { Self.vector($0) }
    }

    func stop() {}
  }

  private func agree(_ a: [Float], _ b: [Float]) -> Bool {
    a.count == b.count && zip(a, b).allSatisfy { abs($0 - $1) < 1e-5 }
  }

  @Test func `texts of any length have their own vectors, in their order`() async throws {
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SplitMix(state: seed)
    let encoder = Encoder()
    let embedder = EngineEmbedder([encoder])
    let texts = (0..<700).map { _ in
      String((0..<Int.random(in: 1...60, using: &random)).map { _ in "abcd".randomElement(using: &random)! })
    }
    let vectors = try await embedder.embed(texts, model: "encoder")
    for (text, vector) in zip(texts, vectors) {
      // The slow, obvious way: equal windows, weighted by their tokens with the two around them.
      let bytes = text.utf8.map { Int32($0) }
      let count = (bytes.count + 15) / 16
      var sum: [Float] = [0, 0, 0]
      for i in 0..<count {
        let part = bytes[bytes.count * i / count..<bytes.count * (i + 1) / count]
        for (d, x) in Encoder.vector(part).enumerated() { sum[d] += Float(part.count + 2) * x }
      }
      let length = sum.reduce(0) { $0 + $1 * $1 }.squareRoot()
      #expect(agree(vector, sum.map { $0 / length }), "'\(text)', seed \(seed)")
    }
    let calls = encoder.calls.withLock { $0 }
    let windows = calls.flatMap { $0 }
    for window in windows {
      #expect(window.first == 91 && window.last == 93)
      #expect((3...18).contains(window.count))
    }
    // Every byte was read once, and nobody's turn is longer than the limit.
    var read = 0
    for window in windows { read += window.count - 2 }
    #expect(read == texts.map(\.utf8.count).reduce(0, +))
    #expect(calls.count > 1)
    for call in calls { #expect(call.map(\.count).reduce(0, +) <= 2048) }
    let lengths = windows.map(\.count)
    #expect(lengths == lengths.sorted())
  }

  @Test func `a model that does not run is named with those that do`() async throws {
    let embedder = EngineEmbedder([Encoder(), FakeEncoder()])
    #expect(try embedder.dim(of: "encoder") == 3)
    let error = CollectionError.unknownModel("other", known: ["encoder", "encoder"])
    #expect(throws: error) { try embedder.dim(of: "other") }
    await #expect(throws: error) { try await embedder.embed(["a"], model: "other") }
    #expect("\(error)" == "the embedding model 'other' does not run here, expected one of encoder, encoder")
    #expect(
      "\(CollectionError.unknownModel("x", known: []))"
        == "the embedding model 'x' does not run here, and no other does")
  }

  @Test func `a caller that has gone stops its embedding`() async throws {
    let encoder = Encoder()
    let embedder = EngineEmbedder([encoder])
    let task = Task {
      while !Task.isCancelled { await Task.yield() }
      return try await embedder.embed(["a"], model: "encoder")
    }
    task.cancel()
    await #expect(throws: CancellationError.self) { try await task.value }
    #expect(encoder.calls.withLock { $0.isEmpty })
  }

  private struct SplitMix: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
      state &+= 0x9e37_79b9_7f4a_7c15
      var z = state
      z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
      z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
      return z ^ z >> 31
    }
  }
}
