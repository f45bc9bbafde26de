import ApusModels
import Foundation
import Synchronization

/// Shows a pull on stderr: a bar on a terminal, a line per phase elsewhere.
final class ProgressBar: Sendable {
  private struct State {
    var phase: PullProgress.Phase?
    var file = ""
    var start = ContinuousClock.now
    var startBytes = 0
    var lastDrawn: ContinuousClock.Instant?
    var lineLength = 0
  }

  private let state = Mutex(State())
  private static let width = 30
  private static let interval = Duration.milliseconds(100)

  func show(_ progress: PullProgress) {
    state.withLock { state in
      let isNew = progress.phase != state.phase
      if isNew {
        state.phase = progress.phase
        state.start = .now
        state.startBytes = progress.bytesDone
      }
      guard Terminal.errorIsTerminal else {
        if isNew || progress.note != nil { Terminal.note(Self.sentence(progress)) }
        return
      }
      let now = ContinuousClock.now
      if !isNew, progress.note == nil, let last = state.lastDrawn, last.duration(to: now) < Self.interval { return }
      state.lastDrawn = now
      let line =
        progress.phase == .downloading || progress.phase == .verifying
        ? bar(progress, state.start.duration(to: now), state.startBytes) : Self.sentence(progress)
      let padding = String(repeating: " ", count: max(0, state.lineLength - line.count))
      Terminal.write("\r" + line + padding, to: STDERR_FILENO)
      state.lineLength = line.count
      if progress.phase == .done || progress.note != nil {
        Terminal.write("\n", to: STDERR_FILENO)
        state.lineLength = 0
      }
    }
  }

  private func bar(_ progress: PullProgress, _ elapsed: Duration, _ startBytes: Int) -> String {
    let seconds = Double(elapsed.components.seconds) + Double(elapsed.components.attoseconds) * 1e-18
    let rate = seconds > 0.5 ? Double(progress.bytesDone - startBytes) / seconds : 0
    let speed = rate > 0 ? "  " + Format.bytes(Int(rate)) + "/s" : ""
    guard let total = progress.bytesTotal, total > 0 else {
      return "\(progress.model)  \(Format.bytes(progress.bytesDone))\(speed)"
    }
    let share = min(1, Double(progress.bytesDone) / Double(total))
    let filled = Int(share * Double(Self.width))
    let bar = String(repeating: "█", count: filled) + String(repeating: "░", count: Self.width - filled)
    let left = rate > 0 ? "  \(Format.seconds(Double(total - progress.bytesDone) / rate)) left" : ""
    let verb = progress.phase == .verifying ? "checking " : ""
    return "\(verb)\(progress.model) \(bar) \(Int(share * 100))%  "
      + "\(Format.bytes(progress.bytesDone)) of \(Format.bytes(total))\(speed)\(left)"
  }

  private static func sentence(_ progress: PullProgress) -> String {
    if let note = progress.note { return "\(progress.model): \(note)" }
    return switch progress.phase {
    case .waiting: "\(progress.model): waiting for another pull"
    case .lookingUp: "\(progress.model): looking up \(progress.file)"
    case .downloading:
      "\(progress.model): downloading" + (progress.bytesTotal.map { " \(Format.bytes($0))" } ?? "")
    case .retrying: "\(progress.model): trying again"
    case .unpacking: "\(progress.model): unpacking \(progress.file)"
    case .verifying: "\(progress.model): checking"
    case .publishing: "\(progress.model): putting it in place"
    case .done: "\(progress.model): \(Format.bytes(progress.bytesDone)) in \(progress.file)"
    }
  }
}

/// Numbers for people.
enum Format {
  /// Bytes in decimal units, as disks and downloads are sold.
  static func bytes(_ count: Int) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"]
    var value = Double(count)
    var unit = 0
    while value >= 1000, unit < units.count - 1 {
      value /= 1000
      unit += 1
    }
    return unit == 0 ? "\(count) B" : "\(number(value)) \(units[unit])"
  }

  /// Bytes as MB.
  static func megabytes(_ count: Int, decimals: Int = 1) -> String {
    String(format: "%.\(decimals)f", Double(count) / 1e6)
  }

  /// Three digits.
  static func number(_ x: Double) -> String {
    String(format: abs(x) < 10 ? "%.2f" : abs(x) < 100 ? "%.1f" : "%.0f", x)
  }

  static func seconds(_ x: Double) -> String {
    x < 1 ? "\(Int(x * 1000)) ms" : x < 100 ? "\(number(x)) s" : "\(Int(x) / 60) min \(Int(x) % 60) s"
  }

  /// Rows in columns of equal width.
  static func table(_ rows: [[String]]) -> String {
    guard let columns = rows.first?.count else { return "" }
    let widths = (0..<columns).map { column in rows.map { $0[column].count }.max() ?? 0 }
    return rows.map { row in
      var line = ""
      for (column, cell) in row.enumerated() {
        line += cell
        if column < columns - 1 { line += String(repeating: " ", count: widths[column] - cell.count + 2) }
      }
      return line
    }.joined(separator: "\n")
  }
}
