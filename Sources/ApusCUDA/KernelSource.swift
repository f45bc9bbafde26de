/// A file of CUDA C++ that this library carries.
public struct KernelSource: Sendable, Hashable {
  /// The file's name.
  public var name: String
  public var text: String

  private init(_ name: String, _ bytes: [UInt8]) {
    self.name = name
    text = String(decoding: bytes, as: UTF8.self)
  }

  /// What kernels include.
  public static let headers = [
    KernelSource("common.cuh", PackageResources.common_cuh),
    KernelSource("tile_f32.cuh", PackageResources.tile_f32_cuh),
    KernelSource("tile_bf16.cuh", PackageResources.tile_bf16_cuh),
  ]

  /// The kernels, one file a module.
  public static let all = [
    KernelSource("attention_f32.cu", PackageResources.attention_f32_cu),
    KernelSource("attention_bf16.cu", PackageResources.attention_bf16_cu),
    KernelSource("feed_forward_f32.cu", PackageResources.feed_forward_f32_cu),
    KernelSource("feed_forward_bf16.cu", PackageResources.feed_forward_bf16_cu),
    KernelSource("linear_f32.cu", PackageResources.linear_f32_cu),
    KernelSource("linear_bf16.cu", PackageResources.linear_bf16_cu),
    KernelSource("rows.cu", PackageResources.rows_cu),
  ]

  /// Those that a device of this kind of elements runs.
  static func all(for elements: CUDADevice.Elements) -> [KernelSource] {
    let others = CUDADevice.Elements.allCases.filter { $0 != elements }
    return all.filter { source in !others.contains { source.name.contains("_\($0.rawValue)") } }
  }
}
