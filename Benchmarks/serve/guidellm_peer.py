"""guidellm, a load generator of others, and `apus bench serve` against one server in turn: do they measure the same?"""
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import common
from client import text
from server import MODEL, Server

VERSION = "0.8.1"
STREAMS = [1, 4, 16]
PROMPT, ANSWER = 64, 64  # words, tokens
BAR = 0.1  # of difference between the two
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


def by_guidellm(program, server, streams, seed):
    """Its own figures, in seconds and tokens a second."""
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder) / "prompts.jsonl", Path(folder) / "report.json"
        # With the tokens written in the file it needs no tokenizer, which it would load from elsewhere.
        data.write_text("".join(
            json.dumps({"prompt": text(PROMPT, f"guidellm {seed} {i}"), "output_tokens_count": ANSWER}) + "\n"
            for i in range(requests_of(streams))))
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
    said = common.apus_json(
        arguments, "bench", "serve", "--url", f"http://127.0.0.1:{server.port}", "--model", MODEL,
        "--concurrency", streams, "--requests", requests_of(streams), "--prompt-tokens", PROMPT,
        "--output-tokens", ANSWER, "--seed", seed)
    run = said[0]
    return {"tokens_per_second": run["output_tokens_per_s"], "ttft_s": run["ttft_ms"]["p50"] / 1e3,
            "itl_s": run["mean_itl_ms"]["p50"] / 1e3}


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
                "guidellm": lambda: by_guidellm(program, server, streams, next(seeds)),
                "apus bench serve": lambda: by_apus(arguments, server, streams, next(seeds))})
            medians = {tool: {key: statistics.median(r[key] for r in runs) for key in runs[0]}
                       for tool, runs in results[streams].items()}
            for tool, m in medians.items():
                spread = [r["tokens_per_second"] for r in results[streams][tool]]
                rows.append([streams, tool, m["tokens_per_second"], f"{min(spread):.0f} to {max(spread):.0f}",
                             f"{m['ttft_s'] * 1e3:.1f}", f"{m['itl_s'] * 1e3:.2f}"])
            for key in ("tokens_per_second", "itl_s"):
                ratio = medians["apus bench serve"][key] / medians["guidellm"][key]
                what = f"{streams} streams: {key} of both within {BAR:.0%}"
                verdict.append((what, abs(ratio - 1) <= BAR, f"{ratio:.3f}"))
    common.table(["streams", "tool", "tokens/s, median", "min to max", "TTFT p50 ms", "ITL p50 ms"], rows)
    return {"results": results, "verdict": verdict}
