import Foundation

/// How far a long step is, on stderr: a percentage on a terminal, nothing elsewhere.
final class StepProgress {
  private let name: String
  private var drawn: ContinuousClock.Instant?
  private let start = ContinuousClock.now

  init(_ name: String) { self.name = name }

  func show(_ done: Int, of total: Int) {
    guard Terminal.errorIsTerminal else { return }
    let now = ContinuousClock.now
    if let drawn, drawn.duration(to: now) < .milliseconds(100) { return }
    drawn = now
    let share = total == 0 ? 1 : Double(done) / Double(total)
    let seconds = start.duration(to: now).inSeconds
    let rest = share > 0.02 ? String(format: ", %.0f s left", seconds / share - seconds) : ""
    Terminal.write("\r\(name) \(Int(share * 100)) %\(rest)    ", to: STDERR_FILENO)
  }

  func finish() {
    if drawn != nil { Terminal.write("\r\u{1b}[K", to: STDERR_FILENO) }
  }
}
