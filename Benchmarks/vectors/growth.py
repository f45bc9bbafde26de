"""What happens as a collection grows: tuned recall, latency against n, memory against tenants, a million vectors."""
from pathlib import Path

import common
import measure
import numpy as np
import peers
from data import BUCKETS, EIGHTHS, bounds, prepare
from measure import Asked
from search import APUS, TARGETS
from store import Store, workplace

RECALL_TOLERANCE = 0.005
SHAPE_BAR = 4.5
# "Linear or better" leaves a tenth for noise.
LINEAR = 1.1


def tuning(arguments):
    """Each target on held-out pairs, by bucket, at n/8 to n of one store that grows and is told nothing more: `import` tunes
    anew when tenants have grown beyond the sizes that were tuned."""
    if arguments.no_apus:
        return {"verdict": []}
    dataset = prepare("deb106k", arguments.data)
    rows = []
    for access in arguments.access or ["deb", "zipf"]:
        for quantizer, side in APUS.items():
            with workplace() as work:
                store = Store(arguments, work, dim_of(dataset), quantizer)
                for part in range(len(EIGHTHS)):
                    store.load(dataset, access, [part])
                    if part == 0:
                        store.train().tune(TARGETS)
                    rows += tuned(store, Asked(dataset, access, f"held-out/{part}"), access, side, part, arguments.pairs)
    common.table(["access", "side", "of n", "target", *(f"{b}: recall (± s.e.)" for b in BUCKETS), "mean µs by bucket"],
                 [[r["access"], r["side"], f"{EIGHTHS[r['part']]}/8", f"{r['target']:.2f}",
                   *(f"{c['recall']:.4f} ({c['recall_error']:.4f}){mark(c)}" if (c := r["buckets"].get(b)) else "-"
                     for b in BUCKETS),
                   " ".join(f"{c['cpu_us']:.0f}" for c in r["buckets"].values())] for r in rows])
    print("e: every vector of the tenant was looked at; c: the shortest search already has more than was asked")
    verdict = []
    for target in TARGETS:
        cells = [(c["recall"] - target, r, b, c)
                 for r in rows if r["target"] == target for b, c in r["buckets"].items()]
        under = min(cells, key=lambda cell: cell[0])
        over = max(((gap, r, b) for gap, r, b, c in cells if not c["excused"]), key=lambda cell: cell[0], default=None)
        verdict.append((f"target {target:.2f}: never more than .005 under", under[0] >= -RECALL_TOLERANCE,
                        where(under)))
        verdict.append((f"target {target:.2f}: nor over, where a shorter search would do",
                        over is None or over[0] <= RECALL_TOLERANCE, where(over) if over else "nowhere"))
    return {"rows": rows, "verdict": verdict}


def mark(cell):
    return {"exact": " e", "cheapest": " c"}.get(cell["excused"], "")


def where(cell):
    gap, r, bucket = cell[:3]
    return f"{gap:+.4f} at {r['access']} {r['side']} {EIGHTHS[r['part']]}/8 {bucket}"


def tuned(store, asked, access, side, part, limit):
    rows = [{"access": access, "side": side, "part": part, "target": t, "buckets": {}} for t in TARGETS]
    for number, bucket in enumerate(BUCKETS):
        some = asked.select(np.flatnonzero(asked.bucket == number)[:limit])
        if not len(some):
            continue
        ids, times, _ = store.search(some, "--patience", 1)
        least = some.judge(ids, times)
        for row in rows:
            ids, times, said = store.search(some, "--target-recall", row["target"])
            seen = {**some.judge(ids, times), "scanned": said["scanned"]["mean"]}
            del seen["buckets"]
            if seen["leaks"] or seen["short"] or seen["twice"]:
                raise RuntimeError(f"{access} {side} {bucket}: {seen}")
            whole = seen["scanned"] >= 0.999 * some.sizes.mean()
            cheapest = least["recall"] > row["target"] + RECALL_TOLERANCE
            row["buckets"][bucket] = {**seen, "excused": "exact" if whole else "cheapest" if cheapest else ""}
    return rows


def dim_of(dataset):
    return np.load(dataset / "vectors.npy", mmap_mode="r").shape[1]


