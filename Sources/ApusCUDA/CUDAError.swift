/// What can go wrong with a CUDA device, in the driver's own words where it has some.
public enum CUDAError: Error, CustomStringConvertible, Equatable {
  /// The driver's library is not on this machine.
  case noDriver(tried: [String], reason: String)
  /// The driver is there, but no device with this number.
  case noDevice(ordinal: Int, count: Int)
  /// NVRTC is not on this machine.
  case noCompiler(tried: [String], reason: String)
  case missingEntryPoint(library: String, name: String)
  /// A call of the driver failed; `name` and `text` are what it says about the code.
  case driver(call: String, name: String, text: String)
  /// A kernel's source did not compile; `log` is the compiler's.
  case compilation(source: String, architecture: String, name: String, log: String)
  case missingKernel(String)
  case malformedCUBIN(String)
  case unsupported(String)

  public var description: String {
    switch self {
    case .noDriver(let tried, let reason):
      "no CUDA driver here: \(tried.joined(separator: ", ")) can't be opened (\(reason)); install NVIDIA's driver, or leave the device out to compute on the CPU"
    case .noDevice(let ordinal, let count):
      "no CUDA device \(ordinal): the driver sees \(count); check CUDA_VISIBLE_DEVICES"
    case .noCompiler(let tried, let reason):
      "no NVRTC here (\(reason)); tried \(tried.joined(separator: ", ")): pip install nvidia-cuda-nvrtc, or set CUDA_HOME"
    case .missingEntryPoint(let library, let name):
      "\(library) has no \(name): it is older than CUDA 12; update the driver"
    case .driver(let call, let name, let text): "\(call): \(name) (\(text))"
    case .compilation(let source, let architecture, let name, let log):
      "\(source) does not compile for \(architecture): \(name)\n\(log)"
    case .missingKernel(let name): "no loaded module has the kernel \(name)"
    case .malformedCUBIN(let problem): "the compiled kernels are malformed: \(problem)"
    case .unsupported(let what): what
    }
  }
}
