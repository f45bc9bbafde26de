import KernelInterface

/// A tensor's entry in a GGUF file, whatever its type.
public struct GGUFTensor: Sendable, Equatable {
  public let name: String
  /// Row-major: `[rows, columns]`, GGUF's `ne` reversed.
  public let shape: [Int]
  /// The format's type number.
  public let rawType: UInt32
  /// Offset in the file of the first byte.
  public let offset: Int
  /// Bytes of the tensor; nil when the type isn't one that Apus reads, because then its size isn't known.
  public let byteCount: Int?

  /// Nil when Apus doesn't read the type.
  public var dtype: DType? { DType(rawValue: rawType) }
  /// The type's name in the field's spelling, e.g. `Q4_K`, `IQ2_XXS`.
  public var typeName: String { GGMLType.name(rawType) }
  /// The product of `shape`.
  public var elementCount: Int { shape.reduce(1, *) }
}

/// A GGUF model file (versions 2 and 3, little-endian), mapped and read where it lies.
///
/// `init` checks everything that the file says about itself (counts, lengths, types, alignment, places of tensors) and
/// copies only names; values, vocabularies and weights stay in the mapping. Tensors whose type Apus doesn't read are
/// listed and fail when they are asked for, or in `validate()`.
///
/// Source: the GGUF specification (ggml, docs/gguf.md).
public final class GGUFFile: TensorSource {
  /// Bounds on what a file may announce. Far above any public model; below them hostile counts cost little memory.
  public enum Limits {
    public static let tensors = 65_536
    public static let keys = 65_536
    /// Bytes of one tensor name or key.
    public static let nameBytes = 65_535
    /// Bytes of all names together.
    public static let allNameBytes = 8 << 20
    public static let dimensions = 4
    public static let arrayDepth = 4
    /// Bytes; the alignment of tensor data.
    public static let alignment = 1 << 20
  }

  public let file: MappedFile
  public let version: Int
  /// Bytes; every tensor starts at a multiple of it from `dataOffset`.
  public let alignment: Int
  /// Offset of the tensor data in the file.
  public let dataOffset: Int
  /// In the order of the file.
  public let tensors: [GGUFTensor]
  /// The metadata keys in the order of the file.
  public let keys: [String]
  /// Where keys and values lie in the file.
  let metadataRange: Range<Int>

  private let entries: [String: GGUFEntry]
  private let tensorIndex: [String: Int]

  public var path: String { file.path }
  public var tensorNames: [String] { tensors.map(\.name) }

  /// Opens and checks the file at `path`. Complexity: O(keys + strings + tensors · log tensors); weights aren't touched.
  public convenience init(path: String) throws(ModelFileError) {
    try self.init(MappedFile(path: path))
  }

  /// Reads a mapped file.
  public init(_ file: MappedFile) throws(ModelFileError) {
    var reader = ByteReader(file)
    let (version, tensorCount, keyCount) = try Self.readHeader(&reader)
    self.version = version
    var nameBytes = 0
    let metadataStart = reader.offset
    (keys, entries) = try Self.readMetadata(&reader, count: keyCount, nameBytes: &nameBytes)
    metadataRange = metadataStart..<reader.offset
    alignment = try Self.readAlignment(entries, file)
    let infos = try Self.readTensorInfos(&reader, count: tensorCount, nameBytes: &nameBytes)
    // The data starts at the next multiple of the alignment. A file without tensors may end before that.
    dataOffset = (reader.offset + alignment - 1) & ~(alignment - 1)
    (tensors, tensorIndex) = try Self.place(infos, dataOffset: dataOffset, alignment: alignment, file)
    self.file = file
  }

  public func contains(_ name: String) -> Bool { tensorIndex[name] != nil }

  /// The entry of the tensor called `name`, whatever its type; nil when there is none. Complexity: O(1).
  public func info(_ name: String) -> GGUFTensor? { tensorIndex[name].map { tensors[$0] } }