def shape(arguments):
    """Latency against n with the same pairs, each n built afresh; bytes of the index against the number of tenants."""
    dataset = prepare("deb106k", arguments.data)
    verdict, rows = [], []
    for access in arguments.access or ["deb", "zipf"]:
        with workplace() as work:
            work = Path(work)
            sizes = []
            for part, rows_there in enumerate(bounds(len(np.load(dataset / "vectors.npy", mmap_mode="r")))):
                asked = Asked(dataset, access, f"growth/{part}", limit=arguments.pairs)
                sides = {}
                for quantizer, side in ({} if arguments.no_apus else APUS).items():
                    store = Store(arguments, work, asked.queries.shape[1], quantizer, f"{access}-{part}")
                    store.load(dataset, access, range(part + 1)).train()
                    sides[side] = judged(store, asked, "--patience", 32)
                    if quantizer == "none":
                        sides["apus exact"] = judged(store, asked, "--exact")
                if arguments.no_apus:
                    sides[peers.EXACT] = exact_prefix(dataset, access, part, work, asked)
                rounds = common.alternate(arguments.rounds or 3, sides)
                merged = {side: measure.over_rounds(seen) for side, seen in rounds.items()}
                sizes.append(merged)
                rows += [[access, rows_there, side, f"{r['recall']:.4f}", f"{r['cpu_us']:.1f}", f"{r['p99_us']:.0f}"]
                         for side, r in merged.items()]
            for side in sizes[0]:
                grown = sizes[-1][side]["cpu_us"] / sizes[0][side]["cpu_us"]
                if side in APUS.values():
                    verdict.append((f"{access} {side}: 8 n costs ≤ {SHAPE_BAR}× at P 32", grown <= SHAPE_BAR,
                                    f"{grown:.2f}×"))
    common.table(["access", "n", "side", "recall@10", "mean µs", "p99"], rows)
    slopes = [] if arguments.no_apus else tenant_slope(arguments, dataset)
    if slopes:
        common.table(["tenants", "grants", "index MB", "B a grant"],
                     [[s["tenants"], s["grants"], s["index"] / 1e6, s["index"] / s["grants"]] for s in slopes])
        added = [(b["index"] - a["index"]) / (b["grants"] - a["grants"]) for a, b in zip(slopes, slopes[1:])]
        verdict.append(("bytes an added grant costs do not rise with the tenants", added[-1] <= LINEAR * added[0],
                        ", ".join(f"{x:.1f} B" for x in added)))
    return {"rows": rows, "tenants": slopes, "verdict": verdict}


def judged(store, asked, *options):
    return lambda: asked.judge(*store.search(asked, *options)[:2])


def exact_prefix(dataset, access, part, work, asked):
    """The exact peer over the first vectors: a set of its own with the members that are among them."""
    rows = bounds(len(asked.vectors))[part]
    folder = work / f"prefix-{part}"
    (folder / access).mkdir(parents=True)
    np.save(folder / "vectors.npy", asked.vectors[:rows])
    indptr = np.load(dataset / access / "members.indptr.npy")
    ids = np.load(dataset / access / "members.ids.npy")
    kept = ids < rows
    np.save(folder / access / "members.indptr.npy", np.concatenate([[0], np.cumsum(kept)])[indptr].astype(np.int64))
    np.save(folder / access / "members.ids.npy", ids[kept])
    (folder / "meta.json").write_text((dataset / "meta.json").read_text())
    peer = peers.Peers(folder, access)
    peer.pairs = asked.folder
    return lambda: asked.judge(*peer.search(peers.EXACT, work, len(asked))["exact"])


