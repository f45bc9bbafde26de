import Foundation
import Testing

@testable import ApusCUDA

private let compiler = try? NVRTC()

/// What NVIDIA's compiler says about the kernels, without a GPU.
@Suite struct CompilationTests {
  static let kernels: Set<String> = {
    var names: Set<String> = []
    for elements in ["f32", "bf16"] {
      for rank in [16, 32, 48, 64] { names.insert("attention_\(elements)_\(rank)") }
      for width in [128, 192, 256] { names.insert("feed_forward_\(elements)_\(width)") }
      for name in ["linear", "gather", "layer_norm", "activate", "add", "pool"] { names.insert("\(name)_\(elements)") }
    }
    return names
  }()

  @Test(
    .enabled(if: compiler != nil, "no NVRTC here: pip install nvidia-cuda-nvrtc into the Python of APUS_PEER_PYTHON"),
    arguments: [("sm_80", 163), ("sm_90", 227)])
  func `Every kernel compiles to machine code that fits the architecture`(
    architecture: String, sharedKilobytes: Int
  ) throws {
    let nvrtc = try #require(compiler)
    let modules = try TestDevice.kernels.modules(architecture: architecture) { nvrtc }
    let kernels = modules.flatMap(\.kernels).sorted { $0.name < $1.name }
    #expect(Set(kernels.map(\.name)) == Self.kernels)
    print("NVRTC \(nvrtc.version.major).\(nvrtc.version.minor), \(architecture)")
    print("  CUBINs \(CUBIN.fingerprint(modules.flatMap(\.bytes)))")
    for kernel in kernels {
      let shared = try #require(kernel.sharedBytes, "\(kernel.name) does not say how much shared memory it needs")
      print(
        "  \(kernel.name.padding(toLength: 22, withPad: " ", startingAt: 0)) \(kernel.codeBytes) bytes, "
          + "\(kernel.registers) registers, \(shared) bytes of shared memory")
      // 256 threads share 65,536 registers.
      #expect(kernel.codeBytes > 0 && kernel.registers > 0 && kernel.registers <= 255)
      #expect(shared <= sharedKilobytes << 10)
    }
    let gpu = (try? CUDADriver.system()).flatMap { try? CUDAContext($0) }
    print(gpu.map { "on \($0.name)" } ?? "compiled and emulated only: no CUDA driver here")
  }

  @Test(.enabled(if: compiler != nil, "no NVRTC here"))
  func `A source that does not compile gives the compiler's own words`() throws {
    let nvrtc = try #require(compiler)
    var source = KernelSource.all[0]
    source.text += "\n__global__ void broken() { undeclared = 1; }\n"
    #expect {
      try nvrtc.compile(source, headers: KernelSource.headers, architecture: "sm_90")
    } throws: { error in
      guard case .compilation(let name, "sm_90", _, let log) = error as? CUDAError else { return false }
      return name == source.name && log.contains("undeclared")
    }
  }

  @Test func `A module that is no ELF file, or a cut one, is refused`() throws {
    #expect(throws: CUDAError.self) { try CUBIN([]) }
    #expect(throws: CUDAError.self) { try CUBIN([1, 2, 3]) }
    #expect(throws: CUDAError.self) { try CUBIN([0x7f, 0x45, 0x4c, 0x46, 2] + Array(repeating: 0xff, count: 80)) }
  }

  @Test(.enabled(if: compiler != nil, "no NVRTC here")) func `Compiled kernels are kept, and made anew when damaged`()
    throws
  {
    let folder = FileManager.default.temporaryDirectory.appending(path: "apus-cuda-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: folder) }
    let cache = KernelCache(folder: folder)
    let sources = [try #require(KernelSource.all.first { $0.name == "linear_f32.cu" })]
    let first = try cache.modules(sources, architecture: "sm_90")
    let again = try cache.modules(sources, architecture: "sm_90") { throw CUDAError.missingKernel("not asked") }
    #expect(first[0].bytes == again[0].bytes && first[0].fingerprint == again[0].fingerprint)
    let file = try #require(FileManager.default.contentsOfDirectory(atPath: folder.path).first)
    try Data([1, 2, 3]).write(to: folder.appending(path: file))
    #expect(try cache.modules(sources, architecture: "sm_90")[0].kernels == first[0].kernels)
  }
}
