import Foundation

@testable import ApusModels

/// Writes GGUF bytes, right or wrong, and remembers where the fields lie that a hostile file would forge.
struct GGUFWriter {
  var bytes: [UInt8] = []
  /// Offsets and widths (4 or 8 bytes) of counts, lengths, types and offsets.
  var fields: [(offset: Int, width: Int)] = []

  mutating func raw<T: FixedWidthInteger>(_ value: T) {
    withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
  }

  mutating func field<T: FixedWidthInteger>(_ value: T) {
    fields.append((bytes.count, MemoryLayout<T>.size))
    raw(value)
  }

  mutating func string(_ text: [UInt8]) {
    field(UInt64(text.count))
    bytes.append(contentsOf: text)
  }

  mutating func string(_ text: String) { string(Array(text.utf8)) }

  mutating func header(version: UInt32 = 3, tensors: UInt64, keys: UInt64) {
    bytes.append(contentsOf: "GGUF".utf8)
    field(version)
    field(tensors)
    field(keys)
  }

  mutating func key(_ name: String, _ type: GGUFValueType) {
    string(name)
    field(type.rawValue)
  }

  mutating func array(_ type: GGUFValueType, _ count: UInt64) {
    field(type.rawValue)
    field(count)
  }

  /// `ne` in the file's order: columns first.
  mutating func tensor(_ name: String, ne: [UInt64], type: UInt32, offset: UInt64) {
    string(name)
    field(UInt32(ne.count))
    for dimension in ne { field(dimension) }
    field(type)
    field(offset)
  }

  mutating func pad(to alignment: Int) {
    while bytes.count % alignment != 0 { bytes.append(0) }
  }

  /// A small file with every type of value, a vocabulary, and four tensors: 2-D f32, Q4_0, Q4_K and a 1-D f16.
  static func sample(version: UInt32 = 3, alignment: UInt32 = 64) -> GGUFWriter {
    var writer = GGUFWriter()
    writer.header(version: version, tensors: 4, keys: 20)
    writer.key("general.architecture", .string)
    writer.string("llama")
    writer.key("general.alignment", .uint32)
    writer.raw(alignment)
    writer.key("v.u8", .uint8)
    writer.raw(UInt8(200))
    writer.key("v.i8", .int8)
    writer.raw(Int8(-3))
    writer.key("v.u16", .uint16)
    writer.raw(UInt16(65_000))
    writer.key("v.i16", .int16)
    writer.raw(Int16(-300))
    writer.key("v.u32", .uint32)
    writer.raw(UInt32(4_000_000_000))
    writer.key("v.i32", .int32)
    writer.raw(Int32(-70_000))
    writer.key("v.u64", .uint64)
    writer.raw(UInt64.max)
    writer.key("v.i64", .int64)
    writer.raw(Int64.min)
    writer.key("v.f32", .float32)
    writer.raw(Float(0.5).bitPattern)
    writer.key("v.f64", .float64)
    writer.raw(Double.pi.bitPattern)
    writer.key("v.bool", .bool)
    writer.raw(UInt8(1))
    writer.key("v.nested", .array)
    writer.array(.array, 2)
    for count in 1...2 {
      writer.array(.uint16, UInt64(count))
      for value in 0..<count { writer.raw(UInt16(value)) }
    }
    writer.key("tokenizer.ggml.model", .string)
    writer.string("gpt2")
    writer.key("tokenizer.ggml.tokens", .array)
    writer.array(.string, 40)
    for token in 0..<40 { writer.string(String(repeating: "t", count: token % 7) + "\(token)") }
    writer.key("tokenizer.ggml.scores", .array)
    writer.array(.float32, 40)
    for token in 0..<40 { writer.raw(Float(-token).bitPattern) }
    writer.key("tokenizer.ggml.token_type", .array)
    writer.array(.int32, 40)
    for token in 0..<40 { writer.raw(Int32(token % 6 + 1)) }
    writer.key("tokenizer.ggml.bos_token_id", .uint32)
    writer.raw(UInt32(1))
    writer.key("tokenizer.ggml.add_bos_token", .bool)
    writer.raw(UInt8(0))
    let step = UInt64(alignment)
    func aligned(_ offset: UInt64) -> UInt64 { (offset + step - 1) / step * step }
    var offset: UInt64 = 0
    for (name, ne, type, size): (String, [UInt64], UInt32, UInt64) in [
      ("token_embd.weight", [8, 3], 0, 96), ("blk.0.ffn_up.weight", [64, 2], 2, 72),
      ("blk.0.ffn_down.weight", [256, 1, 2], 12, 288), ("output_norm.weight", [5], 1, 10),
    ] {
      writer.tensor(name, ne: ne, type: type, offset: offset)
      offset = aligned(offset + size)
    }
    writer.pad(to: Int(alignment))
    for index in 0..<Int(offset) { writer.bytes.append(UInt8(truncatingIfNeeded: index &* 31 + 7)) }
    return writer
  }
}

