import KernelInterface

/// A tensor's entry in a safetensors file, whatever its type.
public struct SafetensorsTensor: Sendable, Equatable {
  public let name: String
  /// Row-major.
  public let shape: [Int]
  /// The type's name in the file: `F32`, `BF16`, `I64` …
  public let typeName: String
  /// The bytes in the file.
  public let range: Range<Int>

  /// The format has no block-quantised types. Rows of GGUF's blocks are stored as U8 `[rows, bytes of a row]` under a name
  /// that ends in their kind, e.g. `layers.0.feedForward.up.factor.up.q8_0`.
  private static let blockKinds: [(suffix: String, dtype: DType)] = [(".q8_0", .q8_0), (".q4_0", .q4_0)]

  /// Nil when Apus doesn't compute with the type.
  public var dtype: DType? {
    switch typeName {
    case "F32": .f32
    case "F16": .f16
    case "BF16": .bf16
    case "I32": .i32
    case "U8" where shape.count == 2:
      Self.blockKinds.first { name.hasSuffix($0.suffix) && shape[1] % $0.dtype.blockBytes == 0 }?.dtype
    default: nil
    }
  }

  /// Row-major, in elements of `dtype`.
  var elementShape: [Int] {
    guard let dtype, dtype.blockElements > 1 else { return shape }
    return [shape[0], shape[1] / dtype.blockBytes * dtype.blockElements]
  }

  /// How a tensor of a kind is stored; nil for kinds that a safetensors file does not get.
  static func stored(
    _ name: String, _ shape: [Int], _ dtype: DType
  ) -> (name: String, typeName: String, shape: [Int])? {
    if let type = [.f32: "F32", .f16: "F16", .bf16: "BF16"][dtype] as String? { return (name, type, shape) }
    guard let kind = blockKinds.first(where: { $0.dtype == dtype }), shape.count == 2 else { return nil }
    return (name.hasSuffix(kind.suffix) ? name : name + kind.suffix, "U8", [shape[0], dtype.rowBytes(shape[1])])
  }

  /// The names under which a tensor may be stored.
  static func storedNames(_ name: String) -> [String] { [name] + blockKinds.map { name + $0.suffix } }
}

/// A safetensors file, mapped and read where it lies.
///
/// `init` checks the whole header: lengths, names, types, that every tensor has as many bytes as its shape and type need,
/// and that the tensors cover the data without overlap or hole, as the format demands. Types that Apus doesn't compute
/// with (`I64`, `F64`, `U8` …) are listed and fail when they are asked for.
///
/// Source: the safetensors format description (huggingface/safetensors, README).
public final class SafetensorsFile: TensorSource {
  /// Bounds on what a header may announce.
  public enum Limits {
    /// Bytes; the reference implementation's own bound.
    public static let headerBytes = 100_000_000
    public static let tensors = 65_536
    public static let metadataEntries = 65_536
    public static let nameBytes = 65_535
    /// Bytes of all names, and of all metadata, together.
    public static let allNameBytes = 8 << 20
    public static let dimensions = 16
  }

  public let file: MappedFile
  /// In the order of the header.
  public let tensors: [SafetensorsTensor]
  /// The strings under `__metadata__`.
  public let metadata: [String: String]
  private let index: [String: Int]

  public var path: String { file.path }
  public var tensorNames: [String] { tensors.map(\.name) }

  /// Opens and checks the file at `path`. Complexity: O(header + tensors · log tensors); weights aren't touched.
  public convenience init(path: String) throws(ModelFileError) {
    try self.init(MappedFile(path: path))
  }

  /// Reads a mapped file.
  public init(_ file: MappedFile) throws(ModelFileError) {
    var reader = ByteReader(file)
    let headerBytes = try reader.readCount(
      atMost: min(Limits.headerBytes, max(0, reader.remaining - 8)), "header length",
      because: "bytes left in the file, or the format's bound of \(Limits.headerBytes)")
    let dataOffset = 8 + headerBytes
    var scanner = JSONScanner(file, 8..<dataOffset, what: "header")
    var header = Header(dataOffset: dataOffset, dataBytes: file.size - dataOffset)
    try scanner.object(keyLimit: Limits.nameBytes) { scanner, name throws(ModelFileError) in
      try header.readMember(&scanner, name)
    }
    scanner.what = "header"
    try scanner.expectEnd()
    try header.checkCoverage(file)
    self.file = file
    tensors = header.tensors
    metadata = header.metadata ?? [:]
    index = header.index
  }

  public func contains(_ name: String) -> Bool { index[name] != nil }

  /// The entry of the tensor called `name`, whatever its type; nil when there is none. Complexity: O(1).
  public func info(_ name: String) -> SafetensorsTensor? { index[name].map { tensors[$0] } }

  public func tensor(_ name: String) throws(ModelFileError) -> RawTensor {
    guard let info = info(name) else {
      throw ModelFileError(
        kind: .missing, path: path, what: "tensor '\(ModelFileError.printable(name))'",
        seen: "no tensor of that name among \(tensors.count)", expected: "the tensor")
    }
    guard let dtype = info.dtype else {
      throw ModelFileError(
        kind: .unsupported, path: path, what: "tensor '\(ModelFileError.printable(name))'",
        offset: info.range.lowerBound, seen: "type \(info.typeName)", expected: "one of F32, F16, BF16, I32")
    }
    return RawTensor(
      name: name, shape: info.elementShape, dtype: dtype, offset: info.range.lowerBound, byteCount: info.range.count,
      owner: file)
  }
}

// MARK: - The header

extension SafetensorsFile {
  /// Bits of one element of each type that the format knows.
  private static let typeBits: [String: Int] = [
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
  ]

