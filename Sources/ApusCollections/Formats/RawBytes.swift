// The only file of this folder with pointers: what POSIX and zlib need, and the conversion of rows.
import CZlib

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// An open regular file that is read by position, into buffers of the caller.
///
/// Not mapped: when another process shortens a mapped file, the next access ends this process with SIGBUS; a read gives
/// an error. It also keeps memory at the size of the buffers for files of any size.
final class FileBytes: Sendable {
  let path: String
  /// Bytes in the file when it was opened.
  let count: Int
  private let descriptor: Int32

  init(path: String) throws(VectorFileError) {
    func failure(_ seen: String) -> VectorFileError {
      VectorFileError(
        path: path, field: "file", seen: seen, expected: "a readable regular file", wayOut: "check the path")
    }
    // O_NONBLOCK: opening a FIFO must not wait for a writer.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw failure(errorText()) }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
      close(descriptor)
      throw failure(status.st_mode & S_IFMT == S_IFDIR ? "a directory" : "something that is not a regular file")
    }
    self.path = path
    self.descriptor = descriptor
    count = Int(status.st_size)
  }

  deinit { close(descriptor) }

  /// Makes `bytes` the `count` bytes from `offset` on, which the file must have had when it was opened.
  func read(_ count: Int, at offset: Int, into bytes: inout [UInt8]) throws(VectorFileError) {
    precondition(offset >= 0 && count >= 0 && offset <= self.count - count)
    resize(&bytes, to: count, filler: 0)
    var done = 0
    while done < count {
      let got = bytes.withUnsafeMutableBytes { pread(descriptor, $0.baseAddress! + done, count - done, offset + done) }
      if got < 0 && errno == EINTR { continue }
      guard got > 0 else {
        throw VectorFileError(
          path: path, field: "byte \(offset + done)", seen: got < 0 ? errorText() : "the end of the file",
          expected: "the \(self.count) bytes that were there at the start",
          wayOut: "leave the file alone while it is read")
      }
      done += got
    }
  }
}

/// The text of the last failed system call.
func errorText() -> String { String(cString: strerror(errno)) }

/// Gives `array` exactly `count` elements and keeps its memory where it can; the contents are not kept.
private func resize<T>(_ array: inout [T], to count: Int, filler: T) {
  if array.count > count { array.removeLast(array.count - count) }
  if array.count < count { array = [T](repeating: filler, count: count) }
}

/// Writes all of `bytes`; false leaves the reason in `errorText()`.
func writeAll(_ bytes: [UInt8], to descriptor: Int32) -> Bool {
  var done = 0
  while done < bytes.count {
    let count = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress! + done, $0.count - done) }
    if count < 0 && errno == EINTR { continue }
    if count <= 0 { return false }
    done += count
  }
  return true
}

/// Appends the bytes of `values` as they lie in memory: little-endian on every machine that Apus runs on.
func appendBytes<T: BitwiseCopyable>(of values: [T], to bytes: inout [UInt8]) {
  values.withUnsafeBytes { bytes.append(contentsOf: $0) }
}

// MARK: - zlib

/// `checksum` carried on over `bytes`; starts at 0.
func crc32(_ checksum: UInt32, _ bytes: [UInt8]) -> UInt32 {
  bytes.withUnsafeBufferPointer { UInt32(CZlib.crc32_z(UInt(checksum), $0.baseAddress, $0.count)) }
}

/// A raw deflate stream, unpacked in steps.
final class Inflater {
  enum Status { case progress, needsInput, ended, broken }

  // On the heap: zlib keeps a pointer back to it.
  private let stream = UnsafeMutablePointer<z_stream>.allocate(capacity: 1)
  private var input: [UInt8] = []

  init() {
    stream.initialize(to: z_stream())
    // Fails only without memory, as every allocation does.
    precondition(apus_inflate_init_raw(stream) == Z_OK)
  }

  deinit {
    inflateEnd(stream)
    stream.deallocate()
  }

  /// Gives the next piece of the packed data, once `step` has asked for it.
  func feed(_ bytes: [UInt8]) {
    input = bytes
    stream.pointee.avail_in = UInt32(bytes.count)
  }

