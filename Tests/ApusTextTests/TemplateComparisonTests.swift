import ApusText
import Foundation
import Testing

/// Prompts against jinja2, which `APUS_TEXT_PEER_PYTHON` runs with transformers' options.
@Suite struct TemplateComparison {
  /// 2025-01-01 00:00 UTC, the time that the reference's `strftime_now` tells too.
  static let clock = TemplateClock(unixTime: 1_735_689_600, usesUTC: true)

  struct Case {
    var name: String
    var template: String
    var variables: JinjaMapping
  }

  /// Every conversation with and without tools and generation prompt.
  static func cases(_ name: String, _ template: String) throws -> [Case] {
    let file = try JinjaValue(
      json: String(contentsOf: Peer.fixtures.appendingPathComponent("conversations.json"), encoding: .utf8))
    guard case .mapping(let root) = file, case .list(let conversations)? = root["conversations"],
      let tools = root["tools"]
    else { throw Peer.Failure(description: "conversations.json has another form") }
    var cases: [Case] = []
    for case .mapping(let conversation) in conversations {
      for (hasTools, addsPrompt) in [(false, false), (false, true), (true, true)] {
        var variables: JinjaMapping = ["documents": .none, "bos_token": "<s>", "eos_token": "</s>"]
        variables["messages"] = conversation["messages"]
        variables["tools"] = hasTools ? tools : JinjaValue.none
        variables["add_generation_prompt"] = .boolean(addsPrompt)
        let label = conversation["name"].flatMap { if case .string(let text) = $0 { text } else { nil } } ?? "?"
        cases.append(
          Case(
            name: "\(name), \(label), tools \(hasTools), prompt \(addsPrompt)", template: template, variables: variables
          ))
      }
    }
    return cases
  }

  /// Renders with the reference: output, or nil and its error.
  static func reference(_ cases: [Case]) throws -> [(output: String?, error: String?)] {
    let requests = JinjaValue.list(
      cases.map { .mapping(["template": .string($0.template), "variables": .mapping($0.variables)]) })
    let reply = try Peer.run("reference.py", ["render"], input: Data(requests.json.utf8))
    guard case .list(let answers) = try JinjaValue(json: [UInt8](reply)) else { return [] }
    return answers.map { answer in
      guard case .mapping(let fields) = answer else { return (nil, "no answer") }
      if case .string(let text)? = fields["output"] { return (text, nil) }
      if case .string(let text)? = fields["error"] { return (nil, text) }
      return (nil, "no answer")
    }
  }

  static func render(_ test: Case) -> Result<String, TemplateError> {
    do throws(TemplateError) {
      var template = try ChatTemplate(test.template)
      template.clock = clock
      var variables: [String: JinjaValue] = [:]
      for index in 0..<test.variables.count {
        if case .string(let name) = test.variables.keys[index] { variables[name] = test.variables.values[index] }
      }
      return .success(try template.render(variables: variables))
    } catch {
      return .failure(error)
    }
  }

  static func compare(_ cases: [Case]) throws {
    let expected = try reference(cases)
    try #require(expected.count == cases.count)
    var same = 0
    var refused = 0
    var lenient = 0
    var different = 0
    for (test, answer) in zip(cases, expected) {
      switch (render(test), answer.output) {
      case (.success(let ours), let theirs?) where ours.utf8.elementsEqual(theirs.utf8): same += 1
      case (.failure, nil): refused += 1
      // Python's filters return generators, which have no JSON form; ours return lists, which do.
      case (.success, nil) where answer.error?.contains("type generator is not JSON") == true: lenient += 1
      case (let ours, _):
        different += 1
        if different <= 12 {
          print("✘ \(test.name)")
          switch ours {
          case .success(let text): print("  ours      \(text.debugDescription)")
          case .failure(let error): print("  ours      \(error)")
          }
          print("  reference \(answer.output?.debugDescription ?? answer.error ?? "")")
        }
      }
    }
    print(
      "\(cases.count) prompts: \(same) identical, \(refused) refused by both, "
        + "\(lenient) refused by the reference only, \(different) different")
    #expect(different == 0)
    #expect(same > 0)
  }

  @Test(
    "The models' own templates give jinja2's prompts",
    .enabled(if: Peer.isAvailable && Models.folder != nil, "needs APUS_TEXT_PEER_PYTHON and APUS_MODELS"),
    arguments: ["smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"])
  func modelTemplates(_ name: String) throws {
    let url = try #require(Models.url(name + ".gguf"))
    let template = try #require(try GGUFMetadataReader.read(url).chatTemplate)
    try Self.compare(Self.cases(name, template))
  }

  static let publicTemplates = ProcessInfo.processInfo.environment["APUS_TEMPLATES"].map {
    URL(fileURLWithPath: $0)
  }

  @Test(
    "Public templates give jinja2's prompts",
    .enabled(if: Peer.isAvailable && publicTemplates != nil, "needs APUS_TEXT_PEER_PYTHON and APUS_TEMPLATES, a folder")
  )
  func publicFamilies() throws {
    let folder = try #require(Self.publicTemplates)
    let files = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
      .filter { $0.pathExtension == "jinja" }.sorted { $0.path < $1.path }
    var cases: [Case] = []
    for file in files {
      cases += try Self.cases(file.lastPathComponent, String(contentsOf: file, encoding: .utf8))
    }
    print("\(files.count) public templates")
    try Self.compare(cases)
  }
}
