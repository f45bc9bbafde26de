"""Clients that mean harm, or are only slow, beside a stream that is well behaved."""
import asyncio
import json
import multiprocessing
import statistics
import time

import common
from client import Connection, call, completion, ms, percentile, text, tokens
from server import MODEL, Server, in_thread

DISTURBED = 2.0  # times the p95 inter-token latency before
LONGEST_GAP = 0.5  # seconds: a stream that stalls is disturbed, whatever its p95
BOMB_BAR = 0.05
SLOW_SECONDS = 75  # the server's own limits on idle connections are 60 s
ANSWER_BAR = 10.0
GIVEN_UP = 60.0


def _probe(port, count, pipe):
    """The well-behaved stream, in a process of its own: what the attacker computes shall not delay its clock."""
    stream = asyncio.run(completion(tokens(16, f"probe {time.time()}"), count).run(port))
    pipe.send((stream.times, stream.whole, stream.error))
    pipe.close()


class Probe:
    """A stream of `count` tokens, begun; `gaps` waits for it and gives the times between its tokens."""

    def __init__(self, port, count):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_probe, args=(port, count, theirs), daemon=True)
        self.process.start()
        theirs.close()

    async def gaps(self):
        times, whole, error = await in_thread(self.pipe.recv)
        self.process.join()
        if not whole:
            raise RuntimeError(f"the well-behaved stream was cut: {error}")
        return [b - a for a, b in zip(times, times[1:])]


async def beside(server, count, attack):
    """The stream's gaps alone, then while `attack` runs (which is told when the stream has ended), and what the attack
    returns."""
    alone = await Probe(server.port, count).gaps()
    probe = Probe(server.port, count)
    while not any(s["state"] == "decoding" for s in (await in_thread(server.sequences)).values()):
        await asyncio.sleep(0.02)
    over = asyncio.Event()
    work = asyncio.create_task(attack(server, over))
    gaps = await probe.gaps()
    over.set()
    return alone, gaps, await work


async def idle_keep_alive(server, over, count=1000):
    connections = []
    for _ in range(count):
        connection = await Connection.open(server.port)
        await call(server.port, "GET", "/health", connection=connection)
        connections.append(connection)
    opened = server.descriptors()
    await over.wait()
    # They still work.
    alive = sum([(await call(server.port, "GET", "/health", connection=c)).status == 200 for c in connections[::50]])
    for c in connections:
        c.close()
    return {"opened": opened, "alive": alive, "asked": len(connections[::50])}


async def waiting_streams(server, over, count=1000):
    """The engine computes one answer at a time here: all of these wait, with their headers sent after 10 s."""
    streams = [completion(tokens(12, f"waiting {i}"), 4) for i in range(count)]
    tasks = []
    for stream in streams:
        tasks.append(asyncio.create_task(stream.run(server.port)))
        if len(tasks) % 20 == 0:
            await asyncio.sleep(0.02)
    waiting = 0
    while not over.is_set():
        waiting = max(waiting, (await in_thread(server.engine))["waiting"])
        await asyncio.sleep(0.5)
    headers = sum(s.status == 200 for s in streams)
    for s in streams[20:]:
        s.connection.close()
    for t in tasks[20:]:
        t.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {"waiting": waiting, "with_headers": headers, "answered": sum(s.whole for s in streams[:20]),
            "errors": [s.error for s in streams if s.error][:3]}


async def slow_senders(server, over, count=200):
    """A byte of a header, or of a body, each second."""
    begun = time.monotonic()
    closed = {"header": [], "body": []}
    start = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
    head = start + b"x-slow: "
    body_head = start + b"content-type: application/json\r\ncontent-length: 5000\r\n\r\n{"

    async def slow(kind):
        connection = await Connection.open(server.port)
        connection.writer.write(head if kind == "header" else body_head)
        try:
            while time.monotonic() - begun < SLOW_SECONDS or not over.is_set():
                connection.writer.write(b"a" if kind == "header" else b" ")
                try:
                    if await asyncio.wait_for(connection.reader.read(1000), 1) == b"":
                        closed[kind].append(time.monotonic() - begun)
                        return
                except asyncio.TimeoutError:
                    pass
        except OSError:
            closed[kind].append(time.monotonic() - begun)
        finally:
            connection.close()

    await asyncio.gather(*(slow(kind) for kind in ("header", "body") for _ in range(count)))
    return {kind: {"count": count, "closed": len(times),
                   "after_s": [min(times, default=None), max(times, default=None)]} for kind, times in closed.items()}


