import ApusEngine
import ApusModels
import ApusText
import ArgumentParser
import Foundation

struct TokenizeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "tokenize",
    abstract: "Shows a text as a model's tokens, or tokens as text.",
    discussion: """
      apus tokenize "Hello, world"
      apus tokenize --detokenize 19556 28 905
      apus tokenize -f book.txt --json
      apus tokenize --special "<|im_start|>user"

      Names of control tokens in the text are text, unless --special is given.
      """)

  @OptionGroup(title: "Model") var model: ModelOptions

  @Argument(help: "The text, or ids with --detokenize.")
  var input: [String] = []

  @Option(name: .shortAndLong, help: "Read the text (or ids) from a file; - is stdin.")
  var file: String?

  @Flag(help: "Turn ids into text.")
  var detokenize = false

  @Flag(name: .customLong("no-special"), help: "Leave out the tokens that the model expects around a text.")
  var noSpecial = false

  @Flag(help: "Read the names of control tokens in the text as those tokens.")
  var special = false

  @Flag(help: "Print one JSON object.")
  var json = false

  func run() throws {
    let text = try TextInput.read(
      argument: input.isEmpty ? nil : input.joined(separator: " "), file: file == "-" ? nil : file)
    let tokenizer = try model.load().model.tokenizer
    let ids =
      detokenize
      ? try Self.ids(in: text, below: tokenizer.vocabularySize)
      : tokenizer.encode(text, options: .init(addSpecial: !noSpecial, parseSpecial: special))
    let pieces = ids.map { String(decoding: tokenizer.bytes(of: $0), as: UTF8.self) }
    if json {
      try JSONOutput.print(
        TokenizeResult(ids: ids, pieces: pieces, text: detokenize ? tokenizer.decode(ids) : nil))
    } else if detokenize {
      Terminal.write(tokenizer.decode(ids) + "\n")
    } else {
      Terminal.write(Format.table(zip(ids, pieces).map { ["\($0)", $1.debugDescription] }) + "\n")
    }
  }

  private static func ids(in text: String, below size: Int) throws -> [Int32] {
    try text.split(whereSeparator: { " ,[]\n\t".contains($0) }).map { word in
      guard let id = Int32(word), id >= 0, Int(id) < size else {
        throw TextInputError(source: "'\(word)'", problem: "it is no token id: expected a number from 0 to \(size - 1)")
      }
      return id
    }
  }
}

/// The JSON of `tokenize`.
struct TokenizeResult: Encodable {
  var ids: [Int32]
  var pieces: [String]
  var text: String?
}
