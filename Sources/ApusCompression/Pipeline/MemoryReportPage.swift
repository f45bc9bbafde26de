import Foundation

/// A page that shows transient memory over time for the ways to run a model, with plans, high-water marks and times: one
/// HTML file with its drawing inside and nothing to load.
public struct MemoryReportPage {
  public var model: String
  public var original: String?
  public var bench: LowRankBench
  public var results: [LowRankBench.Result]

  private static let colours: [ExecutionMode: String] = [
    .dense: "#c2452d", .materialized: "#c98a1b", .streamed: "#2a6fbb", .fused: "#3a8f4d",
  ]
  private static let words: [ExecutionMode: String] = [
    .dense: "dense", .materialized: "low rank at once", .streamed: "low rank streamed",
    .fused: "low rank fused",
  ]
  private static let (width, height, margin) = (900.0, 420.0, 64.0)
  /// Points of a curve: one pixel shows no more.
  private static let columns = 800

  public init(model: String, original: String?, bench: LowRankBench, results: [LowRankBench.Result]) {
    self.model = model
    self.original = original
    self.bench = bench
    self.results = results
  }

  public var html: String {
    let shape = "\(bench.batch) sequences of \(bench.length) tokens, pieces of \(bench.piece) rows when streamed"
    let origin = original.map { ", from \(Self.escaped($0))" } ?? ""
    return """
      <!DOCTYPE html>
      <html lang="en"><head><meta charset="utf-8"><title>Memory of \(Self.escaped(model))</title>
      <style>
      body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 920px; color: #222; padding: 0 1em }
      table { border-collapse: collapse } td, th { padding: 4px 14px; text-align: right; border-bottom: 1px solid #ddd }
      td:first-child, th:first-child { text-align: left } svg { max-width: 100%; height: auto }
      </style></head><body>
      <h1>Memory of \(Self.escaped(model))</h1>
      <p>\(shape)\(origin). Transient memory is all that a pass takes beside weights, keys and values. Lines: what the
      allocator had in use; dashes: what was planned before the pass ran.</p>
      \(svg)
      \(table)
      </body></html>

      """
  }

  private var table: String {
    let rows = results.map { result -> String in
      let decoded = result.decodedPerSecond.map { String(format: "%.1f", $0) } ?? "–"
      let cells = [
        Self.words[result.mode]!, String(format: "%.1f", result.seconds * 1000),
        String(format: "%.0f", Double(bench.batch * bench.length) / result.seconds), decoded,
        String(format: "%.1f", Double(result.weights) / 1e6),
        String(format: "%.3f", Double(result.transientPlan) / 1e6),
        String(format: "%.3f", Double(result.transientHighWater) / 1e6),
      ]
      return "<tr>" + cells.map { "<td>\($0)</td>" }.joined() + "</tr>"
    }
    let header = [
      "", "ms a pass", "tokens/s", "decoded tokens/s", "weights MB", "transient MB: planned", "high-water mark",
    ]
    return "<table><tr>" + header.map { "<th>\($0)</th>" }.joined() + "</tr>\n" + rows.joined(separator: "\n")
      + "</table>"
  }

  // MARK: the drawing

  private var svg: String {
    let longest = max(results.flatMap { $0.memory.map(\.seconds) }.max() ?? 0, 1e-9)
    let most = Double(max(results.flatMap { [$0.transientPlan, $0.transientHighWater] }.max() ?? 0, 1)) * 1.05
    let (width, height, margin) = (Self.width, Self.height, Self.margin)
    func x(_ seconds: Double) -> Double { margin + seconds / longest * (width - 2 * margin) }
    func y(_ bytes: Double) -> Double { height - margin - bytes / most * (height - 2 * margin) }
    func text(_ x: Double, _ y: Double, _ text: String, _ anchor: String, _ colour: String = "#444") -> String {
      "<text x=\"\(Int(x))\" y=\"\(Int(y))\" text-anchor=\"\(anchor)\" fill=\"\(colour)\">\(text)</text>"
    }
    var parts = [
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 \(Int(width)) \(Int(height))\" font-size=\"12\""
        + " font-family=\"sans-serif\">",
      text(margin, margin - 36, "transient memory in use, MB", "start"),
      text(width - margin, height - margin + 36, "ms from the start of the pass", "end"),
    ]
    for tick in 0...4 {
      let (bytes, seconds) = (most * Double(tick) / 4, longest * Double(tick) / 4)
      parts.append("<path d=\"M\(margin) \(y(bytes))H\(width - margin)\" stroke=\"#e4e4e4\"/>")
      parts.append(text(margin - 8, y(bytes) + 4, String(format: "%.1f", bytes / 1e6), "end"))
      parts.append(text(x(seconds), height - margin + 18, String(format: "%.1f", seconds * 1000), "middle"))
    }
    for (i, result) in results.enumerated() {
      let colour = Self.colours[result.mode]!
      let plan = y(Double(result.transientPlan))
      parts.append("<path d=\"M\(margin) \(plan)H\(width - margin)\" stroke=\"\(colour)\" stroke-dasharray=\"5 4\"/>")
      let steps = Self.thinned(result.memory, longest).map {
        String(format: "L%.1f %.1f", x($0.seconds), y(Double($0.bytes)))
      }
      parts.append(
        "<path class=\"memory\" d=\"M\(margin) \(height - margin)" + steps.joined()
          + "\" fill=\"none\" stroke=\"\(colour)\" stroke-width=\"1.4\"/>")
      parts.append(text(margin + 190 * Double(i), margin - 16, Self.words[result.mode]!, "start", colour))
    }
    return parts.joined(separator: "\n") + "\n</svg>"
  }

  /// As steps; of the points in one column of pixels only the first, the greatest, the least and the last.
  private static func thinned(_ points: [LowRankBench.MemoryPoint], _ longest: Double) -> [LowRankBench.MemoryPoint] {
    var result: [LowRankBench.MemoryPoint] = []
    var first = 0
    func column(_ i: Int) -> Int { Int(points[i].seconds / longest * Double(columns)) }
    while first < points.count {
      var end = first
      while end < points.count, column(end) == column(first) { end += 1 }
      let part = first..<end
      let greatest = part.max { points[$0].bytes < points[$1].bytes }!
      let least = part.min { points[$0].bytes < points[$1].bytes }!
      for i in Set([first, greatest, least, end - 1]).sorted() {
        if let last = result.last {
          result.append(LowRankBench.MemoryPoint(seconds: points[i].seconds, bytes: last.bytes))
        }
        result.append(points[i])
      }
      first = end
    }
    return result
  }

  private static func escaped(_ text: String) -> String {
    text.replacingOccurrences(of: "&", with: "&amp;").replacingOccurrences(of: "<", with: "&lt;")
      .replacingOccurrences(of: ">", with: "&gt;").replacingOccurrences(of: "\"", with: "&quot;")
  }
}
