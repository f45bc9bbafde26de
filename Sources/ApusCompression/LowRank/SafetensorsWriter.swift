#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// Writes a safetensors file that appears under its name only when it is whole: written beside it, synced, then renamed
/// over what was there. A process that dies on the way leaves the old file as it was.
///
/// Source: the safetensors format description (huggingface/safetensors, README).
enum SafetensorsWriter {
  /// A tensor of F64 to write.
  struct Tensor {
    var name: String
    var shape: [Int]
    var elements: [Double]
  }

  /// Writes the tensors in order. Throws `file`.
  static func write(_ tensors: [Tensor], metadata: [String: String], to path: String) throws(CompressionError) {
    let temporary = "\(path).\(getpid())-\(String(UInt64.random(in: 0...UInt64.max), radix: 36)).part"
    let descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw failure("create", path) }
    var isOpen = true
    defer { if isOpen { close(descriptor) } }
    do throws(CompressionError) {
      try put(header(tensors, metadata), descriptor, path)
      for tensor in tensors { try put(tensor.elements, descriptor, path) }
      guard fsync(descriptor) == 0 else { throw failure("sync", path) }
      isOpen = false
      guard close(descriptor) == 0 else { throw failure("close", path) }
      guard rename(temporary, path) == 0 else { throw failure("publish", path) }
    } catch {
      unlink(temporary)
      throw error
    }
    // The rename lasts once the folder is on disk.
    let folder = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "."
    let folderDescriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    if folderDescriptor >= 0 {
      fsync(folderDescriptor)
      close(folderDescriptor)
    }
  }

  /// The length and the JSON text, filled up with spaces so that the data begin at a multiple of 8.
  private static func header(_ tensors: [Tensor], _ metadata: [String: String]) -> [UInt8] {
    var members: [String] = []
    if !metadata.isEmpty {
      let entries = metadata.sorted { $0.key < $1.key }.map { "\(quoted($0.key)):\(quoted($0.value))" }
      members.append("\"__metadata__\":{\(entries.joined(separator: ","))}")
    }
    var offset = 0
    for tensor in tensors {
      let end = offset + tensor.elements.count * MemoryLayout<Double>.size
      let shape = tensor.shape.map(String.init).joined(separator: ",")
      members.append(
        "\(quoted(tensor.name)):{\"dtype\":\"F64\",\"shape\":[\(shape)],\"data_offsets\":[\(offset),\(end)]}"
      )
      offset = end
    }
    var text = Array("{\(members.joined(separator: ","))}".utf8)
    text.append(contentsOf: repeatElement(UInt8(ascii: " "), count: (8 - text.count % 8) % 8))
    return withUnsafeBytes(of: UInt64(text.count).littleEndian) { Array($0) } + text
  }

  private static func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\": result += "\\\(scalar)"
      case "\u{0}"..<"\u{20}":
        let digits = String(scalar.value, radix: 16)
        result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }

  private static func put(
    _ elements: [some BitwiseCopyable], _ descriptor: Int32, _ path: String
  ) throws(CompressionError) {
    let isWritten = elements.withUnsafeBytes { bytes in
      var rest = bytes
      while let base = rest.baseAddress, !rest.isEmpty {
        let count = systemWrite(descriptor, base, rest.count)
        if count < 0 && errno != EINTR { return false }
        rest = UnsafeRawBufferPointer(rebasing: rest[max(0, count)...])
      }
      return true
    }
    if !isWritten { throw failure("write", path) }
  }

  private static func failure(_ action: String, _ path: String) -> CompressionError {
    CompressionError(
      kind: .file, what: path, seen: "'\(String(cString: strerror(errno)))' on \(action)",
      expected: "a folder that can be written to, with room",
      wayOut: "the file that was there, if any, is untouched; make room or choose another path")
  }
}

/// `write` of the C library, out of the way of the method called the same.
private func systemWrite(_ descriptor: Int32, _ buffer: UnsafeRawPointer, _ count: Int) -> Int {
  write(descriptor, buffer, count)
}
