#!/usr/bin/env python3
"""MiniLM sentence embeddings: Apus beside sentence-transformers, PyTorch and onnxruntime, alternating, same threads.

Texts are real paragraphs, collected at run time from the documentation strings of Python's own library:
  paragraphs   1,000 of them, at most 254 tokens each (no engine truncates)
  short        1,000 first sentences of at most 16 words
  long         16 texts of about 500 tokens, given one at a time

Agreement: cosine of every paragraph's and long text's embedding with sentence-transformers' (float32); the least one
must be >= 0.99999. Speed: texts/s from text to normalised embedding, tokenisation included, loading excluded. Every
peer gets its texts sorted by length in batches of 32, which is sentence-transformers' own way.

Run with the Python of .peers/ref (Benchmarks/peers.sh ref), which it finds by itself:
  Benchmarks/encoder/run.py [--models DIR]
"""
import ast
import json
import os
import random
import re
import sys
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
import common

common.use_python("ref", "sentence_transformers")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# The exporter and the progress bars talk a lot; the results are what this prints.
warnings.filterwarnings("ignore")

import numpy as np
import onnxruntime
import torch
import transformers
from onnxruntime.transformers import optimizer
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

BATCH = 32
transformers.utils.logging.disable_progress_bar()


def docstrings():
    """Documentation strings of the standard library, in a fixed order."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib"} & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_text())
        except (SyntaxError, ValueError, OSError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node)
                if text:
                    yield text


def corpus(tokenizer):
    """(1,000 paragraphs, 1,000 short texts, 16 long texts)."""
    paragraphs, short = {}, {}
    for text in docstrings():
        for part in re.split(r"\n\s*\n", text):
            line = " ".join(part.split())
            letters = sum(c.isalpha() or c.isspace() for c in line)
            if letters < 0.85 * len(line) or ">>>" in line:
                continue
            if 160 <= len(line) <= 1000:
                paragraphs[line] = None
            sentence = line.split(". ")[0]
            if 3 <= len(sentence.split()) <= 16:
                short[sentence] = None
    chosen = random.Random(1)
    paragraphs = [p for p in paragraphs if len(tokenizer.encode(p)) <= 254]
    short = list(short)
    chosen.shuffle(paragraphs)
    chosen.shuffle(short)
    if len(paragraphs) < 1000 or len(short) < 1000:
        sys.exit(f"found only {len(paragraphs)} paragraphs and {len(short)} short texts in the standard library")
    long, spare = [], iter(paragraphs[1000:] + paragraphs[:1000])
    while len(long) < 16:
        text = next(spare)
        while len(tokenizer.encode(text)) < 480:
            text += " " + next(spare)
        words = text.split()
        while len(tokenizer.encode(" ".join(words))) > 510:
            words.pop()
        long.append(" ".join(words))
    return paragraphs[:1000], short[:1000], long


def sorted_batches(tokenizer, texts):
    """Length-sorted, padded batches: (indices, inputs)."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    for at in range(0, len(texts), BATCH):
        indices = order[at : at + BATCH]
        yield indices, tokenizer([texts[i] for i in indices], padding=True, truncation=True, max_length=512,
                                 return_tensors="np")


def pooled(hidden, mask):
    """Mean over real tokens, then unit length."""
    mask = mask[..., None].astype(np.float32)
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


