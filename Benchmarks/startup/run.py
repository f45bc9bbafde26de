#!/usr/bin/env python3
"""Time to the first token of a fresh process with the model file in the page cache: 16-token prompt, one greedy token.

  apus                      from starting `apus run` to the first byte of its answer
  llama.cpp, process        the same for a Python process that uses llama-cpp-python
  llama.cpp, in process     load + tokenise + prefill + first token alone, without Python's own start and imports: the
                            fairer peer, and the one that the ratio is taken with

Alternating rounds; run with the Python of .peers/llama, which it finds by itself:
  Benchmarks/startup/run.py [--models DIR] [MODEL ...]
"""
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
import common

common.use_python("llama", "llama_cpp")

# 16 tokens with every one of the generators' tokenizers, give or take one.
PROMPT = "The common swift spends most of its life in the air and it rarely lands at"


def first_byte(command):
    """(seconds from the start to the first byte on stdout, the whole output)."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    first = process.stdout.read(1)
    took = time.perf_counter() - begun
    rest = process.stdout.read()
    errors = process.stderr.read().decode(errors="replace")
    if process.wait() != 0 or not first:
        sys.exit(f"{' '.join(command[:3])} ... left with status {process.returncode}: {errors[-400:]}")
    return took, (first + rest).decode(errors="replace")


def child(path, threads):
    """What the peer's process does."""
    sys.path[:0] = [str(common.ROOT / "Benchmarks/generation")]
    from llama_peer import Llama
    import llama_cpp

    begun = time.perf_counter()
    llama = Llama(path, threads)
    ids = llama.tokenize(PROMPT)
    llama.decode([(t, i, 0, i == len(ids) - 1) for i, t in enumerate(ids)])
    token = int(llama.row(len(ids) - 1).argmax())
    piece = llama_cpp.llama_vocab_get_text(llama.vocab, token)
    took = time.perf_counter() - begun
    sys.stdout.write("x")
    sys.stdout.flush()
    print(json.dumps({"in_process_s": took, "prompt_tokens": len(ids), "piece": piece.decode(errors="replace")}))


def main():
    p = common.parser(__doc__)
    p.add_argument("model", nargs="*", help="names or files (default: the four generators)")
    p.add_argument("--threads", type=lambda s: [int(t) for t in s.split(",")], default=[1, 2])
    p.add_argument("--rounds", type=int, default=7)
    arguments = p.parse_args()
    facts = common.machine(arguments)
    print(f"{common.now()}  {facts['cpu']}, {facts['cores']} cores, load {facts['load']:.1f}")
    rows = []
    for name in arguments.model or common.GENERATORS:
        path = common.model_path(arguments, name)
        for threads in arguments.threads:
            inside, tokens = [], []

            def apus():
                return first_byte([arguments.apus, "run", "-m", path, PROMPT, "-n", "1", "--temperature", "0",
                                   "--ignore-eos", "--threads", str(threads)])[0]

            def peer():
                took, text = first_byte([sys.executable, __file__, "--child", path, str(threads)])
                said = json.loads(text[1:])
                inside.append(said["in_process_s"])
                tokens.append(said["prompt_tokens"])
                return took

            sides = {"llama.cpp, process": peer} | ({} if arguments.no_apus else {"apus": apus})
            for side in sides.values():
                side()
            inside.clear()
            times = common.alternate(arguments.rounds, sides)
            times["llama.cpp, in process"] = inside
            row = {"model": name, "threads": threads, "prompt_tokens": tokens[0], "load": common.load_average(),
                   "seconds": {k: common.summary(v) for k, v in times.items()}}
            if not arguments.no_apus:
                row["ratio"] = row["seconds"]["apus"]["median"] / row["seconds"]["llama.cpp, in process"]["median"]
            rows.append(row)
    names = ["apus", "llama.cpp, in process", "llama.cpp, process"]

    def milliseconds(row, engine):
        s = row["seconds"].get(engine)
        return "-" if s is None else f"{s['median'] * 1e3:.0f} ({s['min'] * 1e3:.0f}-{s['max'] * 1e3:.0f})"

    common.table(["model", "threads", "prompt tokens", *(f"{n}, ms" for n in names), "apus / in process", "load"],
                 [[r["model"], r["threads"], r["prompt_tokens"], *(milliseconds(r, n) for n in names),
                   f"{r['ratio']:.2f}" if "ratio" in r else "-", f"{r['load']:.1f}"] for r in rows])
    common.write_json(arguments, {"machine": facts, "rows": rows})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]))
    else:
        main()
