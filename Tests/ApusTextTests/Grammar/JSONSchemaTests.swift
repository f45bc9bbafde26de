import ApusText
import Testing

@Suite struct JSONSchemaGrammars {
  static let compact = JSONGrammarOptions(whitespace: .none)

  static func grammar(_ schema: String, _ options: JSONGrammarOptions = compact) throws -> Grammar {
    try Grammar(jsonSchema: schema, options: options)
  }

  @Test("Required members must be there, optional ones may be, all in the schema's order")
  func members() throws {
    let grammar = try Self.grammar(
      ##"{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"boolean"},"c":{"type":"null"}},"##
        + ##""required":["b"],"additionalProperties":false}"##)
    expect(
      grammar,
      holds: [##"{"b":true}"##, ##"{"a":1,"b":false}"##, ##"{"b":true,"c":null}"##, ##"{"a":-7,"b":true,"c":null}"##],
      refuses: [
        "{}", ##"{"a":1}"##, ##"{"c":null,"b":true}"##, ##"{"b":true,}"##, ##"{,"b":true}"##, ##"{"b":true,"d":1}"##,
        ##"{"b":true"##,
      ])
    let optional = try Self.grammar(
      ##"{"properties":{"a":{"type":"null"},"b":{"type":"null"}},"additionalProperties":false}"##)
    expect(
      optional, holds: ["{}", ##"{"a":null}"##, ##"{"b":null}"##, ##"{"a":null,"b":null}"##],
      refuses: [##"{"b":null,"a":null}"##, ##"{"a":null,}"##])
  }

  @Test("Additional members come last, fit their schema and repeat no name")
  func additionalMembers() throws {
    let grammar = try Self.grammar(
      ##"{"type":"object","properties":{"ab":{"type":"null"}},"additionalProperties":{"type":"integer"}}"##)
    expect(
      grammar,
      holds: [
        "{}", ##"{"ab":null}"##, ##"{"ab":null,"a":1}"##, ##"{"a":1,"abc":2,"":3}"##, ##"{"é\n":1}"##,
        ##"{"b":0,"ab ":1}"##,
      ],
      refuses: [##"{"ab":1}"##, ##"{"a":1,"ab":2}"##, ##"{"a":null}"##, ##"{"\u0061b":1}"##, ##"{"a":1,"ab":null}"##])
    let open = try Self.grammar(##"{"type":"object"}"##)
    expect(open, holds: ["{}", ##"{"x":{"y":[1,"z",null]}}"##], refuses: ["[]", "1"])
    let closed = try Grammar(
      jsonSchema: ##"{"type":"object"}"##, options: .init(whitespace: .none, additionalPropertiesByDefault: false))
    expect(closed, holds: ["{}"], refuses: [##"{"x":1}"##])
    let needed = try Self.grammar(##"{"type":"object","required":["k"],"additionalProperties":{"type":"null"}}"##)
    expect(
      needed, holds: [##"{"k":null}"##, ##"{"k":null,"x":null}"##], refuses: ["{}", ##"{"x":null}"##, ##"{"k":1}"##])
  }

  @Test("Arrays keep to their items, prefix and length")
  func arrays() throws {
    let plain = try Self.grammar(##"{"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":3}"##)
    expect(plain, holds: ["[1,2]", "[1,2,3]"], refuses: ["[]", "[1]", "[1,2,3,4]", "[1,]", "[1,2"])
    let tuple = try Self.grammar(
      ##"{"type":"array","prefixItems":[{"type":"null"},{"type":"boolean"}],"items":{"type":"integer"},"minItems":1,"##
        + ##""maxItems":4}"##)
    expect(
      tuple, holds: ["[null]", "[null,true]", "[null,true,1,2]"],
      refuses: ["[]", "[true]", "[null,1]", "[null,true,1,2,3]"])
    let closed = try Self.grammar(##"{"type":"array","prefixItems":[{"type":"null"}],"items":false}"##)
    expect(closed, holds: ["[]", "[null]"], refuses: ["[null,null]", "[1]"])
    expect(try Self.grammar(##"{"type":"array","maxItems":0}"##), holds: ["[]"], refuses: ["[1]"])
    expect(try Self.grammar(##"{"items":{"type":"null"}}"##), holds: ["[]", "[null,null]"], refuses: ["[1]", "{}"])
    expect(
      try Self.grammar(##"{"type":"array","items":[{"type":"null"}],"additionalItems":false,"minItems":1}"##),
      holds: ["[null]"], refuses: ["[]", "[null,null]"])
  }

  @Test("Strings keep to length, pattern and format, counted in characters")
  func strings() throws {
    expect(
      try Self.grammar(##"{"type":"string","minLength":2,"maxLength":3}"##),
      holds: [##""ab""##, ##""日本語""##, ##""\n\u0041""##, ##""\ud83d\ude00x""##, ##""🎉🎉🎉""##],
      refuses: [##""a""##, ##""abcd""##, ##""\ud83d\ude00""##, ##""\ud83dxx""##, "\"a\nb\"", ##""\x41bc""##])
    expect(
      try Self.grammar(##"{"type":"string","pattern":"^[a-c]+$"}"##), holds: [##""abc""##],
      refuses: [##""""##, ##""abcd""##])
    expect(
      try Self.grammar(##"{"type":"string","pattern":"b+"}"##), holds: [##""abba""##, ##""b""##],
      refuses: [##""""##, ##""aca""##])
    expect(
      try Self.grammar(##"{"type":"string","pattern":"^a|z$"}"##),
      holds: [##""abba""##, ##""bz""##, ##""a""##, ##""z""##],
      refuses: [##""ba""##, ##""zb""##])
    expect(
      try Self.grammar(##"{"type":"string","pattern":"^.\"\\\\$"}"##), holds: [##""x\"\\""##], refuses: [##""x""##])
    expect(
      try Self.grammar(##"{"type":"string","pattern":"^(ab)*$","minLength":3,"maxLength":5}"##), holds: [##""abab""##],
      refuses: [##""ab""##, ##""ababab""##, ##""""##, ##""aba""##])
    expect(
      try Self.grammar(##"{"type":"string","pattern":"x","minLength":3}"##), holds: [##""xyz""##, ##""abcx""##],
      refuses: [##""x""##, ##""abc""##])
    expect(
      try Self.grammar(##"{"type":"string","format":"date"}"##),
      holds: [##""2024-02-29""##, ##""1999-12-31""##, ##""2000-02-29""##],
      refuses: [##""2023-02-29""##, ##""1900-02-29""##, ##""2024-13-01""##, ##""2024-04-31""##, ##""0000-01-01""##])
    expect(
      try Self.grammar(##"{"type":"string","format":"date-time"}"##),
      holds: [##""2024-02-29T23:59:59Z""##, ##""2024-01-01T00:00:00.5+02:00""##],
      refuses: [##""2024-01-01 00:00:00Z""##, ##""2024-01-01T24:00:00Z""##, ##""2024-01-01T00:00:00""##])
    expect(
      try Self.grammar(##"{"type":"string","format":"ipv4"}"##), holds: [##""0.10.199.255""##],
      refuses: [##""256.1.1.1""##, ##""01.1.1.1""##])
    expect(
      try Self.grammar(##"{"type":"string","format":"uuid"}"##), holds: [##""123e4567-e89b-12d3-a456-426614174000""##],
      refuses: [##""123e4567e89b12d3a456426614174000""##])
    expect(
      try Self.grammar(##"{"type":"string","format":"email","maxLength":254}"##), holds: [##""a.b@example.com""##],
      refuses: [##""a@b""##, ##""@example.com""##])
  }

  @Test("Numbers keep to their bounds, whole and fractional")
  func numbers() throws {
    expect(
      try Self.grammar(##"{"type":"integer"}"##), holds: ["0", "-1", "120"],
      refuses: ["01", "1.0", "1e3", "", "-", "+1"])
    expect(
      try Self.grammar(##"{"type":"number"}"##), holds: ["0", "-1.5", "1e-3", "2E+10"],
      refuses: ["01", "1.", ".5", "NaN", "1e"])
    expect(
      try Self.grammar(##"{"type":"number","minimum":0.5,"exclusiveMaximum":2}"##),
      holds: ["0.5", "0.50", "1", "1.999"], refuses: ["0.49", "2", "2.0", "0", "-1", "1e0"])
    expect(
      try Self.grammar(##"{"type":"number","exclusiveMinimum":0}"##), holds: ["0.001", "1", "12345"],
      refuses: ["0", "0.0", "-1"])
    expect(try Self.grammar(##"{"type":"null","minimum":5,"maximum":4}"##), holds: ["null"], refuses: ["4"])
    #expect(
      refusal { () throws(GrammarError) in
        try Grammar(jsonSchema: ##"{"type":"integer","minimum":5,"maximum":4}"##)
      }?.kind == .unsatisfiable)
  }

  @Test("Integers between two bounds are exactly those")
  func integerRanges() throws {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed: \(seed)")
    var random = GrammarGenerator(seed: seed)
    for _ in 0..<40 {
      let low = Int.random(in: -120...120, using: &random)
      let high = low + random.below(150)
      let isExclusive = random.chance(30)
      let keyword = isExclusive ? "exclusiveMinimum" : "minimum"
      let first = isExclusive ? low + 1 : low
      guard first <= high else { continue }
      let grammar = try Self.grammar(##"{"type":"integer","\##(keyword)":\##(low),"maximum":\##(high)}"##)
      for value in -300...300 {
        #expect(grammar.holds(String(value)) == (value >= first && value <= high), "\(value) in \(first)...\(high)")
      }
      let half = try Self.grammar(##"{"type":"integer","minimum":\##(low).5}"##)
      for value in -130...130 {
        let bound = low < 0 ? Double(low) - 0.5 : Double(low) + 0.5
        #expect(half.holds(String(value)) == (Double(value) >= bound), "\(value) above \(bound)")
      }
    }
  }

  @Test("Decimals between two bounds are exactly those")
  func decimalRanges() throws {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed: \(seed)")
    var random = GrammarGenerator(seed: seed)
    func hundredths(_ value: Int) -> String {
      let sign = value < 0 ? "-" : ""
      let digits = String(abs(value) % 100)
      return "\(sign)\(abs(value) / 100).\(digits.count == 1 ? "0" : "")\(digits)"
    }
    for _ in 0..<30 {
      let low = Int.random(in: -1_500...1_500, using: &random)
      let high = low + 1 + random.below(1_500)
      let (lowOpen, highOpen) = (random.chance(40), random.chance(40))
      let grammar = try Self.grammar(
        ##"{"type":"number","\##(lowOpen ? "exclusiveMinimum" : "minimum")":\##(hundredths(low)),"##
          + ##""\##(highOpen ? "exclusiveMaximum" : "maximum")":\##(hundredths(high))}"##)
      for value in (low - 120)...(high + 120) where value != 0 || !grammar.holds("-0.00") {
        let isInside = (lowOpen ? value > low : value >= low) && (highOpen ? value < high : value <= high)
        let text = hundredths(value)
        #expect(
          grammar.holds(text) == isInside, "\(text) in \(hundredths(low))…\(hundredths(high)) \(lowOpen) \(highOpen)")
        #expect(grammar.holds(text + "0") == isInside)
        if value % 100 == 0 { #expect(grammar.holds(String(value / 100)) == isInside) }
      }
    }
  }

  @Test("Enumerations, constants, combinations and references")
  func combinations() throws {
    expect(
      try Self.grammar(##"{"enum":["a",1,null,{"k":[1,2]},[],"a\"b"]}"##),
      holds: [##""a""##, "1", "null", ##"{"k":[1,2]}"##, "[]", ##""a\"b""##], refuses: [##""b""##, "2", "{}"])
    expect(try Self.grammar(##"{"type":"string","enum":["a",1]}"##), holds: [##""a""##], refuses: ["1"])
    expect(try Self.grammar(##"{"const":"x"}"##), holds: [##""x""##], refuses: [##""y""##])
    expect(try Self.grammar(##"{"type":["string","null"]}"##), holds: ["null", ##""s""##], refuses: ["1"])
    expect(
      try Self.grammar(##"{"anyOf":[{"type":"integer"},{"type":"string","maxLength":1}]}"##), holds: ["12", ##""a""##],
      refuses: [##""ab""##])
    expect(
      try Self.grammar(
        ##"{"allOf":[{"type":"object","properties":{"a":{"type":"null"}},"required":["a"]},"##
          + ##"{"properties":{"b":{"type":"null"}},"required":["b"]}],"additionalProperties":{"type":"null"}}"##),
      holds: [##"{"a":null,"b":null}"##], refuses: [##"{"a":null}"##, ##"{"b":null}"##])
    expect(
      try Self.grammar(
        ##"{"type":"object","properties":{"t":{"enum":["x","y"]},"v":{"type":"integer"}},"##
          + ##""additionalProperties":false,"##
          + ##""anyOf":[{"required":["t"]},{"required":["v"]}]}"##),
      holds: [##"{"t":"x"}"##, ##"{"v":1}"##, ##"{"t":"y","v":2}"##], refuses: ["{}"])
    let tree = try Self.grammar(
      ##"{"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"v":{"type":"integer"},"##
        + ##""n":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["v","n"],"##
        + ##""additionalProperties":false}}}"##
    )
    expect(
      tree, holds: [##"{"v":1,"n":null}"##, ##"{"v":1,"n":{"v":2,"n":{"v":3,"n":null}}}"##],
      refuses: [##"{"v":1,"n":{"v":2}}"##, ##"{"v":1}"##])
    let list = try Self.grammar(##"{"type":"array","items":{"$ref":"#"}}"##)
    expect(list, holds: ["[]", "[[],[[]]]"], refuses: ["[1]", "[[]"])
    expect(
      try Self.grammar(
        ##"{"definitions":{"a/b":{"const":1}},"properties":{"x":{"$ref":"#/definitions/a~1b"}},"##
          + ##""required":["x"],"additionalProperties":false}"##
      ),
      holds: [##"{"x":1}"##], refuses: [##"{"x":2}"##])
  }

  @Test("White space stands where the policy lets it and nowhere else")
  func whitespace() throws {
    let schema =
      ##"{"type":"object","properties":{"a":{"type":"array","items":{"type":"integer"}}},"##
      + ##""additionalProperties":false}"##
    expect(
      try Self.grammar(schema, .init(whitespace: .bounded(4))),
      holds: [##"{"a":[1,2]}"##, ##"{ "a": [1, 2] }"##, "{\n  \"a\": [\n    1,\r\n\t2\n  ]\n}", "{ }", "{\n}"],
      refuses: [" {}", "{} ", "{  }", "{\n\n}", "{\n     }", ##"{"a" :[]}"##, ##"{"a":[1 ,2]}"##, "{ \n}"])
    expect(try Self.grammar(schema), holds: [##"{"a":[]}"##], refuses: ["{ }", ##"{"a": []}"##])
  }

  @Test("Any object is bounded in depth")
  func anyObject() throws {
    let grammar = try Grammar.jsonObject(options: .init(whitespace: .none, nesting: 3))
    expect(
      grammar,
      holds: ["{}", ##"{"a":{"b":{}}}"##, ##"{"a":[[1]],"b":"c","d":-1.5e3,"e":true}"##, ##"{"a":{"b":{"c":1}}}"##],
      refuses: ["[]", "1", "", ##"{"a":{"b":{"c":{}}}}"##, ##"{"a":[[[]]]}"##, "{\"a\"}"])
  }

  @Test(
    "A keyword that cannot be followed is refused with its pointer",
    arguments: [
      (##"{"properties":{"a":{"not":{}}}}"##, "#/properties/a/not"),
      (##"{"type":"array","uniqueItems":true}"##, "#/uniqueItems"),
      (##"{"type":"number","multipleOf":3}"##, "#/multipleOf"),
      (##"{"type":"object","patternProperties":{"a":{}}}"##, "#/patternProperties"),
      (##"{"$ref":"http://example.com/x"}"##, "#/$ref"),
      (##"{"$ref":"#/$defs/x"}"##, "#/$ref"),
      (##"{"type":"strin"}"##, "#/type"),
      (##"{"type":"string","pattern":"(?=a)"}"##, "#/pattern, character 2"),
      (##"{"type":"string","format":"iban"}"##, "#/format"),
      (##"{"type":"string","minLength":-1}"##, "#/minLength"),
      (##"{"type":"integer","minimum":"1"}"##, "#/minimum"),
      (##"{"properties":{"a/b":{"if":{}}}}"##, "#/properties/a~1b/if"),
      (##"{"enum":[1],"minimum":3}"##, "#/minimum"),
      (##"{"anyOf":3}"##, "#/anyOf"), (##"{"required":[1]}"##, "#/required/0"), (##"[]"##, "#"), (##"{"type":"##, "#"),
      (##"{"type":"object","properties":[]}"##, "#/properties"),
      (##"{"allOf":[{"type":"string","pattern":"a"},{"pattern":"b"}]}"##, "#/allOf/1/pattern"),
    ])
  func refusals(_ schema: String, _ path: String) {
    let error = refusal { () throws(GrammarError) in try Grammar(jsonSchema: schema) }
    #expect(error?.path == path, "\(error?.description ?? "no error")")
  }

  @Test(
    "A schema without a value is refused",
    arguments: [
      "false", ##"{"$ref":"#"}"##, ##"{"enum":[]}"##, ##"{"type":"string","enum":[1]}"##,
      ##"{"allOf":[{"type":"null"},{"type":"string"}]}"##,
      ##"{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}"##,
      ##"{"type":"object","required":["a"],"additionalProperties":false}"##,
      ##"{"type":"string","minLength":2,"maxLength":1}"##,
      ##"{"type":"array","items":false,"minItems":1}"##, ##"{"type":"string","pattern":"^a$","minLength":2}"##,
    ])
  func noValue(_ schema: String) {
    let error = refusal { () throws(GrammarError) in try Grammar(jsonSchema: schema) }
    #expect(error?.kind == .unsatisfiable, "\(error?.description ?? "no error")")
  }

  @Test("A member that can have no value is left out")
  func impossibleMember() throws {
    expect(
      try Self.grammar(
        ##"{"type":"object","properties":{"a":false,"b":{"type":"null"}},"additionalProperties":false}"##),
      holds: ["{}", ##"{"b":null}"##], refuses: [##"{"a":1}"##])
  }
}
