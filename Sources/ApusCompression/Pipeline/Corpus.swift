import ApusModels
import ApusText
import Foundation

/// Texts that a model is calibrated or measured with, as sequences of tokens.
public struct Corpus: Sendable {
  /// SHA-256 of the text's bytes, in hex.
  public var digest: String
  public var sequences: [[Int32]]
  /// Of the lines that the sequences come from.
  public private(set) var lines = LineHashes()

  public var tokens: Int { sequences.reduce(0) { $0 + $1.count } }

  /// Tokens of a decoder's sequence.
  public static let window = 512

  /// Reads a text file. An encoder gets a line at a time, a decoder the whole text in windows; both up to `limit` tokens.
  ///
  /// Throws `CompressionError` (`file`, `parameter` for a text without tokens).
  public init(path: String, for model: LoadedModel, limit: Int = .max) throws {
    let data: Data
    do {
      data = try Data(contentsOf: URL(filePath: path))
    } catch {
      throw CompressionError(
        kind: .file, what: "text '\(path)'", seen: "\(error.localizedDescription)", expected: "a text file")
    }
    self.init(
      text: String(decoding: data, as: UTF8.self), digest: Digest.sha256([UInt8](data)), for: model, limit: limit)
    guard tokens > 0 else {
      throw CompressionError(kind: .parameter, what: "text '\(path)'", seen: "no tokens", expected: "a text")
    }
  }

  public init(text: String, for model: LoadedModel, limit: Int = .max) {
    self.init(text: text, digest: Digest.sha256(Array(text.utf8)), for: model, limit: limit)
  }

  private init(text: String, digest: String, for model: LoadedModel, limit: Int) {
    self.digest = digest
    sequences = []
    var left = limit
    func append(_ ids: some Collection<Int32>) {
      guard left > 0, !ids.isEmpty else { return }
      sequences.append(Array(ids.prefix(left)))
      left -= min(left, ids.count)
    }
    if model.isEncoder {
      let options = EncodingOptions(maximumLength: model.contextLength)
      for line in text.split(separator: "\n") where left > 0 {
        lines.formUnion(LineHashes(line))
        append(model.tokenizer.encode(String(line), options: options))
      }
    } else {
      // Every window begins as a text does: models lean on their first token.
      let ids = model.tokenizer.encode(text)
      let isMarked = ids.first != nil && ids.first == model.tokenizer.specialTokens.bos
      let beginning = isMarked ? Array(ids.prefix(1)) : []
      let rest = ids.dropFirst(beginning.count)
      let step = Self.window - beginning.count
      for start in stride(from: rest.startIndex, to: rest.endIndex, by: step) {
        append(beginning + rest[start..<min(start + step, rest.endIndex)])
      }
      // The last line may be cut: it is not known again then.
      let read = ids.prefix(limit).flatMap(model.tokenizer.bytes(of:))
      lines = LineHashes(ids.count <= limit ? text : String(decoding: read, as: UTF8.self))
    }
  }
}
