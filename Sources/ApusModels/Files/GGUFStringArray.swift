/// An array of strings inside a GGUF file, read where it lies: opening a vocabulary of 150,000 tokens makes no `String`.
///
/// Elements are the raw bytes (GGUF promises UTF-8, tokens of byte-level vocabularies often aren't); use `string(at:)` for
/// checked text. The array keeps the mapped file alive; an element's pointer is valid as long as the array is kept.
///
/// Complexity: sequential iteration O(1) a step; random access O(1) with at most 15 steps over neighbours, because the
/// offset of every 16th string is remembered (so the index takes 1/16 of the least space the strings can take).
public struct GGUFStringArray: RandomAccessCollection, Sendable {
  static let stride = 16

  public let startIndex = 0
  public let endIndex: Int
  let file: MappedFile
  let key: String
  /// `checkpoints[i]` is the file offset of the length field of string `i · stride`.
  let checkpoints: [Int]

  public typealias Element = UnsafeRawBufferPointer

  /// Reads the length field at `offset`; it was checked when the file was opened.
  @inline(__always)
  static func element(in bytes: UnsafeRawBufferPointer, at offset: Int) -> Range<Int> {
    let length = Int(UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)))
    return offset + 8..<offset + 8 + length
  }

  public subscript(position: Int) -> UnsafeRawBufferPointer {
    precondition(position >= 0 && position < endIndex, "index \(position) is outside 0..<\(endIndex)")
    let bytes = file.bytes
    var range = Self.element(in: bytes, at: checkpoints[position / Self.stride])
    for _ in 0..<position % Self.stride { range = Self.element(in: bytes, at: range.upperBound) }
    return UnsafeRawBufferPointer(rebasing: bytes[range])
  }

  public func makeIterator() -> Iterator { Iterator(self) }

  /// Walks the strings front to back.
  public struct Iterator: IteratorProtocol {
    private let array: GGUFStringArray
    private var offset: Int
    private var left: Int

    init(_ array: GGUFStringArray) {
      self.array = array
      offset = array.checkpoints.first ?? 0
      left = array.endIndex
    }

    public mutating func next() -> UnsafeRawBufferPointer? {
      if left == 0 { return nil }
      left -= 1
      let bytes = array.file.bytes
      let range = GGUFStringArray.element(in: bytes, at: offset)
      offset = range.upperBound
      return UnsafeRawBufferPointer(rebasing: bytes[range])
    }
  }

  /// Element `index` as text. Throws `ModelFileError` of kind `malformed` when it isn't UTF-8.
  public func string(at index: Int) throws(ModelFileError) -> String {
    let element = self[index]
    guard let text = String(validating: element, as: UTF8.self) else {
      let offset = file.bytes.baseAddress.map { element.baseAddress! - $0 }
      throw ModelFileError(
        kind: .malformed, path: file.path, what: "key '\(key)', element \(index)", offset: offset,
        seen: "bytes that are not UTF-8", expected: "UTF-8")
    }
    return text
  }
}