def tenant_slope(arguments, dataset):
    """Stats of stores that hold all vectors and a quarter, a half and all of the tenants, spread over the sizes."""
    given = np.load(dataset / "deb" / "access.npz")
    indptr, indices = given["indptr"], given["indices"]
    slopes = []
    with workplace() as work:
        for every in (4, 2, 1):
            kept = indices % every == 0
            path = Path(work) / f"access-{every}.npz"
            counts = np.concatenate([[0], np.cumsum(kept)])[indptr].astype(np.int64)
            np.savez(path, indptr=counts, indices=indices[kept])
            store = Store(arguments, work, dim_of(dataset), name=f"tenants-{every}")
            store.run("import", store.path, "--vectors", dataset / "vectors.npy", "--access", path, "--no-train")
            stats = store.train().stats()
            slopes.append({"tenants": int(len(np.unique(indices[kept]))), "grants": int(kept.sum()),
                           "index": stats["bytes"]["index"], "reported": stats})
    return slopes


def scale(arguments):
    """A million vectors, ten thousand tenants, ten million grants, against an eighth of the vectors."""
    dataset = prepare("synthetic", arguments.data)
    parts = {"1/8": [0], "all": range(len(EIGHTHS))}
    target = 0.95
    seen = {}
    for name, of in parts.items():
        asked = Asked(dataset, "zipf", f"held-out/{of[-1]}", limit=arguments.pairs)
        with workplace() as work:
            work = Path(work)
            sides = {}
            seen[name] = {"vectors": bounds(len(asked.vectors))[of[-1]]}
            if not arguments.no_apus:
                store = Store(arguments, work, asked.queries.shape[1]).load(dataset, "zipf", of).train().tune([target])
                stats = store.stats()
                seen[name] |= {"grants": stats["grants"], "bytes": stats["bytes"], "spent": store.spent,
                               "files": store.file_bytes()}
                sides = {"apus f32": judged(store, asked, "--target-recall", target),
                         "apus exact": judged(store, asked, "--exact")}
            sides[peers.EXACT] = exact_prefix(dataset, "zipf", of[-1], work, asked)
            rounds = common.alternate(arguments.rounds or 3, sides)
            seen[name]["search"] = {side: measure.over_rounds(r) for side, r in rounds.items()}
    for name, s in seen.items():
        print(f"\n{name}: {s['vectors']} vectors"
              + (f", {s['grants']} grants; index {s['bytes']['index'] / s['vectors']:.0f} B a vector, "
                 f"{s['bytes']['index'] / s['grants']:.1f} B a grant; files {s['files'] / 1e6:.0f} MB; CPU s (wall s): "
                 + ", ".join(f"{c} {cpu:.1f} ({wall:.1f})" for c, (cpu, wall) in s["spent"].items())
                 if "grants" in s else ""))
        common.table(measure.HEADER, [measure.row(side, f"n {name}", r) for side, r in s["search"].items()])
    if arguments.no_apus:
        return {"sizes": seen, "verdict": []}
    small, large = seen.values()
    verdict = []
    work_ratio = large["grants"] / small["grants"]
    for command in ("import", "train"):
        grown = large["spent"][command][0] / small["spent"][command][0]
        verdict.append((f"{command}: CPU time linear or better", grown <= LINEAR * work_ratio,
                        f"{grown:.1f}× for {work_ratio:.1f}×"))
    grown = large["bytes"]["index"] / small["bytes"]["index"]
    verdict.append(("memory: linear or better", grown <= LINEAR * work_ratio, f"{grown:.1f}× for {work_ratio:.1f}×"))
    mine = [s["search"]["apus f32"] for s in (small, large)]
    for bucket in BUCKETS:
        if all(bucket in r["buckets"] for r in mine):
            grown = mine[1]["buckets"][bucket]["cpu_us"] / mine[0]["buckets"][bucket]["cpu_us"]
            verdict.append((f"search {bucket}: no more than with n", grown <= LINEAR * work_ratio, f"{grown:.2f}×"))
    # Two standard errors of the sample count beside the tolerance: 500 pairs a bucket.
    low = [(b, r["recall"]) for b, r in mine[1]["buckets"].items()
           if r["recall"] < target - RECALL_TOLERANCE - 2 * r["recall_error"]]
    verdict.append((f"search: recall {target} in every bucket", not low, low or f"{mine[1]['recall']:.4f}"))
    verdict.append(("nothing foreign, short or twice", not any(r[f] for s in seen.values() for r in s["search"].values()
                                                               for f in ("leaks", "short", "twice")), "all sides"))
    return {"sizes": seen, "verdict": verdict}
