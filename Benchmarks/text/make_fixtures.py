#!/usr/bin/env python3
"""Writes Tests/Fixtures/text: small tokenizers and templates of our own with what the references make of them.

usage: make_fixtures.py FOLDER      (needs: pip install tokenizers jinja2)

tokenizers.json   a list of {"name", "tokenizer": a tokenizer.json, "cases": [{"text", "ids", "special", "decoded"}]};
                  "special" are the ids with special tokens parsed out of the text and added around it
templates.json    a list of {"name", "template", "variables", "output" or "error"}
"""
import json
import os
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import reference  # noqa: E402

SENTENCES = """
The swift sleeps on the wing, and it's said that they'll fly for ten months without landing.
Numbers such as 7, 42, 1999, 123456 and 3.14159 should be cut in their own way; so should 1,000,000.
Der Mauersegler schläft im Flug; er übernachtet in großer Höhe und frißt dort auch.
Le martinet noir dort en vol, à l'été comme à l'automne, où qu'il soit.
El vencejo común vive en el aire. ¿Dónde está? ¡Allí arriba!
Чёрный стриж проводит в воздухе почти всю жизнь.
雨燕は空を飛びながら眠ることができる。すごいですね！
雨燕几乎一生都在飞行中度过，它们在空中睡觉。
칼새는 날면서 잠을 잔다. 정말 놀랍다!
طائر السمامة ينام وهو يطير في السماء.
कालिंचड़ी उड़ते हुए सोती है।
Con én bay suốt ngày và ngủ trên không trung.
def fly(height: int = 300) -> float:\n\tspeed = height * 9.81  # metres\n\treturn speed\n
for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }
WE'RE SURE it ISN'T "over", he'd SAY: I'VE seen it; they'll see.
   Leading spaces, trailing spaces   \n\n\nand   newlines\r\n\r\n  mixed \t tabs.
e\u0301 and é differ; so do 각 and \u1100\u1161\u11a8, ﬁ and fi, Å and \u212b.
🎉🐦‍⬛ emoji 👩🏽‍🚀 with joiners, flags 🇨🇭, and ℕ ⊂ ℤ ⊂ ℚ.
<mask> and <end> and <|im_end|> are special; wordy word words word.
""".strip().split("\n")

EXTRA = [
    "", " ", "  ", "\n", "a", "'", "''s", "'S 'LL'Ve 'ſ x'ſy", "\u00a0nbsp\u3000wide", "x  5", "x 5", "  5  ", "١٢٣٤٥ ⅧⅨ ½",
    "\u0085\u2028\u2029", "word", " word ", "sword", "a word.", "<mask>", "  <mask>  ", "<end>   tail", "x<|im_end|>y",
    "\u0000\u0001", "\U0010ffff\ufffe", "\u0378", "ǅ ǈ ʰ ª", "snake_case_name __init__", "HTTPServer getURLFor",
    "a\u0300\u0301\u0302b", "\u0f73\u0f71", "ｆｕｌｌ　ｗｉｄｔｈ", "₿ € £", "x" * 150, "ab" * 60, "▁already▁marked", "日本 語",
    "İstanbul ıI", "①②㎏ﬃ ﷺ ½ ｶﾞ ㌔ ℌ²₃ ǆ", "ΣΑΣ ς", "don't can't won't", "path/to\\file.ext?q=1&r=2#frag", "1.5e-10 0xFF", "…—–‘’“”",
]


def texts():
    generator = random.Random(11)
    pool = "ab Zß'’1٣\n\t\r é\u0301\u00a0日か한🎉_-.<>|▁\u200d\u0345"
    noise = ["".join(generator.choice(pool) for _ in range(generator.randint(1, 24))) for _ in range(40)]
    return [s.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r") for s in SENTENCES] + EXTRA + noise


def byte_level(pattern=None, regex=False, before=(), normalizer=None, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    steps = list(before)
    if pattern:
        steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [t for t in texts() if len(t) < 140],
        trainers.BpeTrainer(
            vocab_size=520, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|bos|>", "<|im_end|>"],
        ),
    )
    return tokenizer


SPACES = r"\s+(?!\S)|\s+"
LLAMA3 = reference.QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
UPPER, LOWER, LEAD = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[^\r\n\p{L}\p{N}]?"


def o200k(suffix, digits):
    return (
        f"{LEAD}{UPPER}*{LOWER}+{suffix}|{LEAD}{UPPER}+{LOWER}*{suffix}|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|" + SPACES
    )


DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|" + SPACES
)


