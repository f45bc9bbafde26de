import ArgumentParser

struct Apus: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "apus",
    abstract: "Runs, serves and measures language models on this machine.",
    discussion: """
      apus run "The swift is a bird that"        continue a text
      apus chat                                  talk to a model
      apus serve                                 answer OpenAI's clients on http://127.0.0.1:8080/v1
      apus model pull qwen2.5-coder-0.5b         fetch a model
      apus vectors search store --queries q.npy  search what a tenant may see
      apus collections search library docs …     the same by text

      A model is a built-in name (apus model ls), a GGUF file, a folder with safetensors, a URL, or hf:ORG/REPO[:FILE].
      Models are kept in $APUS_HOME (default ~/.cache/apus); APUS_OFFLINE=1 forbids the network.
      Every command has --json. Exit status: 0 success, 1 failure, 64 wrong usage, 130 stopped by Ctrl-C.
      Completions for your shell: apus --generate-completion-script bash > /etc/bash_completion.d/apus (also zsh, fish).
      """,
    version: Version.text,
    subcommands: [
      RunCommand.self, ChatCommand.self, EmbedCommand.self, TokenizeCommand.self, ScoreCommand.self, BenchCommand.self,
      ModelCommand.self, SVDCommand.self, VectorsCommand.self, CollectionsCommand.self, ConfigCommand.self,
      DoctorCommand.self, ServeCommand.self,
    ])
}

enum Version {
  static let text = "0.1.0"
}
