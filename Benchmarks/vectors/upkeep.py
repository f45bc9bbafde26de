"""What a store costs beside its searches: memory (A5, A3), updates (A6), readers (A9), restart (A10)."""
import json
import statistics
import subprocess
import time
from pathlib import Path

import common
import numpy as np
import peers
from data import nearest, prepare
from measure import Asked
from search import APUS
from store import Store, workplace

INDEX_BAR = 300
REPORT_TOLERANCE = 0.05
CPU_BARS_US = {"grant_us": 2, "revoke_us": 3, "insert_us": 10}
DURABLE_BAR = 20_000
SCALING_BAR, WRITER_BAR, WRITER_GRANTS = 1.7, 2.0, 5000
OPEN_BAR_MS, REPLAY_BAR = 200, 200_000
CHANGES = 100_000


def rss(pid, program):
    """Resident bytes without those of code: pages of the program and its libraries come in when they are first run."""
    total, counted = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split(maxsplit=5)
        if "-" in words[0]:
            name = words[5] if len(words) > 5 else ""
            counted = not (name == program or ".so" in name)
        elif words[0] == "Rss:" and counted:
            total += int(words[1]) * 1024
    return total


def growth(arguments, path):
    """(resident bytes that opening the store added, what the store reports), seen from outside the process."""
    command = [arguments.apus, "vectors", "bench", str(path), "--what", "memory", "--json"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        def stage(name):
            line = process.stdout.readline()
            said = json.loads(line) if line else {}
            if said.get("stage") != name:
                raise common.ApusFailed(f"bench --what memory: expected stage {name}, read {line[:200]!r}")
            return said

        def go_on():
            process.stdin.write("\n")
            process.stdin.flush()

        stage("before")
        program = str(Path(arguments.apus).resolve())
        before = rss(process.pid, program)
        go_on()
        said = stage("open")
        after = rss(process.pid, program)
        go_on()
        process.wait(timeout=60)
        return after - before, said["bytes"]
    finally:
        process.kill()
        process.wait()


def memory(arguments):
    dataset = prepare("deb106k", arguments.data)
    peer = peers.Peers(dataset, "deb")
    rows, verdict = [], []
    with workplace() as work:
        work = Path(work)
        count = len(np.load(dataset / "vectors.npy", mmap_mode="r"))
        for side in (peers.SHARED, peers.TENANTS, peers.FAISS):
            peer.search(side, work, 1)
            held = peer.facts[side]["memory"]
            rows.append({"side": side, "total": held["bytes"], "index": held["bytes"] - count * peer_dim(dataset) * 4,
                         "locks": held.get("lock_bytes", 0), "bitmaps": held.get("bitmap_bytes", 0)})
        net = next(r["total"] - r["locks"] for r in rows if r["side"] == peers.TENANTS)
        for quantizer, side in ({} if arguments.no_apus else APUS).items():
            store = Store(arguments, work, peer_dim(dataset), quantizer).load(dataset, "deb").train()
            stats = store.stats()
            added, said = growth(arguments, store.path)
            total = said["total"]
            rows.append({"side": side, "total": total, "index": said["index"], "grown": added,
                         "file": store.file_bytes(), "stats": stats["bytes"]})
            grants = stats["grants"] / stats["vectors"]
            if quantizer == "none":
                beyond = total / count - peer_dim(dataset) * 4
                verdict.append((f"A5 ≤ {INDEX_BAR} B a vector beyond the vectors at {grants:.2f} grants",
                                max(said["index"] / count, beyond) <= INDEX_BAR, f"{beyond:.0f} B"))
            off = abs(added - total) / added
            verdict += [(f"A5 {side}: reported within 5 % of the growth", off <= REPORT_TOLERANCE,
                         f"{total / 1e6:.1f} MB reported, {added / 1e6:.1f} MB grown"),
                        (f"A3 {side}: ≤ 1/5 of HNSW per tenant, net of its lock tables", total <= net / 5,
                         f"1/{net / total:.1f}")]
    mega = lambda r, key: f"{r[key] / 1e6:.1f}" if r.get(key) is not None else "-"
    common.table(["side", "total MB", "B a vector", "beyond the vectors, B a vector", "of it lock tables MB",
                  "bitmaps MB (not in total)", "RSS growth MB", "files MB"],
                 [[r["side"], mega(r, "total"), f"{r['total'] / count:.0f}", f"{r['index'] / count:.0f}",
                   mega(r, "locks"), mega(r, "bitmaps"), mega(r, "grown"), mega(r, "file")] for r in rows])
    return {"rows": rows, "builds": peer.facts, "verdict": verdict}


def peer_dim(dataset):
    return np.load(dataset / "vectors.npy", mmap_mode="r").shape[1]


def absent_pairs(asked, count, seed):
    """Pairs (id, tenant) that are not granted, and the membership once they are."""
    rng = np.random.default_rng(seed)
    rows, tenants = len(asked.vectors), int(asked.granted[-1] // len(asked.vectors)) + 1
    keys = np.unique(rng.integers(0, rows * tenants, size=count + count // 2))
    keys = np.setdiff1d(keys, asked.granted, assume_unique=True)
    keys = rng.permutation(keys)[:count]
    return np.stack([keys % rows, keys // rows], 1)


def answers_after(store, asked, pairs):
    """Pairs whose exact answer, once `pairs` are granted, is not the nearest of the new membership."""
    rows = len(asked.vectors)
    granted = np.union1d(asked.granted, pairs[:, 1] * rows + pairs[:, 0])
    some = asked.select(np.flatnonzero(np.isin(asked.tenants, pairs[:, 1]))[:200])
    ids, _, _ = store.search(some, "--exact")
    wrong = 0
    for query, tenant, seen in zip(some.queries, some.tenants, ids):
        members = granted[np.searchsorted(granted, tenant * rows):np.searchsorted(granted, (tenant + 1) * rows)] % rows
        _, wanted = nearest(asked.vectors, members, query[None])
        exact = ((asked.vectors[seen].astype(np.float64) - query.astype(np.float64)) ** 2).sum(1)
        wrong += not (np.isin(seen, members).all() and np.allclose(np.sort(exact), wanted[0], rtol=1e-6))
    return wrong, len(some)


def updates(arguments):
    dataset = prepare("deb106k", arguments.data)
    peer = peers.Peers(dataset, "deb")
    peer.shared_index(), peer.tenant_indexes()
    builds = {name: peer.facts[name] for name in ("build-shared", "build-tenants")}
    rows = [[peers.SHARED, f"{builds['build-shared']['cpu_us']:.1f}", "a bit", "a bit", "-"],
            [peers.TENANTS, "-", f"{builds['build-tenants']['cpu_us']:.1f}", "mark only", "-"]]
    header = ["side", "insert CPU µs", "grant CPU µs", "revoke CPU µs", "durable grants/s"]
    if arguments.no_apus:
        common.table(header, rows)
        return {"builds": builds, "verdict": []}
    asked = Asked(dataset, "deb")
    rounds = arguments.rounds or 3
    verdict, commands = [], []
    with workplace() as work:
        store = Store(arguments, work, peer_dim(dataset)).load(dataset, "deb").train()
        before = store.stats()
        first, _, _ = store.search(asked, "--patience", 32)
        seen = [store.bench("updates") for _ in range(rounds)]
        coded = {}
        for quantizer, side in APUS.items():
            if quantizer != "none":
                other = Store(arguments, work, peer_dim(dataset), quantizer).load(dataset, "deb").train()
                coded[side] = [other.bench("updates") for _ in range(rounds)]
        unchanged = store.stats()["grants"] == before["grants"]
        for i in range(rounds):
            pairs = absent_pairs(asked, CHANGES, [arguments.seed, i])
            granted = store.change("grant", pairs)
            after = store.stats()["grants"]
            again = store.change("grant", pairs[:1000])["changed"]
            wrong, checked = answers_after(store, asked, pairs)
            revoked = store.change("revoke", pairs)
            commands.append({"granted": granted, "revoked": revoked, "grants_after": after, "again": again,
                             "wrong": wrong, "checked": checked, "left": store.stats()["grants"]})
        last, _, _ = store.search(asked, "--patience", 32)
        store.run("verify", store.path)
    means = {key: statistics.median(s[key]["mean"] for s in seen) for key in CPU_BARS_US}
    durable = statistics.median(s["durable"]["grants"] / s["durable"]["seconds"] for s in seen)
    outside = statistics.median(CHANGES / c["granted"]["outside_s"] for c in commands)
    inserts = {side: statistics.median(s["insert_us"]["mean"] for s in of) for side, of in coded.items()}
    rows.append([APUS["none"], *(f"{means[k]:.2f}" for k in ("insert_us", "grant_us", "revoke_us")), f"{durable:.0f}"])
    rows += [[side, f"{insert:.2f}", "the same", "the same", "the same"] for side, insert in inserts.items()]
    common.table(header, rows)
    print(f"apus vectors grant of {CHANGES} pairs, start and opening included: {outside:.0f} grants/s")
    for key, bar in CPU_BARS_US.items():
        verdict.append((f"A6 {key.removesuffix('_us')} ≤ {bar} µs in memory", means[key] <= bar,
                        f"{means[key]:.2f} µs"))
    verdict += [(f"A6 insert ≤ {CPU_BARS_US['insert_us']} µs with {side}", insert <= CPU_BARS_US["insert_us"],
                 f"{insert:.2f} µs") for side, insert in inserts.items()]
    right = all(c["granted"]["changed"] == c["revoked"]["changed"] == CHANGES and c["again"] == 0
                and c["grants_after"] == before["grants"] + CHANGES and c["left"] == before["grants"] for c in commands)
    verdict += [
        (f"A6 ≥ {DURABLE_BAR} durable grants/s", durable >= DURABLE_BAR, f"{durable:.0f}/s in the bench"),
        ("and through the command line", outside >= DURABLE_BAR, f"{outside:.0f}/s"),
        ("the bench leaves the store as it was", unchanged, unchanged),
        ("grants and revokes are counted right, a second grant changes nothing", right, "every round"
         if right else commands),
        ("answers follow the grants exactly", not any(c["wrong"] for c in commands),
         f"{sum(c['wrong'] for c in commands)} wrong of {sum(c['checked'] for c in commands)}"),
        ("after the revokes nothing of them is left in any answer", asked.leaks(last) == 0,
         f"{asked.leaks(last)} leaks; {(first == last).all(1).mean():.2%} of the answers as before")]
    return {"bench": seen, "coded": coded, "commands": commands, "builds": builds, "verdict": verdict}


def threads(arguments):
    """A9: readers on one and two threads, and one reader beside a writer."""
    if arguments.no_apus:
        return {"verdict": []}
    dataset = prepare("deb106k", arguments.data)
    asked = dataset / "deb" / "pairs"
    with workplace() as work:
        store = Store(arguments, work, peer_dim(dataset)).load(dataset, "deb").train().tune([0.95])
        seen = [store.bench("readers", "--queries", asked / "queries.npy", "--tenants", asked / "tenants.npy",
                            "--k", 10, "--target-recall", 0.95, "--grants-per-second", WRITER_GRANTS)
                for _ in range(arguments.rounds or 3)]
    scaling = [s["threads"]["2"]["queries_per_s"] / s["threads"]["1"]["queries_per_s"] for s in seen]
    beside = [s["writer"]["p99_us"] / s["threads"]["1"]["p99_us"] for s in seen]
    written = min(s["writer"]["grants_per_s"] for s in seen)
    common.table(["round", "queries/s, 1 thread", "2 threads", "gain", "p99 µs, 1 reader", "beside the writer", "times",
                  "grants/s"],
                 [[i + 1, s["threads"]["1"]["queries_per_s"], s["threads"]["2"]["queries_per_s"], f"{g:.2f}",
                   s["threads"]["1"]["p99_us"], s["writer"]["p99_us"], f"{b:.2f}", s["writer"]["grants_per_s"]]
                  for i, (s, g, b) in enumerate(zip(seen, scaling, beside))])
    gain, slowed = statistics.median(scaling), statistics.median(beside)
    return {"rounds": seen, "verdict": [
        (f"A9 two readers ≥ {SCALING_BAR}× one", gain >= SCALING_BAR, f"{gain:.2f}×"),
        (f"A9 reader p99 beside {WRITER_GRANTS} grants/s ≤ {WRITER_BAR}× idle", slowed <= WRITER_BAR, f"{slowed:.2f}×"),
        ("and the writer kept its pace", written >= 0.95 * WRITER_GRANTS, f"{written:.0f} grants/s at least")]}


def restart(arguments):
    """A10: opening a checkpoint of 106k vectors; replaying a log."""
    if arguments.no_apus:
        return {"verdict": []}
    dataset = prepare("deb106k", arguments.data)
    rounds = max(3, arguments.rounds or 5)
    with workplace() as work:
        store = Store(arguments, work, peer_dim(dataset)).load(dataset, "deb").train()
        seen = [store.bench("open") for _ in range(rounds)]
        outside = []
        for _ in range(rounds):
            begun = time.monotonic()
            subprocess.run([arguments.apus, "--version"], capture_output=True, check=True)
            bare = time.monotonic() - begun
            outside.append(store.stats()["outside_s"] - bare)
    opened = statistics.median(s["open_ms"] for s in seen)
    answered = statistics.median(s["first_answer_ms"] for s in seen)
    replay = statistics.median(s["replay"]["records"] / s["replay"]["seconds"] for s in seen)
    process = statistics.median(outside) * 1000
    common.table(["", "open ms", "first answer ms", "stats less --version, ms", "log records", "records/s"],
                 [["median", opened, answered, process, seen[0]["replay"]["records"], f"{replay:.0f}"],
                  ["most", max(s["open_ms"] for s in seen), max(s["first_answer_ms"] for s in seen),
                   max(outside) * 1000, "", ""]])
    return {"rounds": seen, "outside_s": outside, "verdict": [
        (f"A10 a checkpoint of 106k vectors opens in ≤ {OPEN_BAR_MS} ms", opened <= OPEN_BAR_MS, f"{opened:.1f} ms"),
        ("as seen from outside too", process <= OPEN_BAR_MS, f"{process:.1f} ms"),
        (f"A10 replays ≥ {REPLAY_BAR} records/s", replay >= REPLAY_BAR, f"{replay:.0f}/s")]}
