import ApusModels

extension ModelConfig {
  /// A mixture of `experts` copies of whatever feed-forward part a layer has.
  /// - Returns: the number of feed-forward parts changed.
  mutating func enableMixtureOfExperts(_ experts: Int) throws -> Int {
    try mapSlots((any FeedForwardConfig).self) { MixtureOfExperts(expert: $0, experts: experts) }
  }
}
