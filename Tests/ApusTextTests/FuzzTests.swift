import ApusText
import Foundation
import Testing

/// Seeded mutations of valid inputs: whatever comes, there is a value or a typed error, soon.
@Suite struct Fuzz {
  static func mutate(_ bytes: [UInt8], _ generator: inout SeededGenerator) -> [UInt8] {
    var bytes = bytes
    let tokens = [
      "\"", "{", "}", "[", "]", ",", ":", "null", "-1", "999999999999", "1e9", "true", "\\u", "{%", "%}", "{{", "}}",
      "-", "|", "(", ")", "\u{0}", "é",
    ]
    for _ in 0..<Int.random(in: 1...2, using: &generator) {
      guard !bytes.isEmpty else { break }
      let at = Int.random(in: 0..<bytes.count, using: &generator)
      switch Int.random(in: 0..<5, using: &generator) {
      case 0: bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
      case 1: bytes.removeSubrange(at..<min(at + Int.random(in: 1...20, using: &generator), bytes.count))
      case 2: bytes.insert(contentsOf: Array((tokens.randomElement(using: &generator) ?? "").utf8), at: at)
      case 3:
        let from = Int.random(in: 0..<bytes.count, using: &generator)
        let part = Array(bytes[from..<min(from + Int.random(in: 1...40, using: &generator), bytes.count)])
        bytes.insert(contentsOf: part, at: at)
      default: bytes.removeSubrange(at...)
      }
    }
    return bytes
  }

  /// A file of each kind, small enough for thousands of mutations.
  static let files: [[UInt8]] = [
    """
    {"added_tokens":[{"id":5,"content":"<e>","special":true,"lstrip":true,"normalized":false,"single_word":false}],\
    "normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},\
    "pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},{"type":"ByteLevel"}]},\
    "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<e>"}},{"Sequence":{"id":"A"}}],\
    "special_tokens":{"<e>":{"ids":[5]}}},"decoder":{"type":"ByteLevel"},\
    "model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"Ġ":3,"Ġa":4},"merges":["a b",["Ġ","a"]],"unk_token":"a"}}
    """,
    """
    {"normalizer":{"type":"BertNormalizer"},"pre_tokenizer":{"type":"BertPreTokenizer"},"decoder":{"type":"WordPiece"},\
    "post_processor":{"type":"BertProcessing","sep":["[S]",1],"cls":["[C]",2]},"truncation":{"max_length":4},\
    "model":{"type":"WordPiece","vocab":{"[U]":0,"[S]":1,"[C]":2,"a":3,"##b":4,"é":5},"unk_token":"[U]"}}
    """,
    """
    {"pre_tokenizer":{"type":"Metaspace","replacement":"▁"},"decoder":{"type":"Metaspace","replacement":"▁"},\
    "model":{"type":"Unigram","unk_id":0,"vocab":[["<u>",0],["▁a",-1.5],["b",-2],["▁",-3e0],["<0x41>",-9]],"byte_fallback":true}}
    """,
  ].map { Array($0.utf8) }

  @Test("Mutated tokenizer files give a tokenizer or a typed error")
  func tokenizers() {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed: \(seed)")
    var generator = SeededGenerator(seed: seed)
    var built = 0
    var refused = 0
    for round in 0..<12_000 {
      let json = Self.mutate(Self.files[round % Self.files.count], &generator)
      do throws(TokenizerError) {
        let tokenizer = try TokenizerSpec(json: json).makeTokenizer()
        let text = RandomText.make(&generator)
        let ids = tokenizer.encode(text, options: EncodingOptions(parseSpecial: true))
        #expect(ids.allSatisfy { $0 >= 0 && $0 < tokenizer.vocabularySize })
        _ = tokenizer.decode(ids + [-5, .max, .min])
        built += 1
      } catch {
        #expect(!error.description.isEmpty)
        refused += 1
      }
    }
    print("\(built) tokenizers, \(refused) refusals")
    #expect(built > 0 && refused > 0)
  }

  @Test("Mutated templates render or give a typed error")
  func templates() throws {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed: \(seed)")
    var generator = SeededGenerator(seed: seed)
    let entries = Fixtures.load("templates.json")
    var rendered = 0
    var refused = 0
    for _ in 0..<8_000 {
      guard let entry = entries.randomElement(using: &generator), case .mapping(let variables)? = entry["variables"],
        let source = Fixtures.text(entry["template"])
      else { continue }
      let mutated = String(decoding: Self.mutate(Array(source.utf8), &generator), as: UTF8.self)
      var globals: [String: JinjaValue] = [:]
      for index in 0..<variables.count { globals[Fixtures.text(variables.keys[index]) ?? ""] = variables.values[index] }
      do throws(TemplateError) {
        var template = try ChatTemplate(mutated)
        template.limits.steps = 100_000
        _ = try template.render(variables: globals)
        rendered += 1
      } catch {
        #expect(!error.message.isEmpty)
        refused += 1
      }
    }
    print("\(rendered) rendered, \(refused) refusals")
    #expect(rendered > 0 && refused > 0)
  }

