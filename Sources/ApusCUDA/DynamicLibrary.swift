#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// A shared library opened while the process runs; it stays open.
struct DynamicLibrary: @unchecked Sendable {
  // Sendable holds: the handle is immutable, and dlsym may be called from any thread.
  let path: String
  private let handle: UnsafeMutableRawPointer

  /// Opens the first of the candidates that the loader accepts.
  /// - Returns: nil with what the loader said about the last one that it found, or else about the first.
  static func open(_ candidates: [String], global: Bool = false) -> (library: DynamicLibrary?, reason: String) {
    var reason = ""
    for path in candidates {
      if let handle = dlopen(path, RTLD_NOW | (global ? RTLD_GLOBAL : RTLD_LOCAL)) {
        return (DynamicLibrary(path: path, handle: handle), "")
      }
      let said = dlerror().map { String(cString: $0) } ?? "unknown"
      if reason.isEmpty || !said.contains("No such file") { reason = said }
    }
    return (nil, reason)
  }

  func symbol(_ name: String) -> UnsafeMutableRawPointer? { dlsym(handle, name) }
}

/// Entry points of a library by name.
struct EntryPoints {
  let library: String
  let find: (String) -> UnsafeMutableRawPointer?

  /// The entry point as a C function of type `F`, which must be a `@convention(c)` type.
  func function<F>(_ name: String, as type: F.Type = F.self) throws -> F {
    guard let pointer = find(name) else { throw CUDAError.missingEntryPoint(library: library, name: name) }
    return unsafeBitCast(pointer, to: type)
  }
}
