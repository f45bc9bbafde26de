"""First tokens of shared prefixes, inter-token latency beside a long prompt, throughput against static batches."""
import asyncio
import random
import statistics
import time

import common
from client import completion, ms, percentile, tokens
from server import Server

SHARED, OWN = 512, 16
PREFIX_BAR = 0.25
LONG_PROMPT = 4000
CHUNKED_BAR = 3.0
STATIC_BAR = 1.5


def prefix(arguments):
    """Each round computes one prompt twice: in a namespace that knows its first 512 tokens, and in a new one."""
    rounds = arguments.rounds or 9

    async def measure(port):
        await completion(tokens(SHARED, "warm-up"), 8, logprobs=5).run(port)
        rows = []
        for index in range(rounds):
            beginning = tokens(SHARED, f"shared {index}")
            prompt = beginning + tokens(OWN, f"own {index}")
            await completion(beginning + tokens(OWN, f"other {index}"), 1, cache_salt=f"known {index}").run(port)
            sides = {}
            for side in ("known", "new") if index % 2 else ("new", "known"):
                sides[side] = await completion(prompt, 8, logprobs=5, cache_salt=f"{side} {index}").run(port)
            rows.append(sides)
        return rows

    with Server(arguments.apus) as server:
        rows = asyncio.run(measure(server.port))
    warm, cold = ([r[side].ttft for r in rows] for side in ("known", "new"))
    cached = [[r[side].usage["prompt_tokens_details"]["cached_tokens"] for r in rows] for side in ("known", "new")]
    same = sum(r["known"].logprobs == r["new"].logprobs and r["known"].text == r["new"].text for r in rows)
    ratio = statistics.median(warm) / statistics.median(cold)
    common.table(["prompt", "cached tokens", "TTFT ms, median", "min", "max"], [
        [name, f"{min(c)} to {max(c)}", ms(statistics.median(v)), ms(min(v)), ms(max(v))]
        for name, v, c in (("cold", cold, cached[1]), (f"{SHARED} tokens known", warm, cached[0]))])
    return {
        "warm_s": common.summary(warm), "cold_s": common.summary(cold), "ratio": ratio, "same": same, "rounds": rounds,
        "verdict": [
            (f"TTFT ≤ {PREFIX_BAR} × cold", ratio <= PREFIX_BAR, f"{ratio:.3f}"),
            ("the prefix was found", min(cached[0]) >= SHARED and max(cached[1]) == 0, f"{cached[0]} / {cached[1]}"),
            ("identical log-probabilities", same == rounds and all(r["new"].logprobs for r in rows),
             f"{same} of {rounds}"),
        ]}


