"""guidellm, a load generator of others, and `apus bench serve` with the same prompts against one server in turn: does each
tell what the server itself saw of its requests?"""
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import urllib.request
from datetime import datetime
from pathlib import Path

import common
from client import text
from server import MODEL, Server

VERSION = "0.8.1"
STREAMS = [1, 4, 16]
PROMPT, ANSWER = 64, 64  # words, tokens
BAR = 0.1  # of difference between a tool and the server
FIGURES = [("tokens_per_second", 1, 0), ("ttft_s", 1e3, 1), ("itl_s", 1e3, 2)]  # with scale and digits in print
ENVIRONMENT = common.ROOT / ".peers" / "guidellm"


def install():
    """The program, or why there is none."""
    program = ENVIRONMENT / "bin" / "guidellm"
    if program.exists():
        return str(program), None
    for command in (["python3", "-m", "venv", str(ENVIRONMENT)],
                    [str(ENVIRONMENT / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check",
                     f"guidellm=={VERSION}"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return None, (done.stderr.strip().splitlines() or ["?"])[-1]
    return str(program), None


def requests_of(streams):
    return max(16, 4 * streams)


def prompts(streams, seed):
    """The same words for both tools, which no server has seen before."""
    return [text(PROMPT, f"guidellm {seed} {i}") for i in range(requests_of(streams))]


def by_guidellm(program, server, streams, seed):
    """Its own figures, in seconds and tokens a second."""
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder) / "prompts.jsonl", Path(folder) / "report.json"
        # With the tokens written in the file it needs no tokenizer, which it would load from elsewhere.
        data.write_text("".join(json.dumps({"prompt": prompt, "output_tokens_count": ANSWER}) + "\n"
                                for prompt in prompts(streams, seed)))
        done = subprocess.run(
            [program, "run", "--disable-console",
             "--backend", f"kind=openai_http,target=http://127.0.0.1:{server.port},model={MODEL}",
             "--profile", f"kind=concurrent,streams={streams}",
             "--constraint", f"kind=max_requests,count={requests_of(streams)}",
             "--data", f"kind=json_file,path={data}", "--output", f"kind=json,path={report}"],
            capture_output=True, text=True, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        if done.returncode or not report.exists():
            raise RuntimeError(f"guidellm: status {done.returncode}: {(done.stderr or done.stdout).strip()[-800:]}")
        metrics = json.loads(report.read_text())["benchmarks"][0]["metrics"]
    good = {name: metrics[name]["successful"] for name in
            ("time_to_first_token_ms", "inter_token_latency_ms", "output_tokens_per_second")}
    return {"tokens_per_second": good["output_tokens_per_second"]["mean"],
            "ttft_s": good["time_to_first_token_ms"]["median"] / 1e3,
            "itl_s": good["inter_token_latency_ms"]["median"] / 1e3}


def by_apus(arguments, server, streams, seed):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as data:
        for prompt in prompts(streams, seed):
            data.write(json.dumps({"messages": [{"role": "user", "content": prompt}], "max_tokens": ANSWER}) + "\n")
        data.flush()
        said = common.apus_json(
            arguments, "bench", "serve", "--url", f"http://127.0.0.1:{server.port}", "--model", MODEL,
            "--concurrency", streams, "--data", data.name, "--warmup", 0, "--seed", seed)
    run = said[0]
    return {"tokens_per_second": run["output_tokens_per_s"], "ttft_s": run["ttft_ms"]["p50"] / 1e3,
            "itl_s": run["mean_itl_ms"]["p50"] / 1e3}


def seen_by(server, measure):
    """What a tool says, what the server's own records say of the same requests, and the tool's processor time."""
    before, cpu = {r["id"] for r in records(server)}, resource.getrusage(resource.RUSAGE_CHILDREN)
    said = measure()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = [r for r in records(server) if r["id"] not in before and r["completion_tokens"]]
    starts = [datetime.fromisoformat(r["at"].replace("Z", "+00:00")).timestamp() for r in own]
    span = max(start + r["total_ms"] / 1e3 for start, r in zip(starts, own)) - min(starts)
    tokens = sum(r["completion_tokens"] for r in own)
    return {**said, "server_tokens_per_second": tokens / span,
            "server_ttft_s": statistics.median(r["ttft_ms"] for r in own) / 1e3,
            "server_itl_s": statistics.median(
                (r["total_ms"] - r["ttft_ms"]) / (r["completion_tokens"] - 1) for r in own) / 1e3,
            "tool_cpu_s": after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime}


def records(server):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/apus/requests") as answer:
        said = json.load(answer)
    return [r for r in said["requests"] if r["state"] == "ended"]


def guidellm(arguments):
    program = arguments.guidellm or shutil.which("guidellm")
    if not program:
        program, problem = install()
        if problem:
            print(f"SKIPPED: guidellm cannot be installed ({problem})")
            return {"skipped": problem, "verdict": []}
    rounds, rows, results, verdict = arguments.rounds or 3, [], {}, []
    with Server(arguments.apus) as server:
        by_apus(arguments, server, 4, 0)
        for streams in STREAMS:
            seeds = iter(range(1, 1000))
            results[streams] = common.alternate(rounds, {
                "guidellm": lambda: seen_by(server, lambda: by_guidellm(program, server, streams, next(seeds))),
                "apus bench serve": lambda: seen_by(
                    server, lambda: by_apus(arguments, server, streams, next(seeds)))})
            for tool, runs in results[streams].items():
                m = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
                rows.append([streams, tool, *(f"{m[key] * scale:.{digits}f} / {m['server_' + key] * scale:.{digits}f}"
                                              for key, scale, digits in FIGURES), f"{m['tool_cpu_s']:.1f}"])
                # Both against the server's clock: on few cores a tool that takes a core itself slows what it measures.
                for key, _, _ in FIGURES:
                    ratio = m[key] / m["server_" + key]
                    verdict.append((f"{streams} streams: {tool} tells the server's own {key} within {BAR:.0%}",
                                    abs(ratio - 1) <= BAR, f"{ratio:.3f}"))
    common.table(["streams", "tool", "tokens/s, tool / server", "TTFT p50 ms", "ITL p50 ms", "tool's CPU s"], rows)
    return {"results": results, "verdict": verdict}