/// Writes safetensors bytes around a header in JSON.
func safetensorsBytes(_ header: String, data: Int, length: UInt64? = nil) -> [UInt8] {
  var bytes: [UInt8] = []
  withUnsafeBytes(of: (length ?? UInt64(header.utf8.count)).littleEndian) { bytes.append(contentsOf: $0) }
  bytes.append(contentsOf: header.utf8)
  for index in 0..<data { bytes.append(UInt8(truncatingIfNeeded: index &* 17 + 3)) }
  return bytes
}

let sampleSafetensorsHeader = """
  {"__metadata__":{"format":"pt","note":"caf\\u00e9 \\ud83d\\ude00"},"a.weight":{"dtype":"F32","shape":[2,3],\
  "data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"ids":{"dtype":"I64","shape":[1,2],\
  "data_offsets":[32,48]},"empty":{"dtype":"F16","shape":[0,7],"data_offsets":[48,48]}}  
  """

/// A zip archive; members are stored, or deflated as stored blocks (RFC 1951, section 3.2.4).
func zipBytes(_ members: [(name: String, data: [UInt8], isDeflated: Bool)]) -> [UInt8] {
  var writer = GGUFWriter()
  var directory = GGUFWriter()
  for (name, data, isDeflated) in members {
    var stored: [UInt8] = isDeflated ? [] : data
    if isDeflated {
      var block = GGUFWriter()
      block.raw(UInt8(1))
      block.raw(UInt16(data.count))
      block.raw(~UInt16(data.count))
      stored = block.bytes + data
    }
    let offset = writer.bytes.count
    func common(_ writer: inout GGUFWriter) {
      writer.raw(UInt16(20))
      writer.raw(UInt16(0))
      writer.raw(UInt16(isDeflated ? 8 : 0))
      writer.raw(UInt32(0))
      writer.raw(zipChecksum(data))
      writer.raw(UInt32(stored.count))
      writer.raw(UInt32(data.count))
      writer.raw(UInt16(name.utf8.count))
      writer.raw(UInt16(0))
    }
    writer.raw(UInt32(0x0403_4B50))
    common(&writer)
    writer.bytes += Array(name.utf8) + stored
    directory.raw(UInt32(0x0201_4B50))
    directory.raw(UInt16(20))
    common(&directory)
    directory.raw(UInt16(0))
    directory.raw(UInt64(0))
    directory.raw(UInt32(offset))
    directory.bytes += Array(name.utf8)
  }
  let start = writer.bytes.count
  writer.bytes += directory.bytes
  writer.raw(UInt32(0x0605_4B50))
  writer.raw(UInt32(0))
  writer.raw(UInt16(members.count))
  writer.raw(UInt16(members.count))
  writer.raw(UInt32(directory.bytes.count))
  writer.raw(UInt32(start))
  writer.raw(UInt16(0))
  return writer.bytes
}

/// The CRC-32 of zip, bit by bit.
func zipChecksum(_ data: [UInt8]) -> UInt32 {
  var crc = ~UInt32(0)
  for byte in data {
    crc ^= UInt32(byte)
    for _ in 0..<8 { crc = crc & 1 == 1 ? crc >> 1 ^ 0xEDB8_8320 : crc >> 1 }
  }
  return ~crc
}

/// A folder that goes with the last reference.
final class TemporaryFolder: Sendable {
  let path: String

  /// In memory where the system has such a folder (`/dev/shm`), if asked.
  init(inMemory: Bool = false) {
    let memory = URL(fileURLWithPath: "/dev/shm")
    let parent =
      inMemory && FileManager.default.isWritableFile(atPath: memory.path)
      ? memory : FileManager.default.temporaryDirectory
    let url = parent.appendingPathComponent("apus-test-\(UUID().uuidString)")
    path = url.path
    try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  @discardableResult
  func write(_ name: String, _ bytes: [UInt8]) -> String {
    let target = path + "/" + name
    // A new file each time: cutting an old one to nothing makes ext4 wait for the disk.
    unlink(target)
    let descriptor = open(target, O_WRONLY | O_CREAT | O_EXCL, 0o600)
    precondition(descriptor >= 0, "can't make \(target)")
    defer { close(descriptor) }
    var done = 0
    while done < bytes.count {
      let count = bytes.withUnsafeBytes { Foundation.write(descriptor, $0.baseAddress! + done, $0.count - done) }
      precondition(count > 0, "can't write \(target)")
      done += count
    }
    return target
  }

  @discardableResult
  func write(_ name: String, _ text: String) -> String { write(name, Array(text.utf8)) }
}

/// SplitMix64: the tests' seeded generator.
struct SeededGenerator: RandomNumberGenerator {
  var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }
}
