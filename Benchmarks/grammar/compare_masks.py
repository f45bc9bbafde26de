"""Compares masks written by the MaskComparison test with llguidance's, on the same vocabulary and texts.

    APUS_GRAMMAR_MASKS=masks.txt APUS_MODELS=FOLDER swift test --filter MaskComparison
    compare_masks.py masks.txt
"""
import json
import sys

import numpy
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask


class Vocabulary:
    def __init__(self, tokens, special, end):
        self.tokens, self.special_token_ids = tokens, special
        self.eos_token_id, self.bos_token_id = end, None

    def __call__(self, text):
        return []


def main(path):
    tokens, special, ends = [], [], []
    tokenizer = matcher = schema = None
    equal = different = 0
    report = {}
    for line in open(path, encoding="utf-8"):
        kind, _, rest = line.rstrip("\n").partition(" ")
        if kind == "token":
            is_text, text = rest.split(" ")
            if is_text == "0":
                special.append(len(tokens))
            tokens.append(bytes.fromhex(text))
        elif kind == "end":
            ends = [int(x) for x in rest.split()]
            tokenizer = LLTokenizer(TokenizerWrapper(Vocabulary(tokens, special, ends[0])))
        elif kind == "schema":
            schema, prefix, off = rest, b"", False
            style = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
            document = dict(json.loads(schema), **{"x-guidance": style})
            # Forced bytes would narrow the mask to the token that a tokenizer would choose.
            grammar = LLMatcher.grammar_from_lark(
                '%llguidance {"no_forcing": true}\nstart: %json ' + json.dumps(document))
            matcher = LLMatcher(tokenizer, grammar)
            assert not matcher.is_error(), matcher.get_error()
        elif kind == "mask" and not off:
            can_end, _, list_ = rest.partition(" ")
            ours = set(int(x) for x in list_.split()) - set(special)
            bits = allocate_token_bitmask(1, len(tokens))
            fill_next_token_bitmask(matcher, bits)
            array = numpy.unpackbits(bits.view(numpy.uint8), bitorder="little")[:len(tokens)]
            theirs = set(numpy.nonzero(array)[0].tolist()) - set(special)
            same_end = matcher.is_accepting() == (can_end == "1")
            if ours == theirs and same_end:
                equal += 1
            else:
                different += 1
                more = sorted(ours - theirs)[:6]
                fewer = sorted(theirs - ours)[:6]
                report.setdefault(schema, []).append(
                    (prefix, len(ours), len(theirs), [tokens[t] for t in more], [tokens[t] for t in fewer], same_end))
        elif kind == "next" and not off:
            prefix += tokens[int(rest)]
            if not matcher.consume_token(int(rest)):
                off = True
    for schema, cases in report.items():
        print(schema, len(cases), "different")
        for case in cases[:3]:
            print("   ", case)
    print(f"{equal} masks equal, {different} different")


main(sys.argv[1])
