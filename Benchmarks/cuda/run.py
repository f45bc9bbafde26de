#!/usr/bin/env python3
"""A BERT-Base encoder on a GPU: dense, low rank unfused, low rank fused. Peak memory, time, and errors against f64.

One call, at most eight minutes, on a machine that needs no Swift, no CUDA toolkit and no network: Python with numpy,
and NVIDIA's driver. Prepare on any machine, take this folder along:

  Benchmarks/cuda/compile.py --architecture sm_90        writes build/*.cubin
  python3 Benchmarks/cuda/run.py --json results.json     on the machine with the GPU

Without a GPU, `--emulate LIBRARY` runs the same script on the emulator at small shapes; what it prints then is no
measurement, and it says so.

Transient memory is the arena's high-water mark: planned by a pass that launches nothing, then the size of the one
allocation that the real pass has. All modes take turns in one process; medians of the rounds."""
import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent)]
from accuracy import BARS, Checks
from driver import CUDAError, Driver, Kernels, images
from encoder import MODES, Arena, Encoder

HERE = Path(__file__).resolve().parent
BERT_BASE = {"dim": 768, "heads": 12, "hidden": 3072, "layers": 12, "context": 4096, "vocabulary": 30522}
TINY = {"dim": 128, "heads": 2, "hidden": 256, "layers": 1, "context": 64, "vocabulary": 64}
# Sequences and tokens of each.
CASES = [(16, 128), (64, 128), (16, 512), (64, 512), (16, 1024), (64, 1024), (16, 4096), (64, 4096)]


def measure(driver, encoders, mode, batches, rounds):
    """Plan and high-water mark in bytes, milliseconds of each round."""
    encoder, batch = encoders[mode == "dense"], batches[mode == "dense"]
    plan = Arena()
    encoder.run(batch, plan, mode)
    before = driver.free_bytes()
    arena = Arena(driver, plan.high_water)
    taken = before - driver.free_bytes()
    times, round_ = [], 0
    while round_ <= rounds:
        arena.used = 0
        start, end = driver.event(), driver.event()
        driver.record(start)
        out = encoder.run(batch, arena, mode)
        driver.record(end)
        milliseconds = driver.milliseconds(start, end)
        # The first round warms up; where one takes seconds, three must do.
        if round_ > 0:
            times.append(milliseconds)
        elif milliseconds > 2000:
            rounds = min(rounds, 3)
        round_ += 1
    pooled = encoder.read(out)
    assert arena.high_water == plan.high_water, (arena.high_water, plan.high_water)
    arena.free()
    return {"mode": mode, "plan": plan.high_water, "high_water": arena.high_water, "device_taken": taken,
            "ms": statistics.median(times), "ms_all": times}, pooled


