import ApusModels

/// Statistics on disk: a safetensors file of F64 tensors, four an input (`NAME.count` `[1]`, `NAME.sum` `[n]`,
/// `NAME.absolute_sum` `[n]`, `NAME.products` `[n · (n + 1) / 2]`), with what they are of as metadata.
extension CalibrationStatistics {
  private enum Field {
    static let format = "format"
    static let formatName = "apus.calibration"
    static let version = "version"
    static let currentVersion = "1"
    static let model = "model_sha256"
    static let corpus = "corpus_sha256"
    static let tokens = "tokens"
    static let lines = "line_hashes"
    static let count = ".count"
    static let sum = ".sum"
    static let absoluteSum = ".absolute_sum"
    static let products = ".products"
  }

  /// Numbers in a vector, at most: far above any model, and its square is no overflow.
  private static let largestSize = 1 << 20

  /// Writes the statistics in one step: `path` holds the old file or the new one, never a part. Throws `ModelFileError`,
  /// `unwritable`.
  public func write(to path: String) throws(ModelFileError) {
    var tensors: [SafetensorsEntry] = []
    for (name, input) in inputs.sorted(by: { $0.key < $1.key }) {
      tensors.append(.init(name: name + Field.count, shape: [1], numbers: [Double(input.count)]))
      tensors.append(.init(name: name + Field.sum, shape: [input.size], numbers: input.sum))
      tensors.append(.init(name: name + Field.absoluteSum, shape: [input.size], numbers: input.absoluteSum))
      tensors.append(.init(name: name + Field.products, shape: [input.products.count], numbers: input.products))
    }
    try ModelFileWriter.safetensors(
      tensors,
      metadata: [
        Field.format: Field.formatName, Field.version: Field.currentVersion, Field.model: model, Field.corpus: corpus,
        Field.tokens: String(tokens), Field.lines: lines.base64,
      ], to: path)
  }

  /// Reads what `write` wrote. With `model`, and to go on with a calibration `corpus`, the statistics must be of them.
  ///
  /// Throws `ModelFileError` for a file that cannot be read, is cut short or is no statistics file, and `CompressionError`
  /// for another model or corpus (`otherSource`) or numbers that are no statistics (`notFinite`, `parameter`). Takes no
  /// more memory than the file has bytes.
  public init(path: String, model: String? = nil, corpus: String? = nil) throws {
    let file = try SafetensorsFile(path: path)
    func text(_ key: String) throws(ModelFileError) -> String {
      guard let value = file.metadata[key] else {
        throw ModelFileError(
          kind: .missing, path: path, what: "metadata", seen: "no '\(key)'", expected: "calibration statistics of Apus")
      }
      return value
    }
    guard try text(Field.format) == Field.formatName, try text(Field.version) == Field.currentVersion else {
      throw ModelFileError(
        kind: .unsupported, path: path, what: "metadata",
        seen: "format '\(try text(Field.format))', version '\(try text(Field.version))'",
        expected: "'\(Field.formatName)', version \(Field.currentVersion)")
    }
    self.init(model: try text(Field.model), corpus: try text(Field.corpus))
    try require(model: model ?? self.model, corpus: corpus, path)
    guard let tokens = Int(try text(Field.tokens)), tokens >= 0 else {
      throw ModelFileError(
        kind: .malformed, path: path, what: "metadata '\(Field.tokens)'", seen: "'\(try text(Field.tokens))'",
        expected: "a number of tokens")
    }
    self.tokens = tokens
    // Files of earlier versions do not have them.
    if let text = file.metadata[Field.lines] {
      guard let lines = LineHashes(base64: text) else {
        throw ModelFileError(
          kind: .malformed, path: path, what: "metadata '\(Field.lines)'", seen: "\(text.count) letters",
          expected: "hashes of 8 bytes in base64")
      }
      self.lines = lines
    }
    let names = file.tensorNames.filter { $0.hasSuffix(Field.sum) }.map { String($0.dropLast(Field.sum.count)) }
    guard file.tensors.count == 4 * names.count else {
      throw ModelFileError(
        kind: .malformed, path: path, what: "tensors", seen: "\(file.tensors.count) of \(names.count) inputs",
        expected: "four an input")
    }
    for name in names { inputs[name] = try Self.input(name, file) }
  }

  private static func input(_ name: String, _ file: SafetensorsFile) throws -> InputStatistics {
    let size = file.info(name + Field.sum)?.shape.first ?? 0
    guard (1...largestSize).contains(size) else {
      throw ModelFileError(
        kind: .malformed, path: file.path, what: "tensor '\(name)\(Field.sum)'", seen: "size \(size)",
        expected: "the length of a vector, at most \(largestSize)")
    }
    let sum = try doubles(name + Field.sum, [size], file)
    let absoluteSum = try doubles(name + Field.absoluteSum, [size], file)
    let products = try doubles(name + Field.products, [InputStatistics.packedCount(size)], file)
    let count = try doubles(name + Field.count, [1], file)[0]
    guard count >= 0, count <= 0x1p53, count == count.rounded() else {
      throw CompressionError(
        kind: .parameter, what: "\(file.path), tensor '\(name)\(Field.count)'", seen: "\(count)",
        expected: "a number of vectors")
    }
    return InputStatistics(count: Int(count), sum: sum, absoluteSum: absoluteSum, products: products)
  }

  private static func doubles(_ name: String, _ shape: [Int], _ file: SafetensorsFile) throws -> [Double] {
    guard let info = file.info(name), info.typeName == "F64", info.shape == shape else {
      throw ModelFileError(
        kind: file.contains(name) ? .wrongType : .missing, path: file.path, what: "tensor '\(name)'",
        seen: file.info(name).map { "\($0.typeName) \($0.shape)" } ?? "none", expected: "F64 \(shape)")
    }
    let bytes = UnsafeRawBufferPointer(rebasing: file.file.bytes[info.range])
    let result = [Double](unsafeUninitializedCapacity: info.range.count / 8) { numbers, count in
      for i in 0..<info.range.count / 8 {
        let bits = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 8 * i, as: UInt64.self))
        numbers.initializeElement(at: i, to: Double(bitPattern: bits))
      }
      count = info.range.count / 8
    }
    guard let bad = result.firstIndex(where: { !$0.isFinite }) else { return result }
    throw CompressionError(
      kind: .notFinite, what: "\(file.path), tensor '\(name)'", seen: "\(result[bad]) at [\(bad)]",
      expected: "finite numbers")
  }
}
