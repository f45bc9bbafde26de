import Foundation

/// Compiled kernels, kept in a folder by what they were compiled from: compiling all takes tens of seconds.
public struct KernelCache: Sendable {
  public let folder: URL

  public init(folder: URL) { self.folder = folder }

  /// The modules for an architecture, from the folder, or compiled and put there.
  ///
  /// A cache that can't be written is no error: the next process compiles again.
  /// - Parameter compiler: made only when something has to be compiled.
  public func modules(
    _ sources: [KernelSource] = KernelSource.all, architecture: String, compiler: () throws -> NVRTC = { try NVRTC() }
  ) throws -> [CUBIN] {
    var made: NVRTC?
    return try sources.map { source in
      let everything = ([source] + KernelSource.headers).map(\.text).joined() + architecture
      let file = folder.appending(path: "\(source.name)-\(architecture)-\(CUBIN.fingerprint(everything.utf8)).cubin")
      if let kept = try? Data(contentsOf: file), let module = try? CUBIN([UInt8](kept)) { return module }
      let nvrtc = try made ?? compiler()
      made = nvrtc
      let bytes = try nvrtc.compile(source, headers: KernelSource.headers, architecture: architecture)
      try? FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
      try? Data(bytes).write(to: file, options: .atomic)
      return try CUBIN(bytes)
    }
  }
}