  private struct Header {
    let dataOffset: Int
    let dataBytes: Int
    var tensors: [SafetensorsTensor] = []
    var index: [String: Int] = [:]
    var metadata: [String: String]?
    private var textBytes = 0

    init(dataOffset: Int, dataBytes: Int) {
      self.dataOffset = dataOffset
      self.dataBytes = dataBytes
    }

    private mutating func count(_ text: String, _ scanner: JSONScanner) throws(ModelFileError) {
      textBytes += text.utf8.count
      if textBytes > Limits.allNameBytes {
        throw scanner.error(
          .limit, seen: "\(textBytes) bytes of names and metadata", expected: "at most \(Limits.allNameBytes)")
      }
    }

    mutating func readMember(_ scanner: inout JSONScanner, _ name: String) throws(ModelFileError) {
      if name == "__metadata__" { return try readMetadata(&scanner) }
      scanner.what = "tensor '\(ModelFileError.printable(name))'"
      let place = scanner.offset
      guard tensors.count < Limits.tensors else {
        throw scanner.error(.limit, seen: "more than \(Limits.tensors) tensors", expected: "at most that many")
      }
      try count(name, scanner)
      if index.updateValue(tensors.count, forKey: name) != nil {
        throw scanner.error(.duplicate, seen: "the name a second time", expected: "each tensor once")
      }
      var typeName: String?
      var shape: [Int]?
      var offsets: [Int]?
      try scanner.object(keyLimit: 64) { scanner, field throws(ModelFileError) in
        let isKnown: Bool
        switch field {
        case "dtype":
          isKnown = typeName == nil
          typeName = try scanner.string(atMost: 64)
        case "shape":
          isKnown = shape == nil
          shape = try scanner.integers(atMost: Limits.dimensions, "shape")
        case "data_offsets":
          isKnown = offsets == nil
          offsets = try scanner.integers(atMost: 2, "data_offsets")
        default:
          isKnown = false
        }
        if !isKnown {
          throw scanner.error(
            seen: "field '\(ModelFileError.printable(field))'", expected: "dtype, shape and data_offsets, each once")
        }
      }
      guard let typeName, let shape, let offsets else {
        throw scanner.error(at: place, seen: "an entry with a field missing", expected: "dtype, shape and data_offsets")
      }
      guard let bits = typeBits[typeName] else {
        throw scanner.error(
          .unsupported, at: place, seen: "type '\(ModelFileError.printable(typeName))'",
          expected: "one of \(typeBits.keys.sorted().joined(separator: ", "))")
      }
      guard let bitCount = checkedProduct(shape + [bits]), bitCount % 8 == 0 else {
        throw scanner.error(
          at: place, seen: "shape \(shape) of \(typeName)", expected: "a whole number of bytes below 2^60")
      }
      guard offsets.count == 2, offsets[0] <= offsets[1] else {
        throw scanner.error(at: place, seen: "data_offsets \(offsets)", expected: "[begin, end] with begin ≤ end")
      }
      guard offsets[1] <= dataBytes else {
        throw scanner.error(
          .truncated, at: place, seen: "data_offsets \(offsets)",
          expected: "an end within the \(dataBytes) bytes of data that the file has; is the download complete?")
      }
      guard offsets[1] - offsets[0] == bitCount / 8 else {
        throw scanner.error(
          at: place, seen: "\(offsets[1] - offsets[0]) bytes by data_offsets",
          expected: "\(bitCount / 8) bytes for shape \(shape) of \(typeName)")
      }
      tensors.append(
        SafetensorsTensor(
          name: name, shape: shape, typeName: typeName, range: dataOffset + offsets[0]..<dataOffset + offsets[1]))
    }

    private mutating func readMetadata(_ scanner: inout JSONScanner) throws(ModelFileError) {
      scanner.what = "__metadata__"
      if metadata != nil { throw scanner.error(.duplicate, seen: "it a second time", expected: "it once") }
      var result: [String: String] = [:]
      var header = self
      try scanner.object(keyLimit: Limits.nameBytes) { scanner, key throws(ModelFileError) in
        guard result.count < Limits.metadataEntries else {
          throw scanner.error(
            .limit, seen: "more than \(Limits.metadataEntries) entries", expected: "at most that many")
        }
        let value = try scanner.string(atMost: Limits.allNameBytes)
        try header.count(key, scanner)
        try header.count(value, scanner)
        if result.updateValue(value, forKey: key) != nil {
          throw scanner.error(
            .duplicate, seen: "key '\(ModelFileError.printable(key))' a second time", expected: "each key once")
        }
      }
      self = header
      metadata = result
    }

    /// The tensors must cover the data: no byte twice, none unused.
    func checkCoverage(_ file: MappedFile) throws(ModelFileError) {
      var end = dataOffset
      func failure(_ what: String, _ seen: String, _ expected: String) -> ModelFileError {
        ModelFileError(kind: .malformed, path: file.path, what: what, offset: end, seen: seen, expected: expected)
      }
      let sorted = tensors.map(\.range).enumerated().sorted {
        ($0.element.lowerBound, $0.element.upperBound) < ($1.element.lowerBound, $1.element.upperBound)
      }
      for tensor in sorted.map({ tensors[$0.offset] }) {
        guard tensor.range.lowerBound == end else {
          throw failure(
            "tensor '\(ModelFileError.printable(tensor.name))'", "bytes from \(tensor.range.lowerBound)",
            "them to start at \(end), where the tensor before ends: no overlap and no hole")
        }
        end = tensor.range.upperBound
      }
      if end != dataOffset + dataBytes {
        throw failure("data", "\(dataOffset + dataBytes - end) bytes that no tensor uses", "none")
      }
    }
  }
}