  /// Unpacks into `bytes[start...]`.
  func step(into bytes: inout [UInt8], from start: Int) -> (count: Int, status: Status) {
    let room = min(bytes.count - start, Int(UInt32.max))
    let code = input.withUnsafeMutableBufferPointer { input in
      bytes.withUnsafeMutableBufferPointer { output in
        stream.pointee.next_in = input.baseAddress.map { $0 + (input.count - Int(stream.pointee.avail_in)) }
        stream.pointee.next_out = output.baseAddress.map { $0 + start }
        stream.pointee.avail_out = UInt32(room)
        return inflate(stream, Z_NO_FLUSH)
      }
    }
    let count = room - Int(stream.pointee.avail_out)
    switch code {
    case Z_STREAM_END: return (count, .ended)
    case Z_OK, Z_BUF_ERROR: return (count, count == 0 && stream.pointee.avail_in == 0 ? .needsInput : .progress)
    default: return (count, .broken)
    }
  }
}

// MARK: - Rows of numbers

extension Float: ArrayElement {
  public static var elementType: ElementType { .float32 }

  public static func decode(_ rows: EncodedRows, into values: inout [Float]) -> Int? {
    switch rows.type {
    case .float16: convert(rows, &values, widen)
    case .float32: convert(rows, &values) { (x: Float) in x }
    case .float64: convert(rows, &values) { (x: Double) in Float(x) }
    case .int8: convert(rows, &values) { (x: Int8) in Float(x) }
    case .bool, .uint8: convert(rows, &values) { (x: UInt8) in Float(x) }
    case .int32: convert(rows, &values) { (x: Int32) in Float(x) }
    case .uint32: convert(rows, &values) { (x: UInt32) in Float(x) }
    case .int64: convert(rows, &values) { (x: Int64) in Float(x) }
    case .uint64: convert(rows, &values) { (x: UInt64) in Float(x) }
    }
    return nil
  }
}

extension Int64: ArrayElement {
  public static var elementType: ElementType { .int64 }

  public static func decode(_ rows: EncodedRows, into values: inout [Int64]) -> Int? {
    switch rows.type {
    case .int8: convert(rows, &values) { (x: Int8) in Int64(x) }
    case .uint8: convert(rows, &values) { (x: UInt8) in Int64(x) }
    case .int32: convert(rows, &values) { (x: Int32) in Int64(x) }
    case .uint32: convert(rows, &values) { (x: UInt32) in Int64(x) }
    case .int64: convert(rows, &values) { (x: Int64) in x }
    case .uint64:
      convert(rows, &values) { (x: UInt64) in Int64(bitPattern: x) }
      return values.firstIndex { $0 < 0 }
    case .bool, .float16, .float32, .float64: preconditionFailure("refused when the file was opened")
    }
    return nil
  }
}

/// The float of a half's bits. Integer work and one product, so that it compiles to SIMD on any CPU level: the exponent's
/// bias differs by 112, and halves from 65,536 up are the infinities and NaNs.
@inline(__always)
private func widen(_ half: UInt16) -> Float {
  let scaled = Float(bitPattern: UInt32(half & 0x7FFF) << 13) * 0x1p112
  let special: UInt32 = scaled >= 65_536 ? 0x7F80_0000 : 0
  return Float(bitPattern: scaled.bitPattern | special | UInt32(half & 0x8000) << 16)
}

@inline(__always)
private func convert<Source: BitwiseCopyable, Value: BitwiseCopyable & ExpressibleByIntegerLiteral>(
  _ encoded: EncodedRows, _ values: inout [Value], _ transform: (Source) -> Value
) {
  let (columns, size) = (encoded.columns, MemoryLayout<Source>.size)
  let stride = encoded.headerBytes + columns * size
  precondition(encoded.bytes.count == encoded.rows * stride)
  resize(&values, to: encoded.rows * columns, filler: 0)
  encoded.bytes.withUnsafeBytes { input in
    values.withUnsafeMutableBufferPointer { output in
      for row in 0..<encoded.rows {
        let start = row * stride + encoded.headerBytes
        for column in 0..<columns {
          let value = input.loadUnaligned(fromByteOffset: start &+ column &* size, as: Source.self)
          output[row &* columns &+ column] = transform(value)
        }
      }
    }
  }
}
