import ApusCompression
import ApusModels
import ArgumentParser

extension KVFactors.Layers: ExpressibleByArgument {}

/// Which factors keys and values get, and what runs of the model keep of them.
struct KVArguments: ParsableArguments {
  @Option(
    help: "What runs keep of past tokens: \(KVLayoutChoice.allCases.map(\.rawValue).joined(separator: ", ")).")
  var kv: KVLayoutChoice?
  @Option(help: "Rank of the keys.")
  var kvRankK: Int?
  @Option(help: "Rank of the values.")
  var kvRankV: Int?
  @Option(help: "Rank of keys and values through one factor.")
  var kvRank: Int?
  @Option(help: "Whose keys and values: \(KVFactors.Layers.allCases.map(\.rawValue).joined(separator: ", ")).")
  var kvLayers = KVFactors.Layers.growing

  /// Of the outputs of keys and of values, where no rank is given.
  private static let energy = 0.99

  /// Whether keys and values get factors.
  var isGiven: Bool { kv != nil && kv != .dense }

  func validate() throws {
    let ranks = [("kv-rank-k", kvRankK), ("kv-rank-v", kvRankV), ("kv-rank", kvRank)]
    for (name, rank) in ranks {
      guard let rank else { continue }
      if rank < 1 { throw ValidationError("--\(name) is \(rank), expected 1 or more.") }
      if !isGiven { throw ValidationError("--\(name) needs --kv rank-v, rank-kv or auto.") }
    }
    if kvRank != nil && (kvRankK != nil || kvRankV != nil) {
      throw ValidationError("Give --kv-rank, or --kv-rank-k and --kv-rank-v.")
    }
    if kv == .rankV && (kvRankK != nil || kvRank != nil) {
      throw ValidationError("--kv rank-v keeps whole keys; their rank goes with --kv rank-kv.")
    }
  }

  /// Nil when keys and values are matrices like all others.
  var factors: KVFactors? {
    guard isGiven else { return nil }
    if let kvRank { return KVFactors(ranks: .shared(.fixed(kvRank)), layers: kvLayers) }
    let isOpen = kvRankK == nil && kvRankV == nil
    let key: RankRule? = kvRankK.map { .fixed($0) } ?? (isOpen && kv == .rankKV ? .energy(Self.energy) : nil)
    let value: RankRule? = kvRankV.map { .fixed($0) } ?? (isOpen ? .energy(Self.energy) : nil)
    return KVFactors(ranks: .separate(key: key, value: value), layers: kvLayers)
  }
}
