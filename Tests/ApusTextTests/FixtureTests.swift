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
