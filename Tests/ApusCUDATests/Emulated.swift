import ApusCompute
import CUDAEmulator
import Foundation

@testable import ApusCUDA

/// The devices that tests run on.
enum TestDevice {
  /// A device whose kernels are the same sources, compiled for this processor.
  static func emulated() throws -> CUDAContext {
    let driver = try CUDADriver(library: "the emulator") { emulated_symbol($0) }
    let context = try CUDAContext(driver)
    // The emulator has its kernels linked in and looks at no image.
    try context.load([0])
    return context
  }

  /// The emulated device, and the GPU of this machine where there is one, which then has to pass too.
  static func all(_ elements: CUDADevice.Elements) throws -> [CUDADevice] {
    let emulated = try emulated(elements)
    guard let driver = try? CUDADriver.system() else { return [emulated] }
    let gpu = try CUDAContext(driver)
    for module in try kernels.modules(KernelSource.all(for: elements), architecture: gpu.architecture) {
      try gpu.load(module.bytes)
    }
    return [emulated, CUDADevice(gpu, elements: elements, ledger: MemoryLedger())]
  }

  /// Compiled once for as long as the sources stay as they are.
  static let kernels = KernelCache(
    folder: URL(filePath: #filePath).appending(path: "../../../.build/cuda-kernels").standardizedFileURL)

  static func emulated(_ elements: CUDADevice.Elements, ledger: MemoryLedger = MemoryLedger()) throws -> CUDADevice {
    CUDADevice(try emulated(), elements: elements, ledger: ledger)
  }

  /// A missing barrier shows when threads run in one order or in the other.
  static func order(descending: Bool) { emulated_order(descending ? 1 : 0) }
}

/// A small seeded generator (SplitMix64), so that a failing case can be repeated.
struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// Uniform in −√3…√3: mean 0, variance 1.
  mutating func float() -> Float { Float.random(in: -1.7320508...1.7320508, using: &self) }
}

/// A matrix in f64 that a device has rounded to what it computes with: what references start from.
struct Reference {
  var rows: Int
  var columns: Int
  var elements: [Double]

  subscript(row: Int, column: Int) -> Double {
    get { elements[row * columns + column] }
    set { elements[row * columns + column] = newValue }
  }

  init(_ rows: Int, _ columns: Int, _ elements: [Double]) {
    self.rows = rows
    self.columns = columns
    self.elements = elements
  }

  init(zeros rows: Int, _ columns: Int) {
    self.init(rows, columns, Array(repeating: 0, count: rows * columns))
  }

  /// self · otherᵀ.
  func product(_ other: Reference) -> Reference {
    var out = Reference(zeros: rows, other.rows)
    for i in 0..<rows {
      for j in 0..<other.rows {
        var sum = 0.0
        for k in 0..<columns { sum += self[i, k] * other[j, k] }
        out[i, j] = sum
      }
    }
    return out
  }

  func plus(_ bias: [Double]?) -> Reference {
    guard let bias else { return self }
    var out = self
    for i in 0..<rows { for j in 0..<columns { out[i, j] += bias[j] } }
    return out
  }
}

/// Random numbers on a device, and the same in f64.
struct Operands {
  let device: CUDADevice
  var generator: SeededGenerator

  mutating func matrix(
    _ rows: Int, _ columns: Int, scale: Float = 1, kind: ParameterKind = .matrix
  ) throws -> (tensor: Tensor, reference: Reference) {
    let values = (0..<rows * columns).map { _ in generator.float() * scale }
    let tensor = try device.resident(Tensor(rows, columns, values), kind)
    return (tensor, Reference(rows, columns, try device.read(tensor).map(Double.init)))
  }

  mutating func vector(_ count: Int) throws -> (tensor: Tensor, reference: [Double]) {
    let made = try matrix(1, count, kind: .vector)
    return (made.tensor, made.reference.elements)
  }
}

/// How far a result is from its reference.
struct Difference {
  /// ‖x − reference‖ / ‖reference‖.
  var relative: Double
  /// The greatest |x − reference| that rounding the result to its kind does not explain, over the greatest |reference|.
  var unexplained: Double

  init(_ x: [Float], _ reference: Reference, _ elements: CUDADevice.Elements) {
    // Half a unit in the last of 8 or 24 bits.
    let rounding = elements == .bf16 ? 0x1p-8 : 0x1p-24
    var (squares, all, greatest, worst) = (0.0, 0.0, 0.0, 0.0)
    for (seen, expected) in zip(x, reference.elements) {
      let off = abs(Double(seen) - expected)
      squares += off * off
      all += expected * expected
      greatest = max(greatest, abs(expected))
      // A NaN is no number's neighbour.
      worst = off.isNaN ? .infinity : max(worst, off - rounding * abs(expected))
    }
    relative = all > 0 ? (squares / all).squareRoot() : squares.squareRoot()
    unexplained = greatest > 0 ? worst / greatest : worst
  }
}
