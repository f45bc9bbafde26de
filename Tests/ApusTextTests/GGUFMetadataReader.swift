import ApusText
import Foundation

/// Reads the tokenizer keys of a GGUF file: just enough for tests, which cannot import the model room.
enum GGUFMetadataReader {
  static func read(_ url: URL) throws -> GGUFTokenizerMetadata {
    let data = try Data(contentsOf: url, options: .alwaysMapped)
    return data.withUnsafeBytes { raw in
      var reader = Reader(raw: raw)
      return reader.metadata()
    }
  }

  private enum Value {
    case integer(Int64)
    case float(Float)
    case string(String)
    case strings(ByteStrings)
    case floats([Float])
    case integers([Int32])
  }

  private struct Reader {
    let raw: UnsafeRawBufferPointer
    var position = 24

    mutating func load<T: BitwiseCopyable>(_ type: T.Type) -> T {
      defer { position += MemoryLayout<T>.size }
      return raw.loadUnaligned(fromByteOffset: position, as: type)
    }

    mutating func bytes() -> UnsafeRawBufferPointer {
      let count = Int(load(UInt64.self))
      defer { position += count }
      return UnsafeRawBufferPointer(rebasing: raw[position..<(position + count)])
    }

    mutating func value(_ type: UInt32) -> Value {
      switch type {
      case 0: return .integer(Int64(load(UInt8.self)))
      case 1: return .integer(Int64(load(Int8.self)))
      case 2: return .integer(Int64(load(UInt16.self)))
      case 3: return .integer(Int64(load(Int16.self)))
      case 4: return .integer(Int64(load(UInt32.self)))
      case 5: return .integer(Int64(load(Int32.self)))
      case 6: return .float(load(Float.self))
      case 7: return .integer(Int64(load(UInt8.self)))
      case 8: return .string(String(decoding: bytes(), as: UTF8.self))
      case 9:
        let element = load(UInt32.self)
        let count = Int(load(UInt64.self))
        if element == 8 {
          var strings = ByteStrings()
          strings.reserveCapacity(count: count, bytes: count * 8)
          for _ in 0..<count { strings.append(bytes()) }
          return .strings(strings)
        }
        if element == 6 { return .floats((0..<count).map { _ in load(Float.self) }) }
        return .integers((0..<count).map { _ in load(Int32.self) })
      case 10, 11: return .integer(load(Int64.self))
      default: return .float(Float(load(Double.self)))
      }
    }

    mutating func metadata() -> GGUFTokenizerMetadata {
      let keyCount = raw.loadUnaligned(fromByteOffset: 16, as: UInt64.self)
      var values: [String: Value] = [:]
      for _ in 0..<keyCount {
        let key = String(decoding: bytes(), as: UTF8.self)
        values[key] = value(load(UInt32.self))
      }
      func string(_ key: String) -> String? { if case .string(let text) = values[key] { text } else { nil } }
      func id(_ key: String) -> Int32? {
        if case .integer(let number) = values["tokenizer.ggml.\(key)"] { Int32(number) } else { nil }
      }
      func strings(_ key: String) -> ByteStrings? {
        if case .strings(let list) = values["tokenizer.ggml.\(key)"] { list } else { nil }
      }
      var metadata = GGUFTokenizerMetadata(
        model: string("tokenizer.ggml.model") ?? "", tokens: strings("tokens") ?? [])
      metadata.pre = string("tokenizer.ggml.pre")
      if case .floats(let scores) = values["tokenizer.ggml.scores"] { metadata.scores = scores }
      if case .integers(let types) = values["tokenizer.ggml.token_type"] { metadata.tokenTypes = types }
      metadata.merges = strings("merges")
      metadata.bosID = id("bos_token_id")
      metadata.eosID = id("eos_token_id")
      metadata.eotID = id("eot_token_id")
      metadata.unknownID = id("unknown_token_id")
      metadata.paddingID = id("padding_token_id")
      metadata.addBOS = id("add_bos_token").map { $0 != 0 }
      metadata.addEOS = id("add_eos_token").map { $0 != 0 }
      metadata.addSpacePrefix = id("add_space_prefix").map { $0 != 0 }
      metadata.chatTemplate = string("tokenizer.chat_template")
      return metadata
    }
  }
}

/// Where real models lie, if they do.
enum Models {
  static let folder: URL? = {
    let environment = ProcessInfo.processInfo.environment
    let candidates = [
      environment["APUS_MODELS"], environment["APUS_HOME"].map { $0 + "/models" }, environment["APUS_HOME"],
      environment["HOME"].map { $0 + "/.cache/apus" },
    ]
    return candidates.compactMap { $0 }.map { URL(fileURLWithPath: $0) }
      .first { FileManager.default.fileExists(atPath: $0.appendingPathComponent("smollm2-135m.gguf").path) }
  }()

  static func url(_ name: String) -> URL? {
    guard let url = folder?.appendingPathComponent(name),
      FileManager.default.fileExists(atPath: url.path)
    else { return nil }
    return url
  }

  static func gguf(_ name: String) throws -> TextTokenizer {
    try TokenizerSpec(gguf: GGUFMetadataReader.read(url(name + ".gguf")!)).makeTokenizer()
  }

  static func has(_ name: String) -> Bool { url(name) != nil }
}
