/// Turns text into the ids that a model was trained on, and back.
///
///     let tokenizer = try TokenizerSpec(gguf: metadata).makeTokenizer()
///     let ids = tokenizer.encode("Hello, world", options: .init(addSpecial: true))
///     let text = tokenizer.decode(ids, skipSpecial: true)
///
/// Implementations are immutable values: any number of threads may use one at once.
public protocol Tokenizer: Sendable {
  /// Number of ids; valid ids are `0..<vocabularySize`.
  var vocabularySize: Int { get }

  /// The ids with a role: beginning, end, padding and so on.
  var specialTokens: SpecialTokens { get }

  /// The ids of `text`. O(n log n) in its bytes, whatever the text. Text of 2 GiB or more is refused by a trap.
  func encode(_ text: String, options: EncodingOptions) -> [Int32]

  /// The bytes that an id adds to the text, as seen in the middle of a text; may be part of a UTF-8 sequence.
  /// A control token gives its name; an id out of range gives no bytes.
  func bytes(of id: Int32) -> [UInt8]

  /// Appends what `bytes(of:)` gives to bytes that the caller keeps, so that detokenising allocates nothing.
  func appendBytes(of id: Int32, to bytes: inout [UInt8])

  /// What an id is for; `.unused` for ids out of range.
  func kind(of id: Int32) -> TokenKind

  /// How the text starts and joins, which `decode` and `IncrementalDetokenizer` apply around `bytes(of:)`.
  var decodingStyle: DecodingStyle { get }
}

extension Tokenizer {
  /// Encodes with the model's own special tokens added and no special token parsed out of the text.
  public func encode(_ text: String) -> [Int32] { encode(text, options: EncodingOptions()) }

  public func appendBytes(of id: Int32, to bytes: inout [UInt8]) { bytes += self.bytes(of: id) }

  /// Whether an id steers the model and is no text.
  public func isControl(_ id: Int32) -> Bool {
    let kind = kind(of: id)
    return kind == .control || kind == .unknown
  }

  /// Whether generation ends with this id.
  public func isEndOfGeneration(_ id: Int32) -> Bool { specialTokens.endOfGeneration.contains(id) }

  /// The text of `ids`; invalid UTF-8 becomes U+FFFD. `skipSpecial` leaves out control tokens.
  public func decode(_ ids: some Sequence<Int32>, skipSpecial: Bool = true) -> String {
    var detokenizer = IncrementalDetokenizer(tokenizer: self, skipSpecial: skipSpecial)
    var text = ""
    for id in ids { text += detokenizer.append(id) }
    return text + detokenizer.flush()
  }
}

/// What `Tokenizer.encode` does beyond splitting text.
public struct EncodingOptions: Sendable, Equatable {
  /// Adds the tokens that the model expects around a text (BOS, EOS, `[CLS]` … `[SEP]`), as its files say.
  public var addSpecial: Bool
  /// Recognises the names of control tokens in the text. Leave it off for text from users: there `<|im_end|>` must
  /// stay eleven characters and not end their turn.
  public var parseSpecial: Bool
  /// Cuts the text's own ids so that the result, special tokens included, has at most this many.
  public var maximumLength: Int?

  public init(addSpecial: Bool = true, parseSpecial: Bool = false, maximumLength: Int? = nil) {
    self.addSpecial = addSpecial
    self.parseSpecial = parseSpecial
    self.maximumLength = maximumLength
  }
}

/// Ids with a role, as the model's files name them.
public struct SpecialTokens: Sendable, Equatable {
  /// Beginning of sequence.
  public var bos: Int32?
  /// End of sequence.
  public var eos: Int32?
  /// End of turn, where a model tells it apart from end of sequence.
  public var eot: Int32?
  public var unknown: Int32?
  public var padding: Int32?
  /// Classification token at the start of an encoder's input.
  public var cls: Int32?
  /// Separator at the end of an encoder's input.
  public var sep: Int32?
  /// Every id after which generation stops.
  public var endOfGeneration: Set<Int32> = []

  public init() {}
}

/// How pieces join to text.
public enum DecodingStyle: Sendable, Equatable {
  /// Bytes follow one another (byte-level BPE).
  case plain
  /// As `plain`, but one leading space belongs to the tokenizer and not to the text (SentencePiece with a prefix).
  case stripLeadingSpace
  /// Words are joined by spaces, `##` pieces and punctuation after `cleanup` are not (WordPiece).
  case words(cleanup: Bool)
}
