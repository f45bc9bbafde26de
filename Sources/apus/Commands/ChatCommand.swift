import ApusEngine
import ApusModels
import ApusText
import ArgumentParser
import Foundation

struct ChatCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "chat",
    abstract: "Talks to a model.",
    discussion: """
      apus chat
      apus chat -m qwen2.5-coder-1.5b --system "You are a careful reviewer."
      printf 'Hello\\nAnd again\\n' | apus chat --json    one JSON object an answer

      \(Help.text)
      """)

  @OptionGroup(title: "Model") var model: ModelOptions
  @OptionGroup(title: "Execution") var runner: RunnerArguments
  @OptionGroup(title: "Sampling") var sampling: SamplingArguments

  @Option(help: "The system message.")
  var system: String?

  @Option(name: [.customShort("n"), .long], help: "The most tokens of an answer (default: what the context holds).")
  var maxTokens: Int?

  @Flag(help: "Print timings after each answer.")
  var timings = false

  @Flag(help: "Print each answer as a JSON object on a line.")
  var json = false

  enum Help {
    static let text = """
      /help           this help            /reset          begin a new conversation
      /system TEXT    change the system message and begin anew
      /save FILE      write the conversation as JSON
      /quit           end (so does Ctrl-D)
      A line that ends in \\ goes on; \"\"\" begins and ends a text of several lines. Ctrl-C stops an answer.
      """
  }

  private static let defaultTemperature = 0.7

  func run() throws {
    let (model, loadSeconds) = try model.load()
    // The rest of the context belongs to the answer, and a long conversation drops its oldest half.
    let options = GenerationOptions(
      sampling: sampling.options(defaultTemperature: Self.defaultTemperature), maxTokens: maxTokens,
      overflow: .shift(keep: 4))
    let chat = try ChatSession(model, system: system, options: options, runner: runner.options)
    let interrupt = Interrupt()
    let editor = LineEditor(prompt: Style.prompt.apply("> ", on: STDOUT_FILENO))
    if Terminal.inputIsTerminal && !json { Terminal.note("\(model.name). /help shows the commands, Ctrl-D ends.") }
    var reader = ChatReader()
    while let line = editor.readLine(continues: reader.isUnfinished) {
      switch reader.take(line) {
      case .nothing: continue
      case .quit: return
      case .help: Terminal.write(Help.text + "\n")
      case .reset:
        chat.reset()
        Terminal.note("A new conversation.")
      case .system(let text):
        chat.system = text.isEmpty ? nil : text
        Terminal.note(text.isEmpty ? "No system message." : "The system message is changed.")
      case .save(let path): save(chat, path)
      case .unknown(let command): Terminal.note("There is no command \(command); /help shows those there are.")
      case .say(let text):
        do {
          let answer = try interrupt.cancelling { cancellation in
            try chat.send(text, cancellation: cancellation) { if !json { Terminal.write($0) } }
          }
          if json {
            try JSONOutput.print(
              RunResult(
                model: model.name, answer, loadSeconds: loadSeconds, logprobs: nil, memory: chat.memory))
          } else {
            Terminal.write("\n")
          }
          if timings { Terminal.note(RunCommand.summary(answer, nil)) }
        } catch {
          Terminal.error("\(error)")
        }
      }
    }
    if Terminal.inputIsTerminal { Terminal.write("\n") }
  }

  private func save(_ chat: ChatSession, _ path: String) {
    do {
      let messages = JinjaValue.list(chat.messages.map(\.jinjaValue))
      try Data((try messages.json + "\n").utf8).write(to: URL(fileURLWithPath: path))
      Terminal.note("\(chat.messages.count) messages saved to \(path).")
    } catch {
      Terminal.error("\(path): the conversation was not saved: \(error)")
    }
  }
}
