import Crypto
import Foundation

/// Hashes of a text's lines: tell that another text has some of them, and keep neither text.
///
/// What a model was fitted to must not be what it is judged by. A hash of the whole text does not see a part of it, hashes
/// of the lines do.
public struct LineHashes: Sendable, Equatable {
  private var hashes: Set<UInt64> = []

  /// Lines of fewer bytes are in many texts (headings, brackets) and prove nothing.
  private static let shortestLine = 20

  /// Of no text.
  public init() {}

  public init(_ text: some StringProtocol) {
    for line in text.split(whereSeparator: \.isNewline) {
      let bytes = Array(line.trimming { $0.isWhitespace }.utf8)
      guard bytes.count >= Self.shortestLine else { continue }
      hashes.insert(SHA256.hash(data: bytes).prefix(8).reduce(0) { $0 << 8 | UInt64($1) })
    }
  }

  /// Reads `base64`; nil for other texts.
  public init?(base64: String) {
    guard let data = Data(base64Encoded: base64), data.count % 8 == 0 else { return nil }
    for start in stride(from: 0, to: data.count, by: 8) {
      hashes.insert(data[data.startIndex + start..<data.startIndex + start + 8].reduce(0) { $0 << 8 | UInt64($1) })
    }
  }

  /// Eight bytes a line, in the order of their values.
  public var base64: String {
    Data(hashes.sorted().flatMap { hash in (0..<8).map { UInt8(truncatingIfNeeded: hash >> (56 - 8 * $0)) } })
      .base64EncodedString()
  }

  /// Lines that count, each once.
  public var count: Int { hashes.count }

  public mutating func formUnion(_ other: LineHashes) { hashes.formUnion(other.hashes) }

  /// Lines that both have.
  public func shared(with other: LineHashes) -> Int { hashes.intersection(other.hashes).count }

  /// The share of a text's lines that may be known by chance: short definitions and headings repeat.
  public static let toleratedShare = 0.01

  /// How many lines of `corpus` these are of. Throws `CompressionError` (`seenText`) when they are more than chance gives:
  /// what is measured on them says nothing about other texts.
  @discardableResult
  public func requireUnseen(_ corpus: Corpus, _ what: String) throws(CompressionError) -> Int {
    let shared = shared(with: corpus.lines)
    guard Double(shared) <= Self.toleratedShare * Double(corpus.lines.count) else {
      throw CompressionError(
        kind: .seenText, what: what,
        seen: "\(shared) of its \(corpus.lines.count) lines among those of the calibration",
        expected: "a text that the model was not fitted to", wayOut: "measure on another text")
    }
    return shared
  }
}

extension StringProtocol {
  fileprivate func trimming(_ isOuter: (Character) -> Bool) -> SubSequence {
    guard let first = firstIndex(where: { !isOuter($0) }), let last = lastIndex(where: { !isOuter($0) }) else {
      return self[startIndex..<startIndex]
    }
    return self[first...last]
  }
}