def with_flags(tokenizer):
    tokenizer.add_special_tokens(
        [AddedToken("<mask>", lstrip=True, normalized=False), AddedToken("<end>", rstrip=True, normalized=False)]
    )
    tokenizer.add_tokens([AddedToken("word", single_word=True, normalized=True), AddedToken("<|", normalized=False)])
    return tokenizer


def with_bos(tokenizer):
    tokenizer.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 0)])
    return tokenizer


def sentencepiece_bpe():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", "<s>", "</s>"]
    tokenizer.train_from_iterator(
        [w for t in texts() for w in t.split(" ") if len(w) < 40],
        trainers.BpeTrainer(
            vocab_size=700, show_progress=False, limit_alphabet=120,
            special_tokens=specials + [f"<0x{b:02X}>" for b in range(256)],
        ),
    )
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in specials]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        [t for t in texts() if len(t) < 140],
        trainers.UnigramTrainer(
            vocab_size=330, show_progress=False, unk_token="<unk>", special_tokens=["<unk>", "</s>"]
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        texts(),
        trainers.WordPieceTrainer(
            vocab_size=420, show_progress=False, limit_alphabet=150,
            special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def tokenizers():
    return {
        "gpt2": with_flags(byte_level(regex=True)),
        "smollm": byte_level(regex=True, before=[pre_tokenizers.Digits(individual_digits=True)]),
        "qwen2": byte_level(reference.QWEN2, normalizer=normalizers.NFC()),
        "llama3": with_bos(byte_level(LLAMA3, ignore_merges=True)),
        "gpt-4o": byte_level(o200k(CONTRACTION, r"\p{N}{1,3}")),
        "tekken": byte_level(o200k("", r"\p{N}")),
        "deepseek3": byte_level(
            DEEPSEEK,
            before=[
                pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
                pre_tokenizers.Split(Regex("[一-龥\u3040-ゟ゠-ヿ]+"), "isolated"),
            ],
        ),
        "sentencepiece": sentencepiece_bpe(),
        "nfkc": byte_level(reference.QWEN2, normalizer=normalizers.NFKC()),
        "stripped": byte_level(
            reference.QWEN2,
            normalizer=normalizers.Sequence(
                [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip()]
            ),
        ),
        "unigram": unigram(),
        "wordpiece": word_piece(),
    }


def tokenizer_fixtures():
    fixtures = []
    for name, tokenizer in tokenizers().items():
        cases = []
        for text in texts():
            tokenizer.encode_special_tokens = True
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            tokenizer.encode_special_tokens = False
            special = tokenizer.encode(text).ids
            decoded = tokenizer.decode(ids, skip_special_tokens=True)
            cases.append({"text": text, "ids": ids, "special": special, "decoded": decoded})
        fixtures.append({"name": name, "tokenizer": json.loads(tokenizer.to_str()), "cases": cases})
    return fixtures


# Expressions and statements, one a line: what Jinja makes of each is the expectation.
SNIPPETS = r"""
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ -2 ** 2 }}
{{ 1.0 }} {{ 1e20 }} {{ 1.5e-7 }} {{ 0.1 + 0.2 }} {{ 10 / 4 }} {{ 3 * 1.5 }} {{ 5 % 2.5 }}
{{ "a" ~ 1 ~ none ~ true ~ 1.5 ~ [1, "x"] ~ {"k": "v"} }}
{{ "ab" * 3 }} {{ [1] * 2 }} {{ [1] + [2] }} {{ "%s has %d (%.2f)" % ("x", 3, 1.5) }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 == true }} {{ "a" < "b" }} {{ [1, 2] < [1, 3] }} {{ "é" == "e\u0301" }}
{{ not true or true and false }} {{ not (1 == 2) }} {{ 1 if true else 2 }} {{ 1 if false }}|{{ "" or "x" }} {{ 0 and 1 }}
{{ "x" in "xyz" }} {{ 2 in [1, 2] }} {{ "k" in {"k": 1} }} {{ 3 not in [1, 2] }} {{ "x" is in ["x"] }}
{{ missing }}|{{ missing is defined }} {{ missing | default("d") }} {{ none | default("d") }} {{ "" | default("d", true) }}
{{ missing.deeper }}
{{ missing + "x" }}
{{ missing ~ "x" }} {{ missing | length }} {{ missing == missing }}
{{ user.name }} {{ user["name"] }} {{ user.get("age") }} {{ user.get("none", "fallback") }} {{ user.items() | map("last") | list }}
{{ user.items is defined }} {{ user["items"] }} {{ nested.c["items"] }}
{{ numbers[0] }} {{ numbers[-1] }} {{ numbers[1:3] }} {{ numbers[::-1] }} {{ numbers[:-1] }} {{ numbers[5:] }} {{ numbers[::2] }}
{{ text[0] }} {{ text[-1] }} {{ text[1:4] }} {{ text[::-1] }} {{ numbers[10] }}|
{{ text | upper }} {{ text | lower }} {{ text | title }} {{ text | capitalize }} {{ "  x " | trim }}| {{ "xxaxx" | trim("x") }}
{{ text | length }} {{ numbers | length }} {{ user | length }} {{ text | count }} {{ "a b  c" | wordcount }}
{{ numbers | first }} {{ numbers | last }} {{ text | first }} {{ [] | first }}|{{ numbers | reverse | list }} {{ "abc" | reverse }}
{{ numbers | join(", ") }} {{ people | join("; ", attribute="name") }} {{ ["a"] | join }} {{ numbers | sum }} {{ numbers | max }} {{ numbers | min }}
{{ people | map(attribute="name") | list }} {{ ["a", "b"] | map("upper") | list }} {{ people | map(attribute="x", default=0) | list }}
{{ people | selectattr("admin") | map(attribute="name") | list }} {{ people | rejectattr("admin") | map(attribute="name") | list }}
{{ people | selectattr("age", "gt", 30) | map(attribute="name") | join }} {{ people | selectattr("name", "equalto", "Bo") | list | length }}
{{ numbers | select("odd") | list }} {{ numbers | reject("even") | list }} {{ [0, 1, "", "x"] | select | list }}
{{ people | sort(attribute="age") | map(attribute="name") | list }} {{ ["b", "A", "c"] | sort }} {{ ["b", "A"] | sort(reverse=true) }} {{ ["b", "A"] | sort(case_sensitive=true) }}
{{ ["a", "A", "b", "a"] | unique | list }} {{ [3, 1, 3] | unique | list }} {{ user | dictsort | map("first") | list }} {{ {"b": 1, "a": 2} | dictsort(by="value") | map("first") | list }}
{{ numbers | batch(2) | list }} {{ numbers | batch(2, "-") | list }} {{ numbers | slice(2) | list }}
{{ "1.7" | float }} {{ "12" | int }} {{ "x" | int }} {{ "x" | int(5) }} {{ 3.9 | int }} {{ "0x1f" | int(0, 16) }} {{ -3 | abs }} {{ 3 | string }}
{{ 2.5 | round }} {{ 3.14159 | round(2) }} {{ 2.1 | round(0, "ceil") }} {{ 2.9 | round(method="floor") }}
{{ "a-b-a" | replace("a", "x") }} {{ "aaa" | replace("a", "b", 2) }} {{ "<&>\"'" | escape }} {{ "<" | e | safe }} {{ "<b>" | safe + "<i>" }}
{{ "one\ntwo\n\nthree" | indent(2) }}| {{ "a\nb" | indent(3, true) }}| {{ "a\n\nb" | indent(2, blank=true) }}
{{ user | tojson }} {{ nested | tojson(indent=2) }} {{ [1.0, 1e20, none, true, "é\"\\\n\u0001<>&'"] | tojson }} {{ {"b": 1, "a": [1, 2]} | tojson(sort_keys=true) }} {{ {} | tojson }} {{ [] | tojson(indent=4) }}
{{ nested | tojson(separators=(",", ":")) }} {{ {"a": 1} | tojson(ensure_ascii=true) }} {{ "é😀" | tojson(ensure_ascii=true) }} {{ "x" | tojson | safe }}
{{ "a,b,,c".split(",") }} {{ " a  b ".split() }} {{ "a,b,c".split(",", 1) }} {{ "a,b,c".rsplit(",", 1) }} {{ "a\nb\r\nc".splitlines() }}
{{ "  x ".strip() }}|{{ "  x ".lstrip() }}|{{ "  x ".rstrip() }}|{{ "xyx".strip("x") }} {{ "abc".startswith("a") }} {{ "abc".endswith(("x", "c")) }}
{{ "Abc".upper() }} {{ "Abc".lower() }} {{ "a bC-d".title() }} {{ "aBC d".capitalize() }} {{ "abcabc".replace("b", "x") }} {{ "abcabc".replace("b", "x", 1) }} {{ "ab".replace("", "-") }}
{{ "abc".find("c") }} {{ "abc".find("z") }} {{ "aXbXc".count("X") }} {{ ",".join(["a", "b"]) }} {{ "12".isdigit() }} {{ "ab".isalpha() }} {{ " ".isspace() }} {{ "AB".isupper() }}
{{ "{} and {name} {{}}".format("x", name="y") }} {{ "{1}{0}".format(1, 2) }} {{ "a=b=c".partition("=") | list }} {{ "prefix-x".removeprefix("prefix-") }} {{ "7".zfill(3) }} {{ "x".rjust(3) }}|
{{ 1 is number }} {{ 1.5 is float }} {{ 1 is integer }} {{ true is boolean }} {{ "x" is string }} {{ [] is iterable }} {{ {} is mapping }} {{ "x" is sequence }} {{ none is none }} {{ 3 is odd }} {{ 9 is divisibleby 3 }}
{{ true is true }} {{ 1 is true }} {{ "a" is eq "a" }} {{ 1 is ne 2 }} {{ 5 is gt 3 }} {{ "A" is upper }} {{ missing is undefined }} {{ text is not none }} {{ range is callable }}
{% set x = 1 %}{% for i in numbers %}{% set x = i %}{% endfor %}{{ x }} {% set ns = namespace(x=1) %}{% for i in numbers %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}
{% for i in numbers %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.length }}{{ " first" if loop.first }}{{ " last" if loop.last }};{% endfor %}
{% for i in numbers if i is odd %}{{ loop.index }}:{{ i }} {% else %}none{% endfor %}{% for i in [] %}x{% else %}empty{% endfor %}
{% for k, v in user.items() %}{{ k }}={{ v }};{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for k in user %}{{ k }}{% endfor %}
{% for i in numbers %}{{ loop.previtem if loop.previtem is defined else "-" }}<{{ i }}>{{ loop.nextitem | default("-") }} {{ loop.cycle("a", "b") }} {% endfor %}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %} {{ range(3) | list }} {{ range(1, 10, 3) | list }} {{ range(3, 0, -1) | list }}
{% for p in people recursive %}{{ p.name }}{% if p.friends %}({{ loop(p.friends) }}){% endif %}{{ loop.depth }}{% endfor %}
{% macro greet(name, greeting="Hi", *args) %}{{ greeting }}, {{ name }}!{% endmacro %}
{% macro greet(name, greeting="Hi") %}{{ greeting }}, {{ name }}!{{ kwargs }}{{ varargs | list }}{% endmacro %}{{ greet("A") }} {{ greet("B", "Yo") }} {{ greet(name="C", greeting="Hey") }} {{ greet("D", "E", 5, z=1) }}
{% macro depth(n) %}{{ n }}{% if n > 0 %}{{ depth(n - 1) }}{% endif %}{% endmacro %}{{ depth(5) }}
{% macro outer() %}[{{ caller("x") }}]{% endmacro %}{% call(v) outer() %}inner {{ v }} {{ text }}{% endcall %}
{% set block %}a {{ text }} b{% endset %}{{ block | upper }} {% set filtered | upper | trim %}  up {% endset %}{{ filtered }}
{% filter upper %}shout {{ text }}{% endfilter %} {% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}
{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set t = (1, 2) %}{{ t | length }} {% set d = dict(a=1) %}{{ d.a }} {% set e = {"x": {"y": [1, 2]}} %}{{ e.x.y[1] }}
{% if a is defined %}y{% elif text %}z{% else %}n{% endif %} {%- if true -%}  tight  {%- endif -%}  end
{% raw %}{{ not rendered }} {% neither %}{% endraw %} {# a comment #}after {%- raw -%}  x  {%- endraw -%}  y
{{ "it's" }} {{ 'say "x"' }} {{ "tab\there" }} {{ 'a\'b' }} {{ "\x41\u00e9\U0001F600" }} {{ "a" "b" }} {{ "\d" }}
{{ raise_exception("no " ~ text) }}
{{ strftime_now("%d %b %Y %H:%M %A %j") }}
{% generation %}{{ text }}{% endgeneration %}{% generation %} x {% set inner = 1 %}{% endgeneration %}{{ inner is defined }}
{{ numbers.append(4) }}
{{ user.pop("name") }}
{{ nosuchfunction() }}
{{ text | nosuchfilter }}
{{ text is nosuchtest }}
{% unknown %}
{{ 1 / 0 }}
{{ "a" + 1 }}
{{ [1, 2 }}
{% for x in 5 %}{% endfor %}
{% if true %}
{{ "open }}
{{ none | selectattr("x") | list }} {{ {"a": none} | tojson }} {{ [[1, [2]], {"a": {"b": []}}] | tojson(indent=1) }}
{{ (1, 2)[0] }} {{ {"a": 1}.a }} {{ [1, 2, 3][1:] | last }} {{ "abc"[1] }} {{ text.upper()[0:2].lower() }} {{ user.name.split("d")[0] }}
{{ 1 if text else 2 if none else 3 }} {{ (text or "x") | length }} {{ text | length > 3 and numbers | length == 4 }} {{ not text is defined }}
{{ true }} {{ True }} {{ none }} {{ None }} {{ false | string }} {{ [true, none] }} {{ {1: "a"} }} {{ "a\nb" }} {{ ["a\nb'c", "it's"] }}
{{ text|truncate(5) }} {{ "a b c d e f" | truncate(7, true, "…", 0) }} {{ "x" | center(5) }}| {{ people | groupby("admin") | length }}
{{ ["x", "y"] | map("replace", "x", "z") | list }} {{ [{"a": {"b": 1}}] | map(attribute="a.b") | list }} {{ {"a": [10, 20]} | attr("a") }}|
""".strip().split("\n")

# Line-oriented templates: what trim_blocks, lstrip_blocks and the signs do to white space.
LAYOUTS = [
    "{% if true %}\n  yes\n{% endif %}\nend\n",
    "a\n    {% if true %}\n    b\n    {% endif %}\n    c\n",
    "a\n    {%+ if true %}\n    b\n    {%+ endif +%}\n    c\n",
    "  {{ text }}\n  {{- text -}}  \n  x\n",
    "{%- for i in numbers %}\n    {{- i }}\n{%- endfor %}\n\n",
    "{# comment #}\nx {# c #}\n   {# d #}\n y\n   {#- e -#}   z",
    "x{% set a = 1 %}\n\n{% set b = 2 -%}\n\n  y",
    "\t{% for i in numbers -%}\n  {{ i }},\n\t{% endfor %}|\n",
    "line\r\n  {% if true %}\r\nwindows\r\n  {% endif %}\r\n",
    "{% if true %}\u00a0{% endif %} \u00a0 {%- if true %}x{% endif %}",
    "\n\n{{ text }}\n\n",
    "a {%- if true +%}\n b {%+ endif -%}\n c",
]

VARIABLES = {
    "text": "hello wörld", "numbers": [1, 2, 3, 4], "user": {"name": "Ada", "age": 36, "items": "own"},
    "nested": {"a": [1, {"b": None}], "c": {"d": "é", "items": [1]}},
    "people": [
        {"name": "Al", "age": 40, "admin": True, "friends": [{"name": "Cy"}]},
        {"name": "Bo", "age": 30, "admin": False},
        {"name": "Di", "age": 35, "admin": True},
    ],
}


def template_fixtures(folder):
    env = reference.environment()
    cases = [("snippet %d" % (i + 1), line, VARIABLES) for i, line in enumerate(SNIPPETS)]
    cases += [("layout %d" % (i + 1), text, VARIABLES) for i, text in enumerate(LAYOUTS)]
    with open(os.path.join(folder, "conversations.json")) as file:
        shared = json.load(file)
    for name in sorted(os.listdir(os.path.join(folder, "templates"))):
        with open(os.path.join(folder, "templates", name), newline="") as file:
            source = file.read()
        for conversation in shared["conversations"]:
            for tools in (None, shared["tools"]):
                variables = {
                    "messages": conversation["messages"], "tools": tools, "add_generation_prompt": tools is None,
                    "bos_token": "<s>", "eos_token": "</s>", "documents": None,
                }
                cases.append((f"{name}, {conversation['name']}", source, variables))
    fixtures = []
    for name, template, variables in cases:
        answer = reference.render_case(env, {"template": template, "variables": variables})
        fixtures.append({"name": name, "template": template, "variables": variables, **answer})
    return fixtures


def main(folder):
    def write(name, value):
        with open(os.path.join(folder, name), "w") as file:
            json.dump(value, file, ensure_ascii=False, separators=(",", ":"))
        print(name, os.path.getsize(os.path.join(folder, name)), "bytes")

    write("tokenizers.json", tokenizer_fixtures())
    write("templates.json", template_fixtures(folder))


main(sys.argv[1])
