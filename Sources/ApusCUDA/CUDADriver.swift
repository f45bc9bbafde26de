/// The CUDA driver's interface, found while the process runs: no header, nothing to link.
///
/// Names that the driver versions end in `_v2`: the bare ones are the 32-bit interface of old.
public final class CUDADriver: @unchecked Sendable {
  // Sendable holds: the fields are immutable entry points of a library that any thread may call.

  /// An address in a device's memory.
  public typealias Address = UInt64
  /// A context, module, function, stream or event.
  typealias Handle = UnsafeMutableRawPointer

  typealias Code = Int32
  private let errorName: @convention(c) (Code, UnsafeMutablePointer<UnsafePointer<CChar>?>) -> Code
  private let errorText: @convention(c) (Code, UnsafeMutablePointer<UnsafePointer<CChar>?>) -> Code
  private let driverVersion: @convention(c) (UnsafeMutablePointer<Int32>) -> Code
  private let deviceCount: @convention(c) (UnsafeMutablePointer<Int32>) -> Code
  private let deviceGet: @convention(c) (UnsafeMutablePointer<Int32>, Int32) -> Code
  private let deviceName: @convention(c) (UnsafeMutablePointer<CChar>, Int32, Int32) -> Code
  private let deviceAttribute: @convention(c) (UnsafeMutablePointer<Int32>, Int32, Int32) -> Code
  private let contextRetain: @convention(c) (UnsafeMutablePointer<Handle?>, Int32) -> Code
  private let contextSetCurrent: @convention(c) (Handle?) -> Code
  private let contextSynchronize: @convention(c) () -> Code
  private let moduleLoad: @convention(c) (UnsafeMutablePointer<Handle?>, UnsafeRawPointer) -> Code
  private let moduleUnload: @convention(c) (Handle?) -> Code
  private let moduleFunction: @convention(c) (UnsafeMutablePointer<Handle?>, Handle?, UnsafePointer<CChar>) -> Code
  private let moduleGlobal:
    @convention(c) (UnsafeMutablePointer<Address>, UnsafeMutablePointer<Int>, Handle?, UnsafePointer<CChar>) -> Code
  private let functionSetAttribute: @convention(c) (Handle?, Int32, Int32) -> Code
  private let memoryInfo: @convention(c) (UnsafeMutablePointer<Int>, UnsafeMutablePointer<Int>) -> Code
  private let memoryAllocate: @convention(c) (UnsafeMutablePointer<Address>, Int) -> Code
  private let memoryFree: @convention(c) (Address) -> Code
  private let copyToDevice: @convention(c) (Address, UnsafeRawPointer, Int) -> Code
  private let copyToHost: @convention(c) (UnsafeMutableRawPointer, Address, Int) -> Code
  private let memorySet: @convention(c) (Address, UInt8, Int) -> Code
  private let launchKernel:
    @convention(c) (
      Handle?, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, Handle?,
      UnsafeMutablePointer<UnsafeMutableRawPointer?>?, UnsafeMutablePointer<UnsafeMutableRawPointer?>?
    ) -> Code

  static let libraries = ["libcuda.so.1"]

  /// The driver of this machine. Throws ``CUDAError/noDriver(tried:reason:)`` where there is none.
  public static func system() throws -> CUDADriver {
    let opened = DynamicLibrary.open(libraries)
    guard let library = opened.library else { throw CUDAError.noDriver(tried: libraries, reason: opened.reason) }
    return try CUDADriver(library: library.path) { library.symbol($0) }
  }

  /// A driver whose entry points `find` gives, initialised.
  public init(library: String, find: @escaping (String) -> UnsafeMutableRawPointer?) throws {
    let entries = EntryPoints(library: library, find: find)
    errorName = try entries.function("cuGetErrorName")
    errorText = try entries.function("cuGetErrorString")
    driverVersion = try entries.function("cuDriverGetVersion")
    deviceCount = try entries.function("cuDeviceGetCount")
    deviceGet = try entries.function("cuDeviceGet")
    deviceName = try entries.function("cuDeviceGetName")
    deviceAttribute = try entries.function("cuDeviceGetAttribute")
    contextRetain = try entries.function("cuDevicePrimaryCtxRetain")
    contextSetCurrent = try entries.function("cuCtxSetCurrent")
    contextSynchronize = try entries.function("cuCtxSynchronize")
    moduleLoad = try entries.function("cuModuleLoadData")
    moduleUnload = try entries.function("cuModuleUnload")
    moduleFunction = try entries.function("cuModuleGetFunction")
    moduleGlobal = try entries.function("cuModuleGetGlobal_v2")
    functionSetAttribute = try entries.function("cuFuncSetAttribute")
    memoryInfo = try entries.function("cuMemGetInfo_v2")
    memoryAllocate = try entries.function("cuMemAlloc_v2")
    memoryFree = try entries.function("cuMemFree_v2")
    copyToDevice = try entries.function("cuMemcpyHtoD_v2")
    copyToHost = try entries.function("cuMemcpyDtoH_v2")
    memorySet = try entries.function("cuMemsetD8_v2")
    launchKernel = try entries.function("cuLaunchKernel")
    let initialise: @convention(c) (UInt32) -> Code = try entries.function("cuInit")
    try check(initialise(0), "cuInit")
  }