  public func tensor(_ name: String) throws(ModelFileError) -> RawTensor {
    guard let info = info(name) else {
      throw ModelFileError(
        kind: .missing, path: path, what: "tensor '\(ModelFileError.printable(name))'",
        seen: "no tensor of that name among \(tensors.count)", expected: "the tensor")
    }
    guard let dtype = info.dtype, let byteCount = info.byteCount else { throw unsupportedType(info) }
    return RawTensor(
      name: name, shape: info.shape, dtype: dtype, offset: info.offset, byteCount: byteCount, owner: file)
  }

  /// Throws the error of the first tensor whose type Apus doesn't read.
  public func validate() throws(ModelFileError) {
    for info in tensors where info.byteCount == nil { throw unsupportedType(info) }
  }

  private func unsupportedType(_ info: GGUFTensor) -> ModelFileError {
    ModelFileError(
      kind: .unsupported, path: path, what: "tensor '\(ModelFileError.printable(info.name))'", offset: info.offset,
      seen: "type \(info.typeName) (\(info.rawType))", expected: "one of \(GGMLType.supported)")
  }
}

// MARK: - Reading

extension GGUFFile {
  private struct TensorInfo {
    var name: String
    var shape: [Int]
    var rawType: UInt32
    /// From the start of the data section.
    var relativeOffset: UInt64
    /// Where this entry lies in the file, for errors.
    var place: Int
  }

  private static func readHeader(
    _ reader: inout ByteReader
  ) throws(ModelFileError) -> (version: Int, tensors: Int, keys: Int) {
    let magic = try reader.read(UInt32.self, "magic 'GGUF'")
    guard magic == 0x4655_4747 else {
      let hex = String(magic.byteSwapped, radix: 16)
      throw reader.error(
        .malformed, at: 0, seen: "magic 0x\(String(repeating: "0", count: 8 - hex.count) + hex)",
        expected: "'GGUF' (0x47475546): is this a GGUF file?")
    }
    let version = try reader.read(UInt32.self, "version")
    if version & 0xFFFF == 0 && (1...16).contains(version.byteSwapped) {
      throw reader.error(
        .unsupported, at: 4, seen: "a big-endian file (version \(version.byteSwapped) with swapped bytes)",
        expected: "a little-endian GGUF; convert it with gguf_convert_endian.py of llama.cpp")
    }
    guard version == 2 || version == 3 else {
      throw reader.error(
        .unsupported, at: 4, seen: "GGUF version \(version)",
        expected: version == 1 ? "version 2 or 3; convert the model again, version 1 is from 2023" : "version 2 or 3")
    }
    // The least a tensor entry takes: name length 8, dimension count 4, type 4, offset 8. A key: length 8, type 4, value 1.
    let tensors = try reader.readCount(
      atMost: min(Limits.tensors, reader.remaining / 24), "tensor count", because: "what the file has room for")
    let keys = try reader.readCount(
      atMost: min(Limits.keys, reader.remaining / 13), "key count", because: "what the file has room for")
    return (Int(version), tensors, keys)
  }

  private static func count(_ name: String, into total: inout Int, _ reader: ByteReader) throws(ModelFileError) {
    total += name.utf8.count
    if total > Limits.allNameBytes {
      throw reader.error(.limit, seen: "\(total) bytes of names", expected: "at most \(Limits.allNameBytes)")
    }
  }

  private static func readMetadata(
    _ reader: inout ByteReader, count: Int, nameBytes: inout Int
  ) throws(ModelFileError) -> ([String], [String: GGUFEntry]) {
    var keys: [String] = []
    var entries: [String: GGUFEntry] = [:]
    keys.reserveCapacity(count)
    entries.reserveCapacity(count)
    for index in 0..<count {
      reader.what = "metadata entry \(index)"
      let place = reader.offset
      let key = try reader.readName(atMost: Limits.nameBytes, "key")
      try Self.count(key, into: &nameBytes, reader)
      reader.what = "key '\(ModelFileError.printable(key))'"
      let type = try readType(&reader)
      let entry = try readValue(&reader, type)
      if entries.updateValue(entry, forKey: key) != nil {
        throw reader.error(.duplicate, at: place, seen: "the key a second time", expected: "each key once")
      }
      keys.append(key)
    }
    return (keys, entries)
  }

