import ApusCompute
import ApusKernels
import Testing

@Suite struct ArenaTests {
  /// The same allocations on a counting arena and on a real one: the plan is the high-water mark, to the byte.
  @Test func aCountedPlanIsTheRealHighWaterMark() {
    let seed: UInt64 = 41
    print("seed \(seed)")
    var state = seed
    func next(_ bound: Int) -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(state >> 33) % bound
    }
    let shapes = (0..<200).map { _ in (rows: 1 + next(7), columns: 32 * (1 + next(20)), nested: next(3)) }

    func run(_ arena: Arena) -> Int {
      for shape in shapes {
        let mark = arena.mark()
        _ = arena.tensor(shape.rows, shape.columns)
        for _ in 0..<shape.nested {
          let inner = arena.mark()
          _ = arena.tensor(shape.rows, shape.columns, dtype: .f16)
          arena.release(inner)
        }
        arena.release(mark)
      }
      return arena.highWater
    }

    let plan = run(.counting())
    let ledger = MemoryLedger()
    let real = Arena(capacity: plan, ledger: ledger)
    #expect(run(real) == plan)
    #expect(real.used == 0)
    #expect(ledger.highWater(.transient) == plan)
    #expect(ledger.current(.transient) == 0)
    #expect(plan > 0 && plan % Arena.alignment == 0)
  }

  @Test func tensorsAreAlignedAndDoNotOverlap() {
    let arena = Arena(capacity: 1 << 16, ledger: MemoryLedger())
    let tensors = (1...20).map { arena.tensor(1, $0 * 3) }
    for (index, tensor) in tensors.enumerated() { tensor.withRow(0) { $0.update(repeating: Float(index)) } }
    for (index, tensor) in tensors.enumerated() {
      tensor.withRow(0) { row in
        #expect(UInt(bitPattern: row.baseAddress!) % UInt(Arena.alignment) == 0)
        #expect(row.allSatisfy { $0 == Float(index) })
      }
    }
  }

  @Test func linesOfTheLedgerAreCountedApart() {
    let ledger = MemoryLedger()
    ledger.add(100, to: .persistent)
    ledger.add(50, to: .kv)
    ledger.add(-20, to: .kv)
    #expect(ledger.current(.persistent) == 100 && ledger.highWater(.persistent) == 100)
    #expect(ledger.current(.kv) == 30 && ledger.highWater(.kv) == 50)
    #expect(ledger.current(.transient) == 0)
  }
}
