import ApusModels

/// Which keys and values get factors of their own, so that a run can keep their narrow rows in place of them.
public struct KVFactors: Sendable, Equatable {
  /// Ranks of keys and of values.
  public enum Ranks: Sendable, Equatable {
    /// A side without a rank stays whole.
    case separate(key: RankRule?, value: RankRule?)
    /// Keys and values through one factor, whose product serves both.
    case shared(RankRule)
  }

  public enum Layers: String, Sendable, CaseIterable {
    /// Those without a window, whose past grows with the context.
    case growing
    case all
  }

  public var ranks: Ranks
  public var layers: Layers

  public init(ranks: Ranks, layers: Layers = .growing) {
    self.ranks = ranks
    self.layers = layers
  }

  /// Ranks are multiples of this: rows are stored in units of 16 elements.
  static let rankMultiple = 16

  /// The groups with keys and values taken out of those that read the same input.
  ///
  /// With `others` false only keys and values are left. Complexity: O(groups).
  public func separated(_ groups: [LinearGroup], of model: LoadedModel, others: Bool = true) -> [LinearGroup] {
    groups.flatMap { group -> [LinearGroup] in
      guard group.kind == "attention.input", layers == .all || model.module.layers[group.layer].attention.seesAll else {
        return others ? [group] : []
      }
      var rest = group
      var taken: [LinearGroup] = []
      func take(_ names: [String], _ rule: RankRule) {
        let kind = "attention." + names.joined(separator: "+")
        let members = names.map { "layers.\(group.layer).attention.\($0).weight" }
        let rows = members.reduce(0) { $0 + (model.parameters.matrix($1)?.rows ?? 0) }
        rest.members.removeAll { members.contains($0) }
        rest.rows -= rows
        taken.append(
          LinearGroup(
            name: "layers.\(group.layer).\(kind)", input: group.input, kind: kind, layer: group.layer, members: members,
            rows: rows, columns: group.columns, rank: rule))
      }
      switch ranks {
      case .separate(let key, let value):
        if let key { take(["key"], key) }
        if let value { take(["value"], value) }
      case .shared(let rule): take(["key", "value"], rule)
      }
      return (others && !rest.members.isEmpty ? [rest] : []) + taken
    }
  }
}
