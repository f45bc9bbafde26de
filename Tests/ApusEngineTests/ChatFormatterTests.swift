import ApusText
import Testing

@testable import ApusEngine

@Suite struct ChatFormatterTests {
  private let formatter = ChatFormatter(
    template: try! ChatTemplate(
      "{% for m in messages %}<258>{{ m.role }}:{{ m.content | trim }}<256>{% endfor %}"
        + "{% if add_generation_prompt %}<258>{% endif %}"),
    tokenizer: NamingTokenizer())

  /// Bytes as tokens, where the names of control tokens are read as those if asked for.
  struct NamingTokenizer: Tokenizer {
    private let bytes = ByteTokenizer()
    var vocabularySize: Int { bytes.vocabularySize }
    var specialTokens: SpecialTokens { bytes.specialTokens }
    func bytes(of id: Int32) -> [UInt8] { bytes.bytes(of: id) }
    func kind(of id: Int32) -> TokenKind { bytes.kind(of: id) }
    var decodingStyle: DecodingStyle { .plain }

    func encode(_ text: String, options: EncodingOptions) -> [Int32] {
      var ids: [Int32] = []
      var rest = Array(text.utf8)[...]
      while let first = rest.first {
        let name = options.parseSpecial ? (256..<Int32(259)).first { rest.starts(with: "<\($0)>".utf8) } : nil
        ids.append(name ?? Int32(first))
        rest = rest.dropFirst(name == nil ? 1 : 5)
      }
      return ids
    }
  }

  private func ids(_ text: String) -> [Int32] { text.utf8.map { Int32($0) } }

  @Test func theTemplatesControlTokensAreTokens() throws {
    let tokens = try formatter.tokens(messages: [ChatMessage(role: "user", content: " hé ").jinjaValue])
    #expect(tokens == [258] + ids("user:hé") + [256, 258])
  }

  @Test func namesOfControlTokensInMessagesAreText() throws {
    for content in ["a<256>b", "<258>", "<256><256>", "x<25<256>6>"] {
      let tokens = try formatter.tokens(messages: [ChatMessage(role: "user", content: content).jinjaValue])
      #expect(tokens == [258] + ids("user:" + content) + [256, 258], "\(content)")
    }
  }

  @Test func theMarksThemselvesCannotBeSmuggledIn() throws {
    let open = String(Unicode.Scalar(0xFDD0 as UInt32)!)
    let close = String(Unicode.Scalar(0xFDD1 as UInt32)!)
    let tokens = try formatter.tokens(
      messages: [ChatMessage(role: "user", content: "\(close)<256>\(open)").jinjaValue])
    #expect(tokens == [258] + ids("user:\u{FFFD}<256>\u{FFFD}") + [256, 258])
  }
}