  private func check(_ code: Code, _ call: @autoclosure () -> String) throws {
    guard code != 0 else { return }
    func say(_ ask: @convention(c) (Code, UnsafeMutablePointer<UnsafePointer<CChar>?>) -> Code) -> String {
      var text: UnsafePointer<CChar>?
      guard ask(code, &text) == 0, let text else { return "code \(code)" }
      return String(cString: text)
    }
    throw CUDAError.driver(call: call(), name: say(errorName), text: say(errorText))
  }

  // MARK: devices

  /// The newest CUDA that the driver runs, e.g. 13000 for 13.0.
  public func version() throws -> Int {
    var version: Int32 = 0
    try check(driverVersion(&version), "cuDriverGetVersion")
    return Int(version)
  }

  func device(_ ordinal: Int) throws -> Int32 {
    var count: Int32 = 0
    try check(deviceCount(&count), "cuDeviceGetCount")
    guard ordinal >= 0 && ordinal < Int(count) else { throw CUDAError.noDevice(ordinal: ordinal, count: Int(count)) }
    var device: Int32 = 0
    try check(deviceGet(&device, Int32(ordinal)), "cuDeviceGet")
    return device
  }

  func name(of device: Int32) throws -> String {
    var name = [CChar](repeating: 0, count: 256)
    try check(deviceName(&name, Int32(name.count), device), "cuDeviceGetName")
    return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  enum Attribute: Int32 {
    case capabilityMajor = 75
    case capabilityMinor = 76
    /// Bytes that a kernel may ask for.
    case sharedMemory = 97
  }

  func attribute(_ attribute: Attribute, of device: Int32) throws -> Int {
    var value: Int32 = 0
    try check(deviceAttribute(&value, attribute.rawValue, device), "cuDeviceGetAttribute \(attribute)")
    return Int(value)
  }

  func retainContext(of device: Int32) throws -> Handle {
    var context: Handle?
    try check(contextRetain(&context, device), "cuDevicePrimaryCtxRetain")
    return context!
  }

  /// Makes the calling thread's calls go to this context.
  func use(_ context: Handle) throws { try check(contextSetCurrent(context), "cuCtxSetCurrent") }

  /// Waits for everything asked of the current context.
  func synchronize() throws { try check(contextSynchronize(), "cuCtxSynchronize") }

  // MARK: modules

  func load(_ image: [UInt8]) throws -> Handle {
    var module: Handle?
    try check(image.withUnsafeBytes { moduleLoad(&module, $0.baseAddress!) }, "cuModuleLoadData")
    return module!
  }

  func unload(_ module: Handle) { _ = moduleUnload(module) }

  /// Nil when the module has none of this name.
  func function(_ name: String, in module: Handle) -> Handle? {
    var function: Handle?
    return moduleFunction(&function, module, name) == 0 ? function : nil
  }

  /// An `int` of a module.
  func variable(_ name: String, in module: Handle) throws -> Int {
    var (address, bytes, value): (Address, Int, Int32) = (0, 0, 0)
    try check(moduleGlobal(&address, &bytes, module, name), "cuModuleGetGlobal \(name)")
    try read(&value, from: address, bytes: MemoryLayout<Int32>.size)
    return Int(value)
  }

  /// Lets launches of the function ask for more shared memory than 48 KB.
  func allow(sharedBytes: Int, for function: Handle) throws {
    let maxDynamicSharedSize: Int32 = 8
    try check(
      functionSetAttribute(function, maxDynamicSharedSize, Int32(sharedBytes)),
      "cuFuncSetAttribute: \(sharedBytes) bytes of shared memory")
  }

  func launch(
    _ function: Handle, name: String, grid: (Int, Int, Int), threads: Int, sharedBytes: Int,
    _ arguments: UnsafeMutablePointer<UnsafeMutableRawPointer?>
  ) throws {
    try check(
      launchKernel(
        function, UInt32(grid.0), UInt32(grid.1), UInt32(grid.2), UInt32(threads), 1, 1, UInt32(sharedBytes), nil,
        arguments, nil), "cuLaunchKernel \(name), grid \(grid)")
  }

  // MARK: memory

  /// Bytes of the current context's device that are free, and all.
  func memory() throws -> (free: Int, total: Int) {
    var (free, total) = (0, 0)
    try check(memoryInfo(&free, &total), "cuMemGetInfo")
    return (free, total)
  }

  func allocate(_ bytes: Int) throws -> Address {
    var address: Address = 0
    try check(memoryAllocate(&address, bytes), "cuMemAlloc of \(bytes) bytes")
    return address
  }

  func free(_ address: Address) { _ = memoryFree(address) }

  func write(_ source: UnsafeRawPointer, to address: Address, bytes: Int) throws {
    try check(copyToDevice(address, source, bytes), "cuMemcpyHtoD of \(bytes) bytes")
  }

  func read(_ target: UnsafeMutableRawPointer, from address: Address, bytes: Int) throws {
    try check(copyToHost(target, address, bytes), "cuMemcpyDtoH of \(bytes) bytes")
  }

  func clear(_ address: Address, bytes: Int) throws {
    try check(memorySet(address, 0, bytes), "cuMemsetD8 of \(bytes) bytes")
  }
}