  private static func readType(_ reader: inout ByteReader) throws(ModelFileError) -> GGUFValueType {
    let place = reader.offset
    let raw = try reader.read(UInt32.self, "value type")
    guard let type = GGUFValueType(rawValue: raw) else {
      throw reader.error(.malformed, at: place, seen: "value type \(raw)", expected: "a GGUF value type, 0 to 12")
    }
    return type
  }

  private static func readValue(
    _ reader: inout ByteReader, _ type: GGUFValueType
  ) throws(ModelFileError) -> GGUFEntry {
    switch type {
    case .string:
      let range = try reader.readStringRange("string")
      return GGUFEntry(type: .string, offset: range.lowerBound, count: range.count)
    case .array:
      return try readArray(&reader, depth: 1)
    case .bool:
      let offset = reader.offset
      let raw = try reader.read(UInt8.self, "bool")
      if raw > 1 { throw reader.error(.malformed, at: offset, seen: "bool \(raw)", expected: "0 or 1") }
      return GGUFEntry(type: .bool, offset: offset)
    default:
      let offset = reader.offset
      try reader.skip(type.width!, "\(type)")
      return GGUFEntry(type: type, offset: offset)
    }
  }

  private static func readArray(_ reader: inout ByteReader, depth: Int) throws(ModelFileError) -> GGUFEntry {
    if depth > Limits.arrayDepth {
      throw reader.error(
        .limit, seen: "arrays nested \(depth) deep", expected: "at most \(Limits.arrayDepth) levels")
    }
    let elementType = try readType(&reader)
    // A string takes at least its length field, a nested array at least its type and count.
    let least = elementType.width ?? (elementType == .string ? 8 : 12)
    let count = try reader.readCount(
      atMost: max(0, reader.remaining - 8) / least, "element count", because: "what the bytes left have room for")
    let start = reader.offset
    var checkpoints: [Int] = []
    switch elementType {
    case .string:
      checkpoints.reserveCapacity((count + GGUFStringArray.stride - 1) / GGUFStringArray.stride)
      for index in 0..<count {
        if index % GGUFStringArray.stride == 0 { checkpoints.append(reader.offset) }
        _ = try reader.readStringRange("string")
      }
    case .array:
      for _ in 0..<count { _ = try readArray(&reader, depth: depth + 1) }
    default:
      // No overflow: count ≤ remaining / width.
      try reader.skip(count * least, "array")
    }
    return GGUFEntry(
      type: .array, offset: start, count: count, elementType: elementType, checkpoints: checkpoints)
  }

  private static func readAlignment(
    _ entries: [String: GGUFEntry], _ file: MappedFile
  ) throws(ModelFileError) -> Int {
    let key = "general.alignment"
    guard let entry = entries[key] else { return 32 }
    func failure(_ kind: ModelFileError.Kind, _ seen: String) -> ModelFileError {
      ModelFileError(
        kind: kind, path: file.path, what: "key '\(key)'", offset: entry.offset, seen: seen,
        expected: "a uint32 power of two, at most \(Limits.alignment)")
    }
    guard entry.type == .uint32 else { throw failure(.wrongType, entry.description) }
    let value = Int(UInt32(littleEndian: file.bytes.loadUnaligned(fromByteOffset: entry.offset, as: UInt32.self)))
    guard value > 0, value.nonzeroBitCount == 1, value <= Limits.alignment else {
      throw failure(.malformed, "\(value)")
    }
    return value
  }

