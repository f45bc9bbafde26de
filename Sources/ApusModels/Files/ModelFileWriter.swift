import Foundation
import KernelInterface

/// A tensor of a safetensors file in any of the format's types.
package struct SafetensorsEntry {
  package var name: String
  /// `F32`, `F64`, `U8` …
  package var typeName: String
  /// Row-major.
  package var shape: [Int]
  package var byteCount: Int
  /// Calls its argument with the elements.
  package var withBytes: ((UnsafeRawBufferPointer) throws -> Void) throws -> Void

  package init(
    name: String, typeName: String, shape: [Int], byteCount: Int,
    withBytes: @escaping ((UnsafeRawBufferPointer) throws -> Void) throws -> Void
  ) {
    self.name = name
    self.typeName = typeName
    self.shape = shape
    self.byteCount = byteCount
    self.withBytes = withBytes
  }

  /// A tensor of F64.
  package init(name: String, shape: [Int], numbers: [Double]) {
    self.init(name: name, typeName: "F64", shape: shape, byteCount: 8 * numbers.count) { body in
      try numbers.withUnsafeBytes(body)
    }
  }
}

/// Writes model files that appear under their names only when they are whole and on the disk.
public enum ModelFileWriter {
  /// A safetensors file. Dense kinds are stored as what they are; rows of blocks as U8 under a name that ends in their kind,
  /// as `SafetensorsTensor` reads them.
  ///
  /// Throws `ModelFileError`: `unsupported` for another kind, `unwritable` when the disk refuses.
  public static func safetensors(
    _ tensors: [NewTensor], metadata: [String: String] = [:], to path: String
  ) throws(ModelFileError) {
    var entries: [SafetensorsEntry] = []
    for tensor in tensors {
      guard let stored = SafetensorsTensor.stored(tensor.name, tensor.shape, tensor.dtype) else {
        throw ModelFileError(
          kind: .unsupported, path: path, what: "tensor '\(tensor.name)'", seen: tensor.dtype.name,
          expected: "F32, F16, BF16, Q8_0 or Q4_0 in a safetensors file")
      }
      entries.append(
        SafetensorsEntry(
          name: stored.name, typeName: stored.typeName, shape: stored.shape, byteCount: tensor.byteCount,
          withBytes: { try tensor.withBytes($0) }))
    }
    try safetensors(entries, metadata: metadata, to: path)
  }

  /// A safetensors file of any types. Throws `ModelFileError`, `unwritable` when the disk refuses.
  package static func safetensors(
    _ entries: [SafetensorsEntry], metadata: [String: String] = [:], to path: String
  ) throws(ModelFileError) {
    var members: [String: Any] = metadata.isEmpty ? [:] : ["__metadata__": metadata]
    var offset = 0
    for entry in entries {
      members[entry.name] = [
        "dtype": entry.typeName, "shape": entry.shape, "data_offsets": [offset, offset + entry.byteCount],
      ]
      offset += entry.byteCount
    }
    var header: [UInt8]
    do {
      header = Array(
        try JSONSerialization.data(withJSONObject: members, options: [.sortedKeys, .withoutEscapingSlashes]))
    } catch {
      throw ModelFileError(
        kind: .malformed, path: path, what: "the header", seen: "\(error)", expected: "names and texts that JSON holds")
    }
    while header.count % 8 != 0 { header.append(UInt8(ascii: " ")) }
    let length = withUnsafeBytes(of: UInt64(header.count).littleEndian) { Array($0) }
    try write(length + header, alignment: 1, to: path, entries.map { ($0.byteCount, $0.withBytes) })
  }

  /// A GGUF file with all that `file` says about itself, `metadata` added, and these tensors.
  ///
  /// Throws `ModelFileError`: `duplicate` for a key that the file has, `unwritable` when the disk refuses.
  public static func gguf(
    like file: GGUFFile, _ tensors: [NewTensor], metadata: [(key: String, value: String)] = [], to path: String
  ) throws(ModelFileError) {
    var header: [UInt8] = []
    func append(_ value: some FixedWidthInteger) {
      withUnsafeBytes(of: value.littleEndian) { header.append(contentsOf: $0) }
    }
    func append(_ text: String) {
      append(UInt64(text.utf8.count))
      header += text.utf8
    }
    append(UInt32(0x4655_4747))
    append(UInt32(3))
    append(UInt64(tensors.count))
    append(UInt64(file.keys.count + metadata.count))
    header += file.file.bytes[file.metadataRange]
    for (key, value) in metadata {
      guard !file.hasKey(key) else {
        throw ModelFileError(
          kind: .duplicate, path: path, what: "key '\(key)'", seen: "it in \(file.path)", expected: "a new key")
      }
      append(key)
      append(GGUFValueType.string.rawValue)
      append(value)
    }
    let alignment = file.alignment
    var offset = 0
    for tensor in tensors {
      append(tensor.name)
      append(UInt32(tensor.shape.count))
      for size in tensor.shape.reversed() { append(UInt64(size)) }
      append(tensor.dtype.rawValue)
      append(UInt64(offset))
      offset = (offset + tensor.byteCount + alignment - 1) / alignment * alignment
    }
    while header.count % alignment != 0 { header.append(0) }
    try write(
      header, alignment: alignment, to: path,
      tensors.map { tensor in (tensor.byteCount, { try tensor.withBytes($0) }) })
  }

  private typealias Part = (byteCount: Int, withBytes: ((UnsafeRawBufferPointer) throws -> Void) throws -> Void)

  private static func write(
    _ header: [UInt8], alignment: Int, to path: String, _ parts: [Part]
  ) throws(ModelFileError) {
    let draft = "\(path).part-\(ProcessInfo.processInfo.processIdentifier)-\(UInt32.random(in: 0...UInt32.max))"
    do {
      let file = try OutputFile(path: draft, keeping: 0)
      try header.withUnsafeBytes { try file.write($0) }
      for part in parts {
        try part.withBytes { try file.write($0) }
        let rest = part.byteCount % alignment
        if rest > 0 { try [UInt8](repeating: 0, count: alignment - rest).withUnsafeBytes { try file.write($0) } }
      }
      try file.synchronize()
      try FileSystem.publish(draft, as: path)
    } catch {
      try? FileSystem.remove(draft)
      throw ModelFileError(
        kind: .unwritable, path: path, what: "the file", seen: "\((error as? ModelStoreError)?.seen ?? "\(error)")",
        expected: "a place that can be written, with room")
    }
  }
}
