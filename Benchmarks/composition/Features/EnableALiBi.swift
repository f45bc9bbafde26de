import ApusModels

extension ModelConfig {
  /// Linear biases instead of rotary positions, in every attention of any model.
  /// - Returns: the number of attentions changed.
  mutating func enableALiBi() throws -> Int {
    try mapSlots((any QKVConfig).self) { ($0 as? RoPE)?.inner ?? $0 }
    return try mapSlots((any ScoresConfig).self) { _ in ALiBi() }
  }
}
