"""Leaving and coming back: drain, kill -9, unloading an idle model."""
import asyncio
import random
import signal
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

import common
from client import DIALECTS, Connection, Stream, call, completion, ms, text, tokens
from server import Server, in_thread

STREAMS = 16
MEMORY_BAR = 80_000_000
RELOAD_BAR = 0.4


async def exit_status(server, seconds):
    deadline = time.monotonic() + seconds
    while server.process.poll() is None and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    return server.process.poll()


# drain

async def drain_once(server, length):
    """SIGTERM while 16 streams of all dialects, two whole answers and two that wait in the queue are under way."""
    names = [*DIALECTS, "completions"]
    streams = [
        completion(text(10, f"drain {i}"), length) if names[i % len(names)] == "completions"
        else Stream.of(names[i % len(names)], text(10, f"drain {i}") + "\nTell a very long story.", length)
        for i in range(STREAMS + 2)]
    tasks = [asyncio.create_task(s.run(server.port)) for s in streams[:STREAMS]]
    for s, t in zip(streams, tasks):
        await asyncio.wait({asyncio.create_task(s.first_text.wait()), t}, return_when=asyncio.FIRST_COMPLETED)
    whole = [asyncio.create_task(call(server.port, "POST", "/v1/completions", {
        **completion(text(10, f"whole {i}"), length).request, "stream": False, "stream_options": None}))
        for i in range(2)]
    tasks += [asyncio.create_task(s.run(server.port)) for s in streams[STREAMS:]]
    kept = await Connection.open(server.port)
    await call(server.port, "GET", "/health", connection=kept)
    while len(await in_thread(server.sequences)) < STREAMS + 4:
        if any(t.done() for t in tasks):
            raise RuntimeError("an answer ended before SIGTERM: raise its length")
        await asyncio.sleep(0.02)
    server.signal(signal.SIGTERM)
    begun = time.monotonic()
    await asyncio.sleep(0.3)
    refused = {}
    ask = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    for name, method, path, body, connection in [
            ("chat, new connection", "POST", "/v1/chat/completions", ask, None),
            ("messages, new connection", "POST", "/v1/messages", ask, None),
            ("ollama, new connection", "POST", "/api/chat", {**ask, "stream": False}, None),
            ("responses, new connection", "POST", "/v1/responses", {"model": ask["model"], "input": "x"}, None),
            ("chat, kept connection", "POST", "/v1/chat/completions", ask, kept),
            ("/ready", "GET", "/ready", None, None), ("/health", "GET", "/health", None, None)]:
        try:
            answer = await call(server.port, method, path, body, connection=connection, timeout=10)
            refused[name] = (answer.status, answer.headers.get("connection"), answer.headers.get("retry-after"))
        except Exception as error:
            refused[name] = (None, f"{type(error).__name__}: {error}", None)
    await asyncio.gather(*tasks)
    answers = await asyncio.gather(*whole, return_exceptions=True)
    status = await exit_status(server, 10)
    return streams, answers, refused, status, time.monotonic() - begun


async def twice(server):
    """A second SIGTERM in the middle of streams; seconds until the process is gone."""
    streams = [completion(tokens(8, f"twice {i}"), 3000) for i in range(4)]
    tasks = [asyncio.create_task(s.run(server.port)) for s in streams]
    for s in streams:
        await s.first_text.wait()
    server.signal(signal.SIGTERM)
    await asyncio.sleep(0.5)
    lives = server.process.poll() is None
    server.signal(signal.SIGTERM)
    begun = time.monotonic()
    status = await exit_status(server, 10)
    seconds = time.monotonic() - begun
    if status is None:
        server.process.kill()
    await asyncio.gather(*tasks)
    return lives, status, seconds, [s.whole for s in streams]


