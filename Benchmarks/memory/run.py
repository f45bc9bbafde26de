#!/usr/bin/env python3
"""What a generation keeps resident, beside what it planned.

A child `apus run` (256 prompt tokens or so, 128 generated) is watched through /proc: its resident bytes, less the
resident pages of the mapped model file. The largest value seen must stay within the plan's KV + transient bytes + 60
MB, and the arena's high-water mark must equal the planned transient bytes to the byte.

  Benchmarks/memory/run.py [--models DIR] [MODEL ...]
"""
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
import common

ALLOWANCE = 60_000_000
PROMPT = "The common swift is a bird that spends most of its life in the air. " * 16


def resident(pid, model):
    """(resident bytes, of which pages of the mapped model file), or None when the process has ended."""
    total = mapped = 0
    of_model = False
    try:
        with open(f"/proc/{pid}/smaps") as file:
            for line in file:
                head, _, rest = line.partition(" ")
                if head[-1:] != ":":
                    of_model = rest.rstrip().endswith(model)
                elif head == "Rss:":
                    size = int(rest.split()[0]) * 1024
                    total += size
                    mapped += size if of_model else 0
    except (FileNotFoundError, ProcessLookupError):
        return None
    return (total, mapped) if total else None


def watch(command, model):
    """Runs the command; returns its JSON and the sample with the most bytes outside the model file."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    worst, samples = (0, 0), 0
    while process.poll() is None:
        seen = resident(process.pid, model)
        if seen:
            samples += 1
            if seen[0] - seen[1] > worst[0] - worst[1]:
                worst = seen
        time.sleep(0.01)
    output, errors = process.communicate()
    if process.returncode != 0:
        raise common.ApusFailed(f"{' '.join(command[:4])} ...: status {process.returncode}: {errors[-400:]}")
    return json.loads(output), worst, samples


def main():
    p = common.parser(__doc__)
    p.add_argument("model", nargs="*", help="names or files (default: the four generators)")
    p.add_argument("--threads", type=int, default=2)
    arguments = p.parse_args()
    facts = common.machine(arguments)
    rows = []
    for name in arguments.model or common.GENERATORS:
        path = str(Path(common.model_path(arguments, name)).resolve())
        command = [arguments.apus, "run", "-m", path, PROMPT, "-n", "128", "--temperature", "0", "--ignore-eos",
                   "--threads", str(arguments.threads), "--json"]
        said, (total, mapped), samples = watch(command, path)
        plan = said["memory"]
        allowed = plan["kv"] + plan["transient_plan"] + ALLOWANCE
        rows.append({
            "model": name, "resident_bytes": total, "mapped_model_bytes": mapped, "above_bytes": total - mapped,
            "plan": plan, "allowed_bytes": allowed, "within": total - mapped <= allowed, "samples": samples,
            "plan_equals_high_water": plan["transient_plan"] == plan["transient_high_water"],
            "load": common.load_average()})
    mega = lambda x: f"{x / 1e6:.1f}"
    common.table(
        ["model", "resident MB", "model pages MB", "above MB", "KV MB", "transient MB", "allowed MB", "within",
         "plan = high water", "samples"],
        [[r["model"], mega(r["resident_bytes"]), mega(r["mapped_model_bytes"]), mega(r["above_bytes"]),
          mega(r["plan"]["kv"]), mega(r["plan"]["transient_plan"]), mega(r["allowed_bytes"]), r["within"],
          r["plan_equals_high_water"], r["samples"]] for r in rows])
    common.write_json(arguments, {"machine": facts, "rows": rows})
    sys.exit(0 if all(r["within"] and r["plan_equals_high_water"] for r in rows) else 1)


if __name__ == "__main__":
    main()
