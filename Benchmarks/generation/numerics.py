#!/usr/bin/env python3
"""Do the numbers agree? Exact float32 arithmetic (../oracle/exact.py) judges Apus and llama.cpp alike.

For each model, 20 passages x 64 tokens (passages.json: public-domain prose in several languages, verse, code, data):
  teacher-forced  mean and largest KL(exact || engine) over all positions, mean |difference of log p| of the text's own
                  next token, share of positions with the same best token;
  paths           KL between an engine's own prefill and decode paths;
  greedy          16 prompt tokens, then 48 tokens that the engine chooses by itself; the oracle then scores that very
                  sequence. Every choice must be the oracle's best token, except near-ties: positions where the oracle's
                  two best probabilities differ by less than 0.05, which are listed.

Run with the Python of .peers/llama (Benchmarks/peers.sh llama), which it finds by itself:
  Benchmarks/generation/numerics.py [--models DIR] [MODEL ...]
"""
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
import common

common.use_python("llama", "llama_cpp")
# llama.cpp's OpenMP threads otherwise spin between steps and take the other engine's core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np

sys.path[:0] = [str(common.ROOT / "Benchmarks/oracle"), str(Path(__file__).resolve().parent)]
import exact
from llama_peer import Llama

TOKENS, PROMPT = 64, 16
NEAR_TIE = 0.05
EXACT_STEPS = "apus --exact, token by token"


def log_softmax(z):
    z = z.astype(np.float64)
    z -= z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


class Score:
    """Sums over positions of what one engine's distributions differ by from the reference's."""

    def __init__(self):
        self.kl, self.delta, self.same = [], [], []

    def add(self, reference, other, following):
        """Logits of one sequence, both [tokens, vocabulary]; `following[i]` is the token after position i."""
        for i in range(len(reference)):
            p, q = log_softmax(reference[i]), log_softmax(other[i])
            self.kl.append(float((np.exp(p) * (p - q)).sum()))
            self.same.append(bool(p.argmax() == q.argmax()))
            if i < len(following):
                self.delta.append(float(abs(p[following[i]] - q[following[i]])))

    def result(self):
        return {
            "kl_mean": float(np.mean(self.kl)), "kl_max": float(np.max(self.kl)),
            "delta_log_p_mean": float(np.mean(self.delta)), "same_best": float(np.mean(self.same)),
            "positions": len(self.kl),
        }


def apus_logits(arguments, model, ids, folder, *options):
    """Logits of every position from `apus score`, float32 [tokens, vocabulary]."""
    (folder / "ids.json").write_text(json.dumps(ids))
    out = folder / "logits.npy"
    common.apus_json(arguments, "score", "-m", model, "--ids", folder / "ids.json", "--logits", out,
                     "--threads", arguments.threads, *options)
    logits = np.load(out)
    out.unlink()
    return logits


def apus_greedy(arguments, model, text, count):
    """`apus run` on raw text, greedily: (ids of the prompt as Apus sees it, generated ids)."""
    prompt = common.apus_json(arguments, "tokenize", "-m", model, text)["ids"]
    run = common.apus_json(arguments, "run", "-m", model, text, "-n", count, "--temperature", 0, "--ignore-eos",
                           "--threads", arguments.threads)
    if run["prompt_tokens"] != len(prompt):
        raise common.ApusFailed(f"run saw {run['prompt_tokens']} prompt tokens, tokenize {len(prompt)}: {text!r}")
    return prompt, run["tokens"]


def judge_greedy(path, choices):
    """Where the engine's own choices leave the oracle's best token; choices is [(name, prompt, tokens)]."""
    logits = exact.logits(path, [prompt + tokens for _, prompt, tokens in choices])
    at, total, near, wrong = 0, 0, [], []
    for name, prompt, tokens in choices:
        for index, token in enumerate(tokens):
            p = np.exp(log_softmax(logits[at + len(prompt) - 1 + index]))
            total += 1
            best = int(p.argmax())
            if best != token:
                second = float(np.partition(p, -2)[-2])
                entry = {"passage": name, "position": index, "exact": best, "engine": token,
                         "p_exact": float(p[best]), "p_engine": float(p[token]), "gap": float(p[best]) - second}
                (near if entry["gap"] < NEAR_TIE else wrong).append(entry)
        at += len(prompt) + len(tokens)
    return {"positions": total, "near_ties": near, "wrong": wrong}