def chunked(arguments):
    """Streams run, one is watched; then a prompt of 4,000 tokens arrives."""
    rounds = arguments.rounds or 5

    async def measure(port, beside):
        streams = [completion(tokens(16, f"stream {beside} {i}"), 3000) for i in range(beside)]
        tasks = [asyncio.create_task(s.run(port)) for s in streams]
        watched = streams[0]
        for s in streams:
            await s.first_text.wait()
        await asyncio.sleep(1)
        begun = time.perf_counter()
        await asyncio.sleep(3)
        arrived = time.perf_counter()
        long = await completion(tokens(LONG_PROMPT, f"long {beside} {time.time()}"), 1).run(port)
        ended = long.times[0] if long.times else time.perf_counter()
        await asyncio.sleep(0.2)
        over = [t.done() for t in tasks]
        for s in streams:
            s.connection.close()
        for t in tasks:
            t.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if any(over):
            raise RuntimeError("a stream ended before the long prompt did: raise its max_tokens")
        idle = [b - a for a, b in zip(watched.times, watched.times[1:]) if begun <= a and b <= arrived]
        busy = [b - a for a, b in zip(watched.times, watched.times[1:]) if arrived <= b and a <= ended]
        return idle, busy, long.ttft, long.error

    rows = []
    with Server(arguments.apus, "--context", 8192) as server:
        asyncio.run(completion(tokens(600, "warm-up"), 200).run(server.port))
        for beside in (1, 8):
            for index in range(rounds if beside == 1 else max(3, rounds // 2)):
                idle, busy, ttft, error = asyncio.run(measure(server.port, beside))
                server.settle()
                rows.append({
                    "streams": beside, "idle_p50": percentile(idle, 0.5), "idle_p99": percentile(idle, 0.99),
                    "busy_p50": percentile(busy, 0.5), "busy_p99": percentile(busy, 0.99), "busy_max": max(busy),
                    "gaps": len(busy), "ttft": ttft, "error": error, "load": common.load_average()})
                r = rows[-1]
                r["ratio"] = r["busy_p99"] / r["idle_p99"]
                r["of_median"] = r["busy_p99"] / r["idle_p50"]
    common.table(
        ["streams", "idle p50 ms", "idle p99", "beside: p50", "p99", "max", "p99/idle p99", "p99/idle p50", "gaps",
         "long TTFT s", "load"],
        [[r["streams"], ms(r["idle_p50"]), ms(r["idle_p99"]), ms(r["busy_p50"]), ms(r["busy_p99"]), ms(r["busy_max"]),
          r["ratio"], r["of_median"], r["gaps"], r["ttft"], r["load"]] for r in rows])
    median = statistics.median(r["ratio"] for r in rows if r["streams"] == 1)
    return {"rows": rows, "verdict": [
        (f"p99 beside a prompt of {LONG_PROMPT} tokens ≤ {CHUNKED_BAR} × idle p99, median of {rounds}",
         median <= CHUNKED_BAR, f"{median:.2f}"),
        ("the long prompts were answered", not any(r["error"] for r in rows),
         [r["error"] for r in rows if r["error"]] or len(rows))]}


def static(arguments):
    """32 requests of mixed lengths: all at once, in batches that wait for their longest, and in batches whose rows all
    run to the end of the longest, as padding does (only wanted tokens are counted)."""
    rounds, requests, batch = arguments.rounds or 3, 32, 8
    draw = random.Random(arguments.seed)
    # Long-tailed between 16 and 256: most are short, a few are long.
    lengths = [min(256, max(16, int(draw.lognormvariate(3.6, 0.9)))) for _ in range(requests)]
    sizes = [draw.randrange(16, 129) for _ in range(requests)]
    wanted = sum(lengths)

    async def send(port, indices, salt, length):
        work = [completion(tokens(sizes[i], f"static {i}"), length(i), cache_salt=salt).run(port) for i in indices]
        return await asyncio.gather(*work)

    def run(port, name, parts, length):
        async def go():
            begun = time.perf_counter()
            answers = []
            for part in parts:
                longest = max(lengths[i] for i in part)
                answers += await send(port, part, f"{name} {begun}", lambda i: length(i, longest))
            seconds = time.perf_counter() - begun
            bad = [a.error or a.usage for a in answers if not a.whole]
            if bad:
                raise RuntimeError(f"{name}: {bad[:3]}")
            return wanted / seconds
        return asyncio.run(go())

    parts = [range(at, at + batch) for at in range(0, requests, batch)]
    with Server(arguments.apus, "--max-running", batch) as server:
        port = server.port
        run(port, "warm-up", parts[:2], lambda i, _: 32)
        sides = {
            "continuous": lambda: run(port, "continuous", [range(requests)], lambda i, _: lengths[i]),
            "static, rows leave": lambda: run(port, "static", parts, lambda i, _: lengths[i]),
            "static, padded": lambda: run(port, "padded", parts, lambda i, longest: longest),
        }
        results = common.alternate(rounds, sides)
    base = statistics.median(results["continuous"])
    rows = [[name, statistics.median(v), min(v), max(v), base / statistics.median(v)] for name, v in results.items()]
    print(f"{requests} requests, batch {batch}, lengths {sorted(lengths)}")
    common.table(["batching", "tokens/s, median", "min", "max", "continuous is × this"], rows)
    ratios = {name: base / statistics.median(v) for name, v in results.items()}
    return {"lengths": lengths, "tokens_per_second": results, "ratios": ratios, "verdict": [
        (f"continuous ≥ {STATIC_BAR} × static, padded", ratios["static, padded"] >= STATIC_BAR,
         f"{ratios['static, padded']:.2f}"),
        (f"continuous ≥ {STATIC_BAR} × static whose rows leave", ratios["static, rows leave"] >= STATIC_BAR,
         f"{ratios['static, rows leave']:.2f}")]}
