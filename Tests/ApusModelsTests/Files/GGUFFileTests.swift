import Foundation
import KernelInterface
import Testing

@testable import ApusModels

@Suite("GGUF reader")
struct GGUFFileTests {
  let folder = TemporaryFolder(inMemory: true)

  func open(_ writer: GGUFWriter) throws -> GGUFFile {
    try GGUFFile(path: folder.write("model.gguf", writer.bytes))
  }

  /// The error of opening `bytes`, or nil when they open.
  func openError(_ bytes: [UInt8]) -> ModelFileError? {
    let path = folder.write("bad.gguf", bytes)
    do {
      _ = try GGUFFile(path: path)
      return nil
    } catch {
      #expect(error.path == path)
      return error
    }
  }

  /// One key and no tensors.
  func oneKey(_ body: (inout GGUFWriter) -> Void) -> [UInt8] {
    var writer = GGUFWriter()
    writer.header(tensors: 0, keys: 1)
    body(&writer)
    return writer.bytes
  }

  /// No keys; the tensor entries of `body`, then `data` zero bytes.
  func onlyTensors(_ count: UInt64, data: Int, _ body: (inout GGUFWriter) -> Void) -> [UInt8] {
    var writer = GGUFWriter()
    writer.header(tensors: count, keys: 0)
    body(&writer)
    writer.pad(to: 32)
    writer.bytes += [UInt8](repeating: 0, count: data)
    return writer.bytes
  }

  @Test("reads every type of value in versions 2 and 3", arguments: [UInt32(2), 3])
  func values(version: UInt32) throws {
    let file = try open(.sample(version: version))
    #expect(file.version == Int(version))
    #expect(try file.string("general.architecture") == "llama")
    #expect(try file.int("v.u8") == 200)
    #expect(try file.int("v.i8") == -3)
    #expect(try file.int("v.u16") == 65_000)
    #expect(try file.int("v.i16") == -300)
    #expect(try file.int("v.u32") == 4_000_000_000)
    #expect(try file.int("v.i32") == -70_000)
    #expect(try file.int("v.i64") == Int.min)
    #expect(file.value("v.u64") == .unsigned(.max))
    #expect(try file.float("v.f32") == 0.5)
    #expect(try file.float("v.f64") == Double.pi)
    #expect(try file.bool("v.bool"))
    #expect(file.value("v.nested") == .array(element: .array, count: 2))
    #expect(file.keys.count == 20)
    #expect(try file.floats("tokenizer.ggml.scores") == (0..<40).map { Float(-$0) })
    #expect(try file.int32s("tokenizer.ggml.token_type") == (0..<40).map { Int32($0 % 6 + 1) })
  }

  @Test("gives strings of a vocabulary in any order without copying the vocabulary")
  func stringArrays() throws {
    let file = try open(.sample())
    let tokens = try file.stringArray("tokenizer.ggml.tokens")
    let expected = (0..<40).map { String(repeating: "t", count: $0 % 7) + "\($0)" }
    #expect(try file.strings("tokenizer.ggml.tokens") == expected)
    #expect(tokens.map { String(decoding: $0, as: UTF8.self) } == expected)
    var generator = SeededGenerator(seed: 1)
    for index in (0..<40).shuffled(using: &generator) {
      #expect(try tokens.string(at: index) == expected[index])
      // Inside the mapping: not a copy.
      let base = try #require(file.file.bytes.baseAddress)
      let element = try #require(tokens[index].baseAddress)
      #expect(element >= base && element < base + file.file.size)
    }
    let fields = try file.tokenizerFields()
    #expect(fields.specialTokens == ["bos": 1])
    #expect(fields.addBOS == false)
    #expect(fields.merges == nil)
  }

  @Test("places tensors by the alignment key, rows first", arguments: [UInt32(8), 32, 64, 4096])
  func tensors(alignment: UInt32) throws {
    let writer = GGUFWriter.sample(alignment: alignment)
    let file = try open(writer)
    #expect(file.alignment == Int(alignment))
    #expect(file.dataOffset % Int(alignment) == 0)
    let embedding = try file.tensor("token_embd.weight")
    #expect(embedding.shape == [3, 8])
    #expect(embedding.dtype == .f32)
    #expect(embedding.byteCount == 96)
    #expect(Array(embedding.bytes) == Array(writer.bytes[file.dataOffset..<file.dataOffset + 96]))
    let down = try file.tensor("blk.0.ffn_down.weight")
    #expect(down.shape == [2, 1, 256])
    #expect(down.dtype == .q4_K)
    #expect(down.byteCount == 288)
    #expect(try file.tensor("output_norm.weight").shape == [5])
    #expect(file.tensorNames.count == 4)
    try file.validate()
  }

