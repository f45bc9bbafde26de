import Foundation
import Testing

@testable import ApusModels

/// A changed default shows in review as a changed file. `APUS_UPDATE_GOLDEN=1` rewrites the files; CI never sets it.
@Suite struct GoldenTests {
  private static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .appending(path: "Golden")

  @Test func everyRecipeSaysWhatItsGoldenFileSays() throws {
    for (name, config) in try knownConfigs() {
      let file = Self.folder.appending(path: name + ".txt")
      if ProcessInfo.processInfo.environment["APUS_UPDATE_GOLDEN"] == "1" {
        try config.goldenText.write(to: file, atomically: true, encoding: .utf8)
      }
      let golden = try String(contentsOf: file, encoding: .utf8)
      #expect(config.goldenText == golden, "\(name): the config changed; APUS_UPDATE_GOLDEN=1 accepts it")
    }
  }

  @Test func aChangedDefaultFailsExactlyTheGoldensThatUseIt() throws {
    let changed = try knownConfigs().filter { name, config in
      var config = config
      try config.mapNodes(RoPE.self, allowNone: true) { $0.theta *= 2 }
      return try String(contentsOf: Self.folder.appending(path: name + ".txt"), encoding: .utf8) != config.goldenText
    }
    #expect(changed.map(\.name) == ["smollm2-135m", "qwen2.5-coder-0.5b", "gemma-3-270m"])
  }

  @Test func recipesAreShortCompositionsWithoutLayersOfTheirOwn() throws {
    let recipes = Self.folder.deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
      .appending(path: "Sources/ApusModels/Recipes")
    for file in try FileManager.default.contentsOfDirectory(at: recipes, includingPropertiesForKeys: nil)
    where file.lastPathComponent != "Recipe.swift" {
      let text = try String(contentsOf: file, encoding: .utf8)
      #expect(text.split(separator: "\n").count <= 60, "\(file.lastPathComponent)")
      #expect(!text.contains("class "), "\(file.lastPathComponent) declares a class")
    }
  }
}
