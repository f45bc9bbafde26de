import ApusText
import Foundation
import Testing

/// Writes masks along random texts for a comparison with another implementation (compare_masks.py). Enabled by
/// `APUS_GRAMMAR_MASKS`, the file to write, and a folder of models.
@Suite struct MaskComparison {
  static let path = ProcessInfo.processInfo.environment["APUS_GRAMMAR_MASKS"]

  static let schemas = [
    #"{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"boolean"}},"#
      + #""required":["a"],"additionalProperties":false}"#,
    #"{"type":"object","properties":{"s":{"type":"string"},"n":{"type":"null"}},"#
      + #""required":["n"],"additionalProperties":false}"#,
    #"{"type":"object","properties":{"k":{"enum":["red","green","grey"]}},"required":["k"],"#
      + #""additionalProperties":false}"#,
    #"{"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":4}"#,
    #"{"type":"array","prefixItems":[{"type":"string"},{"type":"boolean"}],"items":{"type":"null"},"minItems":2}"#,
    #"{"type":"string","minLength":2,"maxLength":12}"#,
    #"{"type":"string","pattern":"^[A-Z][a-z]{2,5}-[0-9]+$"}"#,
    #"{"type":"string","format":"uuid"}"#,
    #"{"anyOf":[{"type":"integer"},{"type":"string"},{"type":"null"}]}"#,
    #"{"type":"integer","minimum":-17,"maximum":1234}"#, #"{"type":"integer","minimum":5}"#,
    #"{"type":"number"}"#, #"{"type":"string"}"#, #"{"const":{"x":[1,"two",null]}}"#,
    ##"{"$ref":"#/$defs/n","$defs":{"n":{"type":"object","properties":{"v":{"type":"string"},"##
      + ##""c":{"type":"array","items":{"$ref":"#/$defs/n"}}},"required":["v","c"],"##
      + ##""additionalProperties":false}}}"##,
    #"{"type":"object","additionalProperties":{"type":"integer"}}"#,
    #"{"type":"object","properties":{"x":{"type":"integer"},"y":{"type":"integer"}},"#
      + #""additionalProperties":{"type":"string"}}"#,
  ]

  @Test(
    "Masks on the default model's vocabulary, for a comparison",
    .enabled(if: path != nil && Models.has("smollm2-135m.gguf")))
  func dump() throws {
    let path = try #require(Self.path)
    let tokenizer = try Models.gguf("smollm2-135m")
    let trie = VocabularyTrie(tokenizer)
    var output = ""
    func hex(_ bytes: [UInt8]) -> String {
      bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
    for id in 0..<Int32(tokenizer.vocabularySize) {
      let isText = !tokenizer.isControl(id) && !tokenizer.isEndOfGeneration(id)
      output += "token \(isText ? 1 : 0) \(hex(tokenizer.bytes(of: id)))\n"
    }
    output += "end \(tokenizer.specialTokens.endOfGeneration.sorted().map(String.init).joined(separator: " "))\n"
    var random = GrammarGenerator(seed: 7)
    for schema in Self.schemas {
      let grammar = TokenGrammar(
        try Grammar(jsonSchema: schema, options: .init(whitespace: .none)), vocabulary: trie)
      for _ in 0..<6 {
        output += "schema \(schema)\n"
        var matcher = grammar.makeMatcher()
        for _ in 0..<14 {
          let mask = matcher.mask()
          let tokens = mask.tokens
          output += "mask \(matcher.canEnd ? 1 : 0) \(tokens.map(String.init).joined(separator: " "))\n"
          // Short printable tokens keep the text going.
          let next = tokens.filter { id in
            !tokenizer.isControl(id) && tokenizer.bytes(of: id).allSatisfy { $0 >= 0x20 && $0 < 0x7F && $0 != 0x5C }
          }
          let quotes = next.filter { tokenizer.bytes(of: $0).contains(0x22) }
          let choice = (random.chance(30) && !quotes.isEmpty ? quotes : next).randomElement(using: &random)
          guard let choice, matcher.accept(choice) else { break }
          output += "next \(choice)\n"
        }
      }
    }
    try output.write(toFile: path, atomically: true, encoding: .utf8)
  }
}
