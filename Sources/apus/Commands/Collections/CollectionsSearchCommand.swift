import ApusCollections
import ApusServer
import ApusVectors
import ArgumentParser
import Foundation

struct CollectionsSearchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "search", abstract: "Finds what a tenant may see.",
    discussion: """
      apus collections search library debian --tenant science "control a telescope"
      apus collections search library debian --tenant science "fits images" --mode hybrid --where section=science -k 3

      Modes: vector is likeness of meaning, keyword is BM25 of the words, hybrid fuses both by their ranks. --json prints
      what the API's /v1/collections/NAME/search answers.
      """)

  @OptionGroup var collection: CollectionOptions
  @Argument(help: "What to look for.")
  var text: String
  @OptionGroup var encoder: EncoderArguments
  @Option(name: .shortAndLong, help: "Who asks.")
  var tenant: String
  @Option(name: .short, help: "Results.")
  var k = 5
  @Option(help: "vector, keyword or hybrid.")
  var mode = Query.Mode.vector
  @Option(
    name: .customLong("where"), parsing: .singleValue,
    help: "FIELD=VALUE of an indexed field of the payload; may be repeated, and then all must hold.")
  var conditions: [FieldCondition] = []
  @Flag(help: "Compare with every vector of the tenant.")
  var exact = false

  func run() throws {
    let hits = try collection.open(CommandEmbedder(encoder), reading: mode != .keyword) { collection in
      let query = Query(
        mode: mode, text: text, payload: conditions.isEmpty ? nil : .and(conditions.map(\.filter)),
        options: SearchOptions(k: k, exact: exact))
      let whole = try waitFor { try await collection.embedding(query) }
      return try collection.search(whole, as: Principal(tenant: tenant))
    }
    if collection.folder.json { return Terminal.write(try Hit.json(hits) + "\n") }
    let rows = hits.enumerated().map { i, hit in
      [
        "\(i + 1)", hit.distance.map { String(format: "%.3f", $0) } ?? "-",
        mode == .vector ? nil : String(format: "%.4f", hit.score), Self.name(hit.point.key), hit.point.owner ?? "-",
        Self.line(hit.point.text ?? hit.point.payload ?? ""),
      ].compactMap { $0 }
    }
    let header = ["", "distance", mode == .vector ? nil : "score", "id", "owner", "text"].compactMap { $0 }
    Terminal.write(rows.isEmpty ? "nothing found\n" : Format.table([header] + rows) + "\n")
  }

  private static func name(_ key: PointKey) -> String {
    switch key {
    case .integer(let number): "\(number)"
    case .text(let text): line(text)
    }
  }

  /// The beginning of a text on one line, without what could control a terminal.
  private static func line(_ text: String) -> String {
    let words = text.split { $0.isWhitespace }.joined(separator: " ")
    let printable = String(words.prefix(shownCharacters + 1).map { $0.isPrintable ? $0 : "�" })
    return printable.count > shownCharacters ? printable.prefix(shownCharacters) + "…" : printable
  }

  private static let shownCharacters = 64
}

extension Character {
  fileprivate var isPrintable: Bool {
    unicodeScalars.allSatisfy { ![.control, .format].contains($0.properties.generalCategory) }
  }
}

/// `FIELD=VALUE` on the command line: a number, true, false, or else a string.
struct FieldCondition: ExpressibleByArgument {
  var filter: PayloadFilter

  init?(argument: String) {
    let parts = argument.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
    guard parts.count == 2, !parts[0].isEmpty else { return nil }
    let value: PayloadFilter.Value =
      if let number = Int64(parts[1]) {
        .integer(number)
      } else if let number = Double(parts[1]), number.isFinite {
        .number(number)
      } else if let flag = Bool(parts[1]) {
        .bool(flag)
      } else {
        .string(parts[1])
      }
    filter = .equals(parts[0], value)
  }
}

extension Query.Mode: ExpressibleByArgument {}
