"""Clients that go away in every way and at every moment; what the server still holds afterwards."""
import asyncio
import random
import time

import common
from client import Stream, completion, percentile, text, tokens
from server import Server, in_thread

WAYS = ("FIN", "RST", "half-close", "stopped reader")
PHASES = ("queued", "prefilling", "decoding")
ROUTES = ("chat", "completions", "responses", "messages", "ollama", "chat whole", "completions whole")
RUNNING = 4
BAR = 0.2
# The engine renews what it tells the outside this often while it computes.
REPORT_INTERVAL = 0.05
GIVEN_UP = 2.0
MEMORY_BAR = 0.05
PAUSED_TOKENS = 4000
LONG, SHORT = 3000, 12


def request(route, phase, seed):
    """A request that is still under way when the client leaves; only prefilling needs a long prompt."""
    name, *whole = route.split()
    size = LONG if phase == "prefilling" else SHORT
    stream = not whole
    if name == "completions":
        made = completion(tokens(size, seed), 2000)
        made.request["stream"] = stream
        if whole:
            del made.request["stream_options"]
        return made
    return Stream.of(name, text(size, seed) + "\nGo on with a very long story.", 2000, stream=stream)


async def leave(victim, way):
    connection = victim.connection
    if way == "FIN":
        connection.close()
    elif way == "RST":
        connection.reset()
    elif way == "half-close":
        connection.half_close()
    else:
        # It has not read for a while; what lies unread makes the kernel send RST.
        connection.close()


async def one(server, fillers, route, phase, way, seed):
    """Seconds from leaving until no report of the engine has the sequence; None if it never came or never went."""
    # The report is some milliseconds old: all the fillers must be in it, or one of them would be taken for the victim.
    deadline = time.monotonic() + 10
    while (before := set(await in_thread(server.sequences))) != fillers.ids:
        if time.monotonic() > deadline:
            return None, f"{len(before ^ fillers.ids)} sequences too many or too few before it"
        await asyncio.sleep(0.01)
    victim = request(route, phase, seed)
    await victim.begin(server.port, receive_buffer=4096 if way == "stopped reader" else None)
    if way == "stopped reader":
        victim.connection.stop_reading()
        reading = None
    else:
        reading = asyncio.create_task(victim.follow())
    wanted = {"queued": "waiting", "prefilling": "prefilling", "decoding": "decoding"}[phase]
    deadline = time.monotonic() + 10
    id = None
    while time.monotonic() < deadline:
        new = {i: s for i, s in (await in_thread(server.sequences)).items() if i not in before}
        id = next(iter(new), id)
        if id in new and new[id]["state"] == wanted and (phase != "decoding" or new[id]["generated_tokens"] >= 3):
            break
        await asyncio.sleep(0.005)
    else:
        victim.connection.reset()
        if reading:
            reading.cancel()
        return None, "never " + wanted + (f": {victim.error}" if victim.error else "")
    left = time.monotonic()
    await leave(victim, way)
    gone = None
    while time.monotonic() - left < GIVEN_UP:
        if id not in await in_thread(server.sequences):
            gone = time.monotonic() - left
            break
        await asyncio.sleep(0.005)
    if reading:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    victim.connection.reset()
    return gone, None if gone is not None else f"still there after {GIVEN_UP:.0f} s"


class Fillers:
    """Streams that keep so many places of the engine taken."""

    LONGEST = 15.0  # seconds

    def __init__(self, port):
        self.port, self.streams = port, []

    @property
    def ids(self):
        return {stream.id for stream, _ in self.streams}

    async def keep(self, count):
        """Streams that have run for a while make place for new ones: none may end while a victim waits."""
        young = []
        for stream, task in self.streams:
            if not task.done() and time.perf_counter() - stream.begun < self.LONGEST and len(young) < count:
                young.append((stream, task))
            else:
                stream.connection.close()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self.streams = young
        while len(self.streams) < count:
            stream = completion(tokens(8, f"filler {time.monotonic()}"), 8000)
            task = asyncio.create_task(stream.run(self.port))
            self.streams.append((stream, task))
            await asyncio.wait_for(stream.first_text.wait(), 60)


async def paused_reader(server):
    """A reader that stops until its sequence is paused: others go on, and it gets everything when it reads again; then
    the same, but it leaves."""
    seen = {}
    for leaves in (False, True):
        other = completion(tokens(8, "other"), 8000)
        # The kernel takes some megabytes before anybody notices: the events must be large.
        slow = Stream.of("chat", text(8, "slow"), PAUSED_TOKENS, logprobs=True, top_logprobs=20,
                         stream_options={"include_usage": True})
        other_task = asyncio.create_task(other.run(server.port))
        await slow.begin(server.port, receive_buffer=4096)
        slow.connection.stop_reading()
        deadline = time.monotonic() + 90
        state = None
        while time.monotonic() < deadline and state != "paused" and not other_task.done():
            states = [s["state"] for s in (await in_thread(server.sequences)).values()]
            state = "paused" if "paused" in states else None
            await asyncio.sleep(0.05)
        count = len(other.times)
        await asyncio.sleep(0.5)
        seen.setdefault("paused", []).append(state == "paused")
        seen.setdefault("others_go_on", []).append(other_task.done() or len(other.times) > count)
        if leaves:
            slow.connection.close()
            other.connection.close()
            left = time.monotonic()
            while server.sequences() and time.monotonic() - left < GIVEN_UP:
                await asyncio.sleep(0.005)
            seen["gone_s"] = time.monotonic() - left
        else:
            slow.connection.go_on_reading()
            await asyncio.wait_for(slow.follow(), 120)
            seen["whole"] = slow.whole and slow.usage.get("completion_tokens") == PAUSED_TOKENS
            seen["error"] = slow.error
            slow.connection.close()
            other.connection.close()
        other_task.cancel()
        await asyncio.gather(other_task, return_exceptions=True)
        await in_thread(server.settle)
    return seen


