import ApusText
import Testing

@Suite struct RegexGrammars {
  @Test("A regular expression holds the texts that it matches from end to end")
  func fullMatches() throws {
    expect(
      try Grammar(regex: #"^(?:ab|c)+\d{2,3}x?$"#), holds: ["ab12", "cab123x", "ccc00"],
      refuses: ["", "12", "ab1", "ab1234", "ab12xx", "xab12"])
    expect(try Grammar(regex: "a*?b"), holds: ["b", "aab"], refuses: ["a", ""])
    expect(try Grammar(regex: #"[^a-c\]]"#), holds: ["d", "[", "é", "🎉"], refuses: ["a", "]", "", "dd"])
    expect(try Grammar(regex: "."), holds: ["x", "日", "🎉"], refuses: ["\n", "", "xy"])
    expect(try Grammar(regex: "[α-ω]{2}"), holds: ["αω", "λμ"], refuses: ["α", "ab", "αωα"])
    expect(try Grammar(regex: #"\x41\u00e9\u{1F600}\t"#), holds: ["Aé😀\t"], refuses: ["A"])
    expect(try Grammar(regex: "(?<year>[0-9]{4})-(?:x|)"), holds: ["2024-x", "2024-"], refuses: ["24-x"])
    expect(try Grammar(regex: "(^a$|^b)"), holds: ["a", "b"], refuses: ["ab"])
    expect(try Grammar(regex: ""), holds: [""], refuses: ["a"])
  }

  @Test("Repetitions of what can be empty hold the same texts as without the empty ones")
  func emptyBodies() throws {
    expect(try Grammar(regex: "(a?){3}"), holds: ["", "a", "aaa"], refuses: ["aaaa", "b"])
    expect(try Grammar(regex: "(a?b?)*c"), holds: ["c", "abc", "bac", "aabbc"], refuses: ["", "ab"])
    expect(try Grammar(regex: "((a*)*)*"), holds: ["", "a", "aaaa"], refuses: ["b"])
    expect(
      try Grammar(regex: "(a?b?){2,3}"), holds: ["", "ab", "abab", "ababab", "bab"], refuses: ["abababa", "bbbb"])
    expect(try Grammar(regex: "(|a)+"), holds: ["", "aa"], refuses: ["b"])
  }

  @Test(
    "What is outside the subset is refused with its place",
    arguments: [
      ("(?=a)b", "character 2"), (#"(a)\1"#, #"\1"#), (#"a\b"#, #"\b"#), ("a**", "quantifier"),
      ("*a", "nothing to repeat"),
      ("(a", "')'"), ("a)", "')' without"), ("[a", "']'"), ("[b-a]", "out of order"), ("a{3,2}", "{3,2}"),
      ("a$b", "'$'"),
      ("a^b", "'^'"), (#"\p{L}"#, #"\p"#), ("a{9999999}", "repetition count"), ("x(^a)", "anchor inside"),
      ("[]", "empty class"),
      ("a{x}", "'x'"), ("(?i)a", "(?i"),
    ])
  func refusals(_ source: String, _ named: String) {
    let error = refusal { () throws(GrammarError) in try Grammar(regex: source) }
    #expect(error?.description.contains(named) == true, "\(error?.description ?? "no error") should name \(named)")
  }

  @Test("A choice holds its texts and no others")
  func choices() throws {
    let grammar = try Grammar(choice: ["yes", "no", "yesterday", "né"])
    expect(grammar, holds: ["yes", "no", "yesterday", "né"], refuses: ["", "y", "yester", "nope", "ne"])
    var matcher = grammar.matcher()
    matcher.advance("yes".utf8)
    #expect(matcher.canEnd && !matcher.isComplete)
    #expect(refusal { () throws(GrammarError) in try Grammar(choice: []) }?.kind == .unsatisfiable)
  }
}

@Suite struct EBNFGrammars {
  @Test("Rules, groups, classes, repetitions and comments read as llama.cpp reads them")
  func notation() throws {
    let arithmetic = """
      # sums of products
      root  ::= (expr "=" ws term "\\n")+
      expr  ::= term ([-+*/] term)*
      term  ::= ident | num | "(" ws expr ")" ws
      ident ::= [a-z] [a-z0-9_]* ws
      num   ::= [0-9]+ ws
      ws    ::= [ \\t\\n]*
      """
    expect(
      try Grammar(ebnf: arithmetic), holds: ["a+1=2\n", "(a*(b1 -3)) = x\n", "1=1\n2=2\n"],
      refuses: ["", "a+=2\n", "(a=1\n", "1=1"])
    expect(
      try Grammar(
        ebnf: "root ::= \"a\"{2,3} [^b\\n]{1} . | \n  \"\\x41\\u00e9\"\n  | other\nother ::= (\"x\" |\n \"y\")? \"]\""),
      holds: ["aaé🎉", "aaacb", "Aé", "x]", "]"], refuses: ["acb", "aab", "xy]", "aab\n"])
    expect(try Grammar(ebnf: "root ::= \"a\"{,2} \"b\"{2,}"), holds: ["bb", "aabbbb"], refuses: ["aaabb", "ab"])
  }

  @Test("Recursion nests without a bound and right recursion needs no stack")
  func recursion() throws {
    let balanced = try Grammar(ebnf: "root ::= \"(\" root \")\" root | \"\"")
    expect(balanced, holds: ["", "()", "(())()", "((()))"], refuses: ["(", ")", "())"])
    let deep = String(repeating: "(", count: 2_000) + String(repeating: ")", count: 2_000)
    #expect(balanced.holds(deep))
    let list = try Grammar(ebnf: "root ::= \"a\" root | \"b\"")
    #expect(list.holds(String(repeating: "a", count: 5_000) + "b"))
  }

  @Test(
    "Errors name the line",
    arguments: [
      ("root ::= other", "'other'"), ("x ::= \"a\"", "'root'"), ("root ::= \"a", "line 1"), ("root ::= [a", "']'"),
      ("root ::= (\"a\"", "')'"), ("root ::= \"a\"\nroot ::= \"b\"", "line 2"), ("root = \"a\"", "'::='"),
      ("root ::= root \"a\" | \"b\"", "left recursion"),
      ("root ::= \"a\" x\nx ::= y? z | \"d\"\nz ::= x \"b\"\ny ::= \"c\"", "left recursion"),
      ("root ::= \"a\" root", "never end"), ("root ::= \"a\"{3,1}", "{3,1}"), ("", "root"), ("root ::= \"\\q\"", "\\q"),
    ])
  func refusals(_ source: String, _ named: String) {
    let error = refusal { () throws(GrammarError) in try Grammar(ebnf: source) }
    #expect(error?.description.contains(named) == true, "\(error?.description ?? "no error") should name \(named)")
  }
}
