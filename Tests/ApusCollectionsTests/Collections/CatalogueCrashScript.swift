import ApusVectors
import Foundation

@testable import ApusCollections

/// Random work on a collection, step by step, and what it should hold after each. Every step does something, so that two
/// states that follow one another differ or are both right.
struct CatalogueCrashScript {
  struct Held: Equatable {
    var owner: String?
    var key: PointKey
    var text: String
    var payload: String
    var grants: Set<String>
  }

  enum Step {
    case upsert([Held])
    case grant(Int, String)
    case revoke(Int, String)
    case delete(Int)
    case state(String, TenantState)
    case groups(String, [String])
    case drop(String, erasing: Bool)
    case checkpoint
  }

  static let names = ["a", "b", "c", "d"]
  static let admin = Principal(tenant: "root", isAdmin: true)
  static let config = CollectionConfig(
    name: "docs", vectors: VectorConfig(dim: 4, metric: .l2, branching: 4, bufferCapacity: 4, leafCapacity: 4),
    indexedFields: ["step"])

  private var random: SeededRandom
  private var number = 0
  private(set) var points: [Held] = []
  private var groups: [String: Set<String>] = [:]
  private(set) var offloaded: Set<String> = []

  init(seed: UInt64) { random = SeededRandom(seed: seed) }

  // MARK: steps

  private mutating func name() -> String { Self.names.randomElement(using: &random)! }

  mutating func next() -> Step {
    number += 1
    let (who, other) = (name(), name())
    let mine = points.indices.filter { points[$0].owner == who }.randomElement(using: &random)
    let kind = Int.random(in: 0..<24, using: &random)
    // A tenant that is away cannot write; an administrator brings it back.
    if kind < 9 && offloaded.contains(who) { return .state(who, .active) }
    switch (kind, mine) {
    case (0..<9, _), (9..<17, nil):
      if offloaded.contains(who) { return .state(who, .active) }
      let keys = Set((0..<1 + number % 3).map { _ in Int64.random(in: 0..<5, using: &random) }).sorted()
      return .upsert(
        keys.map {
          Held(
            owner: who, key: .integer($0), text: "w\(number) w\(number)x\($0)", payload: #"{"step":\#(number)}"#,
            grants: [who, other])
        })
    case (9..<12, let mine?): return .grant(mine, other)
    case (12..<15, let mine?):
      return other == who ? .delete(mine) : .revoke(mine, other)
    case (15..<17, let mine?): return .delete(mine)
    case (17..<19, _): return .state(who, offloaded.contains(who) ? .active : .offloaded)
    case (19, _): return .groups(who, other == who ? [] : [other])
    case (20, _): return .drop(who, erasing: number % 2 == 0)
    default: return .checkpoint
    }
  }

  /// Does the step, as who may: its points' owners, or an administrator.
  func run(_ step: Step, on collection: VectorCollection) throws {
    func owner(_ i: Int) -> (key: PointKey, owner: String) { (points[i].key, points[i].owner!) }
    switch step {
    case .upsert(let new):
      try collection.upsert(
        new.map {
          Point(
            $0.key, vector: Self.vector($0.text), text: $0.text, payload: $0.payload,
            shareWith: $0.grants.subtracting([$0.owner!]).sorted())
        }, as: Principal(tenant: new[0].owner!))
    case .grant(let i, let name):
      try collection.grant([owner(i).key], to: [name], of: owner(i).owner, as: Self.admin)
    case .revoke(let i, let name):
      try collection.revoke([owner(i).key], from: [name], of: owner(i).owner, as: Self.admin)
    case .delete(let i): try collection.delete([owner(i).key], of: owner(i).owner, as: Self.admin)
    case .state(let name, let state): try collection.update(name, TenantUpdate(state: state), as: Self.admin)
    case .groups(let name, let groups): try collection.update(name, TenantUpdate(groups: groups), as: Self.admin)
    case .drop(let name, let erasing):
      do {
        if erasing { try collection.erase(name, as: Self.admin) } else { try collection.drop(name, as: Self.admin) }
      } catch CollectionError.notFound {}
    case .checkpoint: try collection.checkpoint()
    }
  }

  mutating func apply(_ step: Step) {
    switch step {
    case .upsert(let new):
      for point in new {
        if let i = points.firstIndex(where: { $0.owner == point.owner && $0.key == point.key }) {
          let grants = points[i].grants.union(point.grants)
          points[i] = point
          points[i].grants = grants
        } else {
          points.append(point)
        }
      }
    case .grant(let i, let name): points[i].grants.insert(name)
    case .revoke(let i, let name): points[i].grants.remove(name)
    case .delete(let i): points.remove(at: i)
    case .state(let name, let state):
      if state == .offloaded { offloaded.insert(name) } else { offloaded.remove(name) }
    case .groups(let name, let list): groups[name] = Set(list)
    case .drop(let name, _):
      points.removeAll { $0.grants == [name] }
      for i in points.indices {
        points[i].grants.remove(name)
        if points[i].owner == name { points[i].owner = nil }
      }
      groups[name] = nil
      for other in groups.keys { groups[other]!.remove(name) }
      offloaded.remove(name)
    case .checkpoint: break
    }
  }

  // MARK: what can be seen

  private func view(_ name: String) -> Set<String> {
    var (seen, open): (Set<String>, [String]) = ([name], [name])
    while let next = open.popLast() {
      for group in groups[next] ?? [] where seen.insert(group).inserted { open.append(group) }
    }
    return seen
  }

  /// What each tenant sees, as lines.
  func expected() -> [String] {
    Self.names.flatMap { name -> [String] in
      let view = view(name)
      if offloaded.contains(name) || !view.isDisjoint(with: offloaded) { return ["\(name): away"] }
      return points.filter { !$0.grants.isDisjoint(with: view) }
        .map { Self.line(name, $0.owner, $0.key, $0.text, $0.payload) }.sorted()
    }
  }

  /// The same, as the collection shows it: by a list, by vector, by word and by payload.
  static func seen(_ collection: VectorCollection) throws -> [String] {
    try names.flatMap { name -> [String] in
      let principal = Principal(tenant: name)
      do {
        let points = try collection.scroll(limit: 1000, as: principal).points
        for point in points {
          let number = point.text!.dropFirst().prefix { $0 != " " }
          let queries = [
            Query(vector: vector(point.text!)), Query(mode: .keyword, text: point.text!),
            Query(vector: vector(point.text!), payload: .equals("step", .number(Double(number)!))),
          ]
          for query in queries
          where try !collection.search(query, as: principal).contains(where: { $0.point.text == point.text }) {
            return ["\(name): \(point.text!) is in the list and not found by \(query)"]
          }
        }
        return points.map { line(name, $0.owner, $0.key, $0.text ?? "", $0.payload ?? "") }.sorted()
      } catch CollectionError.inactive { return ["\(name): away"] }
    }
  }

  private static func line(_ name: String, _ owner: String?, _ key: PointKey, _ text: String, _ payload: String)
    -> String
  {
    "\(name): \(owner ?? "-") \(key) \(text) \(payload)"
  }

  private static func vector(_ text: String) -> [Float] {
    var random = SeededRandom(seed: text.utf8.reduce(7) { ($0 &* 31) &+ UInt64($1) })
    return random.vector(4)
  }
}
