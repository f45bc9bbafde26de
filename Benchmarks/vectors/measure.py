"""How an answer is judged: recall against exact truth, processor time, by the size of the tenant; curves of both."""
import math
import statistics

import numpy as np

from data import BUCKETS, EDGES, K

# Two float32 kernels may order two vectors differently whose distances differ by less than this part of them.
TIE = 1e-6


class Asked:
    """Pairs (query, tenant) with their truth, and the access matrix that answers may not leave."""

    def __init__(self, folder, access, pairs="pairs", limit=None, vectors=None):
        self.folder = folder / access / pairs
        self.vectors = np.load(vectors or folder / "vectors.npy", mmap_mode="r")
        self.queries, self.tenants, self.sizes, self.truth, self.distances = (
            np.load(self.folder / f"{name}.npy")[:limit]
            for name in ("queries", "tenants", "sizes", "truth", "distances"))
        indptr = np.load(folder / access / "members.indptr.npy")
        ids = np.load(folder / access / "members.ids.npy")
        tenants = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        # Ascending, because tenants are and the ids of each are.
        self.granted = tenants * len(self.vectors) + ids
        self.bucket = np.digitize(self.sizes, EDGES)
        self.wanted = np.minimum(K, self.sizes)

    def __len__(self):
        return len(self.tenants)

    def select(self, of):
        """The pairs `of` alone (a mask or numbers)."""
        part = object.__new__(Asked)
        part.__dict__ = {**self.__dict__}
        for name in ("queries", "tenants", "sizes", "truth", "distances", "bucket", "wanted"):
            setattr(part, name, getattr(self, name)[of])
        return part

    def found(self, ids):
        """How many of each pair's nearest were returned, each counted once; a tie with the last counts too."""
        hits = ((ids[:, :, None] == self.truth[:, None, :]) & (self.truth[:, None, :] >= 0)).any(1).sum(1)
        for i in np.flatnonzero(hits < self.wanted):
            others = np.setdiff1d(ids[i][ids[i] >= 0], self.truth[i])
            others = others[others < len(self.vectors)]
            exact = ((self.vectors[others].astype(np.float64) - self.queries[i].astype(np.float64)) ** 2).sum(1)
            ties = (exact <= self.distances[i, self.wanted[i] - 1] * (1 + TIE)).sum()
            hits[i] = min(self.wanted[i], hits[i] + ties)
        return hits

    def leaks(self, ids):
        """Returned ids that the tenant was never granted."""
        keys = self.tenants[:, None] * len(self.vectors) + ids
        at = np.minimum(np.searchsorted(self.granted, keys), len(self.granted) - 1)
        foreign = (self.granted[at] != keys) | (ids >= len(self.vectors))
        return int((foreign & (ids >= 0)).sum())

    def judge(self, ids, times):
        """The result of one run: overall and by bucket; `times` are µs of processor time a query."""
        ids = np.asarray(ids)[:, :K]
        if len(ids) != len(self) or len(times) != len(self):
            raise ValueError(f"{len(ids)} answers and {len(times)} times for {len(self)} pairs")
        returned = (ids >= 0).sum(1)
        ordered = np.sort(ids, 1)
        recall = self.found(ids) / self.wanted
        buckets = {}
        for number, name in enumerate(BUCKETS):
            if (of := self.bucket == number).any():
                buckets[name] = figures(recall[of], times[of])
        return {**figures(recall, times), "buckets": buckets, "leaks": self.leaks(ids),
                "short": int((returned < self.wanted).sum()),
                "twice": int(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).sum())}


def figures(recall, times):
    return {"pairs": len(recall), "recall": float(recall.mean()),
            "recall_error": float(recall.std() / math.sqrt(len(recall))), "cpu_us": float(np.mean(times)),
            "p50_us": float(np.percentile(times, 50)), "p99_us": float(np.percentile(times, 99))}


def over_rounds(results):
    """The median over rounds of each time and recall, with the spread of the mean CPU time; the most of each fault."""
    def of(parts):
        merged = {key: statistics.median(p[key] for p in parts)
                  for key in ("recall", "recall_error", "cpu_us", "p50_us", "p99_us")}
        cpu = [p["cpu_us"] for p in parts]
        return {**merged, "pairs": parts[0]["pairs"], "cpu_min": min(cpu), "cpu_max": max(cpu), "rounds": len(cpu)}

    return {**of(results), "buckets": {b: of([r["buckets"][b] for r in results]) for b in results[0]["buckets"]},
            **{fault: max(r[fault] for r in results) for fault in ("leaks", "short", "twice")}}


def points(settings, bucket=None):
    """The curve of a side: (recall, mean CPU µs) of each setting, over all pairs or one bucket."""
    parts = [s if bucket is None else s["buckets"].get(bucket) for s in settings]
    return [(p["recall"], p["cpu_us"]) for p in parts if p]


def frontier(curve):
    """Those points that no other beats in both, by rising cost."""
    kept = []
    for recall, cost in sorted(curve, key=lambda p: (p[1], -p[0])):
        if not kept or recall > kept[-1][0]:
            kept.append((recall, cost))
    return kept


def cost_at(curve, recall):
    """(µs, reached) for this recall: log cost is interpolated between the points around it.

    Below the curve it is the cheapest point's; above it the dearest's, and `reached` is False."""
    kept = frontier(curve)
    if recall <= kept[0][0]:
        return kept[0][1], True
    for (r0, c0), (r1, c1) in zip(kept, kept[1:]):
        if recall <= r1:
            share = (recall - r0) / (r1 - r0)
            return math.exp(math.log(c0) + share * (math.log(c1) - math.log(c0))), True
    return kept[-1][1], False


HEADER = ["side", "setting", "recall@10", "mean µs", "spread", "p50", "p99", *(f"{b}: recall @ µs" for b in BUCKETS),
          "leaks", "short"]


def row(side, setting, r):
    """One row under HEADER."""
    cells = [f"{b['recall']:.3f} @ {b['cpu_us']:.0f}" if (b := r["buckets"].get(name)) else "-" for name in BUCKETS]
    return [side, setting, f"{r['recall']:.4f}", f"{r['cpu_us']:.1f}", f"{r['cpu_min']:.0f}..{r['cpu_max']:.0f}",
            f"{r['p50_us']:.1f}", f"{r['p99_us']:.0f}", *cells, str(r["leaks"]), str(r["short"])]
