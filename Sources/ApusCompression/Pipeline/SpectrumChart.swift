import Foundation

/// Draws how much of each layer's output is lost by rank, as SVG: a line a layer, a colour a kind of input.
public struct SpectrumChart {
  private struct Line {
    var kind: String
    var points: [(x: Double, y: Double)]
  }

  private var lines: [Line] = []
  private static let colours = ["#2a6fbb", "#c2452d", "#2f8f4e", "#8a5cc2"]
  private static let (width, height, margin) = (760.0, 460.0, 60.0)
  /// The least share that is drawn.
  private static let floor = 1e-4

  public init() {}

  /// Adds the spectrum (λ, descending) of a layer's outputs; `breakEven` is the rank at which factors spare nothing.
  public mutating func add(_ kind: String, spectrum: [Double], breakEven: Double) {
    let total = spectrum.reduce(0, +)
    guard total > 0, breakEven >= 1 else { return }
    var left = total
    var points: [(x: Double, y: Double)] = []
    for (rank, value) in spectrum.enumerated() {
      points.append((Double(rank) / breakEven, max(Self.floor, left / total)))
      left -= value
      if Double(rank) >= breakEven { break }
    }
    lines.append(Line(kind: kind, points: points))
  }

  public var svg: String {
    let kinds = lines.reduce(into: [String]()) { if !$0.contains($1.kind) { $0.append($1.kind) } }
    let (width, height, margin) = (Self.width, Self.height, Self.margin)
    func x(_ share: Double) -> Double { margin + min(1, share) * (width - 2 * margin) }
    func y(_ loss: Double) -> Double { margin + log10(loss) / log10(Self.floor) * (height - 2 * margin) }
    func text(_ x: Double, _ y: Double, _ text: String, _ anchor: String = "middle", colour: String = "#333") -> String
    {
      "<text x=\"\(Int(x))\" y=\"\(Int(y))\" text-anchor=\"\(anchor)\" fill=\"\(colour)\">\(text)</text>"
    }
    var parts = [
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 \(Int(width)) \(Int(height))\" font-family=\"sans-serif\""
        + " font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/>",
      text(width / 2, height - 16, "rank, as a share of the rank at which factors spare nothing"),
      text(margin, margin - 34, "share of the outputs' energy that is lost", "start"),
    ]
    for exponent in 0...4 {
      let place = y(pow(10, -Double(exponent)))
      parts.append(
        "<path d=\"M\(Int(margin)) \(Int(place))H\(Int(width - margin))\" stroke=\"#ddd\"/>"
          + text(margin - 8, place + 4, exponent == 0 ? "1" : "10⁻\(["", "¹", "²", "³", "⁴"][exponent])", "end"))
    }
    for tick in 0...4 { parts.append(text(x(Double(tick) / 4), height - margin + 18, "\(25 * tick) %")) }
    for line in lines {
      let colour = Self.colours[kinds.firstIndex(of: line.kind)! % Self.colours.count]
      let path = line.points.enumerated().map { i, point in
        String(format: "%@%.1f %.1f", i == 0 ? "M" : "L", x(point.x), y(point.y))
      }.joined()
      parts.append("<path d=\"\(path)\" fill=\"none\" stroke=\"\(colour)\" stroke-opacity=\"0.6\"/>")
    }
    for (i, kind) in kinds.enumerated() {
      parts.append(
        text(margin + Double(i) * 160, margin - 14, kind, "start", colour: Self.colours[i % Self.colours.count]))
    }
    return parts.joined(separator: "\n") + "\n</svg>\n"
  }
}
