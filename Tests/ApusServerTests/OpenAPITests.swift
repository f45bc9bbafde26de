import ApusText
import Hummingbird
import HummingbirdTesting
import Logging
import Testing

@testable import ApusServer

@Suite struct OpenAPITests {
  private let document = APIDocument(
    version: "1", models: .init(text: ["fake"], embedding: ["encoder"], contextLength: 1000))

  /// Every object in a value, with its path.
  private func objects(_ value: JinjaValue, _ path: String = "") -> [(path: String, fields: JinjaMapping)] {
    switch value {
    case .mapping(let fields):
      [(path, fields)]
        + zip(fields.keys, fields.values).flatMap { key, value in objects(value, "\(path)/\(key.string ?? "?")") }
    case .list(let items): items.enumerated().flatMap { objects($1, "\(path)/\($0)") }
    default: []
    }
  }

  @Test func aSchemaIsWrittenToTheByte() {
    let schema = Schema.object([
      .required("a", .string(oneOf: ["x"])), .optional("b", .integer(0...5), "B."),
      .optional("c", .anyOf([.boolean, .array(of: .ref("R"), count: 1...2)]).defaulting(to: false)),
      .nullable("d", .string(oneOf: ["y"])),
    ])
    #expect(
      text(schema.json)
        == #"{"type":"object","required":["a","d"],"properties":{"a":{"type":"string","enum":["x"]},"#
        + #""b":{"type":["integer","null"],"minimum":0,"maximum":5,"description":"B."},"#
        + #""c":{"anyOf":[{"anyOf":[{"type":"boolean"},{"type":"array","items":{"$ref":"#
        + ##""#/components/schemas/R"},"minItems":1,"maxItems":2}],"default":false},{"type":"null"}]},"##
        + #""d":{"type":["string","null"],"enum":["y",null]}}}"#)
  }

  @Test func everyReferenceHasATarget() {
    let names = Set(document.components.map(\.name))
    #expect(names.count == document.components.count)
    var count = 0
    for (path, fields) in objects(document.json) {
      guard let target = fields["$ref"]?.string else { continue }
      count += 1
      #expect(
        target.hasPrefix("#/components/schemas/") && names.contains(String(target.split(separator: "/").last ?? "")),
        "\(path)")
    }
    #expect(count > 50)
  }

  @Test func operationsHaveTheirOwnIdsAndTheirPathsParameters() {
    #expect(Set(document.operations.map(\.id)).count == document.operations.count)
    #expect(
      Set(document.operations.map { APIDocument.shape($0.method.rawValue, $0.path) }).count == document.operations.count
    )
    for operation in document.operations {
      let inPath = operation.path.split(separator: "/").filter { $0.hasPrefix("{") }.map {
        String($0.dropFirst().dropLast())
      }
      #expect(operation.parameters.filter { $0.place == "path" }.map(\.name) == inPath, "\(operation.path)")
      #expect(operation.path.hasPrefix("/") && !operation.answers.isEmpty && operation.answers[0].status == 200)
      if operation.request != nil { #expect(operation.errors.contains(400) && operation.errors.contains(413)) }
      for status in operation.errors { #expect(APIOperation.meanings[status] != nil, "\(status)") }
    }
  }

  @Test func requiredFieldsAreAmongTheProperties() {
    for (path, fields) in objects(document.json) {
      guard let required = fields["required"]?.items else { continue }
      for name in required {
        #expect(fields["properties"]?[name.string ?? ""] != nil, "\(path): \(text(name))")
      }
    }
  }

  @Test func numbersHaveTheRangesThatTheServerChecks() async throws {
    let host = DialectHost()
    for (path, base) in [
      ("/v1/completions", #""model": "fake", "prompt": "a""#), ("/v1/responses", #""model": "fake", "input": "a""#),
      ("/v1/embeddings", #""model": "encoder", "input": "a""#),
      ("/v1/rerank", #""model": "encoder", "query": "a", "documents": ["a"]"#),
    ] {
      let operation = try #require(document.operations.first { $0.path == path && $0.method == .post })
      let properties = try #require(operation.request?.json["properties"])
      guard case .mapping(let fields) = properties else { return }
      var tried = 0
      for (key, schema) in zip(fields.keys, fields.values) {
        guard let name = key.string, let low = schema["minimum"]?.number, let high = schema["maximum"]?.number,
          // Only an engine knows the context's length.
          high != 1000
        else { continue }
        tried += 1
        for value in [low, high] where abs(value) < 1e15 {
          if name == "dimensions" { continue }
          let number = text(schema["type"]).contains("integer") ? "\(Int(value))" : "\(value)"
          var body = "\(base), \"\(name)\": \(number)"
          if name == "top_logprobs" { body += #", "include": ["message.output_text.logprobs"]"# }
          #expect(try await host.send(path, "{\(body)}").status == .ok, "\(name) = \(number)")
        }
        for value in [low - 1, high + 1] where abs(value) < 1e15 {
          let number = text(schema["type"]).contains("integer") ? "\(Int(value))" : "\(value)"
          try await host.expectError(
            path, #"{\#(base), "\#(name)": \#(number)}"#, .badRequest, param: name, code: "invalid_value")
        }
      }
      #expect(tried >= 1, "\(path)")
    }
  }

  @Test func onlyRoutesThatExistAreDescribed() {
    let limited = document.limited(to: [("GET", "/health"), ("GET", "/v1/models/:name"), ("POST", "/nowhere")])
    #expect(limited.operations.map(\.id) == ["health", "getModel"])
  }

  @Test func everyRouteOfThisDialectIsDescribedAndServed() async throws {
    let router = DialectHost().router()
    let known = Set(document.operations.map { APIDocument.shape($0.method.rawValue, $0.path) })
    let routes = router.routes.map { APIDocument.shape($0.method.rawValue, $0.path.description) }
    #expect(routes.count == 11)
    for route in routes { #expect(known.contains(route), "\(route)") }
    OpenAPIRoutes.add(to: router, version: "1", models: .init(text: ["fake"], embedding: ["encoder"], contextLength: 9))
    try await Application(router: router, logger: .quiet).test(.router) { client in
      try await client.execute(uri: "/openapi.json", method: .get) { response in
        #expect(response.status == .ok)
        let served = try response.json
        #expect(served["openapi"]?.string == "3.1.0")
        guard case .mapping(let paths)? = served["paths"] else { Issue.record("no paths"); return }
        let described = zip(paths.keys, paths.values).flatMap { path, methods -> [String] in
          guard case .mapping(let methods) = methods else { return [] }
          return methods.keys.map { APIDocument.shape($0.string ?? "", path.string ?? "") }
        }
        #expect(Set(described) == Set(routes + ["GET /openapi.json"]))
      }
    }
  }
}
