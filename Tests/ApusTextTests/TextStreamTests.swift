import ApusText
import Testing

@Suite struct StopStrings {
  /// The obvious version: look at the whole text at once.
  static func expected(_ text: String, _ stops: [String]) -> (text: String, stop: String?) {
    let bytes = Array(text.utf8)
    for index in bytes.indices {
      for stop in stops where !stop.isEmpty && bytes[index...].starts(with: stop.utf8) {
        return (String(decoding: bytes[..<index], as: UTF8.self), stop)
      }
    }
    return (text, nil)
  }

  @Test("However text is cut, the stop and what precedes it are the same")
  func anyCut() {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed: \(seed)")
    var generator = SeededGenerator(seed: seed)
    for _ in 0..<3_000 {
      let alphabet = ["a", "b", "ab", "é", "\n", "🎉"]
      let text = (0..<Int.random(in: 0...20, using: &generator)).map { _ in
        alphabet.randomElement(using: &generator) ?? ""
      }.joined()
      let stops = (0..<Int.random(in: 0...3, using: &generator)).map { _ in
        (0..<Int.random(in: 0...3, using: &generator)).map { _ in alphabet.randomElement(using: &generator) ?? "" }
          .joined()
      }
      var matcher = StopMatcher(stops: stops)
      var output = ""
      var stop: String?
      var rest = Array(text.unicodeScalars)[...]
      while !rest.isEmpty && stop == nil {
        let count = Int.random(in: 1...3, using: &generator)
        var part = String.UnicodeScalarView()
        part.append(contentsOf: rest.prefix(count))
        rest = rest.dropFirst(count)
        let step = matcher.append(String(part))
        output += step.text
        stop = step.stop
      }
      let last = matcher.flush()
      output += last.text
      let wanted = Self.expected(text, stops)
      #expect(output == wanted.text, "\(text.debugDescription) with \(stops)")
      // Of two stops that start at one place, the shorter may be complete before the longer one: either is right.
      let found = stop ?? last.stop
      #expect((found == nil) == (wanted.stop == nil), "\(text.debugDescription) with \(stops)")
      if let found {
        #expect(stops.contains(found) && text.utf8.starts(with: (wanted.text + found).utf8))
      }
    }
  }

  @Test("Text that cannot belong to a stop string is given out at once")
  func promptness() {
    var matcher = StopMatcher(stops: ["STOP"])
    #expect(matcher.append("hello S") == StopMatcher.Step(text: "hello ", stop: nil))
    #expect(matcher.append("TOO") == StopMatcher.Step(text: "STOO", stop: nil))
    #expect(matcher.append("ST") == StopMatcher.Step(text: "", stop: nil))
    #expect(matcher.append("OP tail") == StopMatcher.Step(text: "", stop: "STOP"))
    #expect(matcher.append("more") == StopMatcher.Step(text: "", stop: nil))
  }
}

/// One id a byte, to feed a detokenizer any bytes.
private struct ByteTokenizer: Tokenizer {
  var vocabularySize: Int { 256 }
  var specialTokens: SpecialTokens { SpecialTokens() }
  var decodingStyle: DecodingStyle { .plain }
  func encode(_ text: String, options: EncodingOptions) -> [Int32] { text.utf8.map(Int32.init) }
  func bytes(of id: Int32) -> [UInt8] { [UInt8(truncatingIfNeeded: id)] }
  func kind(of id: Int32) -> TokenKind { .normal }
}

@Suite struct IncrementalText {
  @Test("Any bytes, one at a time, give what Swift's decoder makes of them at once")
  func anyBytes() {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed: \(seed)")
    var generator = SeededGenerator(seed: seed)
    for _ in 0..<4_000 {
      var bytes: [UInt8] = []
      for _ in 0..<Int.random(in: 0...8, using: &generator) {
        if Bool.random(using: &generator) {
          bytes.append(UInt8.random(in: 0...255, using: &generator))
        } else {
          bytes += Array(["é", "日", "🎉", "a"].randomElement(using: &generator)?.utf8 ?? "".utf8)
          if Bool.random(using: &generator) { bytes.removeLast() }
        }
      }
      var detokenizer = IncrementalDetokenizer(tokenizer: ByteTokenizer())
      var text = ""
      for byte in bytes { text += detokenizer.append(Int32(byte)) }
      text += detokenizer.flush()
      #expect(text.utf8.elementsEqual(String(decoding: bytes, as: UTF8.self).utf8), "\(bytes)")
    }
  }

  @Test("Half a sequence is held until it is whole")
  func holdsBack() {
    var detokenizer = IncrementalDetokenizer(tokenizer: ByteTokenizer())
    let parts = "a日b".utf8.map { detokenizer.append(Int32($0)) }
    #expect(parts == ["a", "", "", "日", "b"])
    #expect(detokenizer.flush() == "")
  }
}