  @Test("names the key and the type when a value is missing or of another type")
  func wrongTypes() throws {
    let file = try open(.sample())
    func error(_ body: () throws -> Void) -> ModelFileError? {
      do { try body() } catch { return error as? ModelFileError }
      return nil
    }
    #expect(error { _ = try file.string("nothing") }?.kind == .missing)
    #expect(error { _ = try file.string("v.u8") }?.kind == .wrongType)
    #expect(error { _ = try file.int("general.architecture") }?.kind == .wrongType)
    #expect(error { _ = try file.int("v.u64") }?.kind == .wrongType)
    #expect(error { _ = try file.float("v.i32") }?.kind == .wrongType)
    #expect(error { _ = try file.bool("v.u8") }?.kind == .wrongType)
    #expect(error { _ = try file.floats("tokenizer.ggml.tokens") }?.kind == .wrongType)
    #expect(error { _ = try file.int32s("tokenizer.ggml.scores") }?.kind == .wrongType)
    #expect(error { _ = try file.stringArray("tokenizer.ggml.scores") }?.kind == .wrongType)
    #expect(error { _ = try file.tensor("nothing") }?.kind == .missing)
    let message = try #require(error { _ = try file.string("v.u8") }).description
    #expect(message.contains("'v.u8'") && message.contains("uint8") && message.contains("string"))
  }

  @Test("refuses what isn't GGUF, version 1 and big-endian files, each with its sentence")
  func headers() throws {
    #expect(openError([])?.kind == .truncated)
    #expect(openError(Array("GGU".utf8))?.kind == .truncated)
    #expect(openError(Array("ELF\u{7F} not a model at all....".utf8))?.kind == .malformed)
    for (version, text) in [(UInt32(1), "version 1"), (4, "version 4"), (UInt32(3).byteSwapped, "big-endian")] {
      var writer = GGUFWriter()
      writer.header(version: version, tensors: 0, keys: 0)
      let error = try #require(openError(writer.bytes))
      #expect(error.kind == .unsupported)
      #expect(error.description.contains(text))
      #expect(error.offset == 4)
    }
  }

