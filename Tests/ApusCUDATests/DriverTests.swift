import Testing

@testable import ApusCUDA

@Suite struct DriverTests {
  @Test func `A machine without a driver says so, and what to do`() throws {
    let opened = DynamicLibrary.open(["libcuda-that-nobody-has.so.1"])
    #expect(opened.library == nil && !opened.reason.isEmpty)
    let text = "\(CUDAError.noDriver(tried: ["libcuda.so.1"], reason: opened.reason))"
    #expect(text.contains("no CUDA driver here") && text.contains("libcuda.so.1") && text.contains("CPU"))
  }
}
