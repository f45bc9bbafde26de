import ApusCollections
import ApusVectors
import ArgumentParser
import Foundation

struct VectorsApplyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "apply",
    abstract: "Makes changes from stdin, one JSON object a line, and answers when each is on disk.",
    discussion: """
      echo '{"op": "grant", "id": 7, "tenant": 4}' | apus vectors apply store

      op is upsert, grant, revoke, delete, drop_tenant, set_groups or compact. The answer to a line is
      {"changed":true,"sequence":12}, or {"error":"…"} and nothing has changed. Exit status 1 if any line failed.
      """)

  @Argument(help: "The folder of the store.", completion: .directory)
  var path: String

  @Option(help: "Write a checkpoint after so many changes.")
  var checkpointEvery: Int?

  private struct Acknowledgement: Encodable {
    var sequence: UInt64
    var changed: Bool
  }

  func run() throws {
    let store = try VectorStore.open(path)
    let decoder = JSONDecoder()
    var (failed, done) = (false, 0)
    while let line = readLine() {
      guard !line.isEmpty else { continue }
      do {
        let mutation = try decoder.decode(MutationLine.self, from: Data(line.utf8)).mutation
        let (sequence, changed) = try store.commit([mutation])
        try JSONOutput.print(Acknowledgement(sequence: sequence, changed: changed > 0))
        done += 1
        if let checkpointEvery, done % checkpointEvery == 0 { try store.checkpoint() }
      } catch {
        failed = true
        try JSONOutput.print(["error": Self.text(error)])
      }
    }
    try store.close()
    if failed { throw ExitCode.failure }
  }

  private static func text(_ error: any Error) -> String {
    guard let error = error as? DecodingError else { return "\(error)" }
    switch error {
    case .keyNotFound(let key, _): return "the field '\(key.stringValue)' is missing"
    case .typeMismatch(_, let context), .valueNotFound(_, let context), .dataCorrupted(let context):
      let path = context.codingPath.map(\.stringValue).joined(separator: ".")
      return path.isEmpty ? context.debugDescription : "\(path): \(context.debugDescription)"
    @unknown default: return "\(error)"
    }
  }
}