  @Test("every truncation of a file is an error or leaves only complete tensors")
  func truncations() throws {
    let whole = GGUFWriter.sample().bytes
    for length in 0..<whole.count {
      let error = openError(Array(whole[..<length]))
      // The last tensor has 10 bytes and is followed by padding.
      if length < whole.count - 64 + 10 { #expect(error != nil, "\(length) of \(whole.count) bytes") }
    }
  }

  @Test("rejects absurd counts before allocating for them", arguments: [UInt64(1) << 60, 1 << 63, .max, 1 << 33])
  func absurdCounts(count: UInt64) {
    var writer = GGUFWriter()
    writer.header(tensors: count, keys: 0)
    #expect(openError(writer.bytes)?.kind == .limit)
    writer = GGUFWriter()
    writer.header(tensors: 0, keys: count)
    #expect(openError(writer.bytes)?.kind == .limit)
    for type in GGUFValueType.allCases {
      #expect(
        openError(
          oneKey {
            $0.key("a", .array)
            $0.array(type, count)
            $0.raw(UInt64(0))
          })?.kind == .limit)
    }
    #expect(
      openError(
        oneKey {
          $0.key("a", .string)
          $0.raw(count)
        })?.kind == .limit)
  }

  @Test("rejects shapes whose product overflows, whatever the type", arguments: [UInt32(0), 2, 16, 999])
  func overflowingShapes(type: UInt32) {
    for ne: [UInt64] in [[1 << 32, 1 << 32], [UInt64.max], [1 << 62, 2, 1], [0, 1 << 40, 1 << 40], [1 << 63]] {
      let error = openError(onlyTensors(1, data: 64) { $0.tensor("w", ne: ne, type: type, offset: 0) })
      #expect(error?.kind == .malformed, "\(ne)")
      #expect(error?.what == "tensor 'w'")
    }
    // The elements fit 63 bits, the bytes don't.
    let error = openError(onlyTensors(1, data: 64) { $0.tensor("w", ne: [1 << 61, 2], type: 0, offset: 0) })
    #expect(error?.kind == .malformed)
  }

  @Test("rejects tensors that overlap, lie outside, are misaligned or have part of a block")
  func places() {
    func kind(_ count: UInt64 = 1, data: Int, _ body: (inout GGUFWriter) -> Void) -> ModelFileError.Kind? {
      openError(onlyTensors(count, data: data, body))?.kind
    }
    #expect(kind(data: 64) { $0.tensor("w", ne: [16], type: 0, offset: 0) } == nil)
    #expect(kind(data: 63) { $0.tensor("w", ne: [16], type: 0, offset: 0) } == .truncated)
    #expect(kind(data: 64) { $0.tensor("w", ne: [16], type: 0, offset: 32) } == .truncated)
    #expect(kind(data: 64) { $0.tensor("w", ne: [16], type: 0, offset: 1 << 62) } == .truncated)
    #expect(kind(data: 64) { $0.tensor("w", ne: [16], type: 0, offset: ~31) } == .truncated)
    #expect(kind(data: 256) { $0.tensor("w", ne: [16], type: 0, offset: 4) } == .malformed)
    #expect(kind(data: 256) { $0.tensor("w", ne: [33], type: 2, offset: 0) } == .malformed)
    #expect(kind(data: 256) { $0.tensor("w", ne: [1, 1, 1, 1, 1], type: 0, offset: 0) } == .limit)
    #expect(
      kind(2, data: 256) {
        $0.tensor("a", ne: [16], type: 0, offset: 0)
        $0.tensor("b", ne: [16], type: 0, offset: 32)
      } == .malformed)
    #expect(
      kind(2, data: 256) {
        $0.tensor("a", ne: [16], type: 0, offset: 64)
        $0.tensor("b", ne: [16], type: 0, offset: 0)
      } == nil)
    #expect(
      kind(2, data: 256) {
        $0.tensor("a", ne: [16], type: 0, offset: 0)
        $0.tensor("a", ne: [16], type: 0, offset: 64)
      } == .duplicate)
  }

  @Test("rejects an alignment that is zero, no power of two, absurd or no uint32")
  func alignments() {
    for value: UInt32 in [0, 3, 48, 1 << 31] {
      let error = openError(
        oneKey {
          $0.key("general.alignment", .uint32)
          $0.raw(value)
        })
      #expect(error?.kind == .malformed, "\(value)")
    }
    let error = openError(
      oneKey {
        $0.key("general.alignment", .string)
        $0.string("32")
      })
    #expect(error?.kind == .wrongType)
  }

  @Test("rejects duplicate keys, names that aren't UTF-8, unknown value types, odd bools and deep arrays")
  func metadata() {
    var writer = GGUFWriter()
    writer.header(tensors: 0, keys: 2)
    for _ in 0..<2 {
      writer.key("same", .uint8)
      writer.raw(UInt8(0))
    }
    #expect(openError(writer.bytes)?.kind == .duplicate)
    #expect(
      openError(
        oneKey {
          $0.string([0xFF, 0xFE])
          $0.raw(UInt32(0))
          $0.raw(UInt8(0))
        })?.kind == .malformed)
    #expect(
      openError(
        onlyTensors(1, data: 64) {
          $0.string([0xC0, 0x80])
          $0.raw(UInt32(1))
          $0.raw(UInt64(1))
          $0.raw(UInt32(0))
          $0.raw(UInt64(0))
        })?.kind == .malformed)
    #expect(
      openError(
        oneKey {
          $0.string("k")
          $0.raw(UInt32(13))
          $0.raw(UInt64(0))
        })?.kind == .malformed)
    #expect(
      openError(
        oneKey {
          $0.key("k", .bool)
          $0.raw(UInt8(2))
        })?.kind == .malformed)
    #expect(
      openError(
        oneKey {
          $0.key("k", .array)
          for _ in 0..<10_000 { $0.array(.array, 1) }
        })?.kind == .limit)
  }

  @Test("names an unsupported type when that tensor is asked for, and reads the others")
  func unsupportedTypes() throws {
    for (number, name): (UInt32, String) in [
      (16, "IQ2_XXS"), (20, "IQ4_NL"), (23, "IQ4_XS"), (29, "IQ1_M"), (34, "TQ1_0"), (35, "TQ2_0"), (39, "MXFP4"),
      (9, "Q8_1"), (28, "F64"), (77, "an unknown type"),
    ] {
      let bytes = onlyTensors(2, data: 256) {
        $0.tensor("good", ne: [16], type: 0, offset: 0)
        $0.tensor("blk.0.ffn_up.weight", ne: [256], type: number, offset: 64)
      }
      let file = try GGUFFile(path: folder.write("unsupported.gguf", bytes))
      #expect(try file.tensor("good").byteCount == 64)
      for body in [{ _ = try file.tensor("blk.0.ffn_up.weight") }, { try file.validate() }] {
        let error = try #require(throws: ModelFileError.self) { try body() }
        #expect(error.kind == .unsupported)
        #expect(error.description.contains("tensor 'blk.0.ffn_up.weight'"))
        #expect(error.description.contains("\(name) (\(number))"))
        #expect(error.description.contains("Q4_K"))
      }
    }
  }

  @Test("checks a tokenizer's counts and special tokens against the vocabulary")
  func tokenizerFields() throws {
    var writer = GGUFWriter.sample()
    // 'bos' becomes token 40 of 40.
    let name = Array("tokenizer.ggml.bos_token_id".utf8)
    let place = try #require(writer.bytes.indices.first { writer.bytes[$0...].starts(with: name) })
    writer.bytes[place + name.count + 4] = 40
    let file = try open(writer)
    let error = try #require(throws: ModelFileError.self) { try file.tokenizerFields() }
    #expect(error.kind == .malformed)
    #expect(error.description.contains("bos_token_id"))
  }

  @Test("control characters of hostile names don't reach the terminal")
  func hostileNames() throws {
    let name = "\u{1B}[2J" + String(repeating: "x", count: 5_000)
    let error = try #require(
      openError(onlyTensors(1, data: 64) { $0.tensor(name, ne: [1 << 40, 1 << 40], type: 0, offset: 0) }))
    #expect(!error.description.contains("\u{1B}"))
    #expect(error.description.utf8.count < 1_000)
  }

  @Test("a folder, a missing file and a pipe are errors, not hangs")
  func notFiles() throws {
    let fifo = folder.path + "/pipe"
    #expect(mkfifo(fifo, 0o600) == 0)
    for path in [folder.path, folder.path + "/none.gguf", fifo, "/dev/zero"] {
      let error = try #require(throws: ModelFileError.self) { try GGUFFile(path: path) }
      #expect(error.kind == .unreadable)
    }
  }
}

