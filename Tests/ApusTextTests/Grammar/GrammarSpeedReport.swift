@testable import ApusText
import Foundation
import Testing

/// Prints the time of masks on a real vocabulary; asserts none. Run with `APUS_SPEED=1` and a release build.
@Suite(.serialized) struct GrammarSpeedReport {
  static let isWanted = ProcessInfo.processInfo.environment["APUS_SPEED"] != nil && Models.has("smollm2-135m.gguf")

  static let person = ##"""
    {"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":150},
    "email":{"type":"string","format":"email"},"tags":{"type":"array","items":{"type":"string"},"maxItems":5},
    "address":{"type":"object","properties":{"street":{"type":"string"},"city":{"type":"string","maxLength":40},
    "zip":{"type":"string","pattern":"^[0-9]{5}$"}},"required":["street","city"],"additionalProperties":false},
    "role":{"enum":["admin","editor","viewer"]},"score":{"type":"number"},"active":{"type":"boolean"}},
    "required":["name","age","email","address","role"],"additionalProperties":false}
    """##

  static let tree = ##"""
    {"$ref":"#/$defs/n","$defs":{"n":{"type":"object","properties":{"value":{"type":"string"},
    "children":{"type":"array","items":{"$ref":"#/$defs/n"}}},"required":["value","children"],
    "additionalProperties":false}}}
    """##

  static func grammars() throws -> [(String, Grammar)] {
    [
      ("person", try Grammar(jsonSchema: person)),
      ("person, compact", try Grammar(jsonSchema: person, options: .init(whitespace: .none))),
      ("tree", try Grammar(jsonSchema: tree)), ("any object", try Grammar.jsonObject()),
      ("open object", try Grammar(jsonSchema: #"{"type":"object","properties":{"a":{"type":"string"}}}"#)),
      ("maxLength 2000", try Grammar(jsonSchema: #"{"type":"string","minLength":10,"maxLength":2000}"#)),
      ("regex", try Grammar(regex: #"(\w+ ){3,20}[a-z]+\."#)),
      ("choice", try Grammar(choice: (0..<500).map { "option \($0)" })),
      ("ambiguous regex", try Grammar(regex: "(a|b| )*a(a|b| |c){60}d")),
    ]
  }

  @Test("Mask speed on 49,152 tokens", .enabled(if: isWanted, "needs APUS_SPEED and APUS_MODELS"))
  func masks() throws {
    let clock = ContinuousClock()
    func milliseconds(_ duration: Duration) -> Double {
      Double(duration.components.attoseconds) / 1e15 + Double(duration.components.seconds) * 1e3
    }
    func rounded(_ value: Double) -> Double { (value * 1000).rounded() / 1000 }
    let tokenizer = try Models.gguf("smollm2-135m")
    var trie = VocabularyTrie(tokenizer)
    let build = clock.measure { trie = VocabularyTrie(tokenizer) }
    print("trie of \(trie.vocabularySize) tokens: \(trie.nodes.count) nodes in \(rounded(milliseconds(build))) ms")
    for (name, grammar) in try Self.grammars() {
      let shared = TokenGrammar(grammar, vocabulary: trie)
      var cold: [Double] = []
      var warm: [Double] = []
      var steps: [Double] = []
      for seed in 0..<40 {
        // Random walks that prefer the longest token of a few: real texts are made of such.
        var random = GrammarGenerator(seed: UInt64(seed))
        let fresh = TokenGrammar(grammar, vocabulary: trie)
        var first = fresh.makeMatcher()
        var second = shared.makeMatcher()
        for _ in 0..<60 {
          var mask = TokenMask(vocabularySize: 0)
          cold.append(milliseconds(clock.measure { mask = first.mask() }))
          warm.append(milliseconds(clock.measure { _ = second.mask() }))
          let tokens = mask.tokens.filter { !tokenizer.isEndOfGeneration($0) }
          var best: Int32?
          for _ in 0..<3 {
            guard let token = tokens.randomElement(using: &random) else { break }
            if tokenizer.bytes(of: token).count > best.map({ tokenizer.bytes(of: $0).count }) ?? 0 { best = token }
          }
          guard let token = best else { break }
          var isAccepted = false
          steps.append(milliseconds(clock.measure { isAccepted = first.accept(token) }))
          let isSame = second.accept(token)
          guard isAccepted && isSame else { break }
        }
      }
      func report(_ values: [Double]) -> String {
        let sorted = values.sorted()
        return
          "mean \(rounded(values.reduce(0, +) / Double(values.count))) p99 \(rounded(sorted[sorted.count * 99 / 100])) "
          + "max \(rounded(sorted[sorted.count - 1])) ms"
      }
      print(
        "\(name): \(grammar.stateCount) states; mask on a fresh grammar \(report(cold)); "
          + "on a shared one \(report(warm)); accept \(report(steps))"
      )
    }
    for (name, make) in HostileGrammars.sources {
      var error: GrammarError?
      let time = clock.measure { error = refusal(make) }
      print("\(name): refused in \(rounded(milliseconds(time))) ms: \(error?.description ?? "not refused")")
    }
    for (name, source) in [("person", Self.person), ("tree", Self.tree)] {
      let time = try clock.measure { _ = try Grammar(jsonSchema: source) }
      print("\(name): compiled in \(rounded(milliseconds(time))) ms")
    }
  }
}
