#!/usr/bin/env python3
"""What the server promises, measured over plain sockets against an `apus serve` that each check starts for itself.

  Benchmarks/serve/run.py CHECK … [--apus BINARY] [--json FILE]

Checks, in this order with `all`:
  prefix       a request that shares 512 tokens: TTFT ≤ 0.25 × cold, the same log-probabilities
  chunked      p99 inter-token latency while a 4,000-token prompt arrives ≤ 3 × idle
  disconnects  1,000 clients that go away: each gone in 200 ms, no block, descriptor or sequence left
  drain        SIGTERM under load: every answer whole, new requests 503, exit status 0
  kill         kill -9 under load: what a client saw completed is stored, readable, continuable
  hostile      idle connections, slow senders, big bodies, bombs; a stream beside them is not disturbed
  unload       anonymous memory ≤ 80 MB when idle, reload TTFT ≤ 0.4 s, probes wake nothing
  invariance   the same text alone and among eight others, greedy and seeded
  schemas      200 random schemas: every answer valid
  static       mixed lengths: throughput ≥ 1.5 × static batching
  cost         HTTP and event streams ≤ 5 % of a decode step's processor time at 16 streams
  overhead     requests/s of /health ≥ 0.8 × bare Hummingbird (needs --bare, see bare/Package.swift)
  guidellm     `apus bench serve` and guidellm (from PyPI), same prompts: each tells the server's own figures within 10 %
  soak         mixed load for --minutes: memory grows ≤ 5 %, nothing leaks

The exit status is 1 if a bar is missed.
"""
import signal
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
import common

CHECKS = {
    "prefix": "latency", "chunked": "latency", "disconnects": "disconnects", "drain": "lifecycle", "kill": "lifecycle",
    "hostile": "hostile", "unload": "lifecycle", "invariance": "answers", "schemas": "answers", "static": "latency",
    "cost": "cost", "overhead": "overhead", "guidellm": "guidellm_peer",
    "soak": "soak",
}


def main():
    p = common.parser(__doc__)
    p.add_argument("check", nargs="+", help="names from the list above, or all")
    p.add_argument("--rounds", type=int, help="rounds, where a check alternates (default: the check's own)")
    p.add_argument("--count", type=int, help="disconnects, connections or schemas (default: the check's own)")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--minutes", type=float, default=30, help="of the soak")
    p.add_argument("--bare", help="the binary of Benchmarks/serve/bare, for overhead")
    p.add_argument("--guidellm", help="the program guidellm (default: from the path, or installed under .peers)")
    p.add_argument("--part", action="append", help="only this part of a check that has parts (hostile)")
    p.add_argument("--schema-python", help="a Python that has jsonschema, for schemas")
    arguments = p.parse_args()
    # Ended from outside, it still ends its server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    names = list(CHECKS) if arguments.check == ["all"] else arguments.check
    if unknown := [name for name in names if name not in CHECKS]:
        p.error(f"no check {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    if "schemas" in names:
        common.use_python("schema", "jsonschema")
    facts = common.machine()
    print(f"{facts['cpu']}, {facts['cores']} cores, {common.now()}")
    results = {"machine": facts, "checks": {}}
    failed = []
    for name in names:
        module = __import__(CHECKS[name])
        before, begun = common.load_average(), time.monotonic()
        print(f"\n# {name}", flush=True)
        try:
            result = getattr(module, name)(arguments)
        except Exception as error:
            import traceback

            traceback.print_exc()
            result = {"verdict": [("ran to its end", False, f"{type(error).__name__}: {error}")]}
        result |= {"load": [before, common.load_average()], "seconds": time.monotonic() - begun}
        for what, met, seen in result["verdict"]:
            print(f"{'ok     ' if met else 'MISSED '} {what}: {seen}")
            if not met:
                failed.append(f"{name}: {what}")
        print(f"load {before:.1f} to {result['load'][1]:.1f}, {result['seconds']:.0f} s", flush=True)
        results["checks"][name] = result
        common.write_json(arguments, results)
    if failed:
        print("\nmissed: " + "; ".join(failed))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
