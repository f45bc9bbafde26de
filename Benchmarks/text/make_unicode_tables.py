#!/usr/bin/env python3
"""Writes Sources/ApusText/UnicodeData.swift: the Unicode facts that tokenizers depend on.

General categories and white space are read out of the reference regex engine (the `tokenizers` package, whose
pre-tokenizers run on it), code point by code point, so that our splitters classify every character as it does.
Canonical decompositions, combining classes and case mappings come from Python's unicodedata and from the reference
normalizers; where the two disagree about canonical normalisation (they know different Unicode versions), the reference wins.

usage: make_unicode_tables.py OUTPUT.swift      (needs: pip install tokenizers)
"""
import base64
import sys
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

CATEGORIES = (
    "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn".split()
)
SURROGATES = range(0xD800, 0xE000)


def leb(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value):
    return leb(value << 1 if value >= 0 else (-value << 1) - 1)


def members(pattern, text):
    pieces = pre_tokenizers.Split(Regex(pattern), "removed", invert=True).pre_tokenize_str(text)
    return {ord(c) for piece, _ in pieces for c in piece}


def bert_flags(points):
    """What BERT's normalizer and pre-tokenizer do with each code point; they know an older Unicode than the rest."""
    clean = normalizers.BertNormalizer(True, False, False, False)
    strip = normalizers.BertNormalizer(False, False, True, False)
    marks = normalizers.StripAccents()
    words = pre_tokenizers.BertPreTokenizer()
    flags = [0] * 0x110000
    for c in points:
        char = chr(c)
        framed = f"a{char}b"
        flags[c] |= 1 if clean.normalize_str(framed) == "ab" else 0
        flags[c] |= 2 if strip.normalize_str(framed) == "ab" else 0
        flags[c] |= 4 if [w for w, _ in words.pre_tokenize_str(framed)] == ["a", char, "b"] else 0
        flags[c] |= 8 if marks.normalize_str(char) == "" else 0
    return flags


def runs_of(values):
    runs = bytearray()
    start = 0
    for c in range(1, len(values) + 1):
        if c == len(values) or values[c] != values[start]:
            runs += leb(c - start) + bytes([values[start]])
            start = c
    return runs


def combining_class(char, nfd):
    """The class of a mark; 0 where the reference does not reorder it."""
    value = unicodedata.combining(char)
    if value == 0:
        return 0
    # A mark moves before one of a higher class and after one of a lower class.
    high, low = "\u0345", "\u0334"
    if value != 240 and nfd.normalize_str(high + char) == char + high:
        return value
    if value > 1 and nfd.normalize_str(char + low) == low + char:
        return value
    return value if value in (1, 240) and unicodedata.ucd_3_2_0.combining(char) else 0


def main(path):
    points = [c for c in range(0x110000) if c not in SURROGATES]
    text = "".join(map(chr, points))

    category = [CATEGORIES.index("Cn")] * 0x110000
    for c in SURROGATES:
        category[c] = CATEGORIES.index("Cs")
    for index, name in enumerate(CATEGORIES):
        if name not in ("Cs", "Cn"):
            for c in members("\\p{%s}" % name, text):
                category[c] = index
    for c in members("\\s", text):
        category[c] |= 0x20
    runs = runs_of(category)
    bert = runs_of(bert_flags(points))

    nfc, nfd = normalizers.NFC(), normalizers.NFD()
    decompositions = bytearray()
    classes = bytearray()
    lower = bytearray()
    upto = {"d": 0, "c": 0, "l": 0}
    lowercase = normalizers.Lowercase()
    nfkd = normalizers.NFKD()
    compatibility = bytearray()
    last_compatible = 0
    for c in points:
        char = chr(c)
        if nfd.normalize_str(char) != unicodedata.normalize("NFD", char):
            print(f"note: NFD of U+{c:04X} follows the reference, not unicodedata", file=sys.stderr)
            continue
        hangul = 0xAC00 <= c <= 0xD7A3
        rule = unicodedata.decomposition(char)
        if rule and not rule.startswith("<") and not hangul:
            parts = [int(p, 16) for p in rule.split()]
            excluded = nfc.normalize_str(char) != char
            decompositions += leb((c - upto["d"]) * 2 + excluded) + zigzag(parts[0] - c)
            decompositions += leb(parts[1] if len(parts) == 2 else 0)
            upto["d"] = c
        expansion = nfkd.normalize_str(char)
        if expansion != nfd.normalize_str(char):
            compatibility += leb(c - last_compatible) + leb(len(expansion))
            last_compatible = last = c
            for part in expansion:
                compatibility += zigzag(ord(part) - last)
                last = ord(part)
        ccc = combining_class(char, nfd)
        if ccc:
            classes += leb(c - upto["c"]) + bytes([ccc])
            upto["c"] = c
        low = lowercase.normalize_str(char)
        if low != char:
            if len(low) != 1:
                assert c == 0x130, hex(c)  # the one full mapping; Lowercase handles it in code
                continue
            lower += leb(c - upto["l"]) + zigzag(ord(low) - c)
            upto["l"] = c

    def literal(name, comment, data):
        encoded = base64.b64encode(bytes(data)).decode()
        lines = "\n".join("    " + encoded[i : i + 112] for i in range(0, len(encoded), 112))
        return f'  /// {comment}\n  static let {name}: StaticString = """\n{lines}\n    """\n'

    with open(path, "w") as out:
        out.write("// Generated by Benchmarks/text/make_unicode_tables.py: facts of the Unicode character database.\n\n")
        out.write("/// Compressed Unicode facts, base64 of LEB128 records; `UnicodeTable` unpacks them once.\n")
        out.write("enum UnicodeData {\n")
        out.write(literal("categories", "Runs of (length, general category | 0x20 if white space).", runs))
        out.write("\n")
        out.write(
            literal(
                "decompositions",
                "Canonical one-step decompositions: (2·Δ code point + excluded from composition, zigzag first, second).",
                decompositions,
            )
        )
        out.write("\n")
        out.write(
            literal(
                "compatibility",
                "Full compatibility decompositions: (Δ code point, count, zigzag distance to the one before, for each).",
                compatibility,
            )
        )
        out.write("\n")
        out.write(literal("combiningClasses", "(Δ code point, canonical combining class).", classes))
        out.write("\n")
        out.write(
            literal(
                "bert",
                "Runs of (length, flags): 1 dropped as a control, 2 stripped as an accent, 4 punctuation to BERT; 8 stripped by\n"
                "  /// the StripAccents normalizer.",
                bert,
            )
        )
        out.write("\n")
        out.write(literal("lowercase", "(Δ code point, zigzag distance to the lower-case code point).", lower))
        out.write("}\n")
    print(len(runs), len(decompositions), len(classes), len(lower))


main(sys.argv[1])
