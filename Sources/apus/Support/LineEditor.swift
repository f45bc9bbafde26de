import Foundation

/// Reads lines with editing and history on a terminal, and plain lines elsewhere.
///
/// Keys: arrows, Home, End, Delete, Ctrl-A/E/B/F/P/N/U/K/W/L; Ctrl-C gives the line up, Ctrl-D on an empty line ends.
final class LineEditor {
  private let prompt: String
  private var history: [String] = []
  private static let continuationPrompt = "… "
  private static let historyLimit = 1000

  init(prompt: String) { self.prompt = prompt }

  /// The next line without its line break; nil at the end of the input.
  func readLine(continues: Bool) -> String? {
    guard Terminal.inputIsTerminal, Terminal.outputIsTerminal else { return Swift.readLine(strippingNewline: true) }
    var saved = termios()
    guard tcgetattr(STDIN_FILENO, &saved) == 0 else { return Swift.readLine(strippingNewline: true) }
    var raw = saved
    raw.c_lflag &= ~tcflag_t(ICANON | ECHO | ISIG | IEXTEN)
    raw.c_iflag &= ~tcflag_t(IXON | ICRNL)
    tcsetattr(STDIN_FILENO, TCSADRAIN, &raw)
    defer {
      var saved = saved
      tcsetattr(STDIN_FILENO, TCSADRAIN, &saved)
    }
    let line = edit(prompt: continues ? Self.continuationPrompt : prompt)
    if let line, !line.isEmpty, history.last != line {
      history.append(line)
      if history.count > Self.historyLimit { history.removeFirst() }
    }
    return line
  }

  private func edit(prompt: String) -> String? {
    var line = EditedLine()
    var place = history.count
    var unfinished = ""
    func recall(_ step: Int) {
      let next = place + step
      guard (0...history.count).contains(next) else { return }
      if place == history.count { unfinished = line.text }
      place = next
      line = EditedLine(next == history.count ? unfinished : history[next])
    }
    draw(prompt, line)
    while true {
      guard let key = readKey() else { return line.characters.isEmpty ? nil : line.text }
      switch key {
      case .enter:
        Terminal.write("\r\n")
        return line.text
      case .end where line.characters.isEmpty: return nil
      case .end, .delete: line.deleteForward()
      case .giveUp:
        Terminal.write("^C\r\n")
        line = EditedLine()
        place = history.count
      case .character(let character): line.insert(character)
      case .backspace: line.deleteBackward()
      case .left: line.cursor = max(0, line.cursor - 1)
      case .right: line.cursor = min(line.characters.count, line.cursor + 1)
      case .home: line.cursor = 0
      case .toEnd: line.cursor = line.characters.count
      case .up: recall(-1)
      case .down: recall(1)
      case .killToStart: line.killToStart()
      case .killToEnd: line.characters.removeSubrange(line.cursor...)
      case .killWord: line.killWord()
      case .clearScreen: Terminal.write("\u{1B}[H\u{1B}[2J")
      case .other: continue
      }
      draw(prompt, line)
    }
  }

  // MARK: drawing

  /// Draws the part of the line that fits, with the cursor inside.
  private func draw(_ prompt: String, _ line: EditedLine) {
    var size = winsize()
    let columns = ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 0 ? Int(size.ws_col) : 80
    // Escape sequences of the prompt's colour take no place.
    let room = max(8, columns - Self.visibleWidth(prompt) - 1)
    var first = 0
    while Self.width(line.characters[first..<line.cursor]) > room { first += 1 }
    var shown = line.characters[first...]
    while Self.width(shown) > room { shown.removeLast() }
    let back = Self.width(line.characters[line.cursor..<max(line.cursor, shown.endIndex)])
    Terminal.write("\r" + prompt + String(shown) + "\u{1B}[K" + (back > 0 ? "\u{1B}[\(back)D" : ""))
  }