  @Test("Mutated GGUF metadata gives a tokenizer or a typed error")
  func metadata() {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed: \(seed)")
    var generator = SeededGenerator(seed: seed)
    var built = 0
    for _ in 0..<4_000 {
      func pick<T>(_ values: [T]) -> T { values[Int.random(in: 0..<values.count, using: &generator)] }
      let words = [
        "a", "b", "ab", "Ġ", "Ġa", "", "▁", "▁a", "##b", "<0x41>", "<0xZZ>", "<e>", "日", "\u{FFFD}", "[UNK]",
      ]
      let tokens = (0..<Int.random(in: 0...12, using: &generator)).map { _ in pick(words) }
      var metadata = GGUFTokenizerMetadata(
        model: pick(["gpt2", "llama", "t5", "bert"]), tokens: ByteStrings(tokens))
      metadata.pre = pick([nil, "gpt-2", "smollm", "qwen2", "llama-bpe", "default", "deepseek-v3", "tekken", "x"])
      metadata.merges = pick([nil, [], ["a b"], ["Ġ a", "a b"], ["a"], [" "], ["a  b"]])
      let count = pick([tokens.count, tokens.count, tokens.count, 3])
      metadata.scores = pick([
        nil, (0..<count).map { -Float($0) }, Array(repeating: 0, count: count),
        Array(repeating: .infinity, count: count),
        Array(repeating: -1e30, count: count),
      ])
      metadata.tokenTypes = pick([nil, (0..<count).map { _ in Int32.random(in: 1...6, using: &generator) }])
      for key in [\GGUFTokenizerMetadata.bosID, \.eosID, \.unknownID, \.separatorID, \.clsID, \.eotID] {
        metadata[keyPath: key] = pick([nil, 0, 1, Int32(tokens.count - 1), Int32(tokens.count), -1, .max])
      }
      metadata.addBOS = pick([nil, true, false])
      metadata.addEOS = pick([nil, true, false])
      metadata.addSpacePrefix = pick([nil, true, false])
      metadata.removeExtraWhitespaces = pick([nil, true])
      metadata.precompiledCharsMap = pick([nil, [], [1, 2, 3], [4, 0, 0, 0, 1, 2, 3, 4, 97, 0]])
      do throws(TokenizerError) {
        let tokenizer = try TokenizerSpec(gguf: metadata).makeTokenizer()
        let ids = tokenizer.encode(RandomText.make(&generator), options: EncodingOptions(parseSpecial: true))
        #expect(ids.allSatisfy { $0 >= 0 && $0 < tokenizer.vocabularySize })
        _ = tokenizer.decode(ids)
        built += 1
      } catch {
        #expect(!error.description.isEmpty)
      }
    }
    #expect(built > 0)
  }

  @Test("Random ids decode to text, whatever their order")
  func randomIDs() throws {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed: \(seed)")
    var generator = SeededGenerator(seed: seed)
    for fixture in Fixtures.tokenizers {
      let tokenizer = try TokenizerSpec(json: fixture.json).makeTokenizer()
      for _ in 0..<100 {
        let ids = (0..<30).map { _ in Int32.random(in: -2..<Int32(tokenizer.vocabularySize + 2), using: &generator) }
        var detokenizer = IncrementalDetokenizer(tokenizer: tokenizer, skipSpecial: false)
        var text = ""
        for id in ids { text += detokenizer.append(id) }
        #expect(text + detokenizer.flush() == tokenizer.decode(ids, skipSpecial: false))
      }
    }
  }

  @Test("A word of a million letters is encoded in one sweep")
  func longWord() throws {
    for fixture in Fixtures.tokenizers where fixture.name != "unigram" {
      let tokenizer = try TokenizerSpec(json: fixture.json).makeTokenizer()
      let text = String(repeating: "ab", count: 100_000)
      let ids = tokenizer.encode(text, options: EncodingOptions(addSpecial: false))
      #expect(!ids.isEmpty)
      if fixture.name != "wordpiece" { #expect(tokenizer.decode(ids) == text) }
    }
  }
}