class Torch:
    def __init__(self, path):
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModel.from_pretrained(path).eval()

    def encode(self, texts):
        out = np.empty((len(texts), self.model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for indices, inputs in sorted_batches(self.tokenizer, texts):
                hidden = self.model(**{k: torch.from_numpy(v) for k, v in inputs.items()}).last_hidden_state
                out[indices] = pooled(hidden.numpy(), inputs["attention_mask"])
        return out


class Onnx:
    """onnxruntime on the exported model, as exported or with its own transformer fusions (`fused`)."""

    def __init__(self, path, threads, folder, fused):
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModel.from_pretrained(path, attn_implementation="eager").eval()
        example = self.tokenizer(["One text.", "Another, longer text."], padding=True, return_tensors="pt")
        names = ["input_ids", "attention_mask", "token_type_ids"]
        file = str(Path(folder) / "minilm.onnx")

        class Positional(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self, input_ids, attention_mask, token_type_ids):
                return self.model(input_ids=input_ids, attention_mask=attention_mask,
                                  token_type_ids=token_type_ids).last_hidden_state

        torch.onnx.export(
            Positional(), tuple(example[n] for n in names), file, input_names=names, output_names=["hidden"],
            dynamic_axes={n: {0: "batch", 1: "tokens"} for n in [*names, "hidden"]}, dynamo=False)
        if fused:
            size = model.config
            graph = optimizer.optimize_model(
                file, model_type="bert", num_heads=size.num_attention_heads, hidden_size=size.hidden_size)
            if graph.get_fused_operator_statistics()["Attention"] != size.num_hidden_layers:
                raise RuntimeError("onnxruntime's optimizer did not fuse every attention")
            graph.save_model_to_file(file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def encode(self, texts):
        out = None
        for indices, inputs in sorted_batches(self.tokenizer, texts):
            hidden = self.session.run(["hidden"], {k: v.astype(np.int64) for k, v in inputs.items()})[0]
            if out is None:
                out = np.empty((len(texts), hidden.shape[-1]), np.float32)
            out[indices] = pooled(hidden, inputs["attention_mask"])
        return out


def main():
    p = common.parser(__doc__)
    p.add_argument("--model", default="minilm-l6")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--texts", type=int, default=1000, help="paragraphs and short texts")
    p.add_argument("--no-onnx", action="store_true", help="leave onnxruntime out")
    arguments = p.parse_args()
    path = common.model_path(arguments, arguments.model)
    torch.set_num_threads(arguments.threads)
    facts = common.machine(arguments)
    print(f"{common.now()}  {facts['cpu']}, {facts['cores']} cores, load {facts['load']:.1f}, "
          f"{arguments.threads} threads")

    with tempfile.TemporaryDirectory() as folder:
        reference = SentenceTransformer(path, device="cpu")
        reference.max_seq_length = 512
        engines = {"sentence-transformers": lambda texts: reference.encode(
            texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False)}
        engines["PyTorch"] = Torch(path).encode
        if not arguments.no_onnx:
            engines["onnxruntime"] = Onnx(path, arguments.threads, folder, fused=False).encode
            engines["onnxruntime, fused"] = Onnx(path, arguments.threads, folder, fused=True).encode
        # The encoder's own limit is no concern of a tokenizer that only counts.
        tokenizer = AutoTokenizer.from_pretrained(path, model_max_length=1 << 20)
        paragraphs, short, long = corpus(tokenizer)
        paragraphs, short = paragraphs[: arguments.texts], short[: arguments.texts]

        def apus(texts):
            """(embeddings, seconds without loading)."""
            r = common.apus_json(
                arguments, "embed", "-m", path, "--threads", arguments.threads, stdin=json.dumps(texts))
            return np.array(r["embeddings"], np.float32), r["timings"]["encode_s"]

        agreement = {}
        for label, texts in (("paragraphs", paragraphs), ("short", short), ("long", long)):
            expected = engines["sentence-transformers"](texts).astype(np.float64)
            others = {name: encode(texts) for name, encode in engines.items() if name != "sentence-transformers"}
            if not arguments.no_apus:
                others["apus"] = apus(texts)[0]
            for name, got in others.items():
                got = got.astype(np.float64)
                norms = np.linalg.norm(got, axis=1)
                cosine = (expected * got).sum(1) / norms / np.linalg.norm(expected, axis=1)
                agreement.setdefault(name, {})[label] = {
                    "least": float(cosine.min()), "mean": float(cosine.mean()),
                    "largest_norm_error": float(abs(norms - 1).max()), "texts": len(texts)}

        def timed(encode, texts, one_by_one):
            begun = time.perf_counter()
            if one_by_one:
                for text in texts:
                    encode([text])
            else:
                encode(texts)
            return len(texts) / (time.perf_counter() - begun)

        speed = []
        for label, texts in (("paragraphs", paragraphs), ("short", short), ("long", long)):
            one_by_one = label == "long"
            sides = {name: (lambda e=encode: timed(e, texts, one_by_one)) for name, encode in engines.items()}
            if not arguments.no_apus:
                # Long texts go to one process; rows of very different lengths are not batched together there either.
                sides["apus"] = lambda: len(texts) / apus(texts)[1]
            rates = common.alternate(arguments.rounds, sides)
            tokens = sum(len(tokenizer.encode(t)) for t in texts)
            row = {"what": label, "texts": len(texts), "tokens": tokens, "load": common.load_average()}
            row["texts_per_s"] = {name: common.summary(values) for name, values in rates.items()}
            if not arguments.no_apus:
                fastest = max(v["median"] for n, v in row["texts_per_s"].items() if n != "apus")
                row["ratio"] = row["texts_per_s"]["apus"]["median"] / fastest
            speed.append(row)

    common.table(["engine", "texts", "least cosine", "mean cosine"],
                 [[name, label, f"{a['least']:.8f}", f"{a['mean']:.8f}"]
                  for name, sets in agreement.items() for label, a in sets.items()])
    print()
    names = [*engines] + ([] if arguments.no_apus else ["apus"])
    common.table(["texts", "tokens each", *(f"{n} texts/s" for n in names), "apus / fastest peer", "load"],
                 [[r["what"], r["tokens"] / r["texts"],
                   *(f"{r['texts_per_s'][n]['median']:.1f} ({r['texts_per_s'][n]['min']:.1f}-"
                     f"{r['texts_per_s'][n]['max']:.1f})" for n in names),
                   f"{r['ratio']:.2f}" if "ratio" in r else "-", f"{r['load']:.1f}"] for r in speed])
    common.write_json(
        arguments, {"machine": facts, "threads": arguments.threads, "agreement": agreement, "speed": speed})


if __name__ == "__main__":
    main()