def big_bodies():
    chat = lambda content: {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 1}
    prompt = lambda value: json.dumps({"model": MODEL, "prompt": value}).encode()
    ten = 10 << 20
    long = text(ten // 6, "big")[:ten]
    return {
        "10 MB of words": ("/v1/chat/completions", json.dumps(chat(long)).encode(), {400}),
        "10 MB of one letter": ("/v1/chat/completions", json.dumps(chat("a" * ten)).encode(), {400}),
        "10 MB of spaces": ("/v1/chat/completions", json.dumps(chat(" " * ten)).encode(), {400}),
        "10 MB of emoji": ("/v1/chat/completions", json.dumps(chat("🎉" * (ten // 12))).encode(), {400}),
        "10 MB, messages": ("/v1/messages", json.dumps(chat(long)).encode(), {400}),
        "10 MB, responses": ("/v1/responses", json.dumps({"model": MODEL, "input": long}).encode(), {400}),
        "10 MB, completions": ("/v1/completions", prompt(long), {400}),
        "10 MB of token ids": ("/v1/completions", prompt([1] * (ten // 3)), {400}),
        "10 MB, ollama": ("/api/chat", json.dumps(chat(long) | {"stream": False}).encode(), {400}),
        "10 MB that is no JSON": ("/v1/chat/completions", b"x" * ten, {400}),
        "20 MB": ("/v1/chat/completions", b" " * (20 << 20), {413}),
        "100,000 short messages": ("/v1/chat/completions", json.dumps(
            chat("") | {"messages": [{"role": "user", "content": "a"}] * 100_000}).encode(), {400}),
    }


def json_bombs():
    start = b'{"model": "%s", "messages": [{"role": "user", "content": "x"}], "max_tokens": ' % MODEL.encode()
    wrap = lambda inner: start + b'1, "user": %s}' % inner
    return {
        "100,000 [": (wrap(b"[" * 100_000), {400}),
        "100,000 [ closed": (wrap(b"[" * 100_000 + b"]" * 100_000), {400}),
        '100,000 {"a":': (wrap(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), {400}),
        "1e999999999": (wrap(b"1e999999999"), {200, 400}),
        "a million digits": (wrap(b"9" * 1_000_000), {200, 400}),
        "max_tokens 1e400": (start + b"1e400}", {400}),
        "300,000 keys": (wrap(json.dumps({f"k{i}": i for i in range(300_000)}).encode()), {200, 400}),
        "300,000 equal keys": (wrap(b"{" + b",".join([b'"a": 1'] * 300_000) + b"}"), {200, 400}),
        "a million escapes": (wrap(b'"' + b"\\u0041" * 1_000_000 + b'"'), {200, 400}),
        "lone surrogates": (wrap(b'"' + b"\\ud800" * 100_000 + b'"'), {200, 400}),
        "bytes that are no UTF-8": (wrap(b'"' + b"\xff\xfe" * 1000 + b'"'), {400}),
        "a NUL": (wrap(b'"\x00"'), {400}),
    }


def grammar_bombs():
    """What a caller may send as a schema, a pattern or a grammar; name: (field, value)."""
    schema = lambda value: ("guided_json", value)
    regex = lambda value: ("guided_regex", value)
    to = lambda name: {"$ref": f"#/$defs/{name}"}
    doubled = to("d0") | {"$defs": {"d40": {"type": "string"}} | {
        f"d{i}": {"allOf": [to(f"d{i + 1}")] * 2} for i in range(40)}}
    arrays = to("d0") | {"$defs": {"d30": {"type": "string"}} | {
        f"d{i}": {"type": "array", "prefixItems": [to(f"d{i + 1}")] * 10} for i in range(30)}}
    crossed = {"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {"type": "integer"}}, "required": [f"p{i}{j}"]}
                                    for j in range(6)]} for i in range(12)]}
    deep = {"type": "string"}
    for _ in range(5000):
        deep = {"type": "array", "items": deep}
    inner = {f"inner{j}": {"type": "string", "pattern": "^(a|b)*c{1,50}$"} for j in range(20)}
    optional = {"type": "object", "additionalProperties": False, "properties": {
        f"property{i}": {"type": "object", "properties": inner} for i in range(400)}}
    many = {f"p{i}": {"type": "integer"} for i in range(20_000)}
    text_array = lambda limit: {"type": "array", "maxItems": limit, "items": {"type": "string", "maxLength": limit}}
    patterns = [{"type": "string", "pattern": f"^(.*{chr(97 + i % 26)}.{{{i}}})$"} for i in range(30)]
    return {
        "allOf doubled 40 times": schema(doubled),
        "arrays of arrays by reference, 10^30": schema(arrays),
        "anyOf crossed, 6^12": schema(crossed),
        "5,000 levels": schema(deep),
        "400 × 20 patterns": schema(optional),
        "a reference to itself": schema({"$ref": "#"}),
        "references in a circle": schema(to("a") | {"$defs": {"a": to("b"), "b": to("a")}}),
        "maxItems 10^9 of objects": schema({"type": "array", "minItems": 10**9, "items": {"type": "object"}}),
        "minLength 10^9": schema({"type": "string", "minLength": 10**9}),
        "maxLength 999,999 in 999,999 items": schema(text_array(999_999)),
        "300 digits of minimum": schema({"type": "integer", "minimum": -(10**300), "maximum": 10**300}),
        "multipleOf a large prime": schema({"type": "integer", "multipleOf": 1_000_003}),
        "enum of 100,000": schema({"enum": [f"value {i}" for i in range(100_000)]}),
        "a pattern of 99^5": schema({"type": "string", "pattern": "((((a{0,99}){0,99}){0,99}){0,99}){0,99}"}),
        "allOf of 30 patterns": schema({"allOf": patterns}),
        "20,000 properties": schema({"type": "object", "properties": many}),
        "2,000 properties": schema({"type": "object", "properties": dict(list(many.items())[:2000])}),
        "remote reference": schema({"$ref": "http://127.0.0.1:1/schema.json"}),
        "((a{1000}){1000}){1000}": regex("((a{1000}){1000}){1000}"),
        "(a|aa)* forty deep": regex("(" * 40 + "a|aa" + ")*" * 40),
        "(.*a.{1000})": regex("(.*a.{1000})"),
        "(a?){5000}a{5000}": regex("(a?){5000}a{5000}"),
        "[\\s\\S]{0,1000000}": regex("[\\s\\S]{0,1000000}"),
        "10,000 alternatives": regex("|".join(f"word{i}x*" for i in range(10_000))),
        "10,000 groups deep": regex("(" * 10_000 + "a" + ")" * 10_000),
        "a{99999999999999999999}": regex("a{99999999999999999999}"),
        "(x+x+)+y": regex("(x+x+)+y"),
        "\\p{L} repeated": regex("(\\p{L}{1,300}|\\p{N}{1,300}){1,300}"),
        "look-ahead": regex("(?=a)b"),
        "not closed": regex("((("),
        "grammar: left recursion": ("guided_grammar", 'root ::= root "a" | "b"'),
        "grammar: doubled 60 times": ("guided_grammar", "\n".join(
            ["root ::= r0"] + [f"r{i} ::= r{i + 1} r{i + 1}" for i in range(60)] + ['r60 ::= "a"'])),
        "grammar: undefined rule": ("guided_grammar", "root ::= nothing"),
        "grammar: empty loop": ("guided_grammar", 'root ::= ("" | root)* "a"'),
        "grammar: 300 KB": ("guided_grammar", "root ::= " + " | ".join(f'"{i}"' for i in range(40_000))),
        "choice of 100,000": ("guided_choice", [f"choice {i}" for i in range(100_000)]),
        "choice of 10 MB": ("guided_choice", ["a" * (10 << 20)]),
        "choice of nothing": ("guided_choice", []),
    }


async def big(server, over):
    return await answers(server, {k: (p, b, w) for k, (p, b, w) in big_bodies().items()})


async def bombs(server, over):
    return await answers(server, {k: ("/v1/chat/completions", b, w) for k, (b, w) in json_bombs().items()})


async def answers(server, cases):
    """Each once alone, then all at once."""
    rows = []
    for at_once in (False, True):
        async def one(name, path, body, wanted):
            try:
                answer = await call(server.port, "POST", path, body, timeout=120)
                status, said = answer.status, answer.body[:200].decode(errors="replace")
                seconds = answer.seconds
            except Exception as error:
                status, said, seconds = None, f"{type(error).__name__}: {error}", float("nan")
            shaped = status == 200 or '"error"' in said
            rows.append({"name": name, "at_once": at_once, "status": status, "seconds": seconds, "said": said,
                         "right": status in wanted and shaped and seconds < ANSWER_BAR})
        work = [one(name, *case) for name, case in cases.items()]
        if at_once:
            await asyncio.gather(*work)
        else:
            for w in work:
                await w
    return rows


async def refuse_bombs(server, rounds):
    """The time of each bomb; of a few, the best, because the machine may be busy. Reading a body takes time of its own:
    that of the same body in a field that nobody reads is taken off."""
    base = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "temperature": 0}
    await call(server.port, "POST", "/v1/chat/completions", base | {"guided_regex": "a+"})
    rows = []
    for name, (field, value) in grammar_bombs().items():
        try:
            make = lambda key: json.dumps(base | {key: value}).encode()
            bodies = {"bomb": make(field), "inert": make("user")}
        except RecursionError:
            inner = b'{"type":"array","items":' * 5000 + b'{"type":"string"}' + b"}" * 5000
            make = lambda key: json.dumps(base).encode()[:-1] + b', "%s": ' % key.encode() + inner + b"}"
            bodies = {"bomb": make(field), "inert": make("user")}
        times = {"bomb": [], "inert": []}
        for _ in range(rounds):
            for side in times:
                try:
                    answer = await call(server.port, "POST", "/v1/chat/completions", bodies[side], timeout=GIVEN_UP)
                    status, said, seconds = answer.status, answer.body[:160].decode(errors="replace"), answer.seconds
                except Exception as error:
                    status, said, seconds = None, f"{type(error).__name__}: {error}", GIVEN_UP
                if side == "bomb":
                    seen = status, said
                times[side].append(seconds)
            if max(times["bomb"]) > 1:
                break
        rows.append({"name": name, "field": field, "bytes": len(bodies["bomb"]), "status": seen[0], "said": seen[1],
                     "best_s": min(times["bomb"]), "median_s": statistics.median(times["bomb"]),
                     "inert_s": min(times["inert"])})
    return rows


async def probes_beside(server, name):
    """Seconds that /ready takes while four of a bomb are being compiled."""
    field, value = grammar_bombs()[name]
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, field: value}
    work = [asyncio.create_task(call(server.port, "POST", "/v1/chat/completions", body, timeout=20)) for _ in range(4)]
    waited = []
    for _ in range(10):
        await asyncio.sleep(0.1)
        try:
            waited.append((await call(server.port, "GET", "/ready", timeout=20)).seconds)
        except asyncio.TimeoutError:
            waited.append(20.0)
            break
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    return waited


def hostile(arguments):
    parts = arguments.part or ["keep-alive", "waiting", "slow", "bodies", "json", "grammars", "patience"]
    count = arguments.count or 1000
    found, verdict, table = {}, [], []

    def watch(name, alone, gaps):
        before, during = percentile(alone, 0.95), percentile(gaps, 0.95)
        table.append([name, len(gaps), ms(percentile(alone, 0.5)), ms(before), ms(percentile(gaps, 0.5)), ms(during),
                      ms(max(gaps)), during / before, common.load_average()])
        found[name] = {"alone_p95": before, "p95": during, "max": max(gaps), "load": common.load_average()}
        verdict.append((f"{name}: the stream's p95 ≤ {DISTURBED} × before", during <= DISTURBED * before,
                        f"{during / before:.2f}"))
        verdict.append((f"{name}: its longest gap ≤ {LONGEST_GAP} s", max(gaps) <= LONGEST_GAP, f"{max(gaps):.3f} s"))

    def run(name, tokens_count, attack, *options):
        with Server(arguments.apus, *options) as server:
            asyncio.run(completion(tokens(64, "warm-up"), 64).run(server.port))
            before = server.descriptors()
            alone, gaps, seen = asyncio.run(beside(server, tokens_count, attack))
            watch(name, alone, gaps)
            engine = server.settle(60)
            time.sleep(1)
            after = server.descriptors()
            found[name]["seen"] = seen
            verdict.append((f"{name}: nothing left", not engine["sequences"] and after <= before,
                            f"{len(engine['sequences'])} sequences, descriptors {before} / {after}"))
            alive = server.process.poll() is None
            verdict.append((f"{name}: the server lives", alive and server.stop() == 0, f"{alive}"))
            return seen

    if "keep-alive" in parts:
        seen = run("idle connections", 1200, lambda s, o: idle_keep_alive(s, o, count))
        verdict.append((f"{count} idle connections are open and work", seen["opened"] >= count and
                        seen["alive"] == seen["asked"], seen))
    if "waiting" in parts:
        seen = run("waiting streams", 3000, lambda s, o: waiting_streams(s, o, count),
                   "--max-running", 1, "--max-queue", count + 100)
        verdict.append((f"{count} event streams wait, with headers", seen["waiting"] >= count - 1 and
                        seen["with_headers"] >= count and seen["answered"] == 20, seen))
    if "slow" in parts:
        seen = run("slow senders", 3000, slow_senders)
        for kind, s in seen.items():
            verdict.append((f"a {kind} byte each second: ended by the server within {SLOW_SECONDS} s",
                            s["closed"] == s["count"], s))
    for part, name, attack in (("bodies", "10 MB bodies", big), ("json", "JSON bombs", bombs)):
        if part not in parts:
            continue
        seen = run(name, 3000, attack)
        common.table(["sent", "at once", "status", "seconds", "said"], [
            [r["name"], r["at_once"], str(r["status"]), r["seconds"], r["said"][:90]] for r in seen])
        wrong = [(r["name"], r["status"], round(r["seconds"], 2)) for r in seen if not r["right"]]
        verdict.append((f"{name}: each is answered as it should be, in {ANSWER_BAR:.0f} s", not wrong,
                        wrong or len(seen)))
    if "grammars" in parts:
        with Server(arguments.apus) as server:
            rows = asyncio.run(refuse_bombs(server, arguments.rounds or 5))
            alive = server.process.poll() is None
        common.table(["bomb", "field", "KB", "status", "best ms", "median ms", "inert ms", "said"], [
            [r["name"], r["field"], r["bytes"] / 1000, str(r["status"]), ms(r["best_s"]), ms(r["median_s"]),
             ms(r["inert_s"]), r["said"][:90]] for r in rows])
        found["grammars"] = rows
        own = lambda r: r["best_s"] - (r["inert_s"] if r["bytes"] > 100_000 else 0)
        refused = [r for r in rows if r["status"] != 200]
        slow = [(r["name"], ms(own(r))) for r in refused if own(r) > BOMB_BAR]
        verdict.append((f"schema and regex bombs are refused in ≤ {BOMB_BAR * 1000:.0f} ms", not slow,
                        slow or f"{len(refused)} of {len(rows)}, at most {ms(max(map(own, refused)))} ms"))
        costly = [(r["name"], ms(r["best_s"] - r["inert_s"])) for r in rows
                  if r["status"] == 200 and r["best_s"] - r["inert_s"] > BOMB_BAR]
        verdict.append((f"those that are accepted cost ≤ {BOMB_BAR * 1000:.0f} ms", not costly,
                        costly or f"{len(rows) - len(refused)}"))
        wrong = [(r["name"], r["status"], r["said"]) for r in rows if r["status"] not in (200, 400)]
        worst = sorted(rows, key=lambda r: -r["best_s"])[:1]
        with Server(arguments.apus) as server:
            waited = asyncio.run(probes_beside(server, worst[0]["name"]))
        verdict.append((f"probes are answered in {LONGEST_GAP} s beside four of '{worst[0]['name']}'",
                        max(waited) <= LONGEST_GAP, f"{max(waited):.3f} s"))
        verdict.append(("each gets 400 or an answer, and the server lives", alive and not wrong, wrong[:3] or "yes"))
    if "patience" in parts:
        async def patience(server):
            """A stream that waits in the queue longer than a connection may be idle."""
            first = [completion(tokens(8, f"patience {i}"), 7000) for i in range(2)]
            tasks = [asyncio.create_task(s.run(server.port)) for s in first]
            await asyncio.sleep(0.5)
            last = await completion(tokens(8, "last"), 8).run(server.port)
            await asyncio.gather(*tasks)
            return last.ttft if last.times else None, last.whole, last.error, [s.whole for s in first]

        with Server(arguments.apus, "--context", 8192, "--max-running", 1) as server:
            waited, whole, error, others = asyncio.run(patience(server))
        found["patience"] = {"waited_s": waited, "whole": whole, "error": error}
        verdict.append(("a stream that waits longer than connections may be idle is answered",
                        whole and all(others) and waited > 60, f"waited {waited} s, {error}, others {others}"))
    if table:
        common.table(["beside the stream", "tokens", "before: p50 ms", "p95", "during: p50", "p95", "max", "p95 ratio",
                      "load"], table)
    return {"parts": found, "verdict": verdict}
