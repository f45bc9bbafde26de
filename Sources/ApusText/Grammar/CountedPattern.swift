/// A pattern together with bounds on the length of its matches: the pattern's positions (Glushkov's automaton), each once
/// for every number of characters read.
struct CountedPattern {
  struct Step {
    /// Index into `sets`: the characters that lead on.
    var set: Int
    /// Index into `places`.
    var place: Int
  }

  /// A position of the pattern after a number of characters.
  struct Place {
    var canEnd: Bool
    var steps: [Step] = []
  }

  /// The characters of each position.
  private(set) var sets: [ScalarSet] = []
  /// The first place is the beginning.
  private(set) var places: [Place] = []

  private var follow: [[Int]] = []

  /// What a part of the pattern looks like from outside.
  private struct Fragment {
    var first: [Int] = []
    var last: [Int] = []
    var isNullable = true
  }

  private static let positionLimit = 1_000
  private static let stepLimit = 20_000

  init(_ pattern: TextPattern, minimum: Int, maximum: Int?, path: String) throws(GrammarError) {
    let whole = try add(pattern, path: path)
    let ends = Set(whole.last)
    /// Beyond the minimum the count only matters if there is a maximum.
    let ceiling = maximum ?? minimum
    var numbers: [Int: Int] = [:]
    var work: [(position: Int, count: Int)] = []
    var steps = 0
    // Position -1 is the beginning.
    func key(_ position: Int, _ count: Int) -> Int { (position + 1) * (ceiling + 1) + count }
    numbers[key(-1, 0)] = 0
    places.append(Place(canEnd: whole.isNullable && minimum == 0))
    work.append((-1, 0))
    var next = 0
    while next < work.count {
      let (position, count) = work[next]
      if maximum == nil || count < ceiling {
        let later = min(count + 1, ceiling)
        for target in position < 0 ? whole.first : follow[position] {
          steps += 1
          guard steps <= Self.stepLimit else { throw Self.tooLarge(path) }
          let place: Int
          if let known = numbers[key(target, later)] {
            place = known
          } else {
            place = places.count
            numbers[key(target, later)] = place
            places.append(Place(canEnd: ends.contains(target) && later >= minimum))
            work.append((target, later))
          }
          places[next].steps.append(Step(set: target, place: place))
        }
      }
      next += 1
    }
  }

  private static func tooLarge(_ path: String) -> GrammarError {
    GrammarError(
      .limit, path: path, seen: "a pattern with a length limit that it does not keep by itself",
      expected: "a smaller limit, or a pattern that keeps to it")
  }

  private mutating func add(_ pattern: TextPattern, path: String) throws(GrammarError) -> Fragment {
    switch pattern {
    case .characters(let set):
      guard sets.count < Self.positionLimit else { throw Self.tooLarge(path) }
      sets.append(set)
      follow.append([])
      return Fragment(first: [sets.count - 1], last: [sets.count - 1], isNullable: false)
    case .sequence(let parts):
      var whole = Fragment()
      for part in parts { whole = join(whole, try add(part, path: path)) }
      return whole
    case .choice(let parts):
      var whole = Fragment(isNullable: false)
      for part in parts {
        let fragment = try add(part, path: path)
        whole.first += fragment.first
        whole.last += fragment.last
        whole.isNullable = whole.isNullable || fragment.isNullable
      }
      return whole
    case .repetition(let part, let minimum, let maximum):
      var whole = Fragment()
      for _ in 0..<min(minimum, Self.positionLimit + 1) { whole = join(whole, try add(part, path: path)) }
      if let maximum {
        for _ in minimum..<max(min(maximum, minimum + Self.positionLimit + 1), minimum) {
          var optional = try add(part, path: path)
          optional.isNullable = true
          whole = join(whole, optional)
        }
      } else {
        var loop = try add(part, path: path)
        loop.isNullable = true
        link(loop.last, loop.first)
        whole = join(whole, loop)
      }
      return whole
    }
  }

  private mutating func join(_ left: Fragment, _ right: Fragment) -> Fragment {
    link(left.last, right.first)
    return Fragment(
      first: left.isNullable ? left.first + right.first : left.first,
      last: right.isNullable ? left.last + right.last : right.last,
      isNullable: left.isNullable && right.isNullable)
  }

  private mutating func link(_ last: [Int], _ first: [Int]) {
    for position in last {
      let known = Set(follow[position])
      follow[position] += first.filter { !known.contains($0) }
    }
  }
}
