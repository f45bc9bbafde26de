import ApusModels

/// How published low-rank checkpoints call and lay out their factors. Names are those of the authors' repositories.
public enum FactorLayout: String, Sendable, CaseIterable {
  /// `model.layers.N.self_attn.{q,k,v,o}_{u,v}_proj.weight` and `model.layers.N.mlp.{gate,up,down}_{u,v}_proj.weight`: u
  /// `[out, rank]`, v `[rank, in]`. Source: AIoT-MLSys-Lab/SVD-LLM, component/svd_llama.py.
  case svdLLM = "svd-llm"
  /// `MODULE.ALinear.weight` `[out, rank]`, `MODULE.BLinear.weight` `[rank, in]` and `MODULE.ALinear.bias`, where MODULE is
  /// what transformers calls the matrix. Source: hahnyuan/ASVD4LLM, huggingface_repos/modeling_asvd_llama.py.
  case asvd
  /// `svd_layers.N.…` of a BERT: for queries, keys and values factors of each head, `Pq` `[1, heads, in, rank]` and `Vq`
  /// `[1, heads, rank, head]` with `bq` `[1, heads, 1, head]`; else `Uo` `[in, rank]`, `Vo` `[rank, out]`, `bo_attn`, and
  /// the same with `U1`, `V1`, `b1` and `U2`, `V2`, `b2`. FWSVD's factors come in it too. Source: Zishan-Shao/FlashSVD,
  /// src/legacy/FlashSVD-V1/why_finetuning/finetune_svd_saveable.py.
  case flashSVD = "flash-svd"
  /// `model.layers.N.self_attn.{q,k,v,o}_basis.weight` `[rank, in]`, which several layers share, with coefficients
  /// `[out, rank]` in place of `….{q,k,v,o}_proj.weight`; `mlp.{gate,up,down}_…` likewise. Source: TUDa-HWAI/Basis_Sharing,
  /// models/llama.py and models/model_utils.py.
  case basisSharing = "basis-sharing"

  /// Part of every name of the layout and of no other's.
  private func isMine(_ name: String) -> Bool {
    switch self {
    case .svdLLM: name.hasSuffix("_u_proj.weight") || name.hasSuffix("_v_proj.weight")
    case .asvd: name.contains(".ALinear.") || name.contains(".BLinear.")
    case .flashSVD: name.hasPrefix("svd_layers.")
    case .basisSharing: name.contains("_basis.")
    }
  }

  /// The layout that the names are of. Throws `CompressionError` (`layout`) with names seen and layouts known when it is
  /// none, or more than one.
  public static func found(in names: [String], path: String) throws(CompressionError) -> FactorLayout {
    let found = allCases.filter { layout in names.contains(where: layout.isMine) }
    if found.count == 1 { return found[0] }
    let sample = names.sorted().prefix(6).joined(separator: ", ")
    throw CompressionError(
      kind: .layout, what: path,
      seen: found.isEmpty
        ? "\(names.count) tensors of no known layout: \(sample)\(names.count > 6 ? ", …" : "")"
        : "names of several: \(found.map(\.rawValue).joined(separator: ", "))",
      expected: "factors as one of " + allCases.map(\.rawValue).joined(separator: ", ") + " has them",
      wayOut: "rename the tensors as one of these layouts does, or say which with --layout")
  }
}

/// What transformers calls the parameters of the models whose factors are published.
enum PublishedNames {
  /// Of a decoder's layer (Llama, Mistral, Qwen2), under `model.layers.N.`.
  private static let decoder = [
    "self_attn.q_proj": "attention.query", "self_attn.k_proj": "attention.key", "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.output", "mlp.gate_proj": "feedForward.gate", "mlp.up_proj": "feedForward.up",
    "mlp.down_proj": "feedForward.down", "input_layernorm": "attentionResidual.before",
    "post_attention_layernorm": "feedForwardResidual.before",
  ]
  /// Of BERT's, under `encoder.layer.N.`.
  private static let encoder = [
    "attention.self.query": "attention.query", "attention.self.key": "attention.key",
    "attention.self.value": "attention.value", "attention.output.dense": "attention.output",
    "intermediate.dense": "feedForward.up", "output.dense": "feedForward.down",
    "attention.output.LayerNorm": "attentionResidual.around", "output.LayerNorm": "feedForwardResidual.around",
  ]
  private static let outside = [
    "model.embed_tokens": "embedding", "model.norm": "norm", "lm_head": "head",
    "embeddings.word_embeddings": "embedding.word", "embeddings.position_embeddings": "embedding.position",
    "embeddings.token_type_embeddings": "embedding.type", "embeddings.LayerNorm": "embedding.norm",
  ]
  /// Parts that Apus does not compute: tables that it makes itself, heads for other tasks.
  private static let ignored = ["rotary_emb.inv_freq", "position_ids", "masked_bias"]
  private static let ignoredParts = ["pooler", "classifier"]

  static func isIgnored(_ name: String) -> Bool {
    ignored.contains { name.hasSuffix($0) } || name.split(separator: ".").contains { ignoredParts.contains(String($0)) }
  }

  /// The parameter of a module's name, without `.weight` or `.bias`; nil for names of other models.
  static func parameter(of module: String) -> String? {
    let module = module.hasPrefix("bert.") ? String(module.dropFirst("bert.".count)) : module
    if let known = outside[module] { return known }
    for (prefix, names) in [("model.layers.", decoder), ("encoder.layer.", encoder)] where module.hasPrefix(prefix) {
      let rest = module.dropFirst(prefix.count).split(separator: ".", maxSplits: 1)
      guard rest.count == 2, let layer = Int(rest[0]), let name = names[String(rest[1])] else { return nil }
      return "layers.\(layer).\(name)"
    }
    return nil
  }
}