async def fill(port):
    """Uses every block once, so that the pool's pages are there before memory is compared."""
    for index in range(8):
        await completion(tokens(3500, f"fill {index}"), 1).run(port)


def disconnects(arguments):
    count = arguments.count or 1000
    cases = [(ROUTES[i % len(ROUTES)], PHASES[i // len(WAYS) % len(PHASES)], WAYS[i % len(WAYS)]) for i in range(count)]
    random.Random(arguments.seed).shuffle(cases)
    # Of each phase together: the engine must be full for one and must have room for the others.
    chunk = 50
    ordered = []
    for at in range(0, count, chunk):
        ordered += sorted(cases[at:at + chunk], key=lambda c: c[1] == "queued")

    rows, memory = [], []

    async def go(server):
        fillers = Fillers(server.port)
        for index, (route, phase, way) in enumerate(ordered):
            await fillers.keep(RUNNING if phase == "queued" else 1)
            gone, problem = await one(server, fillers, route, phase, way, f"{arguments.seed} {index}")
            rows.append({"route": route, "phase": phase, "way": way, "gone": gone, "problem": problem})
            if index % chunk == chunk - 1:
                memory.append({"after": index + 1, **server.memory(), "descriptors": server.descriptors(),
                               "threads": server.threads()})
                bad = sum(r["problem"] is not None for r in rows)
                print(f"  {index + 1}: {bad} bad, {memory[-1]['anonymous'] / 1e6:.1f} MB anonymous, "
                      f"{memory[-1]['descriptors']} descriptors", flush=True)
        await fillers.keep(0)

    # A pool that is soon full: blocks are evicted and used again all the time.
    with Server(arguments.apus, "--context", 8192, "--max-running", RUNNING, "--kv-pool", 512) as server:
        asyncio.run(fill(server.port))
        server.settle()
        time.sleep(0.5)
        descriptors, threads = server.descriptors(), server.threads()
        asyncio.run(go(server))
        paused = asyncio.run(paused_reader(server))
        time.sleep(1)
        engine = server.settle()
        after = server.descriptors()
        alive = asyncio.run(completion(tokens(64, "after"), 8).run(server.port)).whole
        server.settle()
        after_threads = server.threads()
        status = server.stop()
    table = []
    for phase in PHASES:
        for way in WAYS:
            these = [r for r in rows if (r["phase"], r["way"]) == (phase, way)]
            gone = [r["gone"] for r in these if r["gone"] is not None]
            late = [r for r in these if r["gone"] is None or r["gone"] > BAR + REPORT_INTERVAL]
            table.append([phase, way, len(these), *(f"{percentile(gone, q) * 1000:.0f}" for q in (0.5, 0.95, 1)),
                          len(late), "; ".join(sorted({f"{r['route']}: {r['problem'] or 'late'}" for r in late}))])
    common.table(["phase", "way", "count", "gone p50 ms", "p95", "max", "late", "which"], table)
    late = sum(row[6] for row in table)
    warm = memory[len(memory) // 4] if memory else {"anonymous": 1}
    growth = memory[-1]["anonymous"] / warm["anonymous"] - 1 if memory else 0
    return {"rows": rows, "memory": memory, "paused": paused, "verdict": [
        (f"all gone within {BAR * 1000:.0f} ms (and {REPORT_INTERVAL * 1000:.0f} ms until it is reported)", late == 0,
         f"{late} of {len(rows)} late"),
        ("no sequence left", not engine["sequences"], f"{len(engine['sequences'])}"),
        ("no block left", engine["kv_blocks_used"] == 0,
         f"{engine['kv_blocks_used']} used, {engine['kv_blocks_cached']} kept, of {engine['kv_blocks_total']}"),
        ("no descriptor left", after <= descriptors, f"{descriptors} before, {after} after"),
        ("no thread left", after_threads <= threads + 1, f"{threads} before, {after_threads} after"),
        (f"anonymous memory grows ≤ {MEMORY_BAR:.0%} after the first quarter", growth <= MEMORY_BAR,
         f"{growth:+.1%}"),
        ("a stopped reader pauses its sequence only", all(paused["paused"]) and all(paused["others_go_on"]), paused),
        ("it gets everything when it reads on", bool(paused.get("whole")), paused.get("error")),
        ("paused, it is gone when it leaves", paused["gone_s"] <= BAR + REPORT_INTERVAL, f"{paused['gone_s']:.3f} s"),
        ("the server still answers, and leaves with status 0", alive and status == 0, f"{alive}, status {status}")]}
