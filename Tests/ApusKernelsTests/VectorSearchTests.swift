import ApusKernels
import KernelInterface
import Testing

/// The kernels of vector search against the obvious loops, at every level.
@Suite struct VectorSearchTests {
  /// Rows of `stride` bytes in chunks of four, so that every list crosses chunks.
  private final class Rows {
    let count: Int
    let stride: Int
    private let chunks: UnsafeMutablePointer<UnsafeMutableRawPointer?>

    init(count: Int, stride: Int) {
      self.count = count
      self.stride = stride
      chunks = .allocate(capacity: count / 4 + 1)
      for chunk in 0...count / 4 { chunks[chunk] = .allocate(byteCount: 4 * stride, alignment: 64) }
    }

    deinit {
      for chunk in 0...count / 4 { chunks[chunk]!.deallocate() }
      chunks.deallocate()
    }

    var view: RowChunks { RowChunks(chunks: chunks, shift: 2, stride: stride) }
    subscript(row: Int) -> UnsafeMutableRawPointer { chunks[row / 4]! + row % 4 * stride }
  }

  @Test(arguments: testTables.map(\.level))
  func `distances and inner products of listed rows are those of the loops`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    var random = TestRandom(seed: 5)
    for length in [16, 48, 64, 112, 384] {
      let rows = Rows(count: 23, stride: length * 4)
      var values: [[Float]] = []
      for row in 0..<23 {
        let floats = random.floats(length)
        rows[row].copyMemory(from: floats, byteCount: length * 4)
        values.append(floats)
      }
      let query = random.floats(length)
      let numbers = (0..<40).map { _ in UInt32(random.next() % 23) }
      for count in [0, 1, 3, 40] {
        var distances = [Float](repeating: 7, count: count + 1)
        var products = distances
        table.squaredDistances(query, length, rows.view, numbers, count, &distances)
        table.innerProducts(query, length, rows.view, numbers, count, &products)
        for i in 0..<count {
          let row = values[Int(numbers[i])]
          let distance = zip(query, row).reduce(0.0) {
            $0 + (Double($1.0) - Double($1.1)) * (Double($1.0) - Double($1.1))
          }
          let product = zip(query, row).reduce(0.0) { $0 + Double($1.0) * Double($1.1) }
          #expect(abs(Double(distances[i]) - distance) <= 1e-5 * distance)
          #expect(abs(Double(products[i]) - product) <= 1e-5 * Double(length).squareRoot())
        }
        #expect(distances[count] == 7 && products[count] == 7)
      }
    }
  }

  @Test(arguments: testTables.map(\.level))
  func `scores of codes are the same bits as exact integers give`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    var random = TestRandom(seed: 6)
    for count in [32, 64, 96, 128, 160, 384, 416] {
      let rows = Rows(count: 11, stride: CodeLayout.codesOffset + count)
      // The extremes too: sums of 127 · 127 must not saturate on the way.
      func codes(_ row: Int) -> [Int8] {
        (0..<count).map { _ in
          row == 0 ? 127 : row == 1 ? -127 : Int8(truncatingIfNeeded: Int(random.next() % 255) - 127)
        }
      }
      var all: [[Int8]] = []
      for row in 0..<11 {
        let values = codes(row)
        all.append(values)
        rows[row].storeBytes(of: Float(row) * 0.37 + 0.01, as: Float.self)
        rows[row].storeBytes(of: Float(row) * -1.13, toByteOffset: 4, as: Float.self)
        (rows[row] + CodeLayout.codesOffset).copyMemory(from: values, byteCount: count)
      }
      for kind in 0..<3 {
        let query = codes(kind)
        let sum = query.reduce(Int32(0)) { $0 + Int32($1) }
        let numbers = (0..<30).map { _ in UInt32(random.next() % 11) }
        var scores = [Float](repeating: 0, count: 30)
        query.withUnsafeBufferPointer {
          let query = CodeQuery(codes: $0.baseAddress!, count: count, sum: sum, factor: -1.7, offsetFactor: 1)
          table.codeScores(query, rows.view, numbers, 30, &scores)
        }
        for i in 0..<30 {
          let row = Int(numbers[i])
          let product = zip(query, all[row]).reduce(Int32(0)) { $0 + Int32($1.0) * Int32($1.1) }
          #expect(scores[i] == Float(row) * -1.13 + -1.7 * (Float(row) * 0.37 + 0.01) * Float(product))
        }
      }
    }
  }

  @Test(arguments: testTables.map(\.level))
  func `CRC-32C gives the published check values and can go on`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    // RFC 3720, appendix B.4.
    let samples: [([UInt8], UInt32)] = [
      (Array("123456789".utf8), 0xe306_9283), (Array(repeating: 0, count: 32), 0x8a91_36aa),
      (Array(repeating: 0xff, count: 32), 0x62a8_ab43), (Array(0..<32), 0x46dd_794e), ([], 0),
    ]
    for (bytes, expected) in samples {
      #expect(table.crc32c(0, bytes, bytes.count) == expected)
      for cut in 0...bytes.count {
        let (first, rest) = (Array(bytes[..<cut]), Array(bytes[cut...]))
        #expect(table.crc32c(table.crc32c(0, first, cut), rest, rest.count) == expected)
      }
    }
  }
}
