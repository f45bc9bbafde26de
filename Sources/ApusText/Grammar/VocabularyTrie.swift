/// The texts of a vocabulary as a trie over bytes, so that a mask is found in one walk that skips what cannot match.
///
///     let vocabulary = VocabularyTrie(tokenizer)   // once per tokenizer; O(bytes × log tokens)
///
/// Control tokens, reserved ones and those without bytes are left out: a grammar never allows them. Immutable and shared.
public final class VocabularyTrie: Sendable {
  /// A node of the trie in depth-first order.
  struct Node: Sendable {
    var byte: UInt8
    /// The token that ends here; `noToken`, or `-2 - index` into `sharedTokens` where several have the same bytes.
    var token: Int32
    /// Length of the text up to here, in bytes.
    var depth: Int32
    /// The first node that is not below this one.
    var next: Int32
  }

  static let noToken: Int32 = -1

  let nodes: [Node]
  let sharedTokens: [[Int32]]
  /// Bytes of the longest token.
  public let longestToken: Int
  /// Bytes of each token; none for those left out.
  let texts: ByteStrings
  /// Number of ids, those left out included.
  public let vocabularySize: Int
  /// Tokens that end a generation, in order.
  public let endTokens: [Int32]

  public init(_ tokenizer: any Tokenizer) {
    vocabularySize = tokenizer.vocabularySize
    let size = Int32(vocabularySize)
    endTokens = tokenizer.specialTokens.endOfGeneration.filter { $0 >= 0 && $0 < size }.sorted()
    let ends = Set(endTokens)
    var texts = ByteStrings()
    var order: [Int32] = []
    for id in 0..<size {
      let isText = !ends.contains(id) && !tokenizer.isControl(id) && tokenizer.kind(of: id) != .unused
      let bytes = isText ? tokenizer.bytes(of: id) : []
      texts.append(bytes)
      if !bytes.isEmpty { order.append(id) }
    }
    self.texts = texts
    let storage = texts.storage
    order.sort { a, b in
      let left = texts.range(Int(a))
      let right = texts.range(Int(b))
      var offset = 0
      while offset < min(left.count, right.count) {
        let difference = Int(storage[left.lowerBound + offset]) - Int(storage[right.lowerBound + offset])
        if difference != 0 { return difference < 0 }
        offset += 1
      }
      return left.count == right.count ? a < b : left.count < right.count
    }
    var nodes: [Node] = []
    var sharedTokens: [[Int32]] = []
    /// Nodes from the root to the last token's end.
    var path: [Int] = []
    for id in order {
      let range = texts.range(Int(id))
      var common = 0
      while common < min(path.count, range.count) && nodes[path[common]].byte == storage[range.lowerBound + common] {
        common += 1
      }
      for closed in path[common...] { nodes[closed].next = Int32(nodes.count) }
      path.removeSubrange(common...)
      for offset in common..<range.count {
        path.append(nodes.count)
        nodes.append(
          Node(byte: storage[range.lowerBound + offset], token: Self.noToken, depth: Int32(offset + 1), next: 0))
      }
      let node = path[range.count - 1]
      let token = nodes[node].token
      if token == Self.noToken {
        nodes[node].token = id
      } else if token >= 0 {
        nodes[node].token = Int32(-2 - sharedTokens.count)
        sharedTokens.append([token, id])
      } else {
        sharedTokens[Int(-2 - token)].append(id)
      }
    }
    for open in path { nodes[open].next = Int32(nodes.count) }
    self.nodes = nodes
    self.sharedTokens = sharedTokens
    longestToken = nodes.reduce(0) { max($0, Int($1.depth)) }
  }
}
