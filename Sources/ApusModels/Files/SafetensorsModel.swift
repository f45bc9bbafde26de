#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// The tensors of a model folder: one `model.safetensors`, or the shards that `model.safetensors.index.json` names.
public final class SafetensorsModel: TensorSource {
  public let directory: String
  /// In the order of their names.
  public let shards: [SafetensorsFile]
  public let tensorNames: [String]
  private let shardIndex: [String: Int]

  /// Opens the folder's files. Throws `ModelFileError`: `missing` when the folder holds neither file; what the readers of
  /// the files throw; `malformed` when the index and the shards disagree.
  public init(directory: String) throws(ModelFileError) {
    self.directory = directory
    let indexPath = directory + "/model.safetensors.index.json"
    let singlePath = directory + "/model.safetensors"
    if access(singlePath, F_OK) == 0 {
      let file = try SafetensorsFile(path: singlePath)
      shards = [file]
      tensorNames = file.tensorNames
      shardIndex = Dictionary(uniqueKeysWithValues: file.tensorNames.map { ($0, 0) })
      return
    }
    guard access(indexPath, F_OK) == 0 else {
      throw ModelFileError(
        kind: .missing, path: directory, what: "weights", seen: "no such file in the folder",
        expected: "model.safetensors or model.safetensors.index.json")
    }
    let index = try Self.readIndex(indexPath)
    let names = Set(index.values).sorted()
    var shards: [SafetensorsFile] = []
    for name in names { shards.append(try SafetensorsFile(path: directory + "/" + name)) }
    var places: [String: Int] = [:]
    var tensorNames: [String] = []
    for (number, shard) in shards.enumerated() {
      for name in shard.tensorNames {
        guard index[name] == names[number] else {
          throw ModelFileError(
            kind: .malformed, path: shard.path, what: "tensor '\(ModelFileError.printable(name))'",
            seen: "it in this shard", expected: index[name].map { "it in '\($0)' by the index" } ?? "it in the index")
        }
        places[name] = number
        tensorNames.append(name)
      }
    }
    if let (name, shard) = index.filter({ places[$0.key] == nil }).min(by: { $0.key < $1.key }) {
      throw ModelFileError(
        kind: .missing, path: directory + "/" + shard, what: "tensor '\(ModelFileError.printable(name))'",
        seen: "no tensor of that name in the shard", expected: "it there, by the index")
    }
    self.shards = shards
    self.tensorNames = tensorNames
    shardIndex = places
  }

  public func contains(_ name: String) -> Bool { shardIndex[name] != nil }

  public func tensor(_ name: String) throws(ModelFileError) -> RawTensor {
    guard let shard = shardIndex[name] else {
      throw ModelFileError(
        kind: .missing, path: directory, what: "tensor '\(ModelFileError.printable(name))'",
        seen: "no tensor of that name among \(tensorNames.count)", expected: "the tensor")
    }
    return try shards[shard].tensor(name)
  }

  /// `weight_map` of the index: tensor name → file name in the same folder.
  private static func readIndex(_ path: String) throws(ModelFileError) -> [String: String] {
    let file = try MappedFile(path: path)
    var scanner = JSONScanner(file, 0..<file.size, what: "index")
    if file.size > SafetensorsFile.Limits.headerBytes {
      throw scanner.error(
        .limit, seen: "\(file.size) bytes", expected: "at most \(SafetensorsFile.Limits.headerBytes)")
    }
    var map: [String: String]?
    var nameBytes = 0
    try scanner.object(keyLimit: SafetensorsFile.Limits.nameBytes) { scanner, field throws(ModelFileError) in
      guard field == "weight_map" else { return try scanner.skipValue() }
      if map != nil { throw scanner.error(.duplicate, seen: "weight_map a second time", expected: "it once") }
      var result: [String: String] = [:]
      try scanner.object(keyLimit: SafetensorsFile.Limits.nameBytes) { scanner, name throws(ModelFileError) in
        let shard = try scanner.string(atMost: 255)
        // A shard lies in the folder itself: the index must not reach other files of the machine.
        guard shard.hasSuffix(".safetensors"), !shard.contains("/"), !shard.hasPrefix(".") else {
          throw scanner.error(
            seen: "shard '\(ModelFileError.printable(shard))'",
            expected: "the name of a .safetensors file in the folder")
        }
        nameBytes += name.utf8.count + shard.utf8.count
        guard result.count < 16 * SafetensorsFile.Limits.tensors, nameBytes <= 2 * SafetensorsFile.Limits.allNameBytes
        else {
          throw scanner.error(
            .limit, seen: "\(result.count) tensors, \(nameBytes) bytes of names",
            expected: "at most \(2 * SafetensorsFile.Limits.allNameBytes) bytes")
        }
        if result.updateValue(shard, forKey: name) != nil {
          throw scanner.error(
            .duplicate, seen: "tensor '\(ModelFileError.printable(name))' a second time", expected: "each tensor once")
        }
      }
      map = result
    }
    try scanner.expectEnd()
    guard let map, !map.isEmpty else {
      throw scanner.error(.missing, at: 0, seen: "no tensors", expected: "a weight_map with tensors")
    }
    return map
  }
}
