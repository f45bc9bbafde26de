#!/usr/bin/env python3
"""The vector database beside its peers: hnswlib with a filter and per tenant, faiss IVF with a selector, exact scan.

  Benchmarks/vectors/run.py CHECK … --data deb106k.npz [--apus BINARY] [--access deb|zipf] [--rounds N] [--json FILE]

Checks, in this order with `all` (bars in brackets):
  search    recall@10 and thread CPU time by size of the tenant, sides in turns; curves as SVG  [A1 A2 A3 A7 A8 A11]
  memory    bytes a vector beyond the vectors, against the growth of RSS and the peers          [A3 A5]
  updates   insert, grant and revoke in memory, durable grants, answers that follow them        [A6]
  tuning    asked recall .90 .95 .98 .99 on held-out pairs while the collection grows 8×        [± .005 a bucket]
  threads   readers 1 → 2, and p99 of a reader beside a writer                                  [A9]
  restart   opening a checkpoint, replaying a log                                               [A10]
  shape     latency against n, memory against tenants                                           [≤ 4.5× for 8 n]
  scale     a million vectors, ten million grants: build, memory, search                        [linear or better]

The peers need Benchmarks/peers.sh vectors; their indexes are built once (about four minutes) beneath .peers/vectors.
`--no-apus` measures the peers alone. The exit status is 1 if a bar is missed.

What is called of `apus vectors`, beyond create, train, tune, verify and stats:
  import PATH --vectors X.npy --access A.npz [--first-id N] --no-train    row i is the id N + i (0 by default)
  search PATH --queries --tenants --k --threads 1 --out IDS.npy --times TIMES.npy --json --warm
         [--exact | --patience P | --target-recall R]           --warm: one pass over the queries goes unmeasured first
         → {"queries": n, "cpu_us": {"mean", "p50", "p99"}, "scanned": {"mean": vectors whose distance was computed}}
  grant|revoke PATH --pairs P.npy --json                        durable when it returns
         → {"pairs": n, "changed": those that were not so before}
  bench PATH --what updates --json                              leaves the store as it was
         → {"insert_us": {"mean", "p50", "p99"}, "grant_us": {…}, "revoke_us": {…},   thread CPU time, no log
            "durable": {"grants": n, "seconds": wall, "commits": n}}                  with log and group commit
  bench PATH --what memory --json                               two lines, each waits for a line on standard input:
         {"stage": "before"} with nothing open; {"stage": "open", "bytes": {"vectors", "index", "total"}} with the whole
         store resident (each page touched), from where RSS is read
  bench PATH --what readers --queries --tenants --k --target-recall --grants-per-second G --json
         → {"threads": {"1": {"queries_per_s": wall, "p99_us": wall}, "2": {…}},
            "writer": {"grants_per_s": reached, "queries_per_s", "p99_us"}}           one reader beside one writer
  bench PATH --what open --json                                 page cache warm
         → {"open_ms": wall until a query may be asked, "first_answer_ms": until one was answered,
            "replay": {"records": n, "seconds": wall}}                                a log of ≥ 200,000 grants
"""
import signal
import subprocess
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
import common  # noqa: E402

common.use_python("vectors", "faiss")
import peers  # noqa: E402
from store import require_vectors  # noqa: E402

CHECKS = {"search": "search", "memory": "upkeep", "updates": "upkeep", "tuning": "growth", "threads": "upkeep",
          "restart": "upkeep", "shape": "growth", "scale": "growth"}


def commit():
    command = ["git", "-C", str(common.ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "?"


def main():
    p = common.parser(__doc__)
    p.add_argument("check", nargs="+", help="names from the list above, or all")
    p.add_argument("--data", help="deb106k.npz or its folder (default: APUS_VECTOR_DATA)")
    p.add_argument("--access", action="append", choices=["deb", "zipf"], help="only this matrix of deb106k")
    p.add_argument("--rounds", type=int, help="rounds, where sides take turns (default 3)")
    p.add_argument("--pairs", type=int, help="only so many of the pairs (tuning: of each bucket), for a quick look")
    p.add_argument("--charts", default=str(peers.HOME / "charts"), help="folder of the SVGs")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--vectors-python", help="a Python that has numpy and faiss")
    arguments = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    names = common.chosen_checks(p, arguments.check, CHECKS)
    if not arguments.no_apus:
        require_vectors(arguments)
    facts = {**common.machine(), "commit": commit(), "versions": peers.versions()}
    print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']:.1f}, {common.now()}, {facts['commit']}; "
          + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    common.run_checks(arguments, names, CHECKS, facts)


if __name__ == "__main__":
    main()
