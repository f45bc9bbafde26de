"""Mixed load for a long time: what is held at the end is what was held after the warm-up."""
import asyncio
import json
import random
import statistics
import tempfile
import time

import common
from answers import Schemas
from client import DIALECTS, Stream, call, completion, text, tokens
from server import MODEL, Server, in_thread

ENCODER = "minilm-l6"
GROWTH_BAR = 0.05
SAMPLE_SECONDS = 5
WORKERS = 12
# The pool is filled first, so that its pages are there before memory is compared.
POOL_MIB, POOL_PROMPTS = 256, 8


async def chat(port, draw, counts):
    name = draw.choice(list(DIALECTS))
    body_text = text(draw.randrange(3, 400), draw.random())
    stream = Stream.of(name, body_text, draw.randrange(1, 120))
    if name in ("chat", "responses"):
        stream.request["temperature"] = draw.choice([0, 1])
    await stream.run(port)
    counts[name] += 1
    return stream.whole, stream.error or stream.status


async def complete(port, draw, counts):
    # Few beginnings, so that many share one.
    prompt = tokens(draw.choice([64, 256, 512]), draw.randrange(6)) + tokens(draw.randrange(1, 100), draw.random())
    stream = completion(prompt, draw.randrange(1, 120), temperature=draw.choice([0, 1]),
                        logprobs=draw.choice([None, 0, 5]))
    await stream.run(port)
    counts["completions"] += 1
    return stream.whole, stream.error or stream.status


async def embed(port, draw, counts):
    inputs = [text(draw.randrange(1, 120), draw.random()) for _ in range(draw.randrange(1, 6))]
    answer = await call(port, "POST", "/v1/embeddings", {
        "model": ENCODER, "input": inputs, "encoding_format": draw.choice(["float", "base64"])})
    counts["embeddings"] += 1
    return answer.status == 200, answer.body[:200]


async def constrained(port, draw, counts):
    answer = await call(port, "POST", "/v1/chat/completions", {
        "model": MODEL, "messages": [{"role": "user", "content": "Fill in a record."}], "max_tokens": 150,
        "temperature": draw.choice([0, 1]), "guided_json": Schemas(draw.random()).schema()})
    counts["schemas"] += 1
    return answer.status == 200, answer.body[:200]


async def depart(port, draw, counts):
    """Begins a stream and leaves it, at any moment and in any way."""
    stream = completion(tokens(draw.randrange(4, 1500), draw.random()), 300)
    task = None
    try:
        await stream.begin(port)
        task = asyncio.create_task(stream.follow())
        await asyncio.sleep(draw.expovariate(2))
        draw.choice([stream.connection.close, stream.connection.reset])()
    finally:
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    counts["disconnects"] += 1
    return True, None


async def mistake(port, draw, counts):
    body = draw.choice([
        b"{", json.dumps({"model": MODEL, "messages": []}).encode(),
        json.dumps({"model": "none", "messages": [{"role": "user", "content": "x"}]}).encode(),
        json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x"}], "guided_regex": "(("}).encode(),
        json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 10**9}).encode()])
    answer = await call(port, "POST", "/v1/chat/completions", body)
    counts["mistakes"] += 1
    return answer.status in (400, 404), (answer.status, answer.body[:200])


KINDS = [(chat, 5), (complete, 4), (embed, 2), (constrained, 2), (depart, 4), (mistake, 1)]


def soak(arguments):
    seconds = arguments.minutes * 60
    counts = {name: 0 for name in (*DIALECTS, "completions", "embeddings", "schemas", "disconnects", "mistakes")}
    failures, samples = [], []

    async def worker(port, draw, until):
        while time.monotonic() < until:
            kind = draw.choices([k for k, _ in KINDS], [w for _, w in KINDS])[0]
            try:
                good, why = await kind(port, draw, counts)
            except Exception as error:
                good, why = False, f"{type(error).__name__}: {error}"
            if not good:
                failures.append((kind.__name__, str(why)[:300]))

    async def watch(server, begun, until):
        while time.monotonic() < until:
            await asyncio.sleep(SAMPLE_SECONDS)
            engine = await in_thread(server.engine)
            samples.append({"at": time.monotonic() - begun, **server.memory(), "descriptors": server.descriptors(),
                            "threads": server.threads(), "running": engine["running"], "waiting": engine["waiting"],
                            "load": common.load_average()})
            if len(samples) % 12 == 0:
                s = samples[-1]
                print(f"  {s['at'] / 60:.1f} min: {s['resident'] / 1e6:.0f} MB resident, {s['anonymous'] / 1e6:.0f} "
                      f"anonymous, {s['descriptors']} descriptors, {sum(counts.values())} requests, "
                      f"{len(failures)} failed, load {s['load']:.1f}", flush=True)

    async def everything(server):
        for i in range(POOL_PROMPTS):
            await completion(tokens(3500, f"fill {i}"), 1).run(server.port)
        begun = time.monotonic()
        until = begun + seconds
        watching = asyncio.create_task(watch(server, begun, until))
        draw = random.Random(arguments.seed)
        await asyncio.gather(*(worker(server.port, random.Random(draw.random()), until) for _ in range(WORKERS)))
        await watching

    with tempfile.TemporaryDirectory() as folder, Server(
            arguments.apus, "--kv-pool", POOL_MIB, "--max-running", 8, "--responses", f"{folder}/responses.sqlite",
            model=[MODEL, ENCODER]) as server:
        before = server.descriptors()
        asyncio.run(everything(server))
        engine = server.settle(30)
        time.sleep(1)
        after = server.descriptors()
        last = server.memory()
        status = server.stop()
    warm = [s for s in samples if s["at"] >= seconds * 0.2]
    part = max(1, len(warm) // 8)
    growth = {}
    for kind in ("resident", "anonymous"):
        first, end = ([s[kind] for s in half] for half in (warm[:part], warm[-part:]))
        growth[kind] = statistics.mean(end) / statistics.mean(first) - 1
    common.table(["minutes", "resident MB", "anonymous MB", "descriptors", "threads", "running", "waiting", "load"],
                 [[s["at"] / 60, s["resident"] / 1e6, s["anonymous"] / 1e6, s["descriptors"], s["threads"],
                   s["running"], s["waiting"], s["load"]] for s in samples[::max(1, len(samples) // 16)]])
    print(", ".join(f"{n} {name}" for name, n in counts.items()))
    return {"counts": counts, "samples": samples, "failures": failures[:50], "growth": growth, "verdict": [
        (f"resident memory grows ≤ {GROWTH_BAR:.0%} after the first fifth", growth["resident"] <= GROWTH_BAR,
         f"{growth['resident']:+.1%} (anonymous {growth['anonymous']:+.1%}), at last {last['resident'] / 1e6:.0f} MB"),
        ("every block is accounted for", engine["kv_blocks_used"] == 0 and not engine["sequences"],
         f"{engine['kv_blocks_used']} used, {engine['kv_blocks_cached']} kept, of {engine['kv_blocks_total']}"),
        ("no descriptor is left", after <= before + 2, f"{before} before, {after} after"),
        ("no request failed", not failures, failures[:4] or sum(counts.values())),
        ("it leaves with status 0", status == 0, status)]}
