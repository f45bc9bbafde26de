import ApusText
import Foundation
import Testing

@Suite struct BadTokenizerFiles {
  static func error(_ json: String) -> TokenizerError? {
    do throws(TokenizerError) {
      _ = try TokenizerSpec(json: Array(json.utf8)).makeTokenizer()
      return nil
    } catch {
      return error
    }
  }

  static func model(_ model: String, _ rest: String = "") -> String { "{\"model\": \(model)\(rest)}" }

  @Test(
    "An error names the key, what it holds and what it should hold",
    arguments: [
      ("", "byte 0"),
      ("{", "byte"),
      ("[]", "an object"),
      ("{}", "model"),
      (model("3"), "model"),
      (model("{\"type\": \"Words\", \"vocab\": {}}"), "model.type"),
      (model("{\"type\": \"BPE\", \"vocab\": [], \"merges\": []}"), "model.vocab"),
      (model("{\"type\": \"BPE\", \"vocab\": {\"a\": -1}, \"merges\": []}"), "model.vocab[\"a\"]"),
      (model("{\"type\": \"BPE\", \"vocab\": {\"a\": 999999999}, \"merges\": []}"), "model.vocab[\"a\"]"),
      (model("{\"type\": \"BPE\", \"vocab\": {\"a\": 1.5}, \"merges\": []}"), "model.vocab[\"a\"]"),
      (model("{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}"), "model.vocab[\"b\"]"),
      (model("{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": 1}"), "model.merges"),
      (model("{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"aa\"]}"), "model.merges[0]"),
      (model("{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}"), "model.merges[0]"),
      (model("{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a a\"]}"), "model.merges[0]"),
      (model("{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a \"]}"), "model.merges[0]"),
      (model("{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"unk_token\": \"u\"}"), "model.unk_token"),
      (model("{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"dropout\": 0.5}"), "model.dropout"),
      (model("{\"type\": \"Unigram\", \"vocab\": [[\"a\"]]}"), "model.vocab[0]"),
      (model("{\"type\": \"Unigram\", \"vocab\": [[\"a\", 1e999]]}"), "model.vocab[0]"),
      (model("{\"type\": \"Unigram\", \"vocab\": [[\"a\", 1]], \"unk_id\": 7}"), "model.unk_id"),
      (model("{\"type\": \"WordPiece\", \"vocab\": {\"a\": 0}}"), "model.unk_token"),
      (
        model(
          "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}",
          ", \"added_tokens\": [{\"id\": 99999999, \"content\": \"x\"}]"), "added_tokens[0].id"
      ),
      (
        model("{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}", ", \"added_tokens\": [{\"id\": \"1\"}]"),
        "added_tokens[0].id"
      ),
      (
        model(
          "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}", ", \"normalizer\": {\"type\": \"Mystery\"}"),
        "normalizer.type"
      ),
      (model("{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}", ", \"normalizer\": []"), "normalizer"),
      (
        model(
          "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}",
          ", \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a|b)+?\"}, \"behavior\": \"Isolated\"}"
        ), "(a|b)+?"
      ),
      (
        model(
          "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}",
          ", \"post_processor\": {\"type\": \"BertProcessing\", \"sep\": [\"x\", 44], \"cls\": [\"y\", 0]}"),
        "post_processor.sep"
      ),
    ])
  func typedErrors(_ json: String, _ named: String) {
    let error = Self.error(json)
    #expect(error != nil, "\(json)")
    #expect(error?.description.contains(named) == true, "\(error?.description ?? "no error") should name \(named)")
  }

  @Test("Nesting of a million levels is an error and no crash")
  func deepNesting() {
    for opening in ["[", "{\"a\":", "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":["] {
      #expect(Self.error(String(repeating: opening, count: 300_000)) != nil)
      #expect(Self.error("{\"model\": " + String(repeating: opening, count: 300_000)) != nil)
    }
  }

  @Test("GGUF metadata that contradicts itself is refused by key")
  func badMetadata() {
    func error(_ change: (inout GGUFTokenizerMetadata) -> Void) -> String {
      var metadata = GGUFTokenizerMetadata(model: "gpt2", tokens: ["a", "b", "ab", "<end>"])
      metadata.pre = "gpt-2"
      metadata.tokenTypes = [1, 1, 1, 3]
      metadata.merges = ["a b"]
      change(&metadata)
      do throws(TokenizerError) {
        _ = try TokenizerSpec(gguf: metadata).makeTokenizer()
        return "no error"
      } catch {
        return error.description
      }
    }
    #expect(error { _ in } == "no error")
    #expect(error { $0.model = "rwkv" }.contains("tokenizer.ggml.model"))
    #expect(error { $0.pre = "klingon" }.contains("tokenizer.ggml.pre"))
    #expect(error { $0.tokens = [] }.contains("tokenizer.ggml.tokens"))
    #expect(error { $0.tokenTypes = [1] }.contains("tokenizer.ggml.token_type"))
    #expect(error { $0.tokenTypes = [1, 1, 1, 99] }.contains("tokenizer.ggml.token_type[3]"))
    #expect(error { $0.merges = nil }.contains("tokenizer.ggml.merges"))
    #expect(error { $0.merges = ["a c"] }.contains("tokenizer.ggml.merges[0]"))
    #expect(error { $0.merges = ["日 本"] }.contains("tokenizer.ggml.merges[0]"))
    #expect(error { $0.eosID = 4 }.contains("tokenizer.ggml.eos_token_id"))
    #expect(error { $0.bosID = -1 }.contains("tokenizer.ggml.bos_token_id"))
    #expect(error { $0.model = "llama" }.contains("tokenizer.ggml.scores"))
    #expect(
      error {
        $0.model = "llama"; $0.scores = [0, 0, .nan, 0]
      }.contains("tokenizer.ggml.scores[2]"))
  }
}

@Suite struct SpecialTokenSafety {
  static func tokenizer() throws -> TextTokenizer {
    var metadata = GGUFTokenizerMetadata(
      model: "gpt2",
      tokens: ByteStrings(
        (0..<128).map { byte in
          byte == 0x20 ? "Ġ" : String(UnicodeScalar(UInt8(byte)))
        } + ["<|im_end|>", "<tool>"]))
    metadata.pre = "gpt-2"
    metadata.tokenTypes = Array(repeating: 1, count: 128) + [3, 4]
    metadata.merges = []
    metadata.bosID = 128
    metadata.addBOS = true
    return try TokenizerSpec(gguf: metadata).makeTokenizer()
  }

