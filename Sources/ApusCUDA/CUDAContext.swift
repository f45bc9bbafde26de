import ApusCompute

/// One GPU: its context, and the kernels that were loaded for it.
public final class CUDAContext {
  public let driver: CUDADriver
  /// As the driver calls the GPU.
  public let name: String
  /// What kernels are compiled for, e.g. `sm_90`.
  public let architecture: String
  private let context: CUDADriver.Handle
  private var modules: [CUDADriver.Handle] = []
  private var functions: [String: Function] = [:]

  private struct Function {
    var handle: CUDADriver.Handle
    var sharedBytes: Int
  }

  /// Threads of a block, in every kernel (`kThreads`).
  static let threads = 256

  /// - Parameter ordinal: which of the devices that the driver sees.
  public init(_ driver: CUDADriver, ordinal: Int = 0) throws {
    self.driver = driver
    let device = try driver.device(ordinal)
    name = try driver.name(of: device)
    let major = try driver.attribute(.capabilityMajor, of: device)
    let minor = try driver.attribute(.capabilityMinor, of: device)
    guard major >= 8 else {
      throw CUDAError.unsupported(
        "\(name) has compute capability \(major).\(minor); the kernels need 8.0 (asynchronous copies, bf16)")
    }
    architecture = "sm_\(major)\(minor)"
    context = try driver.retainContext(of: device)
    try use()
  }

  deinit { modules.forEach { driver.unload($0) } }

  /// Makes the calling thread's calls go to this GPU.
  func use() throws { try driver.use(context) }

  /// Adds the kernels of a compiled module.
  public func load(_ image: [UInt8]) throws {
    try use()
    modules.append(try driver.load(image))
    fingerprint = CUBIN.fingerprint(fingerprint.utf8 + image)
  }

  /// A short name for exactly the kernels that are loaded.
  public private(set) var fingerprint = ""

  /// Bytes that are free, and all.
  public func memory() throws -> (free: Int, total: Int) {
    try use()
    return try driver.memory()
  }

  /// What kernels take.
  enum Argument {
    case address(CUDADriver.Address)
    case int(Int)
    case float(Float)

    /// Null, where the tensor is absent.
    static func tensor(_ x: Tensor?) -> Argument {
      .address(x.map { CUDADriver.Address(UInt(bitPattern: $0.base)) } ?? 0)
    }

    /// The eight bytes of which a kernel reads as many as its parameter has; little-endian, so the first.
    fileprivate var bits: UInt64 {
      switch self {
      case .address(let address): address
      case .int(let value): UInt64(UInt32(bitPattern: Int32(value)))
      case .float(let value): UInt64(value.bitPattern)
      }
    }
  }

  /// Starts a kernel; it runs after those started before.
  func launch(_ name: String, grid: (Int, Int, Int), _ arguments: [Argument]) throws {
    let function = try function(name)
    var values = arguments.map(\.bits)
    try values.withUnsafeMutableBufferPointer { values in
      var pointers = values.indices.map { UnsafeMutableRawPointer?(values.baseAddress! + $0) }
      try driver.launch(
        function.handle, name: name, grid: grid, threads: Self.threads, sharedBytes: function.sharedBytes, &pointers)
    }
  }

  private func function(_ name: String) throws -> Function {
    if let known = functions[name] { return known }
    for module in modules {
      guard let handle = driver.function(name, in: module) else { continue }
      let sharedBytes = try driver.variable(name + "_shared", in: module)
      // What a launch may ask for without a word.
      if sharedBytes > 48 << 10 { try driver.allow(sharedBytes: sharedBytes, for: handle) }
      let function = Function(handle: handle, sharedBytes: sharedBytes)
      functions[name] = function
      return function
    }
    throw CUDAError.missingKernel(name)
  }
}

/// Memory of a GPU, freed with the last tensor that refers to it.
final class CUDAStorage: Storage, @unchecked Sendable {
  // Sendable holds: the fields are immutable, and the driver may be called from any thread.
  private let context: CUDAContextReference
  private let ledger: MemoryLedger?
  private let line: MemoryLedger.Line

  /// Throws ``CUDAError/driver(call:name:text:)`` when there is no room.
  init(bytes: Int, on context: CUDAContext, ledger: MemoryLedger?, line: MemoryLedger.Line) throws {
    try context.use()
    let address = try context.driver.allocate(max(bytes, 16))
    self.context = CUDAContextReference(context: context)
    self.ledger = ledger
    self.line = line
    super.init(base: UnsafeMutableRawPointer(bitPattern: UInt(address))!, byteCount: bytes, isHostMemory: false)
    ledger?.add(bytes, to: line)
  }

  deinit {
    try? context.context.use()
    context.context.driver.free(CUDADriver.Address(UInt(bitPattern: base)))
    ledger?.add(-byteCount, to: line)
  }
}

/// Keeps a context for the memory in it.
private struct CUDAContextReference: @unchecked Sendable {
  // Sendable holds: only `use` and the driver are called through it, which any thread may do.
  let context: CUDAContext
}