  private static func readTensorInfos(
    _ reader: inout ByteReader, count: Int, nameBytes: inout Int
  ) throws(ModelFileError) -> [TensorInfo] {
    var infos: [TensorInfo] = []
    infos.reserveCapacity(count)
    for index in 0..<count {
      reader.what = "tensor entry \(index)"
      let place = reader.offset
      let name = try reader.readName(atMost: Limits.nameBytes, "tensor name")
      try Self.count(name, into: &nameBytes, reader)
      reader.what = "tensor '\(ModelFileError.printable(name))'"
      let dimensions = try reader.read(UInt32.self, "dimension count")
      guard dimensions <= UInt32(Limits.dimensions) else {
        throw reader.error(
          .limit, at: reader.offset - 4, seen: "\(dimensions) dimensions", expected: "at most \(Limits.dimensions)")
      }
      var shape: [Int] = []
      for _ in 0..<dimensions {
        let value = try reader.read(UInt64.self, "dimension")
        guard let dimension = Int(exactly: value) else {
          throw reader.error(
            .malformed, at: reader.offset - 8, seen: "dimension \(value)", expected: "at most \(Int.max)")
        }
        shape.insert(dimension, at: 0)
      }
      guard checkedProduct(shape) != nil else {
        throw reader.error(
          .malformed, at: place, seen: "shape \(shape), whose product overflows",
          expected: "a number of elements below 2^63")
      }
      let rawType = try reader.read(UInt32.self, "tensor type")
      let offset = try reader.read(UInt64.self, "tensor offset")
      infos.append(TensorInfo(name: name, shape: shape, rawType: rawType, relativeOffset: offset, place: place))
    }
    return infos
  }

  private static func place(
    _ infos: [TensorInfo], dataOffset: Int, alignment: Int, _ file: MappedFile
  ) throws(ModelFileError) -> ([GGUFTensor], [String: Int]) {
    var tensors: [GGUFTensor] = []
    var index: [String: Int] = [:]
    tensors.reserveCapacity(infos.count)
    index.reserveCapacity(infos.count)
    for info in infos {
      func failure(_ kind: ModelFileError.Kind, _ seen: String, _ expected: String) -> ModelFileError {
        ModelFileError(
          kind: kind, path: file.path, what: "tensor '\(ModelFileError.printable(info.name))'", offset: info.place,
          seen: seen, expected: expected)
      }
      guard info.relativeOffset % UInt64(alignment) == 0 else {
        throw failure(.malformed, "offset \(info.relativeOffset)", "a multiple of the alignment, \(alignment)")
      }
      var byteCount: Int?
      if let dtype = DType(rawValue: info.rawType) {
        byteCount = checkedByteCount(shape: info.shape, dtype: dtype)
        if byteCount == nil {
          let columns = info.shape.last ?? 1
          throw columns % dtype.blockElements != 0
            ? failure(
              .malformed, "\(columns) columns of \(dtype.name)", "a multiple of its block of \(dtype.blockElements)")
            : failure(.malformed, "shape \(info.shape) of \(dtype.name)", "fewer than 2^63 bytes")
        }
      }
      // Offset and end against the file, in an order that can't overflow: available ≥ 0, both operands are checked.
      let available = max(0, file.size - dataOffset)
      guard info.relativeOffset <= UInt64(available), byteCount ?? 0 <= available - Int(info.relativeOffset) else {
        throw failure(
          .truncated, "\(byteCount.map { "\($0)" } ?? "some") bytes at \(info.relativeOffset) of the data",
          "to end within the \(available) bytes of data that the file has; is the download complete?")
      }
      if index.updateValue(tensors.count, forKey: info.name) != nil {
        throw failure(.duplicate, "the name a second time", "each tensor once")
      }
      tensors.append(
        GGUFTensor(
          name: info.name, shape: info.shape, rawType: info.rawType, offset: dataOffset + Int(info.relativeOffset),
          byteCount: byteCount))
    }
    let sorted = tensors.indices.filter { tensors[$0].byteCount ?? 1 > 0 }.sorted {
      tensors[$0].offset < tensors[$1].offset
    }
    for (before, after) in zip(sorted, sorted.dropFirst()) {
      // A tensor of unknown size is known to take at least one byte.
      let end = tensors[before].offset + (tensors[before].byteCount ?? 1)
      if end > tensors[after].offset {
        throw ModelFileError(
          kind: .malformed, path: file.path, what: "tensor '\(ModelFileError.printable(tensors[after].name))'",
          offset: infos[after].place,
          seen:
            "bytes from \(tensors[after].offset), inside tensor '\(ModelFileError.printable(tensors[before].name))'",
          expected: "no overlap: that tensor ends at \(end)")
      }
    }
    return (tensors, index)
  }
}

