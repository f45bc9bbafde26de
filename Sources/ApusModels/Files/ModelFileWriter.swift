import Foundation
import KernelInterface

/// Writes model files that appear under their names only when they are whole and on the disk.
public enum ModelFileWriter {
  /// A safetensors file; its kinds of numbers are f32, f16 and bf16.
  ///
  /// Throws `ModelFileError`: `unsupported` for another kind, `unwritable` when the disk refuses.
  public static func safetensors(
    _ tensors: [NewTensor], metadata: [String: String] = [:], to path: String
  ) throws(ModelFileError) {
    var entries: [String: Any] = metadata.isEmpty ? [:] : ["__metadata__": metadata]
    var offset = 0
    for tensor in tensors {
      guard let type = [.f32: "F32", .f16: "F16", .bf16: "BF16"][tensor.dtype] as String? else {
        throw ModelFileError(
          kind: .unsupported, path: path, what: "tensor '\(tensor.name)'", seen: tensor.dtype.name,
          expected: "F32, F16 or BF16 in a safetensors file")
      }
      entries[tensor.name] = [
        "dtype": type, "shape": tensor.shape, "data_offsets": [offset, offset + tensor.byteCount],
      ]
      offset += tensor.byteCount
    }
    var header: [UInt8]
    do {
      header = Array(
        try JSONSerialization.data(withJSONObject: entries, options: [.sortedKeys, .withoutEscapingSlashes]))
    } catch {
      throw ModelFileError(
        kind: .malformed, path: path, what: "the header", seen: "\(error)", expected: "names and texts that JSON holds")
    }
    while header.count % 8 != 0 { header.append(UInt8(ascii: " ")) }
    let length = withUnsafeBytes(of: UInt64(header.count).littleEndian) { Array($0) }
    try write(length + header, tensors, alignment: 1, to: path)
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
    try write(header, tensors, alignment: alignment, to: path)
  }

  private static func write(
    _ header: [UInt8], _ tensors: [NewTensor], alignment: Int, to path: String
  ) throws(ModelFileError) {
    let draft = path + ".part"
    do {
      try Data().write(to: URL(filePath: draft))
      let file = try FileHandle(forWritingTo: URL(filePath: draft))
      defer { try? file.close() }
      try file.write(contentsOf: header)
      for tensor in tensors {
        try tensor.withBytes { bytes in
          guard let base = bytes.baseAddress else { return }
          try file.write(
            contentsOf: Data(
              bytesNoCopy: UnsafeMutableRawPointer(mutating: base), count: bytes.count, deallocator: .none))
        }
        let rest = tensor.byteCount % alignment
        if rest > 0 { try file.write(contentsOf: [UInt8](repeating: 0, count: alignment - rest)) }
      }
      try file.synchronize()
      guard rename(draft, path) == 0 else { throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO) }
    } catch {
      try? FileManager.default.removeItem(atPath: draft)
      throw ModelFileError(
        kind: .unwritable, path: path, what: "the file", seen: "\(error)",
        expected: "a place that can be written, with room")
    }
  }
}
