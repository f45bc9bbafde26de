import ArgumentParser
import Foundation

// Commands run on the main thread, not on Swift's cooperative pool: they compute.
do {
  var command = try Apus.parseAsRoot()
  try command.run()
} catch let exit as ExitCode {
  Foundation.exit(exit.rawValue)
} catch {
  // The parser prints its own errors and its help; ours are one sentence.
  if Apus.exitCode(for: error) != .failure { Apus.exit(withError: error) }
  Terminal.error("\(error)")
  Foundation.exit(1)
}
