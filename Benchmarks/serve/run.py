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
    names = common.chosen_checks(p, arguments.check, CHECKS)
    if "schemas" in names:
        common.use_python("schema", "jsonschema")
    facts = common.machine()
    print(f"{facts['cpu']}, {facts['cores']} cores, {common.now()}")
    common.run_checks(arguments, names, CHECKS, facts)


if __name__ == "__main__":
    main()
