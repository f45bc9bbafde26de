import ApusText
import Foundation
import Testing

/// Small tokenizers and templates of our own against what the references made of them. The expectations are committed
/// (`Benchmarks/text/make_fixtures.py` writes them), so these run everywhere.
@Suite struct Fixtures {
  struct Tokenizers: Sendable, CustomTestStringConvertible {
    var name: String
    var json: [UInt8]
    var cases: [Case]
    var testDescription: String { name }
  }

  struct Case: Sendable {
    var text: String
    var ids: [Int32]
    var special: [Int32]
    var decoded: String
  }

  static func list(_ value: JinjaValue?) -> [JinjaValue] { if case .list(let items)? = value { items } else { [] } }
  static func text(_ value: JinjaValue?) -> String? { if case .string(let text)? = value { text } else { nil } }
  static func ids(_ value: JinjaValue?) -> [Int32] {
    list(value).compactMap { if case .integer(let id) = $0 { Int32(id) } else { nil } }
  }

  static func load(_ name: String) -> [JinjaMapping] {
    guard let bytes = try? Data(contentsOf: Peer.fixtures.appendingPathComponent(name)),
      let value = try? JinjaValue(json: [UInt8](bytes))
    else { return [] }
    return list(value).compactMap { if case .mapping(let entry) = $0 { entry } else { nil } }
  }

  static let tokenizers: [Tokenizers] = load("tokenizers.json").map { entry in
    Tokenizers(
      name: text(entry["name"]) ?? "?", json: Array(((try? entry["tokenizer"]?.json) ?? "").utf8),
      cases: list(entry["cases"]).compactMap {
        guard case .mapping(let fields) = $0 else { return nil }
        return Case(
          text: text(fields["text"]) ?? "", ids: ids(fields["ids"]), special: ids(fields["special"]),
          decoded: text(fields["decoded"]) ?? "")
      })
  }

  @Test("There are fixtures to check")
  func present() {
    #expect(Self.tokenizers.count == 12)
    #expect(Self.tokenizers.allSatisfy { $0.cases.count > 80 })
    #expect(Self.load("templates.json").count > 100)
  }

  @Test("A tokenizer.json gives the reference's ids and texts", arguments: tokenizers)
  func tokenize(_ fixture: Tokenizers) throws {
    let tokenizer = try TokenizerSpec(json: fixture.json).makeTokenizer()
    for test in fixture.cases {
      let ids = tokenizer.encode(test.text, options: EncodingOptions(addSpecial: false))
      #expect(ids == test.ids, "\(test.text.debugDescription)")
      let special = tokenizer.encode(test.text, options: EncodingOptions(addSpecial: true, parseSpecial: true))
      #expect(special == test.special, "\(test.text.debugDescription) with special tokens")
      #expect(tokenizer.decode(test.ids).utf8.elementsEqual(test.decoded.utf8), "\(test.text.debugDescription) decoded")
    }
  }

  /// The same tokenizer as a GGUF file would hold it.
  static func metadata(_ json: [UInt8], pre: String) throws -> GGUFTokenizerMetadata {
    guard case .mapping(let file) = try JinjaValue(json: json), case .mapping(let model)? = file["model"],
      case .mapping(let vocabulary)? = model["vocab"]
    else { throw Peer.Failure(description: "the fixture has no vocabulary") }
    var tokens = [String](repeating: "", count: vocabulary.count)
    for (index, key) in vocabulary.keys.enumerated() {
      if case .integer(let id) = vocabulary.values[index] { tokens[id] = text(key) ?? "" }
    }
    let special = Set(
      list(file["added_tokens"]).compactMap { if case .mapping(let token) = $0 { text(token["content"]) } else { nil } }
    )
    let isBert = pre == "bert"
    if isBert {
      // As llama.cpp's converter writes BERT's vocabulary: word starts marked, continuations bare.
      tokens = tokens.map { token in
        if special.contains(token) { return token }
        return token.hasPrefix("##") ? String(token.dropFirst(2)) : "▁" + token
      }
    }
    var metadata = GGUFTokenizerMetadata(model: isBert ? "bert" : "gpt2", tokens: ByteStrings(tokens))
    metadata.pre = pre
    metadata.tokenTypes = tokens.map { special.contains($0) ? 3 : 1 }
    metadata.merges = ByteStrings(
      list(model["merges"]).map { merge in text(merge) ?? list(merge).compactMap(text).joined(separator: " ") })
    if isBert {
      metadata.clsID = 2
      metadata.separatorID = 3
    } else {
      metadata.bosID = 0
    }
    return metadata
  }

