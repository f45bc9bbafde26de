import ApusVectors
import Foundation

/// Recall against CPU time for a ladder of patience, apart for tenants of different sizes.
public struct RecallCurves: Sendable, Encodable {
  public struct Point: Sendable, Encodable {
    public var patience: Int
    public var recall: Double
    public var cpuUs: Double
    public var scanned: Double
  }

  public struct Bucket: Sendable, Encodable {
    public var name: String
    public var queries: Int
    public var exactCpuUs: Double
    public var points: [Point]
  }

  public var k: Int
  public var buckets: [Bucket]

  private static let edges = [200, 1000, 5000]
  private static let names = ["<200", "<1000", "<5000", "≥5000"]
  private static let ladder = [2, 4, 8, 16, 32, 64, 128, 256]

  /// Exact search gives the truth and its time.
  public init(_ index: VectorIndex, queries: VectorQueries, options: SearchOptions) throws {
    k = options.k
    let bucketOf = queries.tenants.map { tenant in
      let count = index.count(of: tenant)
      return Self.edges.firstIndex { count < $0 } ?? Self.edges.count
    }
    var exact = options
    exact.exact = true
    let truth = try queries.run(on: index, options: exact)
    func mean(_ values: (Int) -> Double, _ bucket: Int) -> Double {
      let rows = bucketOf.indices.filter { bucketOf[$0] == bucket }
      return rows.isEmpty ? 0 : rows.reduce(0) { $0 + values($1) } / Double(rows.count)
    }
    buckets = Self.names.enumerated().map { number, name in
      Bucket(
        name: name, queries: bucketOf.count { $0 == number },
        exactCpuUs: mean({ Double(truth.microseconds[$0]) }, number), points: [])
    }
    for patience in Self.ladder {
      var asked = options
      asked.patience = patience
      let answers = try queries.run(on: index, options: asked)
      for number in buckets.indices where buckets[number].queries > 0 {
        var (hit, all) = (0, 0)
        for row in bucketOf.indices where bucketOf[row] == number {
          let range = row * k..<(row + 1) * k
          let expected = Set(truth.ids[range].filter { $0 >= 0 })
          hit += answers.ids[range].count { expected.contains($0) }
          all += expected.count
        }
        buckets[number].points.append(
          Point(
            patience: patience, recall: all == 0 ? 1 : Double(hit) / Double(all),
            cpuUs: mean({ Double(answers.microseconds[$0]) }, number),
            scanned: mean({ Double(answers.scanned[$0]) }, number)))
      }
    }
    buckets.removeAll { $0.queries == 0 }
  }

  public var table: String {
    var out = "vectors of the tenant  queries  exact µs | patience: recall @ µs\n"
    for bucket in buckets {
      let points = bucket.points.map { String(format: "%d: %.3f @ %.0f", $0.patience, $0.recall, $0.cpuUs) }
      let name = String(repeating: " ", count: max(0, 21 - bucket.name.count)) + bucket.name
      out += name + String(format: "  %7d  %8.0f | ", bucket.queries, bucket.exactCpuUs)
      out += points.joined(separator: "  ") + "\n"
    }
    return out
  }

  /// One curve a bucket: recall to the right, CPU time (logarithmic) upwards, exact search as a dashed line.
  public var svg: String {
    let (width, height, margin) = (720.0, 480.0, 60.0)
    let points = buckets.flatMap(\.points)
    let times = points.map(\.cpuUs) + buckets.map(\.exactCpuUs)
    let (low, high) = (log10(max(0.1, times.min() ?? 1)), log10(max(1, times.max() ?? 10)) + 0.05)
    let least = max(0, min(0.9, points.map(\.recall).min() ?? 0))
    func x(_ recall: Double) -> Double { margin + (recall - least) / (1 - least) * (width - 2 * margin) }
    func y(_ us: Double) -> Double {
      height - margin - (log10(max(0.1, us)) - low) / (high - low) * (height - 2 * margin)
    }
    func f(_ v: Double) -> String { String(format: "%.1f", v) }
    let colours = ["#1b6ca8", "#2e8b57", "#c46a1b", "#a83232"]
    var out = """
      <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(f(width)) \(f(height))" \
      font-family="sans-serif" font-size="13">
      <rect width="100%" height="100%" fill="white"/>
      <text x="\(f(width / 2))" y="\(f(height - 14))" text-anchor="middle">recall@\(k)</text>
      <text x="18" y="\(f(height / 2))" text-anchor="middle" \
      transform="rotate(-90 18 \(f(height / 2)))">CPU µs a query</text>

      """
    for step in 0...5 {
      let recall = least + (1 - least) * Double(step) / 5
      out += "<text x=\"\(f(x(recall)))\" y=\"\(f(height - margin + 20))\" text-anchor=\"middle\">"
      out += String(format: "%.3f", recall) + "</text>\n"
    }
    for exponent in Int(low.rounded(.up))...max(Int(low.rounded(.up)), Int(high)) {
      let v = pow(10.0, Double(exponent))
      out += "<line x1=\"\(f(margin))\" x2=\"\(f(width - margin))\" "
      out += "y1=\"\(f(y(v)))\" y2=\"\(f(y(v)))\" stroke=\"#ddd\"/>"
      out += "<text x=\"\(f(margin - 8))\" y=\"\(f(y(v) + 4))\" text-anchor=\"end\">\(Int(v))</text>\n"
    }
    for (number, bucket) in buckets.enumerated() {
      let colour = colours[number % colours.count]
      let line = bucket.points.map { "\(f(x($0.recall))),\(f(y($0.cpuUs)))" }.joined(separator: " ")
      out += "<polyline points=\"\(line)\" fill=\"none\" stroke=\"\(colour)\" stroke-width=\"2\"/>\n"
      out += "<line x1=\"\(f(margin))\" x2=\"\(f(width - margin))\" y1=\"\(f(y(bucket.exactCpuUs)))\" "
      out += "y2=\"\(f(y(bucket.exactCpuUs)))\" stroke=\"\(colour)\" stroke-dasharray=\"5 4\"/>\n"
      let name = bucket.name.replacingOccurrences(of: "<", with: "&lt;")
      out += "<text x=\"\(f(margin + 10))\" y=\"\(f(margin / 2 + 16 * Double(number)))\" fill=\"\(colour)\">"
      out += "\(name) vectors, \(bucket.queries) queries (dashed: exact)</text>\n"
    }
    return out + "</svg>\n"
  }
}
