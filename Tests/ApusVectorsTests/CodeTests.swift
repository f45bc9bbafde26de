import Testing

@testable import ApusVectors

/// int8 codes and the table of tunings.
@Suite struct CodeTests {
  @Test(arguments: [1, 2, 3] as [UInt64])
  func `int8 codes are what rounding to the nearest, ties to even, gives`(seed: UInt64) {
    var random = TestRandom(seed: seed)
    for magnitude in [714 * .leastNonzeroMagnitude, 1e-30, 0.01, 1, 1e30] as [Float] {
      var x = (0..<64).map { _ in Float(random.below(2001) - 1000) / 1000 * magnitude }
      // Halves of a step beside the greatest are ties.
      x[0] = 127 * magnitude
      for i in 1..<16 { x[i] = (Float(i) - 7.5) * magnitude }
      var codes = [Int8](repeating: 0, count: x.count)
      let found = Int8Codes.encode(x, count: x.count, to: &codes)
      let greatest = x.map(abs).max()!
      let inverse = 127 / greatest
      let expected = x.map { value in
        inverse.isFinite ? Int8((value * inverse).rounded(.toNearestOrEven)) : value > 0 ? 127 : value < 0 ? -127 : 0
      }
      #expect(codes == expected, "seed \(seed), magnitude \(magnitude)")
      #expect(found.greatest == greatest)
      #expect(found.sum == expected.reduce(0) { $0 + Int32($1) })
      #expect(found.squares == expected.reduce(0) { $0 + Int32($1) * Int32($1) })
    }
  }

  @Test func `codes of zeros are zeros`() {
    var codes = [Int8](repeating: 9, count: 32)
    let found = Int8Codes.encode([Float](repeating: 0, count: 32), count: 32, to: &codes)
    #expect(found.greatest == 0 && found.sum == 0 && codes.allSatisfy { $0 == 0 })
  }

  @Test func `a search takes the least tuned recall that is not below the one asked for`() throws {
    var table = PatienceTable()
    #expect(table.patience(size: 100, target: 0.9) == (PatienceTable.standard, nil))
    for (target, patience) in [(0.95, 20), (0.99, 80), (0.9, 10)] {
      table = table.merged(with: PatienceTable(target: target, classes: [6: Double(patience)]))
    }
    let read = try table.encoded().withUnsafeBytes { try PatienceTable(decoding: $0) }
    for table in [table, read] {
      #expect(table.patience(size: 100, target: 0.95) == (20, 0.95))
      #expect(table.patience(size: 100, target: 0.96) == (80, 0.99))
      #expect(table.patience(size: 100, target: 0.5) == (10, 0.9))
      #expect(table.patience(size: 100, target: 0.999) == (80, 0.99))
      // The last one that was tuned, and twice as patient for each class above.
      #expect(table.patience(size: 100, target: nil) == (10, 0.9))
      #expect(table.patience(size: 300, target: nil) == (22.5, 0.9))
    }
    let again = table.merged(with: PatienceTable(target: 0.95, classes: [6: 21]))
    #expect(again.patience(size: 100, target: 0.95) == (21, 0.95))
    #expect(again.encoded().count == table.encoded().count)
  }
}
