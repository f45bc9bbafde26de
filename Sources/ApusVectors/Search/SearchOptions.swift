/// How hard a search looks.
public struct SearchOptions: Sendable, Equatable {
  public static let maximumK = 10_000

  /// Results asked for.
  public var k: Int
  /// The search ends after so many lists of ids in a row that improved nothing; nil takes what tuning found for the
  /// tenant's size, or 32.
  public var patience: Int?
  /// Without `patience`: the recall to reach, of those that the index was tuned for the least that is not below; nil takes
  /// the one that was tuned last.
  public var targetRecall: Double?
  /// Subtracted from a node's score: this times the mean squared distance of its vectors (λ). 0 suits unit-norm text.
  public var varianceBoost: Float
  /// Tenants of at most so many vectors are scanned in f32: codes first would cost them more than they spare.
  public var exactThreshold: Int
  /// With codes: candidates per result that are ranked again in f32.
  public var rerankFactor: Int
  /// Every vector of the tenant, in f32.
  public var exact: Bool

  public init(
    k: Int = 10, patience: Int? = nil, targetRecall: Double? = nil, varianceBoost: Float = 0, exactThreshold: Int = 96,
    rerankFactor: Int = 3, exact: Bool = false
  ) {
    self.k = k
    self.patience = patience
    self.targetRecall = targetRecall
    self.varianceBoost = varianceBoost
    self.exactThreshold = exactThreshold
    self.rerankFactor = rerankFactor
    self.exact = exact
  }

  func validate() throws {
    func check(_ name: String, _ value: Int, _ range: ClosedRange<Int>) throws {
      guard range.contains(value) else {
        throw VectorError.parameter(name, seen: "\(value)", expected: "\(range.lowerBound)…\(range.upperBound)")
      }
    }
    try check("k", k, 1...Self.maximumK)
    try check("patience", patience ?? 1, 1...Int(Int32.max))
    try check("exactThreshold", exactThreshold, 0...Int(Int32.max))
    try check("rerankFactor", rerankFactor, 1...100)
    if let targetRecall, !(targetRecall > 0 && targetRecall <= 1) {
      throw VectorError.parameter("target recall", seen: "\(targetRecall)", expected: "above 0, at most 1")
    }
    guard varianceBoost.isFinite else {
      throw VectorError.parameter("varianceBoost", seen: "\(varianceBoost)", expected: "a finite number")
    }
  }
}

/// A vector that a search found.
public struct Neighbour: Sendable, Equatable {
  public var id: VectorID
  /// Smaller is nearer: squared distance, negative inner product, or 1 − cosine.
  public var distance: Float

  public init(id: VectorID, distance: Float) {
    self.id = id
    self.distance = distance
  }
}

/// What a search found, nearest first, and what it did.
public struct SearchResult: Sendable, Equatable {
  public var neighbours: [Neighbour]
  /// Vectors whose distance was computed.
  public var scanned: Int
  /// Nodes whose centroid was scored.
  public var nodes: Int
  /// Lists of ids that were scanned.
  public var lists: Int
}