  @Test(
    "The same vocabulary from GGUF metadata gives the same ids",
    arguments: [
      ("smollm", "smollm"), ("qwen2", "qwen2"), ("llama3", "llama-bpe"), ("gpt-4o", "gpt-4o"), ("tekken", "tekken"),
      ("deepseek3", "deepseek-v3"), ("wordpiece", "bert"),
    ])
  func gguf(_ name: String, _ pre: String) throws {
    let fixture = try #require(Self.tokenizers.first { $0.name == name })
    let tokenizer = try TokenizerSpec(gguf: Self.metadata(fixture.json, pre: pre)).makeTokenizer()
    // A piece that itself starts with the mark of word starts is ambiguous in BERT's converted form.
    for test in fixture.cases where !(pre == "bert" && test.text.contains("▁")) {
      let ids = tokenizer.encode(test.text, options: EncodingOptions(addSpecial: false))
      #expect(ids == test.ids, "\(test.text.debugDescription)")
      #expect(tokenizer.decode(test.ids).utf8.elementsEqual(test.decoded.utf8), "\(test.text.debugDescription) decoded")
      if name == "llama3" || name == "wordpiece" {
        let special = tokenizer.encode(test.text, options: EncodingOptions(addSpecial: true, parseSpecial: true))
        #expect(special == test.special, "\(test.text.debugDescription) with special tokens")
      }
    }
  }

  @Test("Text that arrives id by id is the text decoded at once", arguments: tokenizers)
  func stream(_ fixture: Tokenizers) throws {
    let tokenizer = try TokenizerSpec(json: fixture.json).makeTokenizer()
    for test in fixture.cases {
      var detokenizer = IncrementalDetokenizer(tokenizer: tokenizer)
      var text = ""
      for id in test.ids {
        let part = detokenizer.append(id)
        #expect(!part.unicodeScalars.contains("\u{FFFD}") || test.decoded.unicodeScalars.contains("\u{FFFD}"))
        text += part
      }
      text += detokenizer.flush()
      #expect(text.utf8.elementsEqual(test.decoded.utf8), "\(test.text.debugDescription)")
    }
  }

  @Test("Templates give jinja2's text or refuse as it does")
  func templates() throws {
    for entry in Self.load("templates.json") {
      let name = Self.text(entry["name"]) ?? "?"
      guard case .mapping(let variables)? = entry["variables"] else { continue }
      let test = TemplateComparison.Case(
        name: name, template: Self.text(entry["template"]) ?? "", variables: variables)
      let expected = Self.text(entry["output"])
      switch TemplateComparison.render(test) {
      case .success(let output):
        if let expected {
          #expect(
            output.utf8.elementsEqual(expected.utf8),
            "\(name): \(output.debugDescription) instead of \(expected.debugDescription), from \(test.template.prefix(200))"
          )
        } else {
          Issue.record(
            "\(name): rendered \(output.debugDescription) where jinja2 says \(Self.text(entry["error"]) ?? "?")")
        }
      case .failure(let error):
        #expect(
          expected == nil,
          "\(name): \(error) instead of \(expected.debugDescription), from \(test.template.prefix(200))")
      }
    }
  }
}
