/// Many byte strings stored back to back: one buffer and one array of borders instead of one allocation a string.
///
/// A vocabulary of 150,000 pieces is two arrays. Appending is amortised O(length), subscripting O(1).
///
///     var pieces = ByteStrings()
///     pieces.append("hello".utf8)
///     pieces[0]  // the bytes of "hello"
public struct ByteStrings: Sendable, Equatable, ExpressibleByArrayLiteral {
  /// All strings' bytes, in order.
  public private(set) var storage: [UInt8] = []
  /// `borders[i]..<borders[i + 1]` is string `i`'s range in `storage`; one more element than there are strings.
  public private(set) var borders: [Int] = [0]

  public init() {}

  public init(arrayLiteral elements: String...) { self.init(elements) }

  /// The UTF-8 of each string, in order.
  public init(_ strings: some Sequence<String>) {
    for string in strings { append(string.utf8) }
  }

  /// The given byte strings, in order.
  public init(_ strings: some Sequence<[UInt8]>) {
    for string in strings { append(string) }
  }

  /// Number of strings.
  public var count: Int { borders.count - 1 }

  public var isEmpty: Bool { borders.count == 1 }

  /// Prepares for `count` strings of `bytes` bytes in total.
  public mutating func reserveCapacity(count: Int, bytes: Int) {
    borders.reserveCapacity(count + 1)
    storage.reserveCapacity(bytes)
  }

  /// Appends one string.
  public mutating func append(_ string: some Sequence<UInt8>) {
    storage.append(contentsOf: string)
    borders.append(storage.count)
  }

  /// Appends one string from raw memory, such as a mapped file.
  public mutating func append(_ bytes: UnsafeRawBufferPointer) {
    storage.append(contentsOf: bytes)
    borders.append(storage.count)
  }

  /// The bytes of string `index`.
  public subscript(index: Int) -> ArraySlice<UInt8> { storage[borders[index]..<borders[index + 1]] }

  /// The range of string `index` in `storage`.
  @inline(__always)
  func range(_ index: Int) -> Range<Int> { borders[index]..<borders[index + 1] }

  /// String `index` as text; invalid UTF-8 becomes U+FFFD.
  public func string(_ index: Int) -> String { String(decoding: self[index], as: UTF8.self) }

  /// Appends to the string under construction; `endString` closes it.
  @inline(__always)
  mutating func appendPart(_ byte: UInt8) { storage.append(byte) }
  mutating func appendPart(_ bytes: some Sequence<UInt8>) { storage.append(contentsOf: bytes) }
  mutating func endString() { borders.append(storage.count) }
  /// Takes back parts of the string under construction, which began at `start` in `storage`.
  mutating func dropParts(from start: Int) { storage.removeSubrange(start...) }
}