def drain(arguments):
    rounds = arguments.rounds or 3
    rows = []
    for index in range(rounds):
        with Server(arguments.apus, "--max-running", STREAMS, "--drain-timeout", 120) as server:
            streams, answers, refused, status, seconds = asyncio.run(drain_once(server, 200))
        failed = [f"{s.path}: {s.error or (s.status, s.finish)}" for s in streams if not (s.whole and s.finish)]
        failed += [f"whole: {a!r}" if isinstance(a, Exception) else f"whole: {a.status}" for a in answers
                   if isinstance(a, Exception) or a.status != 200]
        # Anthropic's own status for a server that takes no more is 529.
        wrong = {k: v for k, v in refused.items() if k != "/health" and (
            v[0] not in ((503, 529) if k.startswith("messages") else (503,)) or (k[0] != "/" and v[1] != "close"))}
        rows.append({"round": index + 1, "streams": len(streams), "whole": sum(s.whole for s in streams),
                     "failed": failed, "refused": refused, "wrong": wrong, "status": status, "seconds": seconds})
    lives, second_status, second_s, whole = [None] * 4
    with Server(arguments.apus) as server:
        lives, second_status, second_s, whole = asyncio.run(twice(server))
    common.table(["round", "streams", "whole", "failed requests", "refused wrongly", "exit status", "seconds"],
                 [[r["round"], r["streams"], r["whole"], len(r["failed"]), len(r["wrong"]), r["status"], r["seconds"]]
                  for r in rows])
    common.table(["while draining", "status", "connection", "retry-after"],
                 [[name, *map(str, seen)] for name, seen in rows[-1]["refused"].items()])
    return {"rows": rows, "verdict": [
        ("no request under way failed", not any(r["failed"] for r in rows), [f for r in rows for f in r["failed"]][:5]),
        ("new requests get 503 and connection: close", not any(r["wrong"] for r in rows), rows[-1]["wrong"]),
        ("exit status 0", all(r["status"] == 0 for r in rows), [r["status"] for r in rows]),
        ("a second SIGTERM ends it at once", lives and second_s < 1 and second_status not in (None, 0),
         f"{ms(second_s)} ms, status {second_status}"),
        ("and the cut streams do not look whole", not any(whole), whole)]}


# kill

async def conversations(port, seen, draw, stop):
    """Asks on and on, whole and streamed, each going on from an earlier one; notes what it saw completed."""
    ids = []
    while not stop.is_set():
        body = DIALECTS["responses"].body(text(6, draw.random()), draw.randrange(4, 24), stream=draw.random() < 0.6)
        del body["ignore_eos"]
        if ids and draw.random() < 0.6:
            body["previous_response_id"] = draw.choice(ids[-3:])
        try:
            if body["stream"]:
                d = DIALECTS["responses"]
                stream = await Stream(d.path, body, d.read, d.ends).run(port)
                value = stream.last["response"] if stream.whole else None
            else:
                answer = await call(port, "POST", "/v1/responses", body)
                value = answer.json if answer.status == 200 else None
        except Exception:
            value = None
        if value is None:
            if stop.is_set() or not ids:
                return
            await asyncio.sleep(0.01)
            continue
        seen[value["id"]] = value
        ids.append(value["id"])


def kill(arguments):
    rounds = arguments.rounds or 5
    draw = random.Random(arguments.seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "responses.sqlite")
        seen = {}
        port = 0
        for index in range(rounds):
            with Server(arguments.apus, "--responses", path, port=port) as server:
                port = server.port

                async def load():
                    stop = asyncio.Event()
                    before = len(seen)
                    work = [asyncio.create_task(conversations(port, seen, random.Random(draw.random()), stop))
                            for _ in range(8)]
                    await asyncio.sleep(draw.uniform(3, 7))
                    server.signal(signal.SIGKILL)
                    stop.set()
                    await asyncio.gather(*work)
                    return len(seen) - before

                new = asyncio.run(load())
            begun = time.monotonic()
            with Server(arguments.apus, "--responses", path, port=port) as server:
                while server.get("/ready")[0] != 200:
                    time.sleep(0.005)
                ready = time.monotonic() - begun
                first = asyncio.run(completion(tokens(8, "first"), 1).run(port))
                answered = time.monotonic() - begun

                async def inspect():
                    lost, changed, stuck = [], [], []
                    for id, value in seen.items():
                        answer = await call(port, "GET", f"/v1/responses/{id}")
                        if answer.status != 200:
                            lost.append((id, answer.status))
                        elif answer.json != value:
                            changed.append((id, [k for k in value if answer.json.get(k) != value[k]]))
                    for id in random.Random(index).sample(sorted(seen), min(12, len(seen))):
                        body = DIALECTS["responses"].body("And then?", 4, stream=False, previous_response_id=id)
                        answer = await call(port, "POST", "/v1/responses", body)
                        if answer.status != 200 or answer.json["previous_response_id"] != id:
                            stuck.append((id, answer.status, answer.body[:200].decode()))
                    return lost, changed, stuck

                lost, changed, stuck = asyncio.run(inspect())
                status = server.stop()
            whole = sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone()[0]
            rows.append({"new": new, "seen": len(seen), "lost": lost, "changed": changed, "stuck": stuck,
                         "integrity": whole, "ready_s": ready, "first_token_s": answered, "status": status,
                         "answered": first.whole})
    common.table(["kill", "completed before it", "seen in all", "lost", "changed", "not continued", "database",
                  "ready after s", "first token after s"],
                 [[i + 1, r["new"], r["seen"], len(r["lost"]), len(r["changed"]), len(r["stuck"]), r["integrity"],
                   r["ready_s"], r["first_token_s"]] for i, r in enumerate(rows)])
    find = lambda key: [x for r in rows for x in r[key]][:3]
    return {"rows": rows, "verdict": [
        ("ready again, and answering", all(r["answered"] for r in rows),
         f"ready in {max(r['ready_s'] for r in rows):.2f} s at most"),
        ("every response that a client saw completed is there", not find("lost"), find("lost") or len(seen)),
        ("and is what the client saw", not find("changed"), find("changed") or "equal"),
        ("and can be gone on from", not find("stuck"), find("stuck") or "yes"),
        ("the database is whole", all(r["integrity"] == "ok" for r in rows), [r["integrity"] for r in rows])]}


