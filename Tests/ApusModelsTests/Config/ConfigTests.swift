import ApusKernels
import Foundation
import Testing

@testable import ApusModels

/// A model with both kinds of attention layers and 3 + 2 blocks.
private func sample() -> CausalLM {
  var model = CausalLM()
  model.dim = 64
  model.vocabulary = 100
  model.contextLength = 128
  var attention = Attention(
    heads: 4, kvHeads: 2, headDim: 16, qkv: RoPE(LinearQKV(), theta: 1e4, pairing: .halfSplit))
  let block = Block(attention: attention, feedForward: FeedForward(hidden: 96))
  attention.window = 32
  let windowed = Block(attention: attention, feedForward: FeedForward(hidden: 96), residual: SandwichNorm())
  model.layers = [block, block, block, windowed, windowed]
  return model
}

@Suite struct ConfigTests {
  @Test func aSwapReachesEverySlotOfItsRoleAndNoOther() throws {
    var model = sample()
    let swapped = try model.mapSlots((any FeedForwardConfig).self) { MixtureOfExperts(expert: $0, experts: 4) }
    #expect(swapped == 5)
    let lines = model.goldenText
    #expect(lines.contains("layers[0…2].feedForward.type: MixtureOfExperts"))
    #expect(lines.contains("layers[0…2].feedForward.expert.hidden: 96"))
    #expect(try model.mapSlots((any AttentionConfig).self) { $0 } == 5)
  }

  @Test func aWrapperIsNotWrappedTwiceByOneSwap() throws {
    var model = sample()
    try model.mapSlots((any QKVConfig).self) { $0 is RoPE ? QKNorm($0, norm: RMSNorm()) : $0 }
    let count = model.flattened().filter { $0.value == "QKNorm" }.count
    #expect(count == 5)
  }

  @Test func aSwapThatMatchesNothingIsAnError() throws {
    var model = sample()
    #expect(throws: ConfigError.self) { try model.mapSlots((any ModelConfig).self) { $0 } }
    #expect(try model.mapSlots((any ModelConfig).self, allowNone: true) { $0 } == 0)
  }

  @Test func theSourceOfASwapIsNotChangedAndSwapsOfDifferentRolesCommute() throws {
    let original = sample()
    let before = original.goldenText
    func moe(_ m: inout CausalLM) throws {
      try m.mapSlots((any FeedForwardConfig).self) { MixtureOfExperts(expert: $0, experts: 2) }
    }
    func alibi(_ m: inout CausalLM) throws { try m.mapSlots((any ScoresConfig).self) { _ in ALiBi() } }
    var a = original
    try moe(&a)
    try alibi(&a)
    var b = original
    try alibi(&b)
    try moe(&b)
    #expect(a.goldenText == b.goldenText)
    #expect(original.goldenText == before)
    #expect(a.goldenText != before)
  }

  @Test func validationNamesEveryMissingFieldAtOnce() throws {
    var model = sample()
    model.layers = [Block()]
    let error = #expect(throws: ConfigError.self) { try model.validate() }
    let path = try #require(error?.path)
    for field in ["heads", "kvHeads", "headDim"] { #expect(path.contains("layers[0].attention.\(field)")) }
    #expect(path.contains("layers[0].feedForward.hidden"))
    #expect(error?.problem == "these required fields are not set")
    try sample().validate()
  }

  @Test func jsonReproducesTheGoldenTextByteForByte() throws {
    var model = sample()
    try model.mapSlots((any FeedForwardConfig).self) { MixtureOfExperts(expert: $0, experts: 4) }
    let again = try CausalLM(json: try model.json())
    #expect(again.goldenText == model.goldenText)
    #expect(try again.json() == model.json())
  }

  @Test(arguments: [
    (#"{"type": "CausalLM", "dimm": 4}"#, "dimm", "did you mean dim?"),
    (#"{"type": "CausalLM", "dim": "four"}"#, "dim", "found \"four\""),
    (#"{"type": "CausalLM", "norm": {"type": "RMSNrm"}}"#, "norm.type", "did you mean RMSNorm?"),
    (#"{"type": "CausalLM", "norm": {"type": "FeedForward"}}"#, "norm", "FeedForward"),
    (#"{"type": "CausalLM", "layers": [{"type": "Block", "feedForward": 3}]}"#, "layers[0].feedForward", "found 3"),
    (#"{"type": "TextEncoder"}"#, "type", "expected CausalLM"),
    (#"[1"#, "", "not JSON"),
  ])
  func wrongJSONNamesThePathAndTheWayOut(json: String, path: String, problem: String) {
    let error = #expect(throws: ConfigError.self) { _ = try CausalLM(json: Data(json.utf8)) }
    #expect(error?.path == path)
    #expect(error?.problem.contains(problem) == true, "\(String(describing: error))")
  }

  @Test func differencesAreListedByPath() {
    let a = sample()
    var b = a
    b.tiedHead = false
    #expect(configDifference(a, b) == ["- tiedHead: true", "+ tiedHead: false"])
  }

  /// A stored property that `visit` forgets would be lost in golden text, JSON and swaps.
  @Test func visitNamesEveryStoredProperty() throws {
    for type in builtInConfigTypes {
      var names: [String] = []
      func record(_ node: some ConfigNode) throws {
        var copy = node
        var recorder = Recorder()
        try copy.visit(&recorder)
        names = recorder.names
      }
      let node = type.init()
      try record(node)
      let stored = Mirror(reflecting: node).children.compactMap(\.label).map {
        $0.hasPrefix("_") ? String($0.dropFirst()) : $0
      }
      #expect(names == stored, "\(type)")
      let text = node.goldenText
      let json = try JSONSerialization.jsonObject(with: node.json()) as? [String: Any]
      for name in names where name != "layers" {
        #expect(text.contains("\n\(name): ") || text.contains("\n\(name).type: "), "\(type).\(name) in golden text")
        #expect(json?[name] != nil, "\(type).\(name) in JSON")
      }
    }
  }

  @Test func everyNodeTypeOfTheRecipesCanBeReadFromJSON() throws {
    for (name, config) in try knownConfigs() {
      let types = config.flattened().filter { $0.path.hasSuffix("type") }.compactMap(\.value)
      for type in types { #expect(ConfigRegistry.type(named: type) != nil, "\(name): \(type)") }
    }
  }
}

private struct Recorder: ConfigVisitor {
  var names: [String] = []
  mutating func field<T>(_ name: String, _ value: inout T) throws { names.append(name) }
}
