#!/usr/bin/env python3
"""The reference implementations behind one pipe, for the comparisons in Tests/ApusTextTests.

usage: reference.py tokenize MODEL < {"texts": […], "parse_special": bool} > {"ids": [[…]], "decoded": […],
                                        "seconds": CPU seconds of encoding all texts, the median of "rounds"}
       reference.py unigram OUTPUT < ["text", …]      trains SentencePiece on the texts and writes a tokenizer.json
       reference.py render         < [{"template": …, "variables": {…}}]   > [{"output": …} | {"error": …}]

MODEL is a GGUF file or a tokenizer.json. Byte-level BPE in a GGUF becomes a `tokenizers.Tokenizer` with the public
definition of its pre-tokenizer; SentencePiece in a GGUF becomes a `sentencepiece` model; tokenizer.json is read by
`tokenizers` itself. Templates run in jinja2 with the options that transformers sets.

needs: pip install tokenizers sentencepiece protobuf jinja2
"""
import json
import struct
import sys

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def gguf_metadata(path):
    with open(path, "rb") as file:

        def read(code):
            return struct.unpack("<" + code, file.read(struct.calcsize("<" + code)))[0]

        def value(kind):
            if kind == STRING:
                return file.read(read("Q"))
            if kind == ARRAY:
                element, count = read("I"), read("Q")
                if element in SCALARS:
                    code = f"<{count}{SCALARS[element]}"
                    return list(struct.unpack(code, file.read(struct.calcsize(code))))
                return [value(element) for _ in range(count)]
            return read(SCALARS[kind])

        assert file.read(4) == b"GGUF"
        read("I"), read("Q")
        metadata = {}
        for _ in range(read("Q")):
            key = file.read(read("Q")).decode()
            metadata[key] = value(read("I"))
        return metadata


GPT2_SPACES = r"\s+(?!\S)|\s+"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|" + GPT2_SPACES
)


def byte_level(metadata):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokens = [t.decode() for t in metadata["tokenizer.ggml.tokens"]]
    types = metadata["tokenizer.ggml.token_type"]
    merges = [tuple(m.decode().split(" ")) for m in metadata["tokenizer.ggml.merges"]]
    vocabulary = {t: i for i, t in enumerate(tokens) if types[i] in (NORMAL, CONTROL, USER_DEFINED)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    pre = metadata["tokenizer.ggml.pre"].decode()
    level = pre_tokenizers.ByteLevel
    if pre == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), level(add_prefix_space=False, use_regex=True)]
        )
    elif pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(QWEN2), "isolated"), level(add_prefix_space=False, use_regex=False)]
        )
    else:
        sys.exit(f"no reference for the pre-tokenizer {pre}")
    tokenizer.decoder = decoders.ByteLevel()
    for index, token in enumerate(tokens):
        if types[index] == CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif types[index] == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=False)])
    return tokenizer


def sentencepiece_model(metadata):
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = proto.ModelProto()
    for token, score, kind in zip(
        metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"], metadata["tokenizer.ggml.token_type"]
    ):
        text = token.decode()
        piece = model.pieces.add()
        piece.piece = text.replace(" ", "\u2581") if kind == USER_DEFINED else text
        piece.score = score
        piece.type = kind
    unknown = metadata["tokenizer.ggml.unknown_token_id"]
    model.pieces[unknown].type = UNKNOWN
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.unk_id = unknown
    model.trainer_spec.unk_piece = model.pieces[unknown].piece
    model.trainer_spec.bos_id = metadata["tokenizer.ggml.bos_token_id"]
    model.trainer_spec.bos_piece = model.pieces[model.trainer_spec.bos_id].piece
    model.trainer_spec.eos_id = metadata["tokenizer.ggml.eos_token_id"]
    model.trainer_spec.eos_piece = model.pieces[model.trainer_spec.eos_id].piece
    model.trainer_spec.pad_id = metadata["tokenizer.ggml.padding_token_id"]
    model.trainer_spec.pad_piece = model.pieces[model.trainer_spec.pad_id].piece
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = bool(metadata["tokenizer.ggml.add_space_prefix"])
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def timed(rounds, encode):
    """The result of `encode` and the median of its CPU seconds."""
    import time

    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        result = encode()
        seconds.append(time.process_time() - start)
    return result, sorted(seconds)[rounds // 2]


def tokenize(path):
    request = json.load(sys.stdin)
    texts = request["texts"]
    parse_special = request.get("parse_special", False)
    rounds = request.get("rounds", 1)
    if path.endswith(".json"):
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(path)
        tokenizer.no_padding()
        tokenizer.no_truncation()
    else:
        metadata = gguf_metadata(path)
        if metadata["tokenizer.ggml.model"] == b"llama":
            model = sentencepiece_model(metadata)
            ids, seconds = timed(rounds, lambda: [model.encode(text) for text in texts])
            json.dump({"ids": ids, "decoded": [model.decode(i) for i in ids], "seconds": seconds}, sys.stdout)
            return
        tokenizer = byte_level(metadata)
    tokenizer.encode_special_tokens = not parse_special
    add_special = request.get("add_special", False)
    encodings, seconds = timed(rounds, lambda: tokenizer.encode_batch(texts, add_special_tokens=add_special))
    ids = [encoding.ids for encoding in encodings]
    decoded = tokenizer.decode_batch(ids, skip_special_tokens=True)
    json.dump({"ids": ids, "decoded": decoded, "seconds": seconds}, sys.stdout)


def unigram(path):
    """A SentencePiece unigram model with its compiled NFKC table, in the form of XLM-RoBERTa's tokenizer.json."""
    import base64
    import io

    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as proto

    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(json.load(sys.stdin)), model_writer=buffer, vocab_size=4000, model_type="unigram",
        normalization_rule_name="nmt_nfkc", character_coverage=0.999, minloglevel=2,
    )
    model = proto.ModelProto.FromString(buffer.getvalue())
    table = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    with open(path, "w") as file:
        json.dump(
            {
                "version": "1.0", "truncation": None, "padding": None,
                "added_tokens": [{"id": model.trainer_spec.unk_id, "content": "<unk>", "special": True, "lstrip": False,
                                  "rstrip": False, "normalized": False, "single_word": False}],
                "normalizer": {
                    "type": "Sequence",
                    "normalizers": [
                        {"type": "Precompiled", "precompiled_charsmap": table},
                        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
                    ],
                },
                "pre_tokenizer": metaspace, "post_processor": None, "decoder": metaspace,
                "model": {
                    "type": "Unigram", "unk_id": model.trainer_spec.unk_id, "byte_fallback": False,
                    "vocab": [[piece.piece, piece.score] for piece in model.pieces],
                },
            },
            file,
        )


def environment():
    """Jinja as transformers configures it."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.CallBlock(self.call_method("run"), [], [], body).set_lineno(line)

        def run(self, caller):
            return caller()

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def strftime_now(format):
        import datetime

        return datetime.datetime.fromtimestamp(1735689600, datetime.timezone.utc).strftime(format)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


def render_case(env, case):
    try:
        return {"output": env.from_string(case["template"]).render(**case["variables"])}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def render():
    env = environment()
    json.dump([render_case(env, case) for case in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "tokenize":
        tokenize(sys.argv[2])
    elif len(sys.argv) == 3 and sys.argv[1] == "unigram":
        unigram(sys.argv[2])
    elif len(sys.argv) == 2 and sys.argv[1] == "render":
        render()
    else:
        sys.exit(__doc__)
