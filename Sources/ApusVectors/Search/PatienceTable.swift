#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// How patient a search must be for a recall and a tenant's size: recall at a fixed patience falls as tenants grow.
///
/// Patience is a fraction: from one list to the next recall rises by some hundredths, and a target lies between. Of all
/// queries that share takes the longer search (`TreeSearch`).
struct PatienceTable: Sendable {
  static let standard = 32.0

  /// What tuning found for one target.
  private struct Tuned: Sendable {
    var target: Double
    /// Patience by size class, of the classes that had tenants.
    var classes: [Int: Double]
    /// Of every class.
    var patience: [Double]

    init(target: Double, classes: [Int: Double]) {
      self.target = target
      self.classes = classes
      // Beyond the classes that were tuned: that of the nearest, raised for each class above.
      patience = (0...PatienceTable.greatestClass).map { own in
        guard let nearest = classes.keys.min(by: { (abs($0 - own), $0) < (abs($1 - own), $1) }) else {
          return PatienceTable.standard
        }
        return classes[nearest]! * pow(PatienceTable.growth, Double(max(0, min(own - nearest, 8))))
      }
    }
  }

  /// What a class of twice the size needs more, at a guess: 1.0 to 2.0 where it was measured.
  private static let growth = 1.5

  /// A class is the tenants of 2ⁿ …< 2ⁿ⁺¹ vectors.
  private static let greatestClass = 31
  /// The one that was tuned last at the end.
  private var tuned: [Tuned] = []

  init() {}

  init(target: Double, classes: [Int: Double]) { tuned = [Tuned(target: target, classes: classes)] }

  /// In the order in which they were tuned.
  var targets: [Double] { tuned.map(\.target) }

  /// The greatest class that the last tuning saw; nil before any.
  var greatestTuned: Int? { tuned.last?.classes.keys.max() }

  static func sizeClass(_ size: Int) -> Int {
    size < 1 ? 0 : min(greatestClass, Int.bitWidth - 1 - size.leadingZeroBitCount)
  }

  /// The patience for a tenant of `size` vectors, and the recall that it was tuned for: the least that is not below
  /// `target`, or else the greatest; without `target` the one that was tuned last. Before any tuning the standard.
  func patience(size: Int, target: Double?) -> (patience: Double, target: Double?) {
    guard let latest = tuned.last else { return (Self.standard, nil) }
    var best = latest
    if let target {
      for other in tuned {
        let isBetter = best.target < target ? other.target > best.target : (target..<best.target).contains(other.target)
        if isBetter { best = other }
      }
    }
    return (best.patience[Self.sizeClass(size)], best.target)
  }

  /// With what `newer` found: it replaces the same targets, and its last is the last.
  func merged(with newer: PatienceTable) -> PatienceTable {
    var all = self
    all.tuned.removeAll { old in newer.tuned.contains { $0.target == old.target } }
    all.tuned += newer.tuned
    return all
  }

  // MARK: as bytes

  private static let isFraction: UInt32 = 1 << 31

  /// `[target f64][classes u8]{[class u8][patience u32]}` for each target; little endian. With bit 31 a patience is in
  /// 1,024ths.
  func encoded() -> [UInt8] {
    var out: [UInt8] = []
    for one in tuned {
      out.append(littleEndian: one.target.bitPattern)
      out.append(UInt8(one.classes.count))
      for (sizeClass, patience) in one.classes.sorted(by: { $0.key < $1.key }) {
        out.append(UInt8(sizeClass))
        out.append(
          littleEndian: patience == patience.rounded() ? UInt32(patience) : Self.isFraction | UInt32(patience * 1024))
      }
    }
    return out
  }

  /// Reads what `encoded` wrote; throws `VectorError.corrupt`.
  init(decoding bytes: UnsafeRawBufferPointer) throws {
    var reader = ByteReader(bytes, what: "tuning table")
    while reader.remaining > 0 {
      let target = Double(bitPattern: try reader.next(UInt64.self))
      guard target > 0, target <= 1 else { throw VectorError.corrupt("a target recall of \(target)") }
      var classes: [Int: Double] = [:]
      for _ in 0..<(try reader.next(UInt8.self)) {
        let sizeClass = Int(try reader.next(UInt8.self))
        let word = try reader.next(UInt32.self)
        let patience = word & Self.isFraction == 0 ? Double(word) : Double(word & ~Self.isFraction) / 1024
        guard sizeClass <= Self.greatestClass, patience >= 1 else {
          throw VectorError.corrupt("patience \(patience) in class \(sizeClass)")
        }
        classes[sizeClass] = patience
      }
      tuned.append(Tuned(target: target, classes: classes))
    }
  }
}

/// Recall by patience of the queries of one size class.
struct RecallCurve {
  /// Patience beyond this counts as this.
  private static let greatestPatience = 1 << 14
  /// Element p: what patience p finds more than p − 1.
  private var gained: [Int] = [0]
  private var wanted = 0

  mutating func add(_ trace: RecallTrace) {
    wanted += trace.wanted.count
    var hits = 0
    for step in trace.steps {
      let patience = min(step.patience, Self.greatestPatience)
      while gained.count <= patience { gained.append(0) }
      gained[patience] += step.hits - hits
      hits = step.hits
    }
  }

  /// The least patience whose recall is the target, between two whole ones by their recalls, in 1,024ths; or else that of the
  /// greatest recall. At least 1.
  func patience(for target: Double) -> Double {
    let wanted = target * Double(wanted)
    var (hits, best) = (0, (hits: -1, patience: 1))
    for patience in 1..<max(2, gained.count) {
      let more = patience < gained.count ? gained[patience] : 0
      hits += more
      if Double(hits) >= wanted {
        guard patience > 1, more > 0 else { return Double(patience) }
        let share = (wanted - Double(hits - more)) / Double(more)
        return (max(1, Double(patience - 1) + share) * 1024).rounded(.up) / 1024
      }
      if hits > best.hits { best = (hits, patience) }
    }
    return Double(best.patience)
  }
}

/// A question that tuning asks: a stored vector, as a tenant that may or may not have it.
struct TuningQuery {
  /// Who asks: what tenants have is nearer to what else they have than to the rest, so that a search finds more for a
  /// query of the first kind. Nobody knows what will be asked.
  enum Population: CaseIterable { case own, anybodys }
  var population: Population
  var vector: [Float]
  var id: VectorID
  var tenant: TenantID
}
