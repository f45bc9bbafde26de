"""What run.py checks of low-rank models."""
import glob
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import shapes

GLOSSES = Path("/usr/share/wordnet/data.noun")
MODEL = "minilm-l6"


def glosses():
    """Definitions without their examples, in a fixed order of chance."""
    if not GLOSSES.exists():
        sys.exit(f"no {GLOSSES}: install Debian's wordnet-base")
    lines = []
    for line in GLOSSES.read_text("latin-1").splitlines():
        if line.startswith("  ") or "|" not in line:
            continue
        text = re.sub(r'; ".*', "", line.split("|", 1)[1].strip())
        if 25 < len(text) < 300:
            lines.append(text)
    random.Random(1).shuffle(lines)
    return lines


class Work:
    """A folder with the texts, the statistics and the models of a run."""

    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, Path(folder)
        lines = glosses()
        self.parts = {"calibration": lines[:4000], "sensitivity": lines[:96], "test": lines[10_000:10_500]}
        digests = {name: {hashlib.sha256(t.encode()).digest() for t in part} for name, part in self.parts.items()}
        if digests["test"] & (digests["calibration"] | digests["sensitivity"]):
            raise RuntimeError("the test's texts were calibrated with")
        for name, part in self.parts.items():
            self.text(name).write_text("\n".join(part) + "\n")

    def text(self, name):
        return self.folder / f"{name}.txt"

    def path(self, name):
        return str(self.folder / name)

    def run(self, *words):
        done = subprocess.run([self.arguments.apus, "svd", *map(str, words)], capture_output=True, text=True)
        if done.returncode != 0:
            raise common.ApusFailed(f"apus svd {' '.join(map(str, words))[:200]}: {done.stderr.strip()[-400:]}")
        return done.stdout

    def json(self, *words):
        return json.loads(self.run(*words, "--json"))

    def calibrated(self, model=MODEL, tokens=12_900):
        statistics = self.path(f"{model}.stats")
        if not os.path.exists(statistics):
            self.run("calibrate", model, "--text", self.text("calibration"), "--tokens", tokens, "-o", statistics)
        return statistics

    def compressed(self, name, ratio, *options, model=MODEL):
        place = self.path(name + ("" if model == MODEL else ".gguf"))
        if not os.path.exists(place):
            self.run("compress", model, "--statistics", self.calibrated(model), "--ratio", ratio, "-o", place, *options)
        return place


def in_work(check):
    def run(arguments):
        with tempfile.TemporaryDirectory() as folder:
            return check(arguments, Work(arguments, folder))
    return run


# MARK: quality

@in_work
def quality(arguments, work):
    rows, verdict = [], []
    bars = {("output-pca", allocator, ratio): bar for allocator, ratio, bar in (
        ("uniform", 0.9, .92), ("uniform", 0.7, .86), ("uniform", 0.5, .77), ("sensitivity", 0.8, .93),
        ("sensitivity", 0.6, .88))}
    runs = [(m, "uniform", r) for r in (0.9, 0.8, 0.7, 0.6, 0.5) for m in ("output-pca", "asvd", "plain")]
    runs += [("output-pca", a, r) for r in (0.8, 0.6) for a in ("sensitivity", "grouped-loss")]
    cosine = {}
    for method, allocator, ratio in runs:
        options = ["--method", method, "--allocator", allocator]
        if allocator == "sensitivity":
            options += ["--text", work.text("sensitivity")]
        place = work.compressed(f"{method}-{allocator}-{ratio}", ratio, *options)
        said = work.json("verify", place, "--against", MODEL, "--text", work.text("test"), "--tokens", 100_000)
        seen = said["embeddings"]
        cosine[method, allocator, ratio] = seen["cosine"]
        rows.append([method, allocator, ratio, f"{seen['cosine']:.4f}", f"{seen['spearman']:.4f}",
                     f"{seen['recall']:.4f}", f"{said['bytes'] / 1e6:.1f}"])
    common.table(["method", "ranks", "ratio", "mean cosine", "Spearman", "recall@10", "MB"], rows)
    for key, bar in bars.items():
        verdict.append((f"{key[0]}, {key[1]} ranks, ratio {key[2]}: cosine ≥ {bar}", cosine[key] >= bar,
                        f"{cosine[key]:.4f}"))
    worse = [r for r in (0.9, 0.7, 0.5)
             if cosine["output-pca", "uniform", r] <= max(cosine[m, "uniform", r] for m in ("asvd", "plain"))]
    verdict.append(("output-PCA above ASVD and plain at every ratio", not worse, worse or "yes"))
    gains = [cosine["output-pca", "sensitivity", r] - cosine["output-pca", "uniform", r] for r in (0.8, 0.6)]
    verdict.append(("ranks by sensitivity ≥ .02 above uniform", min(gains) >= .02,
                    ", ".join(f"{g:.3f}" for g in gains)))
    return {"rows": rows, "verdict": verdict}


