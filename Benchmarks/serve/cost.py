"""What HTTP, JSON and event streams cost the server's processors a token, beside what the model costs them."""
import asyncio
import re
import statistics
from pathlib import Path

import common
from client import Stream, completion, text
from server import Server, in_thread

STREAMS = 16
LENGTH = 700
SECONDS = 3.0
BAR = 0.05
# A thread belongs to the first part whose pattern its whole name matches; what is left is Swift's cooperative pool.
PARTS = {"engine": r"apus-(engine|encoder|\d+)", "preparation": r"apus-prepare", "network": r"NIO-.*", "tasks": r".*"}
SERVER = ("preparation", "network", "tasks")


def processor_seconds(pid):
    """Seconds on a processor by thread: {number: (name, seconds)}."""
    seen = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            seen[int(task.name)] = (
                (task / "comm").read_text().strip(), int((task / "schedstat").read_text().split()[0]) / 1e9)
        except OSError:
            pass  # It ended just now.
    return seen


def part_of(name):
    return next(part for part, pattern in PARTS.items() if re.fullmatch(pattern, name))


def stream(kind, index):
    prompt = text(30, f"cost {kind} {index}")
    if kind == "completions":
        return completion(prompt, LENGTH)
    return Stream.of(kind, prompt, LENGTH)


async def measure(server, kind):
    """Seconds on a processor by thread's name, and tokens, while all streams decode."""
    streams = [stream(kind, i) for i in range(STREAMS)]
    tasks = [asyncio.create_task(s.run(server.port)) for s in streams]
    for s, t in zip(streams, tasks):
        await asyncio.wait({asyncio.create_task(s.first_text.wait()), t}, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0.3)
    steps = await in_thread(steps_of, server)
    before = processor_seconds(server.pid)
    pieces = sum(len(s.times) for s in streams)
    await asyncio.sleep(SECONDS)
    after = processor_seconds(server.pid)
    pieces = sum(len(s.times) for s in streams) - pieces
    steps = await in_thread(steps_of, server) - steps
    if any(t.done() for t in tasks):
        errors = [s.error for s, t in zip(streams, tasks) if t.done()]
        raise RuntimeError(f"{kind}: a stream ended too early: {errors[0]}")
    for s in streams:
        s.connection.close()
    for t in tasks:
        t.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if not any(name == "apus-engine" for name, _ in after.values()):
        raise RuntimeError("no thread is named apus-engine: the system does not know which one computes")
    used = {}
    for number, (name, seconds) in after.items():
        used[name] = used.get(name, 0) + seconds - before.get(number, (name, 0))[1]
    return used, pieces, steps


def steps_of(server):
    lines = server.get("/metrics")[1].decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("apus_engine_steps_total{"))


def cost(arguments):
    """The bar is of chat completions, the route that most clients use."""
    rounds = arguments.rounds or 3
    kinds = ["chat", "completions", "responses"]
    with Server(arguments.apus) as server:
        asyncio.run(measure(server, "chat"))
        server.settle()
        results = common.alternate(rounds, {kind: lambda kind=kind: run(server, kind) for kind in kinds})
    rows, summary = [], {}
    for kind in kinds:
        names = sorted({name for used, _, _ in results[kind] for name in used})
        for name in names:
            values = [used.get(name, 0) / steps for used, _, steps in results[kind]]
            median = statistics.median(values)
            if median > 1e-6:
                rows.append([kind, part_of(name), name, f"{median * 1e6:.0f}", f"{min(values) * 1e6:.0f}",
                             f"{max(values) * 1e6:.0f}"])
        shares, tokens = [], []
        for used, pieces, _ in results[kind]:
            parts = {part: sum(s for name, s in used.items() if part_of(name) == part) for part in PARTS}
            spent = sum(parts[part] for part in SERVER)
            shares.append(spent / parts["engine"])
            tokens.append(spent / pieces)
        summary[kind] = {"share": common.summary(shares), "seconds_per_token": common.summary(tokens)}
    common.table(["route", "part", "threads", "µs of a processor a step, median", "min", "max"], rows)
    common.table(["route", "server µs a token", "server/engine, median", "min", "max"], [
        [kind, f"{s['seconds_per_token']['median'] * 1e6:.1f}",
         *(f"{s['share'][k]:.3f}" for k in ("median", "min", "max"))]
        for kind, s in summary.items()])
    share = summary["chat"]["share"]["median"]
    return {"streams": STREAMS, "routes": summary, "verdict": [
        (f"server ≤ {BAR:.0%} of a decode step's processor time at {STREAMS} streams", share <= BAR, f"{share:.2%}")]}


def run(server, kind):
    result = asyncio.run(measure(server, kind))
    server.settle()
    return result
