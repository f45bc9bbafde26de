#if os(Linux)
  import ApusVectors
  import Foundation
  import GRDB
  import Testing

  @testable import ApusCollections

  /// SIGKILL at each write, sync, rename and transaction of a collection: what was acknowledged is there, with its payload,
  /// what was revoked stays revoked, and index and catalogue say the same.
  @Suite struct CatalogueCrashTests {
    private static let steps = 30

    /// The process that is killed: this program again, with only `work` of it.
    private struct Child {
      static let variable = "APUS_CRASH_CHILD"
      var folder: String
      var seed: UInt64
      /// 0 lives to the end.
      var fatal: Int
      /// None: it only opens the collection, which recovers.
      var steps: Int

      var path: String { folder + "/docs" }
      var journal: String { folder + "/acknowledged" }

      init(folder: String, seed: UInt64, fatal: Int, steps: Int) {
        (self.folder, self.seed, self.fatal, self.steps) = (folder, seed, fatal, steps)
      }

      init?(environment: [String: String]) {
        guard let parts = environment[Self.variable]?.split(separator: "|"), parts.count == 4 else { return nil }
        self.init(folder: String(parts[0]), seed: UInt64(parts[1])!, fatal: Int(parts[2])!, steps: Int(parts[3])!)
      }

      /// Runs it; true when it was killed.
      func run() throws -> Bool {
        let process = Process()
        process.executableURL = URL(
          filePath: try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe"))
        process.arguments = ["--testing-library", "swift-testing", "--filter", "CatalogueCrashTests/work"]
        process.environment = ProcessInfo.processInfo.environment.merging(
          [Self.variable: "\(folder)|\(seed)|\(fatal)|\(steps)"]) { $1 }
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        if process.terminationReason == .uncaughtSignal && process.terminationStatus == SIGKILL { return true }
        try #require(process.terminationStatus == 0, "the child failed by itself: \(self)")
        return false
      }

      /// Steps that were acknowledged, and the moments that it lived through if it ended.
      func acknowledged() -> (steps: Int, moments: Int?) {
        let lines = (try? String(contentsOfFile: journal, encoding: .utf8))?.split(separator: "\n") ?? []
        return (lines.count { $0 == "done" }, lines.last.flatMap { Int($0) })
      }

      func work() throws {
        let points = KillPoints(fatal: fatal)
        let disk = VectorCollection.Disk(
          layer: KillingFileLayer(points: points), observer: KillingObserver(points: points))
        let collection =
          FileManager.default.fileExists(atPath: path)
          ? try VectorCollection.open(path, embedder: nil, on: disk)
          : try VectorCollection.create(path, CatalogueCrashScript.config, embedder: nil, on: disk)
        let descriptor = Glibc.open(journal, O_WRONLY | O_CREAT | O_APPEND, 0o644)
        func note(_ text: String) { _ = text.withCString { Glibc.write(descriptor, $0, strlen($0)) } }
        var script = CatalogueCrashScript(seed: seed)
        for _ in 0..<steps {
          let step = script.next()
          try script.run(step, on: collection)
          script.apply(step)
          note("done\n")
        }
        try collection.close()
        note("\(points.count)\n")
      }
    }

    @Test(.enabled(if: ProcessInfo.processInfo.environment[Child.variable] != nil)) func work() throws {
      try Child(environment: ProcessInfo.processInfo.environment)?.work()
    }

    @Test func `a killed collection has all that it acknowledged, and nothing that was taken from it`() throws {
      let isLong = ProcessInfo.processInfo.environment["APUS_LONG_TESTS"] != nil
      let seed = UInt64.random(in: 0 ... .max)
      var random = SeededRandom(seed: seed)
      var (kills, unsure, recoveries) = (0, 0, 0)
      for life in 0..<(isLong ? 4 : 1) {
        let seed = seed &+ UInt64(life)
        let whole = TestFolder()
        let unharmed = Child(folder: whole.path, seed: seed, fatal: 0, steps: Self.steps)
        #expect(try !unharmed.run())
        let moments = try #require(unharmed.acknowledged().moments)
        #expect(unharmed.acknowledged().steps == Self.steps && moments > 5 * Self.steps, "\(moments) moments")
        try check(unharmed, "unharmed")
        for fatal in isLong ? Array(1...moments) : (0..<12).map({ _ in Int.random(in: 1...moments, using: &random) }) {
          let folder = TestFolder()
          let child = Child(folder: folder.path, seed: seed, fatal: fatal, steps: Self.steps)
          #expect(try child.run(), "seed \(seed), moment \(fatal) was not reached")
          kills += 1
          // It is killed again while it recovers.
          if fatal % 3 == 0, FileManager.default.fileExists(atPath: child.path) {
            let again = Child(folder: folder.path, seed: seed, fatal: 1 + fatal / 3 % 9, steps: 0)
            recoveries += try again.run() ? 1 : 0
          }
          unsure += try check(child, "seed \(seed), moment \(fatal) of \(moments)") ? 1 : 0
        }
      }
      print("\(kills) kills, \(recoveries) more while recovering, \(unsure) with a step on its way that is there")
    }

    /// Opens what the child left; true when the step that was not acknowledged is there.
    @discardableResult
    private func check(_ child: Child, _ place: String) throws -> Bool {
      let acknowledged = child.acknowledged().steps
      var script = CatalogueCrashScript(seed: child.seed)
      for _ in 0..<acknowledged { script.apply(script.next()) }
      guard FileManager.default.fileExists(atPath: child.path) else {
        // Killed while it was made: not there at all.
        #expect(acknowledged == 0, "\(place): the collection is gone")
        return false
      }
      var after = script
      let pending = after.next()
      after.apply(pending)
      let comment = Comment(rawValue: "\(place), \(acknowledged) acknowledged, then \(pending)")
      var collection = try VectorCollection.open(child.path)
      try collection.verify()
      let seen = try CatalogueCrashScript.seen(collection)
      #expect(seen == script.expected() || seen == after.expected(), comment)
      try collection.close()
      // The whole log applied once more on what it led to.
      try rewind(child.path)
      collection = try VectorCollection.open(child.path)
      try collection.verify()
      #expect(try CatalogueCrashScript.seen(collection) == seen, comment)
      // Those that are away come back to what they have.
      let isThere = seen == after.expected() && seen != script.expected()
      if isThere { script = after }
      for name in script.offloaded.sorted() {
        try collection.update(name, TenantUpdate(state: .active), as: CatalogueCrashScript.admin)
        script.apply(.state(name, .active))
      }
      let back = try CatalogueCrashScript.seen(collection)
      #expect(back == script.expected() || pendingMayShow(after, back), comment)
      try collection.verify()
      // It lives on.
      try collection.upsert([Point("new", vector: [1, 2, 3, 4], text: "w0")], as: Principal(tenant: "e"))
      #expect(try collection.count(as: Principal(tenant: "e")) == 1, comment)
      try collection.close()
      return isThere
    }

    /// A step on its way that changed nothing that could be seen while tenants were away.
    private func pendingMayShow(_ after: CatalogueCrashScript, _ back: [String]) -> Bool {
      var after = after
      for name in after.offloaded.sorted() { after.apply(.state(name, .active)) }
      return back == after.expected()
    }

    private func rewind(_ path: String) throws {
      let queue = try DatabaseQueue(path: path + "/catalogue.sqlite")
      try queue.write { try $0.execute(sql: "UPDATE state SET value = 0 WHERE name = 'applied'") }
      try queue.close()
    }
  }
#endif
