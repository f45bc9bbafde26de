import Foundation

/// NVIDIA's run-time compiler: CUDA C++ to machine code of one architecture, with or without a GPU at hand.
///
/// Looked for in the loader's path, under `CUDA_HOME`, and where PyPI's `nvidia-cuda-nvrtc` puts it in the Python
/// environments that this process can see.
public final class NVRTC: @unchecked Sendable {
  // Sendable holds: the fields are immutable entry points of a library that any thread may call.

  private typealias Program = UnsafeMutableRawPointer
  private typealias Code = Int32
  private typealias Size = @convention(c) (Program?, UnsafeMutablePointer<Int>) -> Code
  private typealias Text = @convention(c) (Program?, UnsafeMutablePointer<CChar>) -> Code
  private typealias Names = UnsafePointer<UnsafePointer<CChar>?>

  /// Where the library was found.
  public let path: String
  /// E.g. (13, 0).
  public let version: (major: Int, minor: Int)
  private let create:
    @convention(c) (
      UnsafeMutablePointer<Program?>, UnsafePointer<CChar>, UnsafePointer<CChar>, Int32, Names?, Names?
    ) -> Code
  private let destroy: @convention(c) (UnsafeMutablePointer<Program?>) -> Code
  private let compileProgram: @convention(c) (Program?, Int32, Names?) -> Code
  private let logSize: Size
  private let log: Text
  private let imageSize: Size
  private let image: Text
  private let errorText: @convention(c) (Code) -> UnsafePointer<CChar>?

  /// Finds and opens the compiler. Throws ``CUDAError/noCompiler(tried:reason:)``.
  public init(environment: [String: String] = ProcessInfo.processInfo.environment) throws {
    let names = ["libnvrtc.so.13", "libnvrtc.so.12"]
    let folders = Self.folders(environment)
    // The compiler opens its built-ins by a bare name, which the loader only finds when they are open already.
    for folder in folders {
      let files = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
      let builtins = files.filter { $0.hasPrefix("libnvrtc-builtins.so.") }.sorted()
      _ = DynamicLibrary.open(builtins.map { folder + "/" + $0 }, global: true)
    }
    let candidates = folders.flatMap { folder in names.map { folder + "/" + $0 } } + names
    let opened = DynamicLibrary.open(candidates)
    guard let library = opened.library else { throw CUDAError.noCompiler(tried: candidates, reason: opened.reason) }
    path = library.path
    let entries = EntryPoints(library: library.path) { library.symbol($0) }
    create = try entries.function("nvrtcCreateProgram")
    destroy = try entries.function("nvrtcDestroyProgram")
    compileProgram = try entries.function("nvrtcCompileProgram")
    logSize = try entries.function("nvrtcGetProgramLogSize")
    log = try entries.function("nvrtcGetProgramLog")
    imageSize = try entries.function("nvrtcGetCUBINSize")
    image = try entries.function("nvrtcGetCUBIN")
    errorText = try entries.function("nvrtcGetErrorString")
    let ask: @convention(c) (UnsafeMutablePointer<Int32>, UnsafeMutablePointer<Int32>) -> Code =
      try entries.function("nvrtcVersion")
    var (major, minor): (Int32, Int32) = (0, 0)
    _ = ask(&major, &minor)
    version = (Int(major), Int(minor))
  }

  /// Folders that may hold the library, those that exist.
  static func folders(_ environment: [String: String]) -> [String] {
    var found: [String] = []
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
      if let home = environment[variable], !home.isEmpty { found += [home + "/lib64", home + "/lib"] }
    }
    var prefixes = ["VIRTUAL_ENV", "CONDA_PREFIX"].compactMap { environment[$0] }.filter { !$0.isEmpty }
    let path = (environment["PATH"] ?? "").split(separator: ":").map { String($0) + "/python3" }
    for python in [environment["APUS_PEER_PYTHON"]].compactMap({ $0 }) + path
    where FileManager.default.isExecutableFile(atPath: python) {
      prefixes.append(URL(filePath: python).deletingLastPathComponent().deletingLastPathComponent().path)
    }
    for prefix in prefixes {
      let libraries = (try? FileManager.default.contentsOfDirectory(atPath: prefix + "/lib")) ?? []
      for version in libraries.sorted() where version.hasPrefix("python3") {
        let packages = "\(prefix)/lib/\(version)/site-packages/nvidia"
        found += [packages + "/cu13/lib", packages + "/cuda_nvrtc/lib"]
      }
    }
    var isFolder: ObjCBool = false
    return found.filter { FileManager.default.fileExists(atPath: $0, isDirectory: &isFolder) && isFolder.boolValue }
  }

  /// Compiles one source with the headers that it includes by name.
  /// - Parameter architecture: e.g. `sm_90`.
  /// - Returns: a CUBIN. PTX is not asked for: a driver older than the compiler may refuse it.
  /// - Throws: ``CUDAError/compilation(source:architecture:name:log:)`` with the compiler's log.
  public func compile(_ source: KernelSource, headers: [KernelSource], architecture: String) throws -> [UInt8] {
    let options = ["--gpu-architecture=\(architecture)", "--std=c++17"]
    var program: Program?
    var code = Self.withCStrings(headers.map(\.text)) { texts in
      Self.withCStrings(headers.map(\.name)) { names in
        create(&program, source.text, source.name, Int32(headers.count), texts, names)
      }
    }
    defer { _ = destroy(&program) }
    if code == 0 { code = Self.withCStrings(options) { compileProgram(program, Int32(options.count), $0) } }
    guard code == 0 else {
      let said = bytes(program, logSize, log).prefix { $0 != 0 }
      throw CUDAError.compilation(
        source: source.name, architecture: architecture, name: errorText(code).map { String(cString: $0) } ?? "\(code)",
        log: String(decoding: said, as: UTF8.self))
    }
    return bytes(program, imageSize, image)
  }

  private func bytes(_ program: Program?, _ size: Size, _ get: Text) -> [UInt8] {
    var count = 0
    guard size(program, &count) == 0, count > 0 else { return [] }
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, used in
      buffer.withMemoryRebound(to: CChar.self) { _ = get(program, $0.baseAddress!) }
      used = count
    }
  }

  private static func withCStrings<R>(_ strings: [String], _ body: (Names?) -> R) -> R {
    let copies = strings.map { strdup($0) }
    defer { copies.forEach { free($0) } }
    let pointers = copies.map { UnsafePointer<CChar>($0) }
    return pointers.withUnsafeBufferPointer { body($0.baseAddress) }
  }
}