def measure(arguments, name, passages, folder):
    path = common.model_path(arguments, name)
    llama = Llama(path, arguments.threads)
    sequences = []
    for passage in passages:
        ids = llama.tokenize(passage["text"])
        if len(ids) < TOKENS:
            raise SystemExit(f"passage {passage['name']} has only {len(ids)} tokens in {name}")
        sequences.append(ids[:TOKENS])
    begun = time.time()
    oracle = exact.logits(path, sequences, out=str(folder / "oracle.npy"))
    result = {"model": name, "load": common.load_average(), "oracle_s": time.time() - begun, "engines": {}}

    engines = {
        "llama.cpp, one batch": lambda ids: llama.logits_in_one_batch(ids),
        "llama.cpp, token by token": lambda ids: llama.logits_token_by_token(ids),
    }
    pairs = [("llama.cpp", "llama.cpp, one batch", "llama.cpp, token by token")]
    if arguments.float64:
        wide = exact.logits(path, sequences, np.float64, out=str(folder / "oracle64.npy"))
        position = iter(range(len(sequences)))
        engines["oracle in float64"] = lambda ids: wide[TOKENS * (i := next(position)) : TOKENS * (i + 1)]
    if not arguments.no_apus:
        engines |= {
            "apus --exact": lambda ids: apus_logits(arguments, path, ids, folder, "--exact"),
            EXACT_STEPS: lambda ids: apus_logits(arguments, path, ids, folder, "--exact", "--step"),
            "apus": lambda ids: apus_logits(arguments, path, ids, folder),
            "apus, token by token": lambda ids: apus_logits(arguments, path, ids, folder, "--step"),
        }
        pairs.append(("apus --exact", "apus --exact", EXACT_STEPS))
        pairs.append(("apus", "apus", "apus, token by token"))
    scores = {engine: Score() for engine in engines}
    between = {label: Score() for label, _, _ in pairs}
    for index, ids in enumerate(sequences):
        reference = oracle[index * TOKENS : (index + 1) * TOKENS]
        seen = {engine: run(ids) for engine, run in engines.items()
                if engine != EXACT_STEPS or index < arguments.exact_steps}
        for engine, logits in seen.items():
            if logits.shape != reference.shape:
                raise SystemExit(f"{engine}: logits {logits.shape}, the oracle's {reference.shape}")
            scores[engine].add(reference, logits, ids[1:])
        for label, prefill, decode in pairs:
            if decode in seen:
                between[label].add(seen[prefill], seen[decode], ids[1:])
    result["engines"] = {engine: score.result() for engine, score in scores.items() if score.kl}
    result["prefill_against_decode"] = {label: score.result() for label, score in between.items() if score.kl}

    count = TOKENS - PROMPT
    choices = [(p["name"], ids[:PROMPT], llama.greedy(ids[:PROMPT], count)) for p, ids in zip(passages, sequences)]
    result["greedy"] = {"llama.cpp": judge_greedy(path, choices)}
    if not arguments.no_apus:
        choices = []
        for passage in passages:
            # A prompt of about PROMPT tokens, cut between words so that its tokens are those of the text alone.
            text = " ".join(passage["text"][:72].split(" ")[:-1]) or passage["text"][:24]
            choices.append((passage["name"], *apus_greedy(arguments, path, text, count)))
            expected = llama.tokenize(text)
            if choices[-1][1] != expected:
                raise SystemExit(f"{name}: Apus tokenizes {text!r} to {choices[-1][1]}, llama.cpp to {expected}")
        result["greedy"]["apus"] = judge_greedy(path, choices)
    llama.close()
    for leftover in folder.iterdir():
        leftover.unlink()
    return result


def report(results):
    rows = []
    for r in results:
        for engine, e in r["engines"].items():
            rows.append([r["model"], engine, e["positions"], e["kl_mean"], e["kl_max"], e["delta_log_p_mean"],
                         f"{100 * e['same_best']:.2f} %", f"{r['load']:.1f}"])
    common.table(["model", "engine", "positions", "mean KL", "max KL", "mean |d log p|", "same best", "load"], rows)
    print()
    common.table(["model", "prefill against decode", "mean KL", "max KL"],
                 [[r["model"], label, e["kl_mean"], e["kl_max"]]
                  for r in results for label, e in r["prefill_against_decode"].items()])
    print()
    common.table(["model", "greedy by", "positions", "differ at a near-tie", "differ otherwise"],
                 [[r["model"], engine, g["positions"], len(g["near_ties"]), len(g["wrong"])]
                  for r in results for engine, g in r["greedy"].items()])
    for r in results:
        for engine, g in r["greedy"].items():
            for kind in ("near_ties", "wrong"):
                for e in g[kind]:
                    print(f"  {r['model']} {engine} {e['passage']}+{e['position']}: exact {e['exact']} "
                          f"(p {e['p_exact']:.3f}), chosen {e['engine']} (p {e['p_engine']:.3f}), "
                          f"gap {e['gap']:.3f}{'' if kind == 'near_ties' else '  NOT A NEAR-TIE'}")


def main():
    p = common.parser(__doc__)
    p.add_argument("model", nargs="*", help="names or files (default: the four generators)")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--passages", type=int, default=20, help="use only the first N")
    p.add_argument("--exact-steps", type=int, default=3,
                   help="passages that `apus --exact` also computes token by token (slow)")
    p.add_argument("--float64", action="store_true", help="also show how exact the oracle itself is")
    arguments = p.parse_args()
    passages = json.loads((Path(__file__).parent / "passages.json").read_text())[: arguments.passages]
    facts = common.machine(arguments)
    print(f"{common.now()}  {facts['cpu']}, {facts['cores']} cores, load {facts['load']:.1f}")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.model or common.GENERATORS:
            results.append(measure(arguments, name, passages, Path(folder)))
            # Written after every model: a long run that is cut off keeps what it measured.
            common.write_json(arguments, {"machine": facts, "results": results})
    report(results)


if __name__ == "__main__":
    main()
