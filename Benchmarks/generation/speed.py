#!/usr/bin/env python3
"""Speed against llama.cpp: same model, same threads, same run, alternating rounds.

  decode     tokens/s over 128 tokens after a 16-token prompt
  prefill    tokens/s of a 512-token prompt
  batch B    total decode tokens/s of B sequences (64 tokens each after 16), and the gain over batch 1

Beside every rate: the share of the memory bandwidth (decode: file bytes that one step must read x steps/s / measured
read bandwidth) or of the arithmetic peak (prefill: 2 x matrix elements x tokens/s / measured peak), and the load average
of that moment. Both engines are fed given tokens and timed without sampling and without loading (llama-bench's method).
Where the CPU's own limit lies below a wanted ratio, the `limit` columns show it: the rate at which either the bandwidth
or the arithmetic peak would be exhausted.

Peaks come from `apus doctor` in the same run; a numpy read loop measures the bandwidth a second time, independently.

  Benchmarks/generation/speed.py [--models DIR] [MODEL ...]
  Benchmarks/generation/speed.py --level v3    Apus forced to AVX2 beside a llama.cpp built for it (peers.sh llama-avx2)
"""
import os
import sys
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
import common

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
level = next((sys.argv[i + 1] for i, a in enumerate(sys.argv[:-1]) if a == "--level"), None)
peer = "llama-avx2" if level in ("v2", "v3") else "llama"
common.use_python(peer, "llama_cpp" if peer == "llama" else "")

import numpy as np
from gguf import GGUFReader
import llama_cpp

sys.path[:0] = [str(Path(__file__).resolve().parent)]
from llama_peer import Llama

PROMPT, DECODE, PREFILL, BATCH_TOKENS = 16, 128, 512, 64


def read_bandwidth(threads, seconds=0.5):
    """GB/s that `threads` threads read together from arrays far larger than the caches (numpy's dot product)."""
    arrays = [np.ones(32 << 20, np.float32) for _ in range(threads)]
    best = 0.0
    for _ in range(3):
        done = [0] * threads
        stop = time.perf_counter() + seconds

        def work(index):
            x = arrays[index]
            while time.perf_counter() < stop:
                np.dot(x, x)
                done[index] += x.nbytes

        workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
        begun = time.perf_counter()
        for w in workers:
            w.start()
        for w in workers:
            w.join()
        best = max(best, sum(done) / (time.perf_counter() - begun) / 1e9)
    return best


def work_per_token(path):
    """What one decoded token must do: bytes of weights to read, and operations (2 per matrix element)."""
    tensors = {t.name: t for t in GGUFReader(path).tensors}
    tied = "output.weight" not in tensors
    size = elements = 0
    for name, t in tensors.items():
        if name == "token_embd.weight" and not tied:
            continue
        size += int(t.n_bytes)
        if len(t.shape) == 2:
            elements += int(t.n_elements)
    return {"bytes": size, "operations": 2 * elements}


def apus_rate(arguments, path, kind, threads, env, **options):
    words = [w for k, v in options.items() for w in ("--" + k, v)]
    rows = common.apus_json(arguments, "bench", kind, "-m", path, "--threads", threads, "--rounds", 1, *words, env=env)
    return rows[0]["tokens_per_s"]["median"]


def measure(arguments, name, env, peaks):
    path = common.model_path(arguments, name)
    work = work_per_token(path)
    llama = Llama(path, 1)
    rows = []
    for threads in arguments.threads:
        kinds = [("decode", 1), ("prefill", 1)] + [("batch", b) for b in arguments.batch]
        for kind, batch in kinds:
            llama.open(threads, max(PREFILL, PROMPT + DECODE) + 16, batch)

            def peer():
                if kind == "prefill":
                    return llama.prefill_rate(PREFILL)
                return llama.decode_rate(PROMPT, DECODE if kind == "decode" else BATCH_TOKENS, batch)

            def apus():
                if kind == "prefill":
                    return apus_rate(arguments, path, "prefill", threads, env, tokens=PREFILL)
                if kind == "decode":
                    return apus_rate(arguments, path, "decode", threads, env, tokens=DECODE, prompt=PROMPT)
                return apus_rate(
                    arguments, path, "batch", threads, env, tokens=BATCH_TOKENS, prompt=PROMPT, batch=batch)

            llama.prefill_rate(32) if kind == "prefill" else llama.decode_rate(PROMPT, 4, batch)
            sides = {"llama.cpp": peer} if arguments.no_apus else {"apus": apus, "llama.cpp": peer}
            loads = [common.load_average()]
            rates = common.alternate(arguments.rounds, sides)
            loads.append(common.load_average())
            peak = peaks[threads]
            row = {"model": name, "threads": threads, "kind": kind, "batch": batch, "load": max(loads), "work": work}
            by_bytes = peak["read_gb_s"] * 1e9 / work["bytes"] * (PREFILL if kind == "prefill" else batch)
            by_operations = peak["operations_g_s"] * 1e9 / work["operations"] if peak["operations_g_s"] else None
            row["limit_tokens_per_s"] = min(by_bytes, by_operations or by_bytes)
            for engine, values in rates.items():
                row[engine] = {"tokens_per_s": common.summary(values)}
                median = row[engine]["tokens_per_s"]["median"]
                row[engine]["bandwidth_share"] = median / by_bytes
                row[engine]["arithmetic_share"] = median / by_operations if by_operations else None
            if not arguments.no_apus:
                row["ratio"] = row["apus"]["tokens_per_s"]["median"] / row["llama.cpp"]["tokens_per_s"]["median"]
            rows.append(row)
            print(f"  {name} {threads} thread(s) {kind}{f' {batch}' if kind == 'batch' else ''}: " + ", ".join(
                f"{e} {row[e]['tokens_per_s']['median']:.1f} tok/s" for e in rates) + f", load {row['load']:.1f}",
                file=sys.stderr)
    llama.close()
    for row in rows:
        alone = ("batch", 1, row["threads"])
        first = next((r for r in rows if (r["kind"], r["batch"], r["threads"]) == alone), None)
        if row["kind"] == "batch" and first:
            row["gain_limit"] = row["limit_tokens_per_s"] / first["limit_tokens_per_s"]
            for engine in ("apus", "llama.cpp"):
                if engine in row:
                    row[engine]["gain"] = (
                        row[engine]["tokens_per_s"]["median"] / first[engine]["tokens_per_s"]["median"])
    return rows


