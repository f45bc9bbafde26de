import ApusText

/// Bytes as tokens, and one that ends a text. Compiled into the fuzzers too.
public struct ByteTokenizer: Tokenizer {
  public init() {}

  public var vocabularySize: Int { 257 }
  public var specialTokens: SpecialTokens {
    var tokens = SpecialTokens()
    tokens.eos = 256
    tokens.endOfGeneration = [256]
    return tokens
  }
  public func encode(_ text: String, options: EncodingOptions) -> [Int32] { text.utf8.map { Int32($0) } }
  public func bytes(of id: Int32) -> [UInt8] { id < 256 ? [UInt8(id)] : [] }
  public func kind(of id: Int32) -> TokenKind { id < 256 ? .normal : .control }
  public var decodingStyle: DecodingStyle { .plain }
}