  private static func visibleWidth(_ text: String) -> Int {
    var width = 0
    var isEscape = false
    for character in text {
      if character == "\u{1B}" { isEscape = true } else if isEscape { isEscape = character != "m" } else { width += 1 }
    }
    return width
  }

  /// Columns of text: East Asian and emoji characters take two.
  private static func width(_ characters: some Sequence<Character>) -> Int {
    characters.reduce(0) { $0 + ($1.unicodeScalars.first.map(isWide) == true ? 2 : 1) }
  }

  private static func isWide(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x1100...0x115F, 0x2E80...0xA4CF, 0xAC00...0xD7A3, 0xF900...0xFAFF, 0xFE30...0xFE6F, 0xFF00...0xFF60,
      0x1F300...0x1FAFF, 0x20000...0x3FFFD:
      true
    default: false
    }
  }

  // MARK: keys

  private enum Key {
    case character(Character)
    case enter, end, giveUp, backspace, delete, left, right, up, down, home, toEnd
    case killToStart, killToEnd, killWord, clearScreen, other
  }

  private func readByte() -> UInt8? {
    var byte: UInt8 = 0
    while true {
      let count = read(STDIN_FILENO, &byte, 1)
      if count == 1 { return byte }
      if count == 0 || errno != EINTR { return nil }
    }
  }

  private func readKey() -> Key? {
    guard let byte = readByte() else { return nil }
    switch byte {
    case 1: return .home
    case 2: return .left
    case 3: return .giveUp
    case 4: return .end
    case 5: return .toEnd
    case 6: return .right
    case 8, 127: return .backspace
    case 10, 13: return .enter
    case 11: return .killToEnd
    case 12: return .clearScreen
    case 14: return .down
    case 16: return .up
    case 21: return .killToStart
    case 23: return .killWord
    case 27: return readEscape()
    case 0..<32: return byte == 9 ? .character("\t") : .other
    default: return readCharacter(first: byte)
    }
  }

  /// The sequences that terminals send for keys: ESC [ or ESC O, parameters, a letter or ~.
  private func readEscape() -> Key? {
    guard let second = readByte() else { return nil }
    guard second == UInt8(ascii: "[") || second == UInt8(ascii: "O") else { return .other }
    var parameters = ""
    while let byte = readByte() {
      let letter = Character(Unicode.Scalar(byte))
      if !(letter.isNumber || letter == ";") {
        switch (letter, parameters) {
        case ("A", _): return .up
        case ("B", _): return .down
        case ("C", _): return .right
        case ("D", _): return .left
        case ("H", _), ("~", "1"), ("~", "7"): return .home
        case ("F", _), ("~", "4"), ("~", "8"): return .toEnd
        case ("~", "3"): return .delete
        default: return .other
        }
      }
      parameters.append(letter)
    }
    return nil
  }

  private func readCharacter(first: UInt8) -> Key? {
    let count = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1
    var bytes = [first]
    while bytes.count < count, let byte = readByte() { bytes.append(byte) }
    return String(validating: bytes, as: UTF8.self)?.first.map { .character($0) } ?? .other
  }
}

/// A line while it is edited.
struct EditedLine {
  var characters: [Character] = []
  /// How many characters are left of the cursor.
  var cursor = 0

  init(_ text: String = "") {
    characters = Array(text)
    cursor = characters.count
  }

  var text: String { String(characters) }

  mutating func insert(_ character: Character) {
    characters.insert(character, at: cursor)
    cursor += 1
  }

  mutating func deleteBackward() {
    guard cursor > 0 else { return }
    cursor -= 1
    characters.remove(at: cursor)
  }

  mutating func deleteForward() {
    if cursor < characters.count { characters.remove(at: cursor) }
  }

  mutating func killToStart() {
    characters.removeSubrange(..<cursor)
    cursor = 0
  }

  mutating func killWord() {
    var start = cursor
    while start > 0, characters[start - 1].isWhitespace { start -= 1 }
    while start > 0, !characters[start - 1].isWhitespace { start -= 1 }
    characters.removeSubrange(start..<cursor)
    cursor = start
  }
}
