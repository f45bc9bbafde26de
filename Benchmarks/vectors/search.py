"""search: recall and processor time of apus and its peers, round by round. Bars A1, A2, A3, A7, A8, A11."""
from pathlib import Path

import chart
import common
import measure
import peers
from data import prepare
from measure import Asked, cost_at, points
from peers import EXACT, FAISS, SHARED, TENANTS
from store import Store, workplace

PATIENCE = (4, 8, 16, 32, 64, 128)
TARGETS = (0.90, 0.95, 0.98, 0.99)
APUS = {"none": "apus f32", "sq8": "apus SQ8", "rabitq": "apus RaBitQ"}
# How often faster than the exact scan for the largest tenants at recall .95 (A2).
FASTER = {"none": 2.5, "sq8": 5, "rabitq": 5}
# Three for each result.
SQ8_CANDIDATES = 30
# More consecutive leaves without a gain than any tree has: the search goes through everything.
EXHAUSTIVE = 1_000_000_000


def apus_settings():
    return {"exact": ["--exact"], **{f"P{p}": ["--patience", p] for p in PATIENCE},
            **{f"target {t:.2f}": ["--target-recall", t] for t in TARGETS}}


def ratio(x):
    return f"{x:.2f}×"


def search(arguments):
    result = {"verdict": []}
    dataset = prepare("deb106k", arguments.data)
    for access in arguments.access or ["deb", "zipf"]:
        one = search_one(arguments, dataset, access)
        result[access] = one
        result["verdict"] += [(f"{access}: {what}", met, seen) for what, met, seen in one.pop("verdict")]
    print("not measured: A4, the authors' code, which is not among the peers")
    return result


def search_one(arguments, dataset, access):
    asked = Asked(dataset, access, limit=arguments.pairs)
    fewer = asked.select(slice(0, min(peers.SHARED_PAIRS, len(asked))))
    sides, stores = {}, {}
    with workplace() as work:
        work = Path(work)
        peer = peers.Peers(dataset, access)
        peer.shared_index(), peer.tenant_indexes()

        def of_peer(side):
            pairs = fewer if side == SHARED else asked
            return lambda: {s: pairs.judge(*answer) for s, answer in peer.search(side, work, len(pairs)).items()}

        def of_store(store):
            def run():
                results = {}
                for setting, options in apus_settings().items():
                    ids, times, said = store.search(asked, *options)
                    one = asked.judge(ids, times)
                    # The same pairs that filtered HNSW was asked.
                    one["fewer"] = fewer.judge(ids[:len(fewer)], times[:len(fewer)])
                    results[setting] = {**one, "scanned": said["scanned"]["mean"]}
                return results
            return run

        if not arguments.no_apus:
            dim = asked.queries.shape[1]
            for quantizer, side in APUS.items():
                stores[side] = Store(arguments, work, dim, quantizer).load(dataset, access).train().tune(TARGETS)
                sides[side] = of_store(stores[side])
        sides |= {side: of_peer(side) for side in (EXACT, SHARED, TENANTS, FAISS)}
        rounds = common.alternate(arguments.rounds or 3, sides)
        exhaustive = {side: exhausted(store, asked) for side, store in stores.items()}
        wide = {p: wide_recall(stores[APUS["none"]], asked, p) for p in PATIENCE} if stores else {}

    settings = {side: list(seen[0]) for side, seen in rounds.items()}
    merged = {side: {s: measure.over_rounds([r[s] for r in seen]) for s in settings[side]}
              for side, seen in rounds.items()}
    for side in stores:
        for s in settings[side]:
            merged[side][s]["fewer"] = measure.over_rounds([r[s]["fewer"] for r in rounds[side]])
            merged[side][s]["scanned"] = rounds[side][-1][s]["scanned"]
    print(f"\n## {access}: {len(asked)} pairs, {len(rounds[EXACT])} rounds, filtered HNSW on {len(fewer)} pairs; "
          f"reading the clock costs {peer.facts[EXACT]['clock_ns']} ns, "
          f"a call of faiss {peer.facts[FAISS]['call_us']:.1f} µs")
    common.table(measure.HEADER, [measure.row(side, s, r) for side, of in merged.items() for s, r in of.items()])
    curves = {side: [r for s, r in of.items() if s.startswith(("P", "ef", "nprobe"))] for side, of in merged.items()}
    curves[EXACT] = list(merged[EXACT].values())
    picture = Path(arguments.charts) / f"recall-latency-{access}.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    chart.draw(picture, f"{access}: recall and processor time a query", curves)
    print(f"curves: {picture}")
    verdict = [("A11 nothing foreign, nothing short, nothing twice",
                not any(r[f] for side, of in merged.items() for r in of.values() for f in faults(side)),
                {f: sum(r[f] for of in merged.values() for r in of.values()) for f in ("leaks", "short", "twice")})]
    if stores:
        verdict += bars(access, merged, curves, exhaustive, wide)
    return {"pairs": len(asked), "sides": merged, "peers": peer.facts, "chart": str(picture), "verdict": verdict}


