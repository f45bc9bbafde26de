import ApusText
import Foundation
import Testing

/// Ids and texts against the reference implementations. Run with
/// `APUS_MODELS=… APUS_TEXT_PEER_PYTHON=…/bin/python swift test --filter ReferenceComparison`.
@Suite(.serialized) struct ReferenceComparison {
  struct Model: Sendable, CustomTestStringConvertible {
    var name: String
    var file: String
    var testDescription: String { name }

    func tokenizer() throws -> TextTokenizer {
      let url = try #require(Models.url(file))
      if file.hasSuffix(".gguf") {
        return try TokenizerSpec(gguf: GGUFMetadataReader.read(url)).makeTokenizer()
      }
      return try TokenizerSpec(json: [UInt8](Data(contentsOf: url))).makeTokenizer()
    }
  }

  static let models = [
    Model(name: "smollm2", file: "smollm2-135m.gguf"),
    Model(name: "qwen2.5", file: "qwen2.5-coder-0.5b.gguf"),
    Model(name: "gemma-3", file: "gemma-3-270m.gguf"),
    Model(name: "MiniLM", file: "minilm-l6/tokenizer.json"),
  ]

  @Test(
    "Ids of real lines in many languages are the reference's",
    .enabled(if: Peer.isAvailable && Models.folder != nil, "needs APUS_TEXT_PEER_PYTHON and APUS_MODELS"),
    arguments: models)
  func realLines(_ model: Model) throws {
    let lines = try Peer.lines.get()
    #expect(lines.count >= 10_000)
    try compare(lines, model)
  }

  @Test(
    "Ids of random Unicode strings are the reference's",
    .enabled(if: Peer.isAvailable && Models.folder != nil, "needs APUS_TEXT_PEER_PYTHON and APUS_MODELS"),
    arguments: models)
  func randomStrings(_ model: Model) throws {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed of the random strings: \(seed)")
    var generator = SeededGenerator(seed: seed)
    try compare((0..<10_000).map { _ in RandomText.make(&generator) }, model)
  }

  @Test(
    "Long texts of many lines give the reference's ids",
    .enabled(if: Peer.isAvailable && Models.folder != nil, "needs APUS_TEXT_PEER_PYTHON and APUS_MODELS"),
    arguments: models)
  func longTexts(_ model: Model) throws {
    let lines = try Peer.lines.get()
    let texts = stride(from: 0, to: 4000, by: 200).map { start in
      lines[start..<min(start + 200, lines.count)].joined(separator: start % 400 == 0 ? "\n" : "\r\n  ")
    }
    try compare(texts, model)
  }

  @Test(
    "A freshly trained SentencePiece unigram model with its NFKC table gives the reference's ids",
    .enabled(if: Peer.isAvailable, "needs APUS_TEXT_PEER_PYTHON"))
  func trainedUnigram() throws {
    let url = FileManager.default.temporaryDirectory.appendingPathComponent("apus-unigram-\(UUID().uuidString).json")
    defer { try? FileManager.default.removeItem(at: url) }
    let lines = try Peer.lines.get()
    _ = try Peer.run(
      "reference.py", ["unigram", url.path], input: JSONEncoder().encode(Array(lines.prefix(4_000))))
    let tokenizer = try TokenizerSpec(json: [UInt8](Data(contentsOf: url))).makeTokenizer()
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed of the random strings: \(seed)")
    var generator = SeededGenerator(seed: seed)
    let texts = Array(lines.suffix(4_000)) + (0..<4_000).map { _ in RandomText.make(&generator) }
    try compare(texts, "unigram", tokenizer, Peer.tokenize(texts, model: url))
  }

  private func compare(_ texts: [String], _ model: Model) throws {
    let reference = try Peer.tokenize(texts, model: try #require(Models.url(model.file)))
    try compare(texts, model.name, model.tokenizer(), reference)
  }

  private func compare(
    _ texts: [String], _ name: String, _ tokenizer: TextTokenizer, _ reference: Peer.Tokenized
  ) throws {
    var different = 0
    var decodedDifferently = 0
    var roundTrips = 0
    for (index, text) in texts.enumerated() {
      let ids = tokenizer.encode(text, options: EncodingOptions(addSpecial: false))
      if ids != reference.ids[index] {
        different += 1
        if different <= 5 {
          print("\(name) \(text.debugDescription)\n  ours      \(ids)\n  reference \(reference.ids[index])")
        }
      }
      let decoded = tokenizer.decode(ids)
      if !decoded.utf8.elementsEqual(reference.decoded[index].utf8) {
        decodedDifferently += 1
        if decodedDifferently <= 5 {
          print(
            "\(name) decodes \(decoded.debugDescription)\n  reference \(reference.decoded[index].debugDescription)"
          )
        }
      }
      if decoded.utf8.elementsEqual(text.utf8) { roundTrips += 1 }
      let referenceRoundTrips = reference.decoded[index].utf8.elementsEqual(text.utf8)
      #expect(!referenceRoundTrips || decoded.utf8.elementsEqual(text.utf8), "the reference's round trip is exact")
    }
    print(
      "\(name): \(texts.count) texts, \(different) with other ids, \(decodedDifferently) decoded differently, "
        + "\(roundTrips) come back exactly")
    #expect(different == 0)
    #expect(decodedDifferently == 0)
  }
}