@Suite("Safetensors reader")
struct SafetensorsFileTests {
  let folder = TemporaryFolder(inMemory: true)

  func openError(_ bytes: [UInt8]) -> ModelFileError? {
    let path = folder.write("bad.safetensors", bytes)
    do {
      _ = try SafetensorsFile(path: path)
      return nil
    } catch {
      #expect(error.path == path)
      return error
    }
  }

  func kind(_ header: String, data: Int) -> ModelFileError.Kind? {
    openError(safetensorsBytes(header, data: data))?.kind
  }

  @Test("reads shapes, types, bytes and metadata with escapes")
  func sample() throws {
    let bytes = safetensorsBytes(sampleSafetensorsHeader, data: 48)
    let file = try SafetensorsFile(path: folder.write("m.safetensors", bytes))
    #expect(file.tensorNames == ["a.weight", "b", "ids", "empty"])
    #expect(file.metadata == ["format": "pt", "note": "café 😀"])
    let weight = try file.tensor("a.weight")
    #expect(weight.shape == [2, 3])
    #expect(weight.dtype == .f32)
    #expect(Array(weight.bytes) == Array(bytes.suffix(48).prefix(24)))
    #expect(try file.tensor("b").dtype == .bf16)
    #expect(try file.tensor("empty").byteCount == 0)
    #expect(file.info("ids")?.typeName == "I64")
    let error = try #require(throws: ModelFileError.self) { try file.tensor("ids") }
    #expect(error.kind == .unsupported)
    #expect(error.description.contains("I64"))
  }

  @Test("rejects header lengths beyond the file or the bound")
  func headerLengths() {
    #expect(openError([1, 2, 3])?.kind == .truncated)
    for length: UInt64 in [3, 1 << 40, .max, 100_000_001] {
      #expect(openError(safetensorsBytes("{}", data: 0, length: length))?.kind == .limit)
    }
    #expect(kind("{}", data: 0) == nil)
  }