def faults(side):
    """A filtered graph may come back short, that is its own affair; nobody may leak or repeat."""
    return ("leaks", "twice") if side in (SHARED, FAISS, TENANTS) else ("leaks", "twice", "short")


def exhausted(store, asked):
    ids, times, _ = store.search(asked, "--patience", EXHAUSTIVE)
    return asked.judge(ids, times)["recall"]


def wide_recall(store, asked, patience):
    """Recall of float32 that keeps as many candidates as SQ8 does: a list of these is improved as often."""
    ids, times, _ = store.search(asked, "--patience", patience, k=SQ8_CANDIDATES)
    return asked.judge(ids, times)["recall"]


def bars(access, merged, curves, exhaustive, wide):
    verdict = []
    swept = {side: [r for s, r in merged[side].items() if s.startswith("P")] for side in APUS.values()}
    if access == "deb":
        shared = points(curves[SHARED])
        ours = [(r["fewer"]["cpu_us"], r["fewer"]["recall"], side, s) for side in APUS.values()
                for s, r in merged[side].items() if r["fewer"]["recall"] >= 0.98 and s != "exact"]
        if ours:
            cpu, recall, side, setting = min(ours)
            theirs, reached = cost_at(shared, recall)
            verdict.append(("A1 ≥ 50× less CPU than filtered HNSW at recall ≥ .98", theirs / cpu >= 50,
                            f"{'' if reached else '≥ '}{theirs / cpu:.0f}× ({cpu:.1f} against {theirs:.0f} µs at "
                            f"{recall:.4f}, {side} {setting}, the same {shared_pairs(merged)} pairs)"))
        else:
            verdict.append(("A1 ≥ 50× less CPU than filtered HNSW at recall ≥ .98", False, "no setting reaches .98"))
    # The faster of the two exact scans, so that a slow one of our own does not make the bar cheap.
    exact = {b: min(merged[EXACT]["exact"]["buckets"][b]["cpu_us"],
                    merged[APUS["none"]]["exact"]["buckets"][b]["cpu_us"])
             for b in merged[EXACT]["exact"]["buckets"]}
    worst = max((r["buckets"][b]["cpu_us"] / exact[b], side, s, b) for side in APUS.values()
                for s, r in merged[side].items() if s.startswith("target") for b in exact)
    verdict.append(("A2 no bucket > 1.1× of the exact scan", worst[0] <= 1.1,
                    f"worst {ratio(worst[0])}: {worst[1]} {worst[2]} {worst[3]}"))
    if "b3" in exact:
        for quantizer, side in APUS.items():
            bar = FASTER[quantizer]
            cost, reached = cost_at(points(swept[side], "b3"), 0.95)
            verdict.append((f"A2 {side} ≥ {bar}× faster than exact for ≥ 5000 vectors at recall .95",
                            reached and exact["b3"] / cost >= bar,
                            f"{ratio(exact['b3'] / cost)} ({cost:.0f} against {exact['b3']:.0f} µs)"
                            + ("" if reached else ", .95 not reached")))
    ours = {side: cost_at(points(swept[side]), 0.987) for side in APUS.values()}
    theirs, their_reached = cost_at(points(curves[TENANTS]), 0.987)
    side, (cost, reached) = min(ours.items(), key=lambda item: (not item[1][1], item[1][0]))
    verdict.append(("A3 mean CPU ≤ 1.5× of HNSW per tenant at recall .987 (aim 1.0×)",
                    reached and their_reached and cost <= 1.5 * theirs,
                    f"{ratio(cost / theirs)} ({side} {cost:.1f} against {theirs:.1f} µs)"))
    recalls = {side: [merged[side][f"P{p}"]["recall"] for p in PATIENCE] for side in APUS.values()}
    verdict.append(("A7 recall rises with the patience", all(r == sorted(r) for r in recalls.values()),
                    {side: [f"{x:.4f}" for x in r] for side, r in recalls.items()}))
    # SQ8 ranks by codes and orders 3k of them again; RaBitQ's bound fails now and then: neither is exact over everything.
    verdict.append(("A7 without end it is the exact answer", exhaustive[APUS["none"]] == 1,
                    {side: f"{r:.5f}" for side, r in exhaustive.items()}))
    apart = [abs(wide[p] - recall) for p, recall in zip(PATIENCE, recalls[APUS["sq8"]])]
    verdict.append(("A8 SQ8 within .005 of float32 at equal patience and candidates", max(apart) <= 0.005,
                    f"at most {max(apart):.4f}"))
    filtered = cost_at(points(curves[FAISS]), 0.95)[0]
    scan, tree = merged[APUS["none"]]["exact"]["cpu_us"], ours[APUS["none"]][0]
    verdict.append(("order of the paper's ablation: filter > list of the tenant > tree", filtered > scan > tree,
                    f"{filtered:.0f} > {scan:.0f} > {tree:.0f} µs"))
    return verdict


def shared_pairs(merged):
    return next(iter(merged[SHARED].values()))["pairs"]