# MARK: memory

def peak(command, field, **options):
    """The most bytes of a child that a field of /proc/PID/status said while it ran."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    seen = 0
    while child.poll() is None:
        try:
            with open(f"/proc/{child.pid}/status") as status:
                seen = max(seen, next(int(line.split()[1]) for line in status if line.startswith(field)) * 1024)
        except (StopIteration, FileNotFoundError, ProcessLookupError):
            pass
        time.sleep(0.005)
    if child.returncode != 0:
        raise common.ApusFailed(f"{' '.join(command)[:200]}: status {child.returncode}")
    return seen


def high_water(arguments, small, dense, mode, batch, length):
    """VmHWM in bytes of a child that runs one mode alone."""
    command = [arguments.apus, "svd", "bench", small, "--modes", mode, "--batch", str(batch), "--length", str(length),
               "--rounds", "1", "--json", *(["--against", dense] if mode == "dense" else [])]
    return peak(command, "VmHWM")


@in_work
def memory(arguments, work):
    tokenizer = common.model_path(arguments, MODEL)
    minilm = work.compressed("minilm-0.7", 0.7, "--allocator", "uniform")
    bert = shapes.encoder(work.path("bert"), tokenizer, shapes.BERT_BASE)
    small = shapes.encoder(work.path("bert-r192"), tokenizer, shapes.BERT_BASE, rank=192)
    cases = [("MiniLM, ratio .7", minilm, MODEL, batch, length) for batch, length in ((32, 256), (64, 256), (64, 128))]
    cases += [("BERT-Base shape, rank d/4", str(small), str(bert), batch, 128) for batch in (64, 128)]
    rows, verdict = [], []
    scratch = {}
    for name, low, dense, batch, length in cases:
        said = work.json("bench", low, "--against", dense, "--batch", batch, "--length", length, "--rounds", 1)
        modes = {m["mode"]: m for m in said["modes"]}
        outside = {m: high_water(arguments, low, dense, m, batch, length) for m in ("materialized", "streamed")}
        inside = {m: modes[m]["transient_high_water"] for m in modes}
        rows.append([name, batch, length, *(f"{inside[m] / 1e6:.2f}" for m in ("dense", "materialized", "streamed")),
                     f"{inside['streamed'] / inside['materialized']:.3f}",
                     f"{inside['streamed'] / inside['dense']:.3f}",
                     f"{(outside['materialized'] - outside['streamed']) / 1e6:.1f}"])
        place = f"{name}, {batch} × {length}"
        for m in modes.values():
            verdict.append((f"{place}, {m['mode']}: planned to the byte",
                            m["transient_plan"] == m["transient_high_water"], m["transient_plan"]))
        for other in ("materialized", "dense"):
            share = inside["streamed"] / inside[other]
            verdict.append((f"{place}: streamed ≤ 0.15 of {other}", share <= 0.15, f"{share:.3f}"))
        apart, counted = outside["materialized"] - outside["streamed"], inside["materialized"] - inside["streamed"]
        verdict.append((f"{place}: VmHWM tells the same difference", abs(apart - counted) <= 0.1 * counted + 2e6,
                        f"{apart / 1e6:.1f} MB outside, {counted / 1e6:.1f} MB counted"))
        rows_of = batch * length * (384 if low == minilm else 768) * 4
        scratch[name, batch] = inside["streamed"] - rows_of
    common.table(["model", "batch", "length", "dense MB", "low rank at once", "streamed", "of low rank", "of dense",
                  "VmHWM difference MB"], rows)
    (_, one), (_, two) = sorted((b, s) for (n, b), s in scratch.items() if n.startswith("BERT"))
    verdict.append(("beside the rows, streamed memory grows only by their ids when the batch doubles", two - one <= 2e6,
                    f"{one / 1e6:.2f} to {two / 1e6:.2f} MB"))
    return {"rows": rows, "verdict": verdict}


# MARK: speed

@in_work
def speed(arguments, work):
    tokenizer = common.model_path(arguments, MODEL)
    bert = shapes.encoder(work.path("bert"), tokenizer, shapes.BERT_BASE)
    rows, verdict = [], []
    for share, bar in ((8, 2.2), (4, 1.6), (2, 1.05)):
        rank = shapes.BERT_BASE["dim"] // share
        small = shapes.encoder(work.path(f"bert-{rank}"), tokenizer, shapes.BERT_BASE, rank=rank)
        said = work.json("bench", small, "--against", bert, "--batch", 8, "--length", 128, "--rounds",
                         arguments.rounds or 5)
        seconds = {m["mode"]: m["seconds"] for m in said["modes"]}
        rows.append([f"d/{share}", *(f"{seconds[m] * 1000:.0f}" for m in ("dense", "materialized", "streamed"))])
        gain, cost = seconds["dense"] / seconds["streamed"], seconds["streamed"] / seconds["materialized"]
        verdict.append((f"rank d/{share}: dense / streamed ≥ {bar}", gain >= bar, f"{gain:.2f}"))
        verdict.append((f"rank d/{share}: streamed ≤ 1.05 × at once", cost <= 1.05, f"{cost:.3f}"))
    common.table(["rank", "dense ms", "low rank at once", "streamed"], rows)
    small = work.compressed("minilm-0.5", 0.5, "--allocator", "uniform")
    torch_texts = beside_torch(arguments, work, small, arguments.rounds or 5)
    verdict.append(("MiniLM at ratio .5, streamed, against PyTorch dense: texts/s", torch_texts["ratio"] >= 1,
                    f"{torch_texts['apus']:.0f} / {torch_texts['torch']:.0f}: {torch_texts['ratio']:.2f}"))
    return {"rows": rows, "torch": torch_texts, "verdict": verdict}


def beside_torch(arguments, work, small, rounds):
    """Passes of 32 texts of 64 tokens: tokens only, no tokenizer on either side."""
    import torch
    from transformers import AutoModel
    torch.set_num_threads(os.cpu_count())
    model = AutoModel.from_pretrained(common.model_path(arguments, MODEL)).eval()
    ids = torch.randint(1000, 20_000, (32, 64))

    def peer():
        with torch.inference_mode():
            model(ids)
            begun = time.monotonic()
            model(ids)
            return time.monotonic() - begun

    def ours():
        said = work.json("bench", small, "--modes", "streamed", "--batch", 32, "--length", 64, "--rounds", 3)
        return said["modes"][0]["seconds"]

    seconds = {"torch": [], "apus": []}
    for _ in range(rounds):
        seconds["torch"].append(peer())
        seconds["apus"].append(ours())
    middle = {side: 32 / sorted(s)[len(s) // 2] for side, s in seconds.items()}
    return {**middle, "ratio": middle["apus"] / middle["torch"]}


# MARK: other tools

@in_work
def merge(arguments, work):
    import numpy as np
    from sentence_transformers import SentenceTransformer
    small = work.compressed("minilm-0.7", 0.7, "--allocator", "uniform")
    whole = work.path("merged")
    work.run("merge", small, "-o", whole)
    texts = work.parts["test"][:200]
    listed = work.text("merged")
    listed.write_text("\n".join(texts) + "\n")
    said = common.apus_json(arguments, "embed", "-m", small, "--file", listed)
    ours = np.array(said["embeddings"])
    theirs = SentenceTransformer(whole).encode(texts, normalize_embeddings=True)
    cosines = (ours * theirs).sum(1)
    return {"verdict": [("merged, in sentence-transformers: least cosine ≥ 0.99999", cosines.min() >= 0.99999,
                         f"{cosines.min():.8f} of {len(texts)} texts")]}


# MARK: decoders

def prose():
    """Paragraphs of Perl's manuals, as running text: (calibration, test), of other manuals each."""
    files = sorted(set(glob.glob("/usr/share/perl/*/**/*.pod", recursive=True)), key=os.path.realpath)
    if not files:
        sys.exit("no manuals under /usr/share/perl: install Debian's perl")
    random.Random(3).shuffle(files)
    seen, test, rest = set(), [], []
    for file in files:
        part = []
        for paragraph in Path(file).read_text("utf-8", "ignore").split("\n\n"):
            if not paragraph.strip() or paragraph[0] in " \t=":
                continue
            for _ in range(3):
                paragraph = re.sub(r"[BCFILSXEZ]<+ ?([^<>]*?) ?>+", r"\1", paragraph)
            text = " ".join(paragraph.split())
            if len(text) > 80 and text not in seen:
                seen.add(text)
                part.append(text)
        (test if sum(map(len, test)) < 60_000 else rest).extend(part)
    return rest, test


