import ApusText
import Foundation
import Testing

/// Prints speeds beside the reference's; asserts none. Run with `APUS_SPEED=1` and a release build.
@Suite(.serialized) struct SpeedReport {
  static let isWanted = ProcessInfo.processInfo.environment["APUS_SPEED"] != nil

  /// CPU seconds of this thread.
  static func threadSeconds() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }

  static func median(_ rounds: Int, _ body: () throws -> Void) rethrows -> Double {
    var seconds: [Double] = []
    for _ in 0..<rounds {
      let start = threadSeconds()
      try body()
      seconds.append(threadSeconds() - start)
    }
    return seconds.sorted()[rounds / 2]
  }

  @Test("Load and encoding speed", .enabled(if: isWanted && Models.folder != nil, "needs APUS_SPEED and APUS_MODELS"))
  func speeds() throws {
    var texts: [(String, String)] = []
    if Peer.isAvailable {
      let lines = try Peer.lines.get()
      let english = lines.filter { $0.utf8.allSatisfy { $0 < 0x80 } }.joined(separator: "\n")
      let foreign = lines.filter { line in line.utf8.reduce(0) { $0 + ($1 < 0x80 ? 0 : 1) } * 3 > line.utf8.count }
        .joined(separator: "\n")
      for (name, text) in [("English", english), ("multilingual", foreign)] {
        texts.append((name, String(decoding: text.utf8.prefix(1_000_000), as: UTF8.self)))
      }
    }
    for model in ReferenceComparison.models {
      let load: Double
      if model.file.hasSuffix(".gguf") {
        let metadata = try GGUFMetadataReader.read(try #require(Models.url(model.file)))
        load = try Self.median(5) { _ = try TokenizerSpec(gguf: metadata).makeTokenizer() }
      } else {
        let json = [UInt8](try Data(contentsOf: try #require(Models.url(model.file))))
        load = try Self.median(5) { _ = try TokenizerSpec(json: json).makeTokenizer() }
      }
      print("\(model.name): load \((load * 1e4).rounded() / 10) ms")
      let tokenizer = try model.tokenizer()
      for (name, text) in texts {
        var count = 0
        let seconds = Self.median(5) { count = tokenizer.encode(text).count }
        let tokens = Int(Double(count) / seconds)
        let megabytes = Double(text.utf8.count) / seconds / 1e6
        // The reference runs in its own process right after, on the same text, in one thread.
        let reference = try Peer.tokenize([text], model: try #require(Models.url(model.file)), rounds: 5)
        let ratio = (10 * reference.seconds / seconds).rounded() / 10
        print(
          "\(model.name) \(name): \(text.utf8.count) bytes, \(count) tokens, \(tokens) tokens/s, "
            + "\((10 * megabytes).rounded() / 10) MB/s, \(ratio) times the reference")
      }
      let word = String(repeating: "a", count: 1_000_000)
      let seconds = Self.median(1) { _ = tokenizer.encode(word) }
      print("\(model.name): a word of 1,000,000 letters in \(seconds) s")
    }
  }
}