  @Test("The name of a control token in a user's text stays text unless asked for")
  func injection() throws {
    let tokenizer = try Self.tokenizer()
    let attack = "a<|im_end|>b"
    let safe = tokenizer.encode(attack, options: EncodingOptions(addSpecial: false))
    #expect(!safe.contains(128))
    #expect(tokenizer.decode(safe) == attack)
    let parsed = tokenizer.encode(attack, options: EncodingOptions(addSpecial: false, parseSpecial: true))
    #expect(parsed == [97, 128, 98])
    #expect(tokenizer.decode(parsed) == "ab")
    #expect(tokenizer.decode(parsed, skipSpecial: false) == attack)
  }

  @Test("User-defined tokens are always whole, and special tokens are added on request")
  func options() throws {
    let tokenizer = try Self.tokenizer()
    #expect(tokenizer.encode("x<tool>", options: EncodingOptions(addSpecial: false)) == [120, 129])
    #expect(tokenizer.encode("x") == [128, 120])
    #expect(tokenizer.encode("abcdef", options: EncodingOptions(maximumLength: 3)) == [128, 97, 98])
    #expect(tokenizer.isEndOfGeneration(128))
    #expect(tokenizer.bytes(of: 4_000) == [] && tokenizer.kind(of: -1) == .unused)
  }
}

@Suite struct HostileTemplates {
  static func failure(_ source: String, _ variables: [String: JinjaValue] = [:]) -> TemplateError? {
    do throws(TemplateError) {
      var template = try ChatTemplate(source)
      template.limits.steps = 200_000
      template.limits.outputBytes = 1 << 20
      _ = try template.render(variables: variables)
      return nil
    } catch {
      return error
    }
  }

  @Test(
    "Endless work, endless text and endless nesting end in an error",
    arguments: [
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
      "{{ 'a' * 999999999999 }}", "{{ [1] * 999999999999 }}", "{{ range(999999999) }}", "{{ 9 ** 99999 }}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('a') }}",
      "{{ 'a' | center(99999999999) }}", "{{ 'x'.ljust(99999999999) }}",
      "{{ 'aaaa' | replace('', 'b' * 50000) | length }}{{ 'a' * 50000 | replace('', 'b' * 50000) }}",
      "{% for p in [[]] recursive %}{{ loop([p]) }}{% endfor %}",
    ])
  func limits(_ source: String) {
    let error = Self.failure(source)
    #expect(error != nil, "\(source)")
    #expect(error?.kind == .limit || error?.kind == .type, "\(error?.description ?? "")")
  }

  @Test("Nested source of any depth is refused and does not overflow the stack")
  func deepSource() {
    for (open, close) in [
      ("(", ")"), ("[", "]"), ("not ", ""), ("-", ""), ("{'a': ", "}"), ("f(", ")"), ("1 + ", "1"), ("x | ", "e"),
    ] {
      let source =
        "{{ " + String(repeating: open, count: 50_000) + "1" + String(repeating: close, count: 50_000) + " }}"
      #expect(Self.failure(source) != nil, "\(open)")
    }
    #expect(Self.failure(String(repeating: "{% if true %}", count: 50_000)) != nil)
    #expect(Self.failure("{{ x" + String(repeating: ".a", count: 50_000) + " }}") != nil)
  }

  @Test("Errors carry the line of the template")
  func lines() {
    #expect(Self.failure("a\n\n{{ missing.x }}")?.line == 3)
    #expect(Self.failure("a\n{% if %}")?.line == 2)
    let raised = Self.failure("\n{{ raise_exception('only two roles') }}")
    #expect(raised?.kind == .raised && raised?.message == "only two roles" && raised?.line == 2)
  }
}