// MARK: - Metadata

extension GGUFFile {
  private func wrongType(_ key: String, _ entry: GGUFEntry, _ expected: String) -> ModelFileError {
    ModelFileError(
      kind: .wrongType, path: path, what: "key '\(ModelFileError.printable(key))'", offset: entry.offset,
      seen: entry.description, expected: expected)
  }

  private func entry(_ key: String, _ expected: String) throws(ModelFileError) -> GGUFEntry {
    if let entry = entries[key] { return entry }
    throw ModelFileError(
      kind: .missing, path: path, what: "key '\(ModelFileError.printable(key))'",
      seen: "no such key in the metadata", expected: expected)
  }

  private func load<T: BitwiseCopyable>(_ offset: Int, as type: T.Type) -> T {
    file.bytes.loadUnaligned(fromByteOffset: offset, as: type)
  }

  /// An integer of any width; nil when the type isn't one or the value is above `Int.max`.
  @inline(__always)
  private func integer(_ type: GGUFValueType, at offset: Int) -> Int? {
    switch type {
    case .uint8: Int(load(offset, as: UInt8.self))
    case .int8: Int(load(offset, as: Int8.self))
    case .uint16: Int(UInt16(littleEndian: load(offset, as: UInt16.self)))
    case .int16: Int(Int16(littleEndian: load(offset, as: Int16.self)))
    case .uint32: Int(UInt32(littleEndian: load(offset, as: UInt32.self)))
    case .int32: Int(Int32(littleEndian: load(offset, as: Int32.self)))
    case .uint64: Int(exactly: UInt64(littleEndian: load(offset, as: UInt64.self)))
    case .int64: Int(Int64(littleEndian: load(offset, as: Int64.self)))
    default: nil
    }
  }

  @inline(__always)
  private func floating(_ type: GGUFValueType, at offset: Int) -> Double? {
    switch type {
    case .float32: Double(Float(bitPattern: UInt32(littleEndian: load(offset, as: UInt32.self))))
    case .float64: Double(bitPattern: UInt64(littleEndian: load(offset, as: UInt64.self)))
    default: nil
    }
  }

  /// True when the metadata has `key`. The optional values of a model are asked for with it.
  public func hasKey(_ key: String) -> Bool { entries[key] != nil }

  /// The value of `key`, for display; nil when there is none or it is text that isn't UTF-8.
  public func value(_ key: String) -> GGUFValue? {
    guard let entry = entries[key] else { return nil }
    switch entry.type {
    case .string: return (try? string(key)).map { .string($0) }
    case .bool: return .bool(load(entry.offset, as: UInt8.self) == 1)
    case .float32, .float64: return floating(entry.type, at: entry.offset).map { .float($0) }
    case .array: return entry.elementType.map { .array(element: $0, count: entry.count) }
    default:
      if let integer = integer(entry.type, at: entry.offset) { return .integer(integer) }
      return .unsigned(UInt64(littleEndian: load(entry.offset, as: UInt64.self)))
    }
  }

  /// The text of `key`. Throws `missing`, `wrongType`, or `malformed` when it isn't UTF-8.
  public func string(_ key: String) throws(ModelFileError) -> String {
    let entry = try entry(key, "a string")
    guard entry.type == .string else { throw wrongType(key, entry, "a string") }
    guard let text = String(validating: file.bytes[entry.offset..<entry.offset + entry.count], as: UTF8.self) else {
      throw ModelFileError(
        kind: .malformed, path: path, what: "key '\(ModelFileError.printable(key))'", offset: entry.offset,
        seen: "bytes that are not UTF-8", expected: "UTF-8")
    }
    return text
  }

  /// The integer of `key`, stored in any integer width. Throws `missing` or `wrongType`.
  public func int(_ key: String) throws(ModelFileError) -> Int {
    let entry = try entry(key, "an integer")
    guard let value = integer(entry.type, at: entry.offset) else {
      throw wrongType(key, entry, "an integer of at most 63 bits")
    }
    return value
  }

