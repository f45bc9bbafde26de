import ApusEngine
import ApusModels
import ApusServer
import ArgumentParser
import Foundation
import Logging

struct ServeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Answers OpenAI's clients over HTTP.",
    discussion: """
      apus serve
      apus serve -m qwen2.5-coder-0.5b --port 9000
      curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \\
        -d '{"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello"}]}'

      Routes: GET /health, GET /v1/models, POST /v1/chat/completions (also with "stream": true). Requests are answered one
      after another. SIGTERM and Ctrl-C let the running answer finish.
      """)

  @OptionGroup(title: "Model") var model: ModelOptions
  @OptionGroup(title: "Execution") var runner: RunnerArguments

  @Option(help: "The address to listen on; 0.0.0.0 is every network.")
  var host = "127.0.0.1"

  @Option(help: "The port; 0 lets the system choose.")
  var port = 8080

  @Option(help: "Refuse requests larger than this many bytes.")
  var bodyLimit = 16 << 20

  @Flag(help: "Print a JSON object with the address when the server listens.")
  var json = false

  func validate() throws {
    guard (0...65535).contains(port) else { throw ValidationError("--port is \(port), expected 0 to 65535.") }
  }

  func run() throws {
    let (model, _) = try model.load()
    if model.chatTemplate == nil { throw GenerationError.noChatTemplate(model: model.name) }
    let runnerOptions = runner.options
    let options = ServerOptions(host: host, port: port, bodyLimit: bodyLimit)
    let (host, json) = (host, json)
    var logger = Logger(label: "apus")
    logger.logLevel = .warning
    let quiet = logger
    try waitFor {
      let engine = try await SerialEngine(model, runnerOptions)
      try await Server([engine], options, logger: quiet).run { port in
        let url = "http://\(host):\(port)/v1"
        if json {
          try? JSONOutput.print(["model": model.name, "url": url])
        } else {
          Terminal.note("\(model.name) on \(url)")
        }
      }
    }
  }
}
