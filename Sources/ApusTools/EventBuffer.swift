/// Collects bytes into events, joining what belongs together.
struct EventBuffer: Sendable {
  private enum Kind: Sendable { case text, arguments }

  private var events: [ToolCallParser.Event] = []
  private var bytes: [UInt8] = []
  private var kind = Kind.text
  /// Of the call that has begun last.
  private var index = 0

  mutating func text(_ more: some Collection<UInt8>) {
    if more.isEmpty { return }
    switchTo(.text)
    bytes += more
  }

  mutating func text(_ byte: UInt8) {
    switchTo(.text)
    bytes.append(byte)
  }

  mutating func arguments(_ more: [UInt8]) {
    if more.isEmpty { return }
    switchTo(.arguments)
    bytes += more
  }

  mutating func begin(index: Int, name: String) {
    flush()
    self.index = index
    events.append(.callBegan(index: index, name: name))
  }

  mutating func end() {
    flush()
    events.append(.callEnded(index: index))
  }

  /// Gives out the events so far.
  mutating func take() -> [ToolCallParser.Event] {
    flush()
    defer { events.removeAll(keepingCapacity: true) }
    return events
  }

  private mutating func switchTo(_ next: Kind) {
    if kind == next { return }
    flush()
    kind = next
  }

  private mutating func flush() {
    if bytes.isEmpty { return }
    let piece = String(decoding: bytes, as: UTF8.self)
    bytes.removeAll(keepingCapacity: true)
    events.append(kind == .text ? .text(piece) : .arguments(index: index, json: piece))
  }
}
