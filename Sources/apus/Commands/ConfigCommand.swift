import ApusModels
import ApusServer
import ArgumentParser
import Foundation

struct ConfigCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "config",
    abstract: "Shows what a model is composed of, and checks a server's settings.",
    discussion: """
      apus config show smollm2-135m
      apus config diff smollm2-135m qwen2.5-coder-0.5b
      apus config golden qwen2.5-coder-0.5b > qwen2.golden
      apus config check apus.yaml
      """,
    subcommands: [Show.self, Diff.self, Golden.self, Check.self])

  /// The config of a model, which is loaded for it.
  static func config(_ name: String) throws -> any ModelConfig {
    var options = ModelOptions()
    options.name = name
    return try options.load().model.config
  }

  struct Show: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Prints a model's config tree.", discussion: "apus config show smollm2-135m --json")

    @Argument(help: "A model.") var model: String
    @Flag(help: "Print the tree as JSON, which reads back.") var json = false

    func run() throws {
      let config = try ConfigCommand.config(model)
      Terminal.write(json ? String(decoding: try config.json(), as: UTF8.self) + "\n" : config.goldenText)
    }
  }

  struct Diff: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Prints what differs between two models' configs. Exit status 1 if anything does.",
      discussion: "apus config diff smollm2-135m gemma-3-270m")

    @Argument(help: "A model.") var first: String
    @Argument(help: "Another model.") var second: String
    @Flag(help: "Print a JSON list of lines.") var json = false

    func run() throws {
      let lines = configDifference(try ConfigCommand.config(first), try ConfigCommand.config(second))
      if json {
        try JSONOutput.print(lines)
      } else {
        Terminal.write(lines.map { $0 + "\n" }.joined())
      }
      if !lines.isEmpty { throw ExitCode(1) }
    }
  }

  struct Golden: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Prints a model's golden text, for a file that shows in review what a change changed.",
      discussion: "apus config golden smollm2-135m")

    @Argument(help: "A model.") var model: String
    @Flag(help: "Print the lines as a JSON list.") var json = false

    func run() throws {
      let text = try ConfigCommand.config(model).goldenText
      if json {
        try JSONOutput.print(text.split(separator: "\n").map(String.init))
      } else {
        Terminal.write(text)
      }
    }
  }
  struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Tells what is wrong with a file for `apus serve --config`. Exit status 1 if anything is.",
      discussion: "apus config check apus.yaml --json")

    @Argument(help: "The YAML file.") var file = "apus.yaml"
    @Flag(help: "Print one JSON object.") var json = false

    private struct Result: Encodable {
      var file: String
      var isOk: Bool
      var problems: [ConfigurationProblem]
    }

    func run() throws {
      var problems: [ConfigurationProblem] = []
      do { _ = try ServerConfiguration(file: file) } catch { problems = error.problems }
      if json {
        try JSONOutput.print(Result(file: file, isOk: problems.isEmpty, problems: problems))
      } else {
        Terminal.write(problems.isEmpty ? "ok\n" : problems.map { "\(file):\($0)\n" }.joined())
      }
      if !problems.isEmpty { throw ExitCode(1) }
    }
  }
}