  /// The number of `key`, stored as float32 or float64. Throws `missing` or `wrongType`.
  public func float(_ key: String) throws(ModelFileError) -> Double {
    let entry = try entry(key, "a float")
    guard let value = floating(entry.type, at: entry.offset) else { throw wrongType(key, entry, "a float") }
    return value
  }

  /// The bool of `key`. Throws `missing` or `wrongType`.
  public func bool(_ key: String) throws(ModelFileError) -> Bool {
    let entry = try entry(key, "a bool")
    guard entry.type == .bool else { throw wrongType(key, entry, "a bool") }
    return load(entry.offset, as: UInt8.self) == 1
  }

  /// The array of strings of `key`, where it lies. Throws `missing` or `wrongType`. Complexity: O(1).
  public func stringArray(_ key: String) throws(ModelFileError) -> GGUFStringArray {
    let entry = try entry(key, "an array of strings")
    guard entry.type == .array, entry.elementType == .string else {
      throw wrongType(key, entry, "an array of strings")
    }
    return GGUFStringArray(endIndex: entry.count, file: file, key: key, checkpoints: entry.checkpoints)
  }

  /// The array of strings of `key` as text. Throws `missing`, `wrongType`, or `malformed` when one isn't UTF-8.
  public func strings(_ key: String) throws(ModelFileError) -> [String] {
    let array = try stringArray(key)
    var result: [String] = []
    result.reserveCapacity(array.count)
    for (index, element) in array.enumerated() {
      guard let text = String(validating: element, as: UTF8.self) else {
        result.append(try array.string(at: index))
        continue
      }
      result.append(text)
    }
    return result
  }

  /// The array of numbers of `key`, stored as float32 or float64. Throws `missing` or `wrongType`.
  public func floats(_ key: String) throws(ModelFileError) -> [Float] {
    let entry = try entry(key, "an array of floats")
    guard entry.type == .array, let type = entry.elementType, type == .float32 || type == .float64 else {
      throw wrongType(key, entry, "an array of floats")
    }
    let width = type.width!
    return (0..<entry.count).map { Float(floating(type, at: entry.offset + $0 * width)!) }
  }

  /// The array of integers of `key`, stored in any width. Throws `missing`, `wrongType`, or `malformed` when one doesn't
  /// fit 32 bits.
  public func int32s(_ key: String) throws(ModelFileError) -> [Int32] {
    let entry = try entry(key, "an array of integers")
    let integers: Set<GGUFValueType> = [.uint8, .int8, .uint16, .int16, .uint32, .int32, .uint64, .int64]
    guard entry.type == .array, let type = entry.elementType, integers.contains(type), let width = type.width else {
      throw wrongType(key, entry, "an array of integers")
    }
    var result: [Int32] = []
    result.reserveCapacity(entry.count)
    for index in 0..<entry.count {
      let offset = entry.offset + index * width
      guard let value = integer(type, at: offset).flatMap({ Int32(exactly: $0) }) else {
        throw ModelFileError(
          kind: .malformed, path: path, what: "key '\(ModelFileError.printable(key))', element \(index)",
          offset: offset, seen: "an integer above 32 bits", expected: "\(Int32.min) to \(Int32.max)")
      }
      result.append(value)
    }
    return result
  }

  /// The array of bools of `key`. Throws `missing`, `wrongType`, or `malformed` when a byte is neither 0 nor 1.
  public func bools(_ key: String) throws(ModelFileError) -> [Bool] {
    let entry = try entry(key, "an array of bools")
    guard entry.type == .array, entry.elementType == .bool else { throw wrongType(key, entry, "an array of bools") }
    var result: [Bool] = []
    result.reserveCapacity(entry.count)
    for index in 0..<entry.count {
      let raw = load(entry.offset + index, as: UInt8.self)
      if raw > 1 {
        throw ModelFileError(
          kind: .malformed, path: path, what: "key '\(ModelFileError.printable(key))', element \(index)",
          offset: entry.offset + index, seen: "bool \(raw)", expected: "0 or 1")
      }
      result.append(raw == 1)
    }
    return result
  }
}