# unload

PROBES = ("/health", "/ready", "/metrics", "/v1/models", "/version", "/apus/engine", "/apus/requests", "/openapi.json",
          "/")


def unload(arguments):
    rounds = arguments.rounds or 7

    def wait_idle(server):
        deadline = time.monotonic() + 30
        while server.engine()["state"] != "idle":
            if time.monotonic() > deadline:
                raise RuntimeError("the model was not unloaded within 30 s")
            time.sleep(0.1)

    reloads, memory = [], []
    with Server(arguments.apus, "--idle-unload", 2) as server:
        for path in PROBES:
            server.get(path)
        fresh = server.engine()["state"], server.memory()["anonymous"]

        async def load():
            await asyncio.gather(*(completion(tokens(400, f"load {i}"), 64).run(server.port) for i in range(16)))

        asyncio.run(load())
        busy = server.memory()["anonymous"]
        for index in range(rounds):
            wait_idle(server)
            time.sleep(0.5)
            memory.append(server.memory()["anonymous"])
            for path in PROBES * 3:
                status, _ = server.get(path)
                if status != 200:
                    raise RuntimeError(f"{path}: {status}")
            time.sleep(0.5)
            woken = server.engine()["state"] != "idle"
            cpu = server.cpu_seconds()
            time.sleep(1)
            idle_cpu = server.cpu_seconds() - cpu
            stream = asyncio.run(completion(tokens(8, f"reload {index}"), 4).run(server.port))
            reloads.append({"ttft": stream.ttft, "woken": woken, "idle_cpu": idle_cpu, "load": common.load_average()})
        wait_idle(server)
        memory.append(server.memory()["anonymous"])
    times = [r["ttft"] for r in reloads]
    common.table(["state", "anonymous MB"], [
        ["started, probed", fresh[1] / 1e6], ["16 answers", busy / 1e6],
        *[[f"unloaded, {i + 1}", m / 1e6] for i, m in enumerate(memory)]])
    common.table(["reload", "TTFT ms", "woken by probes", "CPU s in an idle second", "load"],
                 [[i + 1, ms(r["ttft"]), r["woken"], r["idle_cpu"], r["load"]] for i, r in enumerate(reloads)])
    return {"reloads": reloads, "anonymous": memory, "busy": busy, "verdict": [
        (f"anonymous memory ≤ {MEMORY_BAR / 1e6:.0f} MB when idle", max(memory) <= MEMORY_BAR,
         f"{min(memory) / 1e6:.1f} to {max(memory) / 1e6:.1f} MB (with 16 answers {busy / 1e6:.0f} MB)"),
        (f"reload TTFT ≤ {RELOAD_BAR} s, median of {rounds}", statistics.median(times) <= RELOAD_BAR,
         f"{statistics.median(times):.3f} s, {min(times):.3f} to {max(times):.3f}"),
        ("probes wake nothing", fresh[0] == "idle" and not any(r["woken"] for r in reloads),
         f"{fresh[0]} after the first probes")]}
