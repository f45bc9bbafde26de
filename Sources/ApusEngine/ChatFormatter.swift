import ApusModels
import ApusText

/// Turns a conversation into a model's prompt with the model's own template, and keeps what people write from being read
/// as control tokens.
public struct ChatFormatter: Sendable {
  private let template: ChatTemplate
  private let tokenizer: any Tokenizer
  private let controlNames: [String]

  /// Throws ``GenerationError/noChatTemplate(model:)``. O(vocabulary).
  public init(_ model: LoadedModel) throws {
    guard let template = model.chatTemplate else { throw GenerationError.noChatTemplate(model: model.name) }
    self.init(template: template, tokenizer: model.tokenizer)
  }

  public init(template: ChatTemplate, tokenizer: any Tokenizer) {
    self.template = template
    self.tokenizer = tokenizer
    controlNames = (0..<Int32(tokenizer.vocabularySize)).lazy
      .filter { tokenizer.isControl($0) }
      .map { String(decoding: tokenizer.bytes(of: $0), as: UTF8.self) }
      .filter { !$0.isEmpty }
  }

  /// The prompt's tokens. A control token's name inside a message is text, never the token.
  ///
  /// Throws `TemplateError`.
  public func tokens(messages: [JinjaValue], tools: JinjaValue? = nil) throws -> [Int32] {
    let specials = tokenizer.specialTokens
    func name(_ id: Int32?) -> String? { id.map { String(decoding: tokenizer.bytes(of: $0), as: UTF8.self) } }
    var toolList: [JinjaValue]?
    if case .list(let items)? = tools { toolList = items.map(quoting) }
    let text = try template.render(
      messages: messages.map(quoting), tools: toolList, addGenerationPrompt: true, bosToken: name(specials.bos),
      eosToken: name(specials.eos))
    return Self.parts(of: text).flatMap { part in
      tokenizer.encode(part.text, options: .init(addSpecial: false, parseSpecial: !part.isQuoted))
    }
  }

  // MARK: quoting

  // Two noncharacters of Unicode (section 23.7), which text may not contain, mark what is text whatever it looks like.
  private static let open = Unicode.Scalar(0xFDD0 as UInt32)!
  private static let close = Unicode.Scalar(0xFDD1 as UInt32)!

  /// Marks control tokens' names in every string inside the value.
  private func quoting(_ value: JinjaValue) -> JinjaValue {
    switch value {
    case .string(let text): return .string(quoting(text))
    case .list(let items): return .list(items.map(quoting))
    case .mapping(let mapping):
      var copy = JinjaMapping()
      for (key, value) in zip(mapping.keys, mapping.values) { copy[key] = quoting(value) }
      return .mapping(copy)
    default: return value
    }
  }

  private func quoting(_ text: String) -> String {
    var text = text
    if text.unicodeScalars.contains(where: { $0 == Self.open || $0 == Self.close }) {
      let replaced = text.unicodeScalars.map { $0 == Self.open || $0 == Self.close ? "\u{FFFD}" : $0 }
      text = String(String.UnicodeScalarView(replaced))
    }
    let bytes = Array(text.utf8)
    let starts = Set(controlNames.compactMap(\.utf8.first))
    guard bytes.contains(where: starts.contains) else { return text }
    let names = controlNames.map { Array($0.utf8) }.filter { $0.count <= bytes.count }
    var result: [UInt8] = []
    var index = 0
    var changed = false
    while index < bytes.count {
      let rest = bytes[index...]
      if starts.contains(bytes[index]),
        let name = names.filter({ rest.starts(with: $0) }).max(by: { $0.count < $1.count })
      {
        result += Array(Self.open.utf8)
        result += name
        result += Array(Self.close.utf8)
        index += name.count
        changed = true
      } else {
        result.append(bytes[index])
        index += 1
      }
    }
    return changed ? String(decoding: result, as: UTF8.self) : text
  }

  /// The text without marks, cut where they were.
  private static func parts(of text: String) -> [(text: String, isQuoted: Bool)] {
    var parts: [(text: String, isQuoted: Bool)] = []
    var current = ""
    var isQuoted = false
    for scalar in text.unicodeScalars {
      if scalar == open || scalar == close {
        if !current.isEmpty { parts.append((current, isQuoted)) }
        current = ""
        isQuoted = scalar == open
      } else {
        current.unicodeScalars.append(scalar)
      }
    }
    if !current.isEmpty { parts.append((current, isQuoted)) }
    return parts
  }
}
