import Glibc

// libFuzzer's entry points for the readers of model files. Built by ./Tests/Fuzzers/run together with the readers'
// sources as one module; APUS_FUZZ names the reader: gguf, safetensors or wheel.

private let reader = getenv("APUS_FUZZ").map { String(cString: $0) } ?? "gguf"
/// A file in memory without a name: opened again through /proc.
private let memory: CInt = {
  let name = "/dev/shm/apus-fuzz-\(getpid())"
  let descriptor = open(name, O_RDWR | O_CREAT | O_EXCL, 0o600)
  unlink(name)
  return descriptor
}()
private let path = "/proc/self/fd/\(memory)"

/// Writes the seeds into the folder `APUS_FUZZ_SEEDS`, before libFuzzer reads it.
@_cdecl("LLVMFuzzerInitialize")
public func initialize(_: UnsafeMutableRawPointer?, _: UnsafeMutableRawPointer?) -> CInt {
  guard let folder = getenv("APUS_FUZZ_SEEDS").map({ String(cString: $0) }) else { return 0 }
  let data = (0..<300).map { UInt8(truncatingIfNeeded: $0 &* 7) }
  let seeds: [[UInt8]] =
    switch reader {
    case "safetensors": [safetensorsBytes(sampleSafetensorsHeader, data: 48), safetensorsBytes("{}", data: 0)]
    case "wheel": [zipBytes([("a/data.bin", data, true), ("b.txt", data, false)])]
    default: [GGUFWriter.sample().bytes, GGUFWriter.sample(version: 2, alignment: 8).bytes]
    }
  for (index, seed) in seeds.enumerated() {
    guard let file = fopen("\(folder)/seed-\(index)", "wb") else { return 1 }
    fwrite(seed, 1, seed.count, file)
    fclose(file)
  }
  return 0
}

/// Opens the bytes and uses everything in them; only `ModelFileError` may be thrown.
@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  guard ftruncate(memory, 0) == 0, pwrite(memory, bytes, count, 0) == count else { return 0 }
  do {
    switch reader {
    case "safetensors": try use(SafetensorsFile(path: path))
    case "wheel":
      let archive = try WheelArchive(path: path)
      for member in archive.members { try archive.extract(member) { _ in } }
    default:
      let file = try GGUFFile(path: path)
      for key in file.keys {
        _ = file.value(key)
        _ = try? file.string(key)
        _ = try? file.int(key)
        _ = try? file.float(key)
        _ = try? file.strings(key)
        _ = try? file.floats(key)
        _ = try? file.int32s(key)
        _ = try? file.bools(key)
        if let array = try? file.stringArray(key) { for index in array.indices { _ = array[index].last } }
      }
      _ = try? file.tokenizerFields()
      try use(file)
    }
  } catch is ModelFileError {
  } catch {
    fatalError("an error of another type: \(error)")
  }
  return 0
}

private func use(_ source: some TensorSource) throws {
  var sum = 0
  for name in source.tensorNames {
    guard let tensor = try? source.tensor(name) else { continue }
    for byte in tensor.bytes { sum &+= Int(byte) }
  }
  // Printed never; the optimiser doesn't know.
  if sum == .min { print(sum) }
}