  @Test("rejects entries whose bytes don't match their shape, overlap, leave holes or lie outside")
  func places() {
    func entry(_ name: String, _ shape: String, _ begin: Int, _ end: Int, _ type: String = "F32") -> String {
      #""\#(name)":{"dtype":"\#(type)","shape":\#(shape),"data_offsets":[\#(begin),\#(end)]}"#
    }
    #expect(kind("{\(entry("a", "[2]", 0, 8))}", data: 8) == nil)
    #expect(kind("{\(entry("a", "[2]", 0, 8))}", data: 7) == .truncated)
    #expect(kind("{\(entry("a", "[2]", 0, 7))}", data: 8) == .malformed)
    #expect(kind("{\(entry("a", "[2]", 8, 0))}", data: 8) == .malformed)
    #expect(kind("{\(entry("a", "[2]", 0, 8)),\(entry("b", "[2]", 4, 12))}", data: 12) == .malformed)
    #expect(kind("{\(entry("a", "[2]", 0, 8)),\(entry("b", "[2]", 12, 20))}", data: 20) == .malformed)
    #expect(kind("{\(entry("a", "[2]", 0, 8))}", data: 12) == .malformed)
    #expect(kind("{\(entry("a", "[2]", 0, 8)),\(entry("a", "[2]", 8, 16))}", data: 16) == .duplicate)
    #expect(kind("{\(entry("a", "[4611686018427387904,4]", 0, 8))}", data: 8) == .malformed)
    #expect(kind("{\(entry("a", "[0,4611686018427387904,4]", 0, 0))}", data: 0) == .malformed)
    #expect(kind("{\(entry("a", "[99999999999999999999]", 0, 8))}", data: 8) == .malformed)
    #expect(kind("{\(entry("a", "[-1]", 0, 8))}", data: 8) == .malformed)
    #expect(kind("{\(entry("a", "[2.0]", 0, 8))}", data: 8) == .malformed)
    #expect(kind("{\(entry("a", "[2e0]", 0, 8))}", data: 8) == .malformed)
    #expect(kind("{\(entry("a", "[2]", 0, 8, "Q9"))}", data: 8) == .unsupported)
    #expect(kind("{\(entry("a", "[3]", 0, 2, "F4"))}", data: 2) == .malformed)
    #expect(kind("{\(entry("a", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", 0, 4))}", data: 4) == .limit)
  }

  @Test("rejects broken, deep, doubled and foreign JSON")
  func json() {
    let deep = String(repeating: "[", count: 1_000_000)
    for header in [
      "", "[]", "{", "{}x", "{\"a\"}", "{\"a\":1}", "{\"a\":{}}", "{\"a\":{\"dtype\":\"F32\"}}", "{\"a\":\(deep)",
      "{\"__metadata__\":{\"k\":1}}", "{\"__metadata__\":{\"k\":{\"k\":{}}}}", "{\"a\\q\":{}}", "{\"\\ud800\":{}}",
      "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}",
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4],\"more\":1}}",
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0]}}",
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4,8]}}", "{\"a\u{1}\":{}}",
    ] {
      let error = openError(safetensorsBytes(header, data: 4))
      #expect(error != nil, "\(header.prefix(80))")
    }
    #expect(openError(safetensorsBytes("{\"__metadata__\":{},\"__metadata__\":{}}", data: 0))?.kind == .duplicate)
    #expect(openError(safetensorsBytes("{\"__metadata__\":{\"k\":\"\",\"k\":\"\"}}", data: 0))?.kind == .duplicate)
    var broken = safetensorsBytes("{\"__metadata__\":{\"kk\":\"\"}}", data: 0)
    broken[8 + 18] = 0xFF
    #expect(openError(broken)?.kind == .malformed)
  }

  @Test("a model in shards is one source of tensors, and the index must agree with the shards")
  func shards() throws {
    func shard(_ name: String) -> [UInt8] {
      safetensorsBytes("{\"\(name)\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", data: 4)
    }
    folder.write("model-1.safetensors", shard("x"))
    folder.write("model-2.safetensors", shard("y"))
    func index(_ text: String) -> ModelFileError? {
      folder.write("model.safetensors.index.json", text)
      do {
        _ = try SafetensorsModel(directory: folder.path)
        return nil
      } catch {
        return error
      }
    }
    #expect(
      index(
        #"{"metadata":{"total_size":8,"x":[1,-2.5e3,{"y":null}]},"weight_map":{"x":"model-1.safetensors","y":"model-2.safetensors"}}"#
      ) == nil)
    let model = try SafetensorsModel(directory: folder.path)
    #expect(model.tensorNames == ["x", "y"])
    #expect(try model.tensor("y").owner.path.hasSuffix("model-2.safetensors"))
    #expect(throws: ModelFileError.self) { try model.tensor("z") }
    #expect(index(#"{"weight_map":{"x":"model-1.safetensors","y":"model-1.safetensors"}}"#)?.kind == .missing)
    #expect(index(#"{"weight_map":{"z":"model-1.safetensors","y":"model-2.safetensors"}}"#)?.kind == .malformed)
    #expect(index(#"{"weight_map":{"x":"../model-1.safetensors"}}"#)?.kind == .malformed)
    #expect(index(#"{"weight_map":{"x":"/etc/passwd"}}"#)?.kind == .malformed)
    #expect(index(#"{"weight_map":{}}"#)?.kind == .missing)
    #expect(index(#"{"weight_map":{"x":"none.safetensors"}}"#)?.kind == .unreadable)
    #expect(index("{\"a\":" + String(repeating: "[", count: 100_000))?.kind == .limit)
  }
}
