"""What all harnesses share: where things are, how Apus is called, how rounds alternate, how results are printed."""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATORS = ["smollm2-135m", "qwen2.5-coder-0.5b", "gemma-3-270m", "qwen2.5-coder-1.5b"]


def use_python(peer, module):
    """Runs this script again with the peer's Python when this one cannot import `module` ('' : always).

    `--llama-python PATH` or `--ref-python PATH` on the command line overrides the environment that peers.sh makes."""
    import importlib.util

    option = f"--{peer}-python"
    python = str(ROOT / ".peers" / peer / "bin" / "python")
    for index, argument in enumerate(sys.argv):
        if argument == option and index + 1 < len(sys.argv):
            python = sys.argv[index + 1]
        elif argument.startswith(option + "="):
            python = argument.split("=", 1)[1]
    if os.path.abspath(python) == os.path.abspath(sys.executable):
        return
    if option not in " ".join(sys.argv) and module and importlib.util.find_spec(module):
        return
    if not os.access(python, os.X_OK):
        sys.exit(f"{sys.argv[0]} needs a Python with '{module}': run Benchmarks/peers.sh {peer}, or give {option} PATH")
    os.execv(python, [python, *sys.argv])


def parser(description):
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--apus", default=str(ROOT / ".build/release/apus"), help="the binary to measure")
    p.add_argument("--no-apus", action="store_true", help="measure the peers alone")
    p.add_argument("--models", default=os.environ.get("APUS_MODELS"), help="folder of NAME.gguf files")
    p.add_argument("--json", help="write the results to this file")
    p.add_argument("--llama-python", help="a Python that has llama-cpp-python and gguf")
    p.add_argument("--ref-python", help="a Python that has torch, sentence-transformers and onnxruntime")
    return p


def model_path(arguments, name):
    """The file or folder of a model: a path, NAME(.gguf) under --models, or what `apus model show` says."""
    if os.path.exists(name):
        return os.path.abspath(name)
    if arguments.models:
        for candidate in (Path(arguments.models) / f"{name}.gguf", Path(arguments.models) / name):
            if candidate.exists():
                return str(candidate)
        sys.exit(f"no {name} in {arguments.models}")
    return apus_json(arguments, "model", "show", name)["path"]


class ApusFailed(Exception):
    pass


def apus_json(arguments, *words, stdin=None, env=None):
    """Runs the binary and returns the JSON it prints; raises ApusFailed with its last words otherwise."""
    command = [arguments.apus, *map(str, words), "--json"]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, env={**os.environ, **(env or {})})
    if done.returncode != 0:
        raise ApusFailed(f"{' '.join(command[:6])} ...: status {done.returncode}: {done.stderr.strip()[-400:]}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise ApusFailed(f"{' '.join(command[:6])} ... printed no JSON: {done.stdout[:200]!r}") from None


def load_average():
    return os.getloadavg()[0]


def machine(arguments=None, env=None):
    """CPU name, cores, features and load; `doctor` adds the level and the measured peaks when Apus is at hand."""
    facts = {"cpu": platform.processor() or "?", "cores": os.cpu_count(), "load": load_average()}
    try:
        text = Path("/proc/cpuinfo").read_text()
        found = {}
        for line in text.splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
        facts["cpu"] = f"{found.get('model name', '?')} (family {found.get('cpu family')}, model {found.get('model')})"
        flags = found.get("flags", "").split()
        wanted = ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"]
        facts["features"] = [f for f in wanted if f in flags]
    except OSError:
        pass
    if arguments is not None and not arguments.no_apus:
        facts["doctor"] = apus_json(arguments, "doctor", env=env)
    return facts


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": len(values)}


def alternate(rounds, sides):
    """Runs every side once a round, in an order that turns round by round; returns {side: [result, ...]}.

    A side is a function without arguments. A slow minute of the machine then falls on all sides alike."""
    names = list(sides)
    results = {name: [] for name in names}
    for index in range(rounds):
        order = names[index % len(names):] + names[: index % len(names)]
        for name in order:
            results[name].append(sides[name]())
    return results


def geometric_mean(values):
    return statistics.geometric_mean(values) if values else float("nan")


def table(header, rows):
    cells = [[str(c) if not isinstance(c, float) else number(c) for c in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for index, row in enumerate(cells):
        print("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |")
        if index == 0:
            print("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    sys.stdout.flush()


def number(x):
    if x != x:
        return "-"
    if x == 0:
        return "0"
    if abs(x) < 0.01:
        return f"{x:.2e}"
    return f"{x:.3g}" if abs(x) < 100 else f"{x:.0f}"


def write_json(arguments, results):
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")
        print(f"wrote {arguments.json}", file=sys.stderr)


def now():
    return time.strftime("%Y-%m-%d %H:%M:%S %Z")


def chosen_checks(p, names, checks):
    """The checks that the command line names, all of `checks` for `all`; an unknown one ends the parser `p`."""
    names = list(checks) if names == ["all"] else names
    if unknown := [name for name in names if name not in checks]:
        p.error(f"no check {', '.join(unknown)}; there are {', '.join(checks)}")
    return names


def run_checks(arguments, names, checks, facts):
    """Runs functions of the modules that `checks` gives by their names, prints the verdicts, keeps results as JSON after
    each, and ends the process: status 1 if a bar was missed."""
    results = {"machine": facts, "checks": {}}
    failed = []
    for name in names:
        module = __import__(checks[name])
        before, begun = load_average(), time.monotonic()
        print(f"\n# {name}", flush=True)
        try:
            result = getattr(module, name)(arguments)
        except Exception as error:
            traceback.print_exc()
            result = {"verdict": [("ran to its end", False, f"{type(error).__name__}: {error}")]}
        result |= {"load": [before, load_average()], "seconds": time.monotonic() - begun}
        for what, met, seen in result["verdict"]:
            print(f"{'ok     ' if met else 'MISSED '} {what}: {seen}")
            if not met:
                failed.append(f"{name}: {what}")
        print(f"load {before:.1f} to {result['load'][1]:.1f}, {result['seconds']:.0f} s", flush=True)
        results["checks"][name] = result
        write_json(arguments, results)
    if failed:
        print("\nmissed: " + "; ".join(failed))
    sys.exit(1 if failed else 0)
