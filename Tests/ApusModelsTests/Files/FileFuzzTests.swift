import Foundation
import Testing

@testable import ApusModels

/// Bends valid files the way damage and malice do.
struct FileMutator {
  var generator: SeededGenerator

  static let special: [UInt64] = [
    0, 1, 2, 3, 7, 8, 12, 13, 31, 32, 255, 256, 65_535, 65_536, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 32, 1 << 33,
    1 << 59, 1 << 60, 1 << 61, 1 << 62, (1 << 63) - 1, 1 << 63, .max, .max - 7, .max - 31,
  ]
  static let fragments = [
    "[[[[[[[[", "{\"a\":{", "\"\\u0000\"", "18446744073709551616", "9223372036854775807", "-1", "1e999", "null",
    "\"dtype\":\"F32\",", "\\ud800", "\"__metadata__\":{}", ",", "}", "\"",
  ]

  /// A changed copy of `bytes`; `fields` are the places of its lengths, counts, types and offsets.
  mutating func mutate(_ bytes: [UInt8], _ fields: [(offset: Int, width: Int)]) -> [UInt8] {
    var result = bytes
    for _ in 0..<Int.random(in: 1...3, using: &generator) {
      if result.isEmpty { return result }
      let place = Int.random(in: 0..<result.count, using: &generator)
      switch Int.random(in: 0..<9, using: &generator) {
      case 0: result[place] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
      case 1: result[place] = UInt8.random(in: 0...255, using: &generator)
      case 2: result.removeSubrange(place...)
      case 3, 4, 5:
        guard let field = fields.randomElement(using: &generator), field.offset + field.width <= result.count else {
          continue
        }
        var value = Self.special.randomElement(using: &generator)!
        if Bool.random(using: &generator) {
          // Near the old value, or near what is left of the file.
          let old = (0..<field.width).reduce(UInt64(0)) { $0 | UInt64(result[field.offset + $1]) << UInt64(8 * $1) }
          let base = Bool.random(using: &generator) ? old : UInt64(result.count - field.offset)
          value = base &+ UInt64(bitPattern: Int64.random(in: -9...9, using: &generator))
        }
        for index in 0..<field.width {
          result[field.offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * index))
        }
      case 6:
        let length = Int.random(in: 1...min(64, result.count - place), using: &generator)
        result.insert(
          contentsOf: result[place..<place + length], at: Int.random(in: 0...result.count, using: &generator))
      case 7:
        let length = Int.random(in: 1...min(64, result.count - place), using: &generator)
        result.removeSubrange(place..<place + length)
      default:
        // In text: a fragment over what stands there, near the front where the JSON is.
        let target = Int.random(in: 0..<min(result.count, 400), using: &generator)
        result.replaceSubrange(target..<target, with: Self.fragments.randomElement(using: &generator)!.utf8)
      }
    }
    return result
  }
}

/// What a careless caller would do with a file that opens: everything. Returns a checksum so that no read is left out.
private func useAll(_ file: GGUFFile) -> Int {
  var sum = 0
  for key in file.keys {
    if case .array(_, let count)? = file.value(key) { sum &+= count }
    sum &+= (try? file.string(key).utf8.count) ?? 0
    sum &+= (try? file.int(key)) ?? 0
    sum &+= (try? file.float(key)).map { Int($0.bitPattern & 0xFF) } ?? 0
    sum &+= (try? file.strings(key).count) ?? 0
    sum &+= (try? file.floats(key).count) ?? 0
    sum &+= (try? file.int32s(key).count) ?? 0
    sum &+= (try? file.bools(key).count) ?? 0
    if let array = try? file.stringArray(key) {
      for index in array.indices { sum &+= array[index].count }
    }
  }
  _ = try? file.tokenizerFields()
  _ = try? file.validate()
  return sum &+ useTensors(file)
}

private func useTensors(_ source: some TensorSource) -> Int {
  var sum = 0
  for name in source.tensorNames {
    guard let tensor = try? source.tensor(name) else { continue }
    sum &+= Int(tensor.bytes.first ?? 0) &+ Int(tensor.bytes.last ?? 0) &+ tensor.elementCount
  }
  return sum
}

/// Peak resident bytes of this process so far.
private func peakResidentBytes() -> Int {
  let status = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
  let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
  return (line?.split(separator: " ").dropLast().last.flatMap { Int($0) } ?? 0) * 1024
}

