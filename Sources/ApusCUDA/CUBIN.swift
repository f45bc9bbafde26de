/// What a compiled module says about its kernels: an ELF file of NVIDIA's, read as far as that takes.
public struct CUBIN: Sendable {
  public struct Kernel: Sendable, Hashable {
    public var name: String
    /// Of machine code.
    public var codeBytes: Int
    /// Of a thread.
    public var registers: Int
    /// That a launch must give, where the module says so in a variable `NAME_shared`.
    public var sharedBytes: Int?
  }

  public let bytes: [UInt8]
  /// In the order of their names.
  public let kernels: [Kernel]

  /// Throws ``CUDAError/malformedCUBIN(_:)``.
  public init(_ bytes: [UInt8]) throws {
    self.bytes = bytes
    kernels = try Reader(bytes: bytes).kernels()
  }

  /// A short name for exactly these bytes (FNV-1a, 64 bits).
  public var fingerprint: String { Self.fingerprint(bytes) }

  static func fingerprint(_ bytes: some Sequence<UInt8>) -> String {
    let hash = bytes.reduce(UInt64(0xcbf2_9ce4_8422_2325)) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
    let text = String(hash, radix: 16)
    return String(repeating: "0", count: 16 - text.count) + text
  }

  private struct Section {
    var name: String
    var offset: Int
    var size: Int
  }

  private struct Reader {
    let bytes: [UInt8]

    func number(_ offset: Int, _ width: Int) throws -> Int {
      guard offset >= 0, offset <= bytes.count - width else {
        throw CUDAError.malformedCUBIN("\(width) bytes at \(offset) of \(bytes.count)")
      }
      return Int(truncatingIfNeeded: (0..<width).reduce(UInt64(0)) { $0 | UInt64(bytes[offset + $1]) << (8 * $1) })
    }

    func text(_ offset: Int) throws -> String {
      guard offset >= 0, offset < bytes.count else {
        throw CUDAError.malformedCUBIN("a name at \(offset) of \(bytes.count) bytes")
      }
      return String(decoding: bytes[offset...].prefix { $0 != 0 }, as: UTF8.self)
    }

    func sections() throws -> [Section] {
      guard bytes.starts(with: [0x7f, 0x45, 0x4c, 0x46, 2]) else {
        throw CUDAError.malformedCUBIN("not a 64-bit ELF file")
      }
      let (table, count, names) = (try number(0x28, 8), try number(0x3c, 2), try number(0x3e, 2))
      let nameTable = try number(table + 64 * names + 24, 8)
      return try (0..<count).map { i in
        let header = table + 64 * i
        return Section(
          name: try text(nameTable + number(header, 4)), offset: try number(header + 24, 8),
          size: try number(header + 32, 8))
      }
    }

    func kernels() throws -> [Kernel] {
      let sections = try sections()
      func section(_ name: String) -> Section? { sections.first { $0.name == name } }
      guard let symbols = section(".symtab"), let strings = section(".strtab") else {
        throw CUDAError.malformedCUBIN("no table of symbols")
      }
      var names: [Int: String] = [:]
      var shared: [String: Int] = [:]
      for i in 0..<symbols.size / 24 {
        let symbol = symbols.offset + 24 * i
        let name = try text(strings.offset + number(symbol, 4))
        names[i] = name
        let (place, value) = (try number(symbol + 6, 2), try number(symbol + 8, 8))
        if name.hasSuffix("_shared"), place > 0, place < sections.count {
          shared[String(name.dropLast("_shared".count))] = try number(sections[place].offset + value, 4)
        }
      }
      let registers = try registers(section(".nv.info"), names)
      return sections.filter { $0.name.hasPrefix(".text.") }.map { code in
        let name = String(code.name.dropFirst(".text.".count))
        return Kernel(name: name, codeBytes: code.size, registers: registers[name] ?? 0, sharedBytes: shared[name])
      }.sorted { $0.name < $1.name }
    }

    /// By kernel, from the attributes of the module: a format, a kind, and for format 4 a size and so many bytes.
    private func registers(_ info: Section?, _ names: [Int: String]) throws -> [String: Int] {
      guard let info else { return [:] }
      var found: [String: Int] = [:]
      var at = info.offset
      while at + 4 <= info.offset + info.size {
        let (format, kind) = (try number(at, 1), try number(at + 1, 1))
        guard format == 4 else {
          at += 4
          continue
        }
        let registerCount = 0x2f
        if kind == registerCount, let name = names[try number(at + 4, 4)] { found[name] = try number(at + 8, 4) }
        at += 4 + (try number(at + 2, 2))
      }
      return found
    }
  }
}
