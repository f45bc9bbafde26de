/// Every node type that JSON may name without being registered.
let builtInConfigTypes: [any ConfigNode.Type] = [
  ALiBi.self, Attention.self, Block.self, CausalLM.self, FeedForward.self, LayerNorm.self, LinearQKV.self,
  MixtureOfExperts.self, PlainScores.self, PostNorm.self, PreNorm.self, QKNorm.self, RMSNorm.self, RoPE.self,
  SandwichNorm.self, SoftcapScores.self, TextEncoder.self,
]