/// Opens `count` mutations of each sample with `open`; returns how many were accepted. Runs in a process of its own.
///
/// A crash, more than two minutes, or more than 64 MB above the start ends that process with a failure.
private func fuzz(
  seed: UInt64, count: Int, samples: [(bytes: [UInt8], fields: [(offset: Int, width: Int)])],
  open: (String) throws -> Int
) {
  print("seed \(seed)")
  alarm(120)
  let folder = TemporaryFolder(inMemory: true)
  func attempt(_ bytes: [UInt8]) -> Bool {
    let path = folder.write("file", bytes)
    do {
      _ = try open(path)
      return true
    } catch is ModelFileError {
      return false
    } catch {
      preconditionFailure("seed \(seed): an error of another type: \(error)")
    }
  }
  for sample in samples { precondition(attempt(sample.bytes), "a sample itself doesn't open") }
  let before = peakResidentBytes()
  var accepted = 0
  var mutator = FileMutator(generator: SeededGenerator(seed: seed))
  for index in 0..<count {
    let sample = samples[index % samples.count]
    if attempt(mutator.mutate(sample.bytes, sample.fields)) { accepted += 1 }
  }
  let grown = peakResidentBytes() - before
  precondition(grown <= 64 << 20, "seed \(seed): \(grown) bytes above the start")
  // Both outcomes must occur often, or the mutations are too weak or too strong to test anything.
  precondition(accepted > count / 100 && accepted < count * 99 / 100, "\(accepted) of \(count) accepted")
}

@Suite("Hostile model files", .serialized)
struct FileFuzzTests {
  @Test("12,000 mutated GGUF files give typed errors or readable values, within the memory bound")
  func gguf() async {
    await #expect(processExitsWith: .success) {
      let samples = [GGUFWriter.sample(), .sample(version: 2, alignment: 8), .sample(alignment: 32)]
      fuzz(seed: 0x6767_7566, count: 12_000, samples: samples.map { ($0.bytes, $0.fields) }) {
        useAll(try GGUFFile(path: $0))
      }
    }
  }

  @Test("8,000 mutated safetensors files give typed errors or readable tensors, within the memory bound")
  func safetensors() async {
    await #expect(processExitsWith: .success) {
      let sample = safetensorsBytes(sampleSafetensorsHeader, data: 48)
      fuzz(seed: 0x7361_6665, count: 8_000, samples: [(sample, [(0, 8)])]) {
        let file = try SafetensorsFile(path: $0)
        return useTensors(file) &+ file.metadata.count
      }
    }
  }

  @Test("4,000 mutated archives unpack to the announced bytes or give typed errors, within the memory bound")
  func archives() async {
    await #expect(processExitsWith: .success) {
      let data = (0..<300).map { UInt8(truncatingIfNeeded: $0 * 7) }
      let sample = zipBytes([("a/data.bin", data, true), ("b.txt", data, false)])
      let end = sample.count
      let fields = [(18, 4), (22, 4), (26, 2), (end - 12, 2), (end - 10, 4), (end - 6, 4)].map { ($0.0, $0.1) }
      fuzz(seed: 0x7A69_7000, count: 4_000, samples: [(sample, fields)]) {
        let archive = try WheelArchive(path: $0)
        var sum = 0
        for member in archive.members { try archive.extract(member) { sum &+= $0.count } }
        return sum
      }
    }
  }

  /// The largest things that the bounds allow, each in its smallest file.
  private static func extreme(_ kind: String) -> [UInt8] {
    var writer = GGUFWriter()
    switch kind {
    case "strings":
      writer.header(tensors: 0, keys: 1)
      writer.key("a", .array)
      writer.array(.string, 4_000_000)
      writer.bytes += [UInt8](repeating: 0, count: 32_000_000)
    case "keys":
      writer.header(tensors: 0, keys: UInt64(GGUFFile.Limits.keys))
      for index in 0..<GGUFFile.Limits.keys {
        writer.key("\(index)", .uint8)
        writer.raw(UInt8(0))
      }
    case "tensors":
      writer.header(tensors: UInt64(GGUFFile.Limits.tensors), keys: 0)
      for index in 0..<GGUFFile.Limits.tensors { writer.tensor("\(index)", ne: [0, 1, 1, 1], type: 0, offset: 0) }
      writer.pad(to: 32)
    default:
      let entries = (0..<SafetensorsFile.Limits.tensors).map {
        "\"\($0)\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}"
      }
      return safetensorsBytes("{\(entries.joined(separator: ","))}", data: 0)
    }
    return writer.bytes
  }

  @Test(
    "files that announce the most that the bounds allow stay within the memory bound",
    arguments: ["strings", "keys", "tensors", "safetensors"])
  func bounds(kind: String) async {
    let folder = TemporaryFolder()
    // Made here, so that the child starts with little memory and no freed blocks to grow into.
    let path = folder.write("file", Self.extreme(kind))
    await #expect(processExitsWith: .success) { [kind = kind as String, path = path as String] in
      alarm(120)
      let before = peakResidentBytes()
      let size = (try? FileManager.default.attributesOfItem(atPath: path)[.size] as? Int) ?? 0
      var used = 0
      if kind == "safetensors" {
        used = try SafetensorsFile(path: path).tensors.count
      } else {
        let file = try GGUFFile(path: path)
        used = file.keys.count + file.tensors.count
      }
      let grown = peakResidentBytes() - before
      print("\(kind): \(grown) bytes for a file of \(size)")
      precondition(used > 0 && size > 0 && grown <= size + 64 << 20, "\(kind): \(grown) bytes for a file of \(size)")
    }
  }
}
