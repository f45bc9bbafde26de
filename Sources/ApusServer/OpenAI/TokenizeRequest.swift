import ApusEngine
import ApusText

/// The body of `POST /tokenize`, checked. Source: vLLM's `TokenizeCompletionRequest` and `TokenizeChatRequest`.
struct TokenizeRequest: Sendable {
  enum Subject: Sendable {
    case prompt(String)
    case chat(messages: [JinjaValue], tools: JinjaValue?)
  }

  /// Nil is the first loaded model.
  var model: String?
  var subject: Subject
  /// Adds the tokens that the model expects around a text. A chat's template writes its own.
  var addSpecialTokens: Bool
  /// Gives each token's text beside its id.
  var returnTokenStrings: Bool

  /// Throws ``OpenAIError`` that names the field.
  init(body bytes: [UInt8]) throws {
    let body = try RequestReader(body: bytes)
    model = try body.string("model")
    returnTokenStrings = try body.bool("return_token_strs") ?? false
    let addsSpecials = try body.bool("add_special_tokens")
    if body.value("messages") != nil {
      if body.value("prompt") != nil {
        throw OpenAIError.invalid("prompt", seen: "there beside messages", expected: "one of the two")
      }
      if addsSpecials == true {
        throw OpenAIError.invalid(
          "add_special_tokens", seen: "true", expected: "false with messages: their template writes the special tokens")
      }
      addSpecialTokens = false
      // Messages mean here what they mean in a chat, whatever else a chat must have.
      let chat = try ChatCompletionRequest(
        body: CompactJSON.bytes(["model": .string(model ?? ""), "messages": body.fields["messages"] ?? .none]),
        randomSeed: 0)
      subject = .chat(messages: chat.messages, tools: try body.chatTools().offered)
    } else if let prompt = try body.string("prompt") {
      addSpecialTokens = addsSpecials ?? true
      subject = .prompt(prompt)
    } else {
      throw OpenAIError.missing("prompt", expected: "a string, or messages in its place")
    }
  }

  func tokens(tokenizer: any Tokenizer, chat: (Prompt) throws -> [Int32]) throws -> [Int32] {
    switch subject {
    case .prompt(let text): tokenizer.encode(text, options: EncodingOptions(addSpecial: addSpecialTokens))
    case .chat(let messages, let tools): try chat(.chat(messages: messages, tools: tools))
    }
  }

  func response(_ tokens: [Int32], tokenizer: any Tokenizer, contextLength: Int) -> JinjaValue {
    [
      "count": .integer(tokens.count), "max_model_len": .integer(contextLength),
      "tokens": .list(tokens.map { .integer(Int($0)) }),
      "token_strs": returnTokenStrings
        ? .list(tokens.map { .string(String(decoding: tokenizer.bytes(of: $0), as: UTF8.self)) }) : .none,
    ]
  }
}

/// The body of `POST /detokenize`, checked. Source: vLLM's `DetokenizeRequest`.
struct DetokenizeRequest: Sendable {
  /// Nil is the first loaded model.
  var model: String?
  var tokens: TextInput

  /// Throws ``OpenAIError`` that names the field.
  init(body: [UInt8]) throws {
    let body = try RequestReader(body: body)
    model = try body.string("model")
    guard let items = try body.list("tokens") else {
      throw OpenAIError.missing("tokens", expected: "an array of token ids")
    }
    tokens = TextInput(path: "tokens", content: .tokens(try RequestReader.tokenIDs(items, path: "tokens")))
  }

  /// The text, special tokens by their names, so that it says what every token was.
  func response(tokenizer: any Tokenizer) throws -> JinjaValue {
    try tokens.checkTokens(vocabularySize: tokenizer.vocabularySize)
    guard case .tokens(let ids) = tokens.content else { return ["prompt": ""] }
    return ["prompt": .string(tokenizer.decode(ids, skipSpecial: false))]
  }
}