def encoder_error(kernels, elements, shape, rank):
    """Relative errors of whole passes against f64, by mode."""
    errors = {}
    for mode in MODES:
        encoder = Encoder(kernels, elements, {**shape, "layers": min(2, shape["layers"])},
                          None if mode == "dense" else rank)
        batch = encoder.batch(2, min(48, shape["context"]))
        ids = encoder.driver.read(batch["ids"].address, batch["rows"], np.int32)
        plan = Arena()
        encoder.run(batch, plan, mode)
        arena = Arena(encoder.driver, plan.high_water)
        seen, expected = encoder.read(encoder.run(batch, arena, mode)), encoder.reference(batch, ids)
        errors[mode] = float(np.linalg.norm(seen - expected) / np.linalg.norm(expected))
        arena.free()
        encoder.close()
    return errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=HERE / "build")
    parser.add_argument("--emulate", metavar="LIBRARY", help="the emulator as a shared library")
    parser.add_argument("--ranks", type=int, nargs="+", default=[96, 192, 384])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=400, help="seconds after which no new case is begun")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    begun = time.monotonic()
    if arguments.emulate:
        driver = Driver(arguments.emulate, "emulated_")
        kernels, shape, cases, ranks, rounds = Kernels(driver, [b"none"]), TINY, [(2, 40)], [24], 1
        print("compiled and emulated only: no GPU ran this")
    else:
        found = images(arguments.images)
        if not found:
            sys.exit(f"no CUBINs in {arguments.images}: run compile.py first")
        driver = Driver()
        kernels, shape, cases = Kernels(driver, found), BERT_BASE, CASES
        ranks, rounds = arguments.ranks, arguments.rounds
        print(f"{driver.name}, compute capability {driver.capability[0]}.{driver.capability[1]}, "
              f"CUBINs {kernels.digest}")
    results = {"device": driver.name, "emulated": bool(arguments.emulate), "cubins": kernels.digest, "cases": []}

    worst = Checks(kernels, 1).run(large=not arguments.emulate)
    results["errors"] = worst
    failed = []
    print("\nrelative error against f64 (Frobenius; greatest over greatest)")
    for name, (error, greatest) in worst.items():
        bar = BARS["bf16" if "bf16" in name else "f32"]
        failed += [name] if error > bar else []
        print(f"  {name:28} {error:.2e}  {greatest:.2e}   {'ok' if error <= bar else f'MORE THAN {bar}'}")
    for elements in ("f32", "bf16"):
        errors = encoder_error(kernels, elements, shape, ranks[0])
        results[f"encoder_errors_{elements}"] = errors
        print(f"  encoder of two layers, {elements}: " + ", ".join(f"{m} {e:.2e}" for m, e in errors.items()))

    print(f"\n{'elements':8} {'rank':>5} {'B':>4} {'M':>5}  {'mode':8} {'transient MiB':>14} {'of dense':>9} "
          f"{'of unfused':>10} {'ms':>9} {'weights MiB':>12}")
    skipped, made = [], {}

    def encoder(elements, rank):
        if (elements, rank) not in made:
            made[elements, rank] = Encoder(kernels, elements, shape, rank)
        return made[elements, rank]

    for count, length in cases:
        # f32 is the oracle of bf16, not a way that anybody would run this: one rank of it.
        for elements, rank in [("bf16", r) for r in ranks] + [("f32", ranks[len(ranks) // 2])]:
            if time.monotonic() - begun > arguments.limit:
                skipped.append((count, length, elements, rank))
                continue
            encoders = {True: encoder(elements, None), False: encoder(elements, rank)}
            batches = {key: e.batch(count, length) for key, e in encoders.items()}
            rows, outputs = {}, {}
            for mode in MODES:
                try:
                    rows[mode], outputs[mode] = measure(driver, encoders, mode, batches, rounds)
                except CUDAError as error:
                    failed.append(f"{elements} rank {rank} B {count} M {length} {mode}: {error}")
                    print(failed[-1])
            if len(rows) < len(MODES):
                continue
            off = np.linalg.norm(outputs["fused"] - outputs["unfused"]) / np.linalg.norm(outputs["unfused"])
            for mode, row in rows.items():
                weights = encoders[mode == "dense"].bytes
                row.update(elements=elements, rank=rank, batch=count, length=length, weights=weights,
                           fused_against_unfused=float(off))
                results["cases"].append(row)
                print(f"{elements:8} {rank:5} {count:4} {length:5}  {mode:8} {row['plan'] / 2**20:14.1f} "
                      f"{row['plan'] / rows['dense']['plan']:9.2f} {row['plan'] / rows['unfused']['plan']:10.2f} "
                      f"{row['ms']:9.2f} {weights / 2**20:12.1f}")
    if skipped:
        print(f"\nnot begun, because {arguments.limit:.0f} s had passed: {skipped}")
    results["skipped"] = skipped
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    if arguments.emulate:
        print("\ncompiled and emulated only: times mean nothing")
    print(f"\n{time.monotonic() - begun:.0f} s in all" + (f"; FAILED: {failed}" if failed else ""))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
