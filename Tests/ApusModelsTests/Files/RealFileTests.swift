import Foundation
import KernelInterface
import Testing

@testable import ApusModels

/// The path of a real model on this machine, in the folder `APUS_MODELS` or in the store; nil when it isn't here.
private func realModel(_ name: String) -> String? {
  if let folder = ProcessInfo.processInfo.environment["APUS_MODELS"] {
    return ["\(folder)/\(name).gguf", "\(folder)/\(name)"].first { FileManager.default.fileExists(atPath: $0) }
  }
  return try? ModelStore().find(name).path
}

@Suite("Readers on real models")
struct RealFileTests {
  struct Facts: Sendable {
    var name: String
    var architecture: String
    var tensors: Int
    var blocks: Int
    var vocabulary: Int
    var hasMerges: Bool
    var hasTemplate: Bool
    var kinds: Set<String>
  }

  static let absent: Comment = "this model isn't on this machine (APUS_MODELS, or apus model pull)"

  @Test("SmolLM2's header says what is known of it", .enabled(if: realModel("smollm2-135m") != nil, absent))
  func smolLM2() throws {
    try check(
      Facts(
        name: "smollm2-135m", architecture: "llama", tensors: 272, blocks: 30, vocabulary: 49_152, hasMerges: true,
        hasTemplate: true, kinds: ["F32", "Q4_1", "Q8_0"]))
  }

  @Test("Qwen2.5 0.5B's header says what is known of it", .enabled(if: realModel("qwen2.5-coder-0.5b") != nil, absent))
  func qwenSmall() throws {
    try check(
      Facts(
        name: "qwen2.5-coder-0.5b", architecture: "qwen2", tensors: 291, blocks: 24, vocabulary: 151_936,
        hasMerges: true, hasTemplate: true, kinds: ["F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0"]))
  }

  @Test("Qwen2.5 1.5B's header says what is known of it", .enabled(if: realModel("qwen2.5-coder-1.5b") != nil, absent))
  func qwen() throws {
    try check(
      Facts(
        name: "qwen2.5-coder-1.5b", architecture: "qwen2", tensors: 339, blocks: 28, vocabulary: 151_936,
        hasMerges: true, hasTemplate: true, kinds: ["F32", "Q4_K", "Q6_K"]))
  }

  @Test("Gemma 3's header says what is known of it", .enabled(if: realModel("gemma-3-270m") != nil, absent))
  func gemma() throws {
    try check(
      Facts(
        name: "gemma-3-270m", architecture: "gemma3", tensors: 236, blocks: 18, vocabulary: 262_144, hasMerges: false,
        hasTemplate: false, kinds: ["F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0"]))
  }

  func check(_ facts: Facts) throws {
    let file = try GGUFFile(path: #require(realModel(facts.name)))
    try file.validate()
    #expect(try file.string("general.architecture") == facts.architecture)
    #expect(try file.int("\(facts.architecture).block_count") == facts.blocks)
    #expect(file.tensors.count == facts.tensors)
    #expect(Set(file.tensors.map(\.typeName)) == facts.kinds)
    let tokenizer = try file.tokenizerFields()
    #expect(tokenizer.tokens.count == facts.vocabulary)
    #expect((tokenizer.merges != nil) == facts.hasMerges)
    #expect((tokenizer.chatTemplate != nil) == facts.hasTemplate)
    #expect(try file.tensor("token_embd.weight").shape[0] == facts.vocabulary)
    // The tensors fill the file: nothing was misplaced or lost.
    let end = file.tensors.compactMap { tensor in tensor.byteCount.map { tensor.offset + $0 } }.max() ?? 0
    #expect(end <= file.file.size && end > file.file.size - file.alignment)
    // Sequential and random access agree.
    for (index, element) in tokenizer.tokens.enumerated() where index % 997 == 0 {
      #expect(element.elementsEqual(tokenizer.tokens[index]))
    }
  }

  @Test("MiniLM's folder gives its 104 tensors", .enabled(if: realModel("minilm-l6") != nil, absent))
  func safetensors() throws {
    let model = try SafetensorsModel(directory: #require(realModel("minilm-l6")))
    #expect(model.tensorNames.count == 104)
    let words = try model.tensor("embeddings.word_embeddings.weight")
    #expect(words.shape == [30_522, 384])
    #expect(words.dtype == .f32)
    #expect(words.byteCount == 30_522 * 384 * 4)
    let norm = try model.tensor("embeddings.LayerNorm.weight")
    let values = (0..<384).map { norm.bytes.loadUnaligned(fromByteOffset: $0 * 4, as: Float.self) }
    #expect(values.allSatisfy { $0.isFinite && abs($0) < 10 } && Set(values).count > 100)
  }
}
