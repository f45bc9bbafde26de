#!/usr/bin/env python3
"""f32 GEMM beside OpenBLAS (numpy's), in alternation.

Each round runs `kernel-bench gemm` once and numpy once in a process of its own, one and two threads; medians and spread
over the rounds are printed. OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are removed from the environment, so that OpenBLAS
chooses for itself."""
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common  # noqa: E402

common.use_python("ref", "numpy")
import numpy  # noqa: E402

# m, n, k, B stored transposed: those of `kernel-bench gemm` that a BLAS is made for.
SHAPES = [(1024, 1024, 1024, False), (1024, 1024, 1024, True), (256, 256, 256, False), (64, 64, 64, False),
          (512, 384, 1536, True), (1000, 999, 777, False)]


def name(shape):
    m, n, k, transposed = shape
    return f"gemm {m}×{n}×{k}" + (" B transposed" if transposed else "")


def worker(threads):
    """Prints {shape name: GFLOP/s}: processor time for one thread, the wall clock for more, as kernel-bench does."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    rates = {}
    for m, n, k, transposed in SHAPES:
        a = numpy.random.default_rng(1).standard_normal((m, k), dtype=numpy.float32)
        b = numpy.random.default_rng(2).standard_normal((n, k) if transposed else (k, n), dtype=numpy.float32)
        c = numpy.empty((m, n), dtype=numpy.float32)
        right = b.T if transposed else b
        numpy.matmul(a, right, out=c)
        start = clock()
        numpy.matmul(a, right, out=c)
        repeats = max(1, int(0.05 / max(clock() - start, 1e-7)))
        start = clock()
        for _ in range(repeats):
            numpy.matmul(a, right, out=c)
        rates[name((m, n, k, transposed))] = 2 * m * n * k * repeats / (clock() - start) * 1e-9
    print(json.dumps(rates))


def main():
    p = common.parser(__doc__)
    p.add_argument("--bench", default=str(Path(__file__).parent / ".build/release/kernel-bench"))
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--level", help="v2, v3 or v4: a lower level of ours (OpenBLAS keeps its own choice)")
    p.add_argument("--worker", type=int, help="internal: measure numpy with so many threads")
    arguments = p.parse_args()
    if arguments.worker:
        return worker(arguments.worker)
    clean = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}

    def ours():
        command = [arguments.bench, "gemm", "--rounds", "1", "--json"]
        command += ["--level", arguments.level] if arguments.level else []
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=clean).stdout)

    def openblas(threads):
        command = [sys.executable, __file__, "--worker", str(threads)]
        env = {**clean, "OPENBLAS_NUM_THREADS": str(threads)}
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)

    results = common.alternate(
        arguments.rounds, {"ours": ours, "openblas 1": lambda: openblas(1), "openblas 2": lambda: openblas(2)})
    config = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    level = results["ours"][0]["level"]
    print(f"{common.machine()['cpu']}; ours at {level}; numpy's {config['name']} {config.get('version', '')}; "
          f"load {common.load_average():.2f}; {arguments.rounds} rounds")
    rows, output = [], []
    for threads in (1, 2):
        for shape in map(name, SHAPES):
            mine = [next(r for r in one["rows"] if r["name"] == shape and r["threads"] == threads)
                    for one in results["ours"]]
            a = common.summary([r["median"] for r in mine])
            b = common.summary([one[shape] for one in results[f"openblas {threads}"]])
            ratio = statistics.median(
                r["median"] / one[shape] for r, one in zip(mine, results[f"openblas {threads}"]))
            share = statistics.median(r["share"] for r in mine)
            output.append({"shape": shape, "threads": threads, "ours": a, "openblas": b, "ratio": ratio,
                           "fma_share": share})
            spread = "{median:.1f} ({min:.1f}…{max:.1f})"
            rows.append([shape, threads, spread.format(**a), spread.format(**b), f"{ratio:.2f}", f"{share:.2f}"])
    common.table(["shape", "threads", "ours GFLOP/s", "OpenBLAS GFLOP/s", "ratio", "ours / FMA peak"], rows)
    common.write_json(arguments, {"level": level, "machine": common.machine(), "rows": output})


if __name__ == "__main__":
    main()