def measured_peaks(arguments, env):
    peaks = {}
    for threads in arguments.threads:
        own = read_bandwidth(threads)
        peaks[threads] = {"read_gb_s": own, "numpy_read_gb_s": own, "operations_g_s": None}
        if not arguments.no_apus:
            doctor = common.apus_json(arguments, "doctor", "--threads", threads, env=env)
            peaks[threads] |= {
                "read_gb_s": max(own, doctor["memory_bandwidth_gb_s"]), "doctor_gb_s": doctor["memory_bandwidth_gb_s"],
                "fma_g_s": doctor["fma_peak_gflops"], "int8_g_s": doctor.get("int8_peak_gops"),
                "operations_g_s": doctor.get("int8_peak_gops") or doctor["fma_peak_gflops"],
                "level": doctor.get("level"),
            }
    return peaks


def report(rows, peaks):
    for threads, peak in peaks.items():
        print(f"{threads} thread(s): " + ", ".join(
            f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in peak.items() if v is not None))

    def spread(row, engine):
        if engine not in row:
            return "-"
        s = row[engine]["tokens_per_s"]
        return f"{s['median']:.1f} ({s['min']:.1f}-{s['max']:.1f})"

    def share(row, engine):
        if engine not in row:
            return "-"
        e = row[engine]
        value = e["arithmetic_share"] if row["kind"] == "prefill" else e["bandwidth_share"]
        return "-" if value is None else f"{value:.2f}"

    def gain(row, engine):
        return f"{row[engine]['gain']:.2f}x" if engine in row and "gain" in row[engine] else ""

    common.table(
        ["model", "threads", "what", "apus tok/s", "llama.cpp tok/s", "ratio", "apus share", "llama share",
         "limit tok/s", "apus gain", "llama gain", "gain limit", "load"],
        [[r["model"], r["threads"], r["kind"] + (f" {r['batch']}" if r["kind"] == "batch" else ""), spread(r, "apus"),
          spread(r, "llama.cpp"), f"{r['ratio']:.2f}" if "ratio" in r else "-", share(r, "apus"), share(r, "llama.cpp"),
          f"{r['limit_tokens_per_s']:.0f}", gain(r, "apus"), gain(r, "llama.cpp"),
          f"{r['gain_limit']:.2f}x" if "gain_limit" in r else "", f"{r['load']:.1f}"] for r in rows])
    for threads in peaks:
        for kind in ("decode", "prefill"):
            ratios = [r["ratio"] for r in rows if r["threads"] == threads and r["kind"] == kind and "ratio" in r]
            if ratios:
                print(f"{kind}, {threads} thread(s): geometric mean {common.geometric_mean(ratios):.2f}x, "
                      f"least {min(ratios):.2f}x")


def main():
    p = common.parser(__doc__)
    p.add_argument("model", nargs="*", help="names or files (default: the four generators)")
    p.add_argument("--threads", type=lambda s: [int(t) for t in s.split(",")], default=[1, 2])
    p.add_argument("--batch", type=lambda s: [int(b) for b in s.split(",") if b], default=[1, 4, 8])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--level", choices=["v2", "v3", "v4"], help="APUS_CPU_LEVEL; v2 and v3 take the AVX2 llama.cpp")
    p.add_argument("--llama-avx2-python", help="a Python whose llama-cpp-python was built without AVX-512")
    arguments = p.parse_args()
    env = {"APUS_CPU_LEVEL": arguments.level} if arguments.level else {}
    facts = common.machine(arguments, env)
    facts["llama.cpp"] = llama_cpp.llama_print_system_info().decode().strip()
    print(f"{common.now()}  {facts['cpu']}, {facts['cores']} cores, load {facts['load']:.1f}")
    print(f"llama-cpp-python {llama_cpp.__version__}: {facts['llama.cpp']}")
    peaks = measured_peaks(arguments, env)
    rows = []
    for name in arguments.model or common.GENERATORS:
        rows += measure(arguments, name, env, peaks)
    report(rows, peaks)
    common.write_json(arguments, {"machine": facts, "level": arguments.level, "peaks": peaks, "rows": rows})


if __name__ == "__main__":
    main()