@in_work
def decoder(arguments, work):
    learned, test = prose()
    for name, lines in (("learned", learned), ("prose", test)):
        work.text(name).write_text("\n".join(lines) + "\n")
    rows, verdict = [], []
    for model in ("smollm2-135m", "gemma-3-270m"):
        statistics = work.path(f"{model}.stats")
        work.run("calibrate", model, "--text", work.text("learned"), "--tokens", 16_384, "-o", statistics)
        target = {"attention": 1.08, "feed-forward": 1.06}
        for part in ("attention", "feed-forward", "all"):
            for way, options in (("plain", ["--allocator", "uniform"]),
                                 ("refitted", ["--allocator", "uniform", "--sequential", work.text("learned")]),
                                 ("by sensitivity", ["--text", work.text("learned"), "--tokens", 1024])):
                place = work.path(f"{model}-{part}-{way.replace(' ', '-')}.gguf")
                only = [] if part == "all" else ["--parts", part]
                done = work.json("compress", model, "--statistics", statistics, "--ratio", 0.9, "--encoding", "q8_0",
                                 "-o", place, *only, *options)
                said = work.json("verify", place, "--against", model, "--text", work.text("prose"), "--tokens", 6144)
                times = said["perplexity"] / said["original_perplexity"]
                rows.append([model, part, way, f"{done['ratio']:.3f}", f"{said['perplexity']:.2f}", f"{times:.3f}",
                             f"{said['bytes'] / 1e6:.1f}", f"{said['original_bytes'] / 1e6:.1f}"])
                if part in target and way == "by sensitivity":
                    verdict.append((f"{model}, {part} at .9: perplexity ≤ {target[part]} times", times <= target[part],
                                    f"{times:.3f}"))
                os.remove(place)
    common.table(["model", "layers", "factors", "ratio", "perplexity", "times", "MB", "original MB"], rows)
    return {"rows": rows, "verdict": verdict}
