import Glibc

// libFuzzer's entry points for what ApusText reads from strangers. Built by ./Tests/Fuzzers/run together with ApusText's
// sources as one module; APUS_FUZZ names the reader: tokenizer, schema, regex or gbnf.

private let reader = getenv("APUS_FUZZ").map { String(cString: $0) } ?? "tokenizer"

private let seeds: [String] =
  switch reader {
  case "schema":
    [
      ##"{"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}, "b": {"$ref": "#"}}}"##,
      ##"{"anyOf": [{"type": "string", "pattern": "^a+b?$", "maxLength": 9}, {"enum": [1, null, "x"]}]}"##,
    ]
  case "regex": [##"(a|b)*[^x-z]{2,5}\d+"##, ##"^\w+@\w+\.(com|org)$"##]
  case "gbnf": ["root ::= item+\nitem ::= [a-z] \"-\" (\"x\" | item)?\n"]
  default:
    [
      ##"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}, "##
        + ##""added_tokens": [{"id": 3, "content": "<s>", "special": true}], "##
        + ##""pre_tokenizer": {"type": "ByteLevel"}, "decoder": {"type": "ByteLevel"}}"##,
      ###"{"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1, "##b": 2}, "unk_token": "[UNK]"}, "###
        + ##""normalizer": {"type": "BertNormalizer", "lowercase": true}, "##
        + ##""pre_tokenizer": {"type": "BertPreTokenizer"}}"##,
    ]
  }

/// Writes the seeds into the folder `APUS_FUZZ_SEEDS`, before libFuzzer reads it.
@_cdecl("LLVMFuzzerInitialize")
public func initialize(_: UnsafeMutableRawPointer?, _: UnsafeMutableRawPointer?) -> CInt {
  guard let folder = getenv("APUS_FUZZ_SEEDS").map({ String(cString: $0) }) else { return 0 }
  for (index, seed) in seeds.enumerated() {
    guard let file = fopen("\(folder)/seed-\(index)", "wb") else { return 1 }
    let bytes = Array(seed.utf8)
    fwrite(bytes, 1, bytes.count, file)
    fclose(file)
  }
  return 0
}

/// Reads the bytes and uses what came of them; only the readers' own errors may be thrown.
@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  let input = Array(UnsafeBufferPointer(start: bytes, count: count))
  let text = String(decoding: input, as: UTF8.self)
  do {
    switch reader {
    case "schema": try use { () throws(GrammarError) in try Grammar(jsonSchema: text) }
    case "regex": try use { () throws(GrammarError) in try Grammar(regex: text) }
    case "gbnf": try use { () throws(GrammarError) in try Grammar(ebnf: text) }
    default:
      let tokenizer = try TokenizerSpec(json: input).makeTokenizer()
      let ids = tokenizer.encode("Ab <s> é\u{1F600} ab", options: EncodingOptions())
      _ = tokenizer.decode(ids, skipSpecial: false)
    }
  } catch is GrammarError {
  } catch is TokenizerError {
  } catch {
    fatalError("an error of another type: \(error)")
  }
  return 0
}

/// Follows the grammar for a while along the first byte that it allows.
private func use(_ make: () throws -> Grammar) throws {
  var matcher = TokenGrammar(try make(), vocabulary: vocabulary).makeMatcher()
  for _ in 0..<64 {
    guard let token = matcher.mask().tokens.first(where: { $0 < 256 }) else {
      if !matcher.canEnd { fatalError("a dead end") }
      return
    }
    if !matcher.accept(token) { fatalError("a token of the mask was refused") }
  }
}

private let vocabulary = VocabularyTrie(ByteTokenizer())
