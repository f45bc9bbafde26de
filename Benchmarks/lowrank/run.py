#!/usr/bin/env python3
"""Low-rank models: quality, memory, time, and what other tools make of them.

  Benchmarks/lowrank/run.py CHECK … [--apus BINARY] [--rounds N] [--json FILE]

Checks, in this order with `all` (bars in brackets):
  quality   MiniLM on held-out glosses: output-PCA [cosine ≥ .92 / .86 / .77 at ratio .9 / .7 / .5], ASVD and plain
            beside it; ranks by sensitivity [≥ .93 at .8, ≥ .88 at .6]
  memory    transient bytes, planned and measured, of MiniLM and of a BERT-Base shape: streamed against low rank at once
            and against dense [≤ 0.15 of each]; the same from outside, by a child's VmHWM [± 10 % + 2 MB]
  speed     BERT-Base shapes of rank d/8, d/4, d/2: dense / streamed [≥ 2.2, 1.6, 1.05], streamed / at once
            [≤ 1.05]; MiniLM at ratio .5 against PyTorch dense
  merge     factors multiplied out, in sentence-transformers: cosine to the streamed model [≥ 0.99999]
  decoder   smollm2-135m and gemma-3-270m at ratio .9, plain, refitted layer by layer, and with ranks by sensitivity:
            perplexity [≤ 1.08 times attention alone, 1.06 feed-forward alone] and bytes
  kv        narrow keys and values, smollm2-135m and gemma-3-270m: the same 128 greedy tokens in three layouts, bytes a
            token by the formula, the ledger and a child's memory, perplexity by ranks [≤ 1.15 × where only layers
            without a window are cut], decode speed by layout and context

Texts are the noun glosses of Debian's wordnet-base, for decoders Perl's manuals; calibration and test share none. Needs Benchmarks/peers.sh ref.
"""
import signal
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
import common  # noqa: E402

common.use_python("ref", "sentence_transformers")

CHECKS = {**dict.fromkeys(("quality", "memory", "speed", "merge", "decoder"), "lowrank"), "kv": "kv"}


def main():
    p = common.parser(__doc__)
    p.add_argument("check", nargs="+", help="names from the list above, or all")
    p.add_argument("--rounds", type=int, help="rounds, where sides take turns (default 5)")
    arguments = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    names = common.chosen_checks(p, arguments.check, CHECKS)
    facts = common.machine()
    print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']:.1f}, {common.now()}")
    common.run_checks(arguments, names, CHECKS, facts)


if __name__ == "__main__":
    main()
