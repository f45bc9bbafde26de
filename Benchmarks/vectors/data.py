#!/usr/bin/env python3
"""Makes the files that the checks of Benchmarks/vectors read, as npy and npz, once.

  Benchmarks/vectors/data.py [deb106k] [synthetic] --data FILE [--out FOLDER]

deb106k    from FILE, deb106k.npz (or the folder it is in; APUS_VECTOR_DATA otherwise): 105,947 vectors, 384-d, with two
           access matrices, `deb` (real metadata) and `zipf` (content-independent), and 4,000 pairs of each with truth
synthetic  1,000,000 clustered vectors, 64-d, 10,000 tenants of Zipf sizes, 10,000,000 grants; seeded

A set is a folder:
  vectors.npy              float32 [n, d]
  meta.json                sizes, seed, and the digest that caches of indexes are held against
  parts/I.npy              the rows of vectors.npy that part I adds: n/8, n/8, n/4, n/2 of them
  ACCESS/access.npz        CSR: indptr int64 [n + 1], indices int32; rows are vectors, columns are tenants
  ACCESS/members.*.npy     the transpose: indptr int64 [tenants + 1], ids uint32, ascending within a tenant
  ACCESS/parts/I.npz       the rows of access.npz that part I adds
  ACCESS/pairs/            what `search` asks
  ACCESS/growth/I/         the same pairs over the parts up to and with I, less those whose tenant is empty in part 0
  ACCESS/held-out/I/       fresh pairs over the same vectors, so many of each bucket
A folder of pairs: queries.npy float32 [p, d], tenants.npy int64 [p], sizes.npy int64 [p] (vectors of the tenant),
truth.npy int64 [p, 10] (−1 where fewer), distances.npy float64 [p, 10] (squared L2).
"""
import argparse
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
import common  # noqa: E402

common.use_python("vectors", "numpy")
import numpy as np  # noqa: E402

FOLDER = common.ROOT / ".peers" / "vectors" / "data"
K = 10
# Tenants of fewer vectors than the first edge are bucket b0, and so on: b0 < 200 ≤ b1 < 1000 ≤ b2 < 5000 ≤ b3.
EDGES = (200, 1000, 5000)
BUCKETS = ("b0", "b1", "b2", "b3")
# The rows after which a part ends, in eighths: the collection grows 8×.
EIGHTHS = (1, 2, 4, 8)
HELD_OUT_PER_BUCKET = 2000
SEED = 20240716
FORMAT = 2


def transpose(indptr, indices, columns):
    """CSR of the transposed matrix: (indptr int64 [columns + 1], row numbers uint32, ascending in each row)."""
    rows = np.repeat(np.arange(len(indptr) - 1, dtype=np.uint32), np.diff(indptr))
    order = np.argsort(indices, kind="stable")
    counts = np.bincount(indices, minlength=columns)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), rows[order]


def nearest(vectors, members, queries):
    """The K nearest `members` to each query: ids int64 [q, K] and squared distances float64 [q, K], ties by id.

    Candidates come from a float32 product; what is returned was computed again as differences in float64."""
    x = vectors[members]
    ids = np.full((len(queries), K), -1, np.int64)
    found = np.full((len(queries), K), np.inf)
    norms = np.einsum("ij,ij->i", x, x)
    kept = min(len(members), K + 16)
    for begin in range(0, len(queries), 64):
        q = queries[begin:begin + 64]
        scores = norms[None, :] - 2 * (q @ x.T)
        if kept < len(members):
            candidates = np.argpartition(scores, kept - 1, axis=1)[:, :kept]
        else:
            candidates = np.broadcast_to(np.arange(kept), (len(q), kept))
        for i, c in enumerate(candidates):
            exact = ((x[c].astype(np.float64) - q[i].astype(np.float64)) ** 2).sum(1)
            order = np.lexsort((members[c], exact))[:K]
            ids[begin + i, :len(order)] = members[c][order]
            found[begin + i, :len(order)] = exact[order]
    return ids, found


def write_pairs(folder, vectors, queries, pairs, indptr, ids, rows=None):
    """Writes pairs (query number, tenant) with their truth over the first `rows` vectors."""
    folder.mkdir(parents=True, exist_ok=True)
    asked, tenants = pairs[:, 0], pairs[:, 1].astype(np.int64)
    truth = np.full((len(pairs), K), -1, np.int64)
    distances = np.full((len(pairs), K), np.inf)
    sizes = np.zeros(len(pairs), np.int64)
    for tenant in np.unique(tenants):
        members = ids[indptr[tenant]:indptr[tenant + 1]]
        if rows is not None:
            members = members[:np.searchsorted(members, rows)]
        of = np.flatnonzero(tenants == tenant)
        truth[of], distances[of] = nearest(vectors, members, queries[asked[of]])
        sizes[of] = len(members)
    np.save(folder / "queries.npy", queries[asked])
    np.save(folder / "tenants.npy", tenants)
    np.save(folder / "sizes.npy", sizes)
    np.save(folder / "truth.npy", truth)
    np.save(folder / "distances.npy", distances)
    return truth, distances


def fresh_pairs(rng, sizes, related, taken, per_bucket):
    """Pairs (query, tenant) of every bucket that are not in `taken`, no pair twice.

    Half take any tenant of the bucket and any query; half take a tenant of the query's own surroundings, as people ask
    what they own. `related[q]` lists tenants that hold vectors near query q."""
    chosen = []
    bucket_of = np.where(sizes > 0, np.digitize(sizes, EDGES), -1)
    taken = set(map(tuple, taken.tolist()))
    for bucket in range(len(BUCKETS)):
        tenants = np.flatnonzero(bucket_of == bucket)
        if not len(tenants):
            continue
        near = [(q, t) for q, row in enumerate(related) for t in row[bucket_of[row] == bucket]]
        near = [near[i] for i in rng.permutation(len(near))]
        count = 0
        for pair in near:
            if count >= per_bucket // 2:
                break
            if pair not in taken:
                taken.add(pair)
                chosen.append(pair)
                count += 1
        free = len(tenants) * len(related) - sum(bucket_of[t] == bucket for _, t in taken)
        wanted = count + min(per_bucket - count, free)
        while count < wanted:
            pair = (int(rng.integers(len(related))), int(rng.choice(tenants)))
            if pair not in taken:
                taken.add(pair)
                chosen.append(pair)
                count += 1
    return np.array(chosen, np.int64).reshape(-1, 2)


def related_tenants(vectors, queries, indptr, indices, count=20):
    """For each query, the tenants of the `count` vectors nearest to it."""
    result = []
    for begin in range(0, len(queries), 50):
        scores = queries[begin:begin + 50] @ vectors.T
        for row in np.argpartition(-scores, count, axis=1)[:, :count]:
            result.append(np.unique(np.concatenate([indices[indptr[v]:indptr[v + 1]] for v in row])))
    return result


def bounds(n):
    return [n * eighths // 8 for eighths in EIGHTHS]


def write_parts(folder, vectors):
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    begin = 0
    for i, end in enumerate(bounds(len(vectors))):
        np.save(folder / "parts" / f"{i}.npy", vectors[begin:end])
        begin = end


def write_access(folder, indptr, indices, tenants):
    """Writes the matrix, its transpose and its parts; returns the transpose."""
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    indptr, indices = indptr.astype(np.int64), indices.astype(np.int32)
    np.savez(folder / "access.npz", indptr=indptr, indices=indices, shape=np.array([len(indptr) - 1, tenants]))
    begin = 0
    for i, end in enumerate(bounds(len(indptr) - 1)):
        part = indptr[begin:end + 1]
        np.savez(folder / "parts" / f"{i}.npz", indptr=part - part[0], indices=indices[part[0]:part[-1]],
                 shape=np.array([end - begin, tenants]))
        begin = end
    member_indptr, ids = transpose(indptr, indices, tenants)
    np.save(folder / "members.indptr.npy", member_indptr)
    np.save(folder / "members.ids.npy", ids)
    return member_indptr, ids


def write_held_out(folder, vectors, queries, indptr, indices, member_indptr, ids, taken, per_bucket):
    related = related_tenants(vectors, queries, indptr, indices)
    for i, rows in enumerate(bounds(len(vectors))):
        rng = np.random.default_rng([SEED, i])
        sizes = np.bincount(indices[:indptr[rows]], minlength=len(member_indptr) - 1)
        pairs = fresh_pairs(rng, sizes, related, taken, per_bucket)
        write_pairs(folder / "held-out" / str(i), vectors, queries, pairs, member_indptr, ids, rows)
        counts = np.bincount(np.digitize(sizes[pairs[:, 1]], EDGES), minlength=len(BUCKETS))
        say(f"  held out over {rows} vectors: {dict(zip(BUCKETS, counts.tolist()))} pairs")


def write_growth(folder, vectors, queries, member_indptr, ids, pairs):
    first = bounds(len(vectors))[0]
    alive = [t for t in np.unique(pairs[:, 1]) if ids[member_indptr[t]:member_indptr[t + 1]][:1] < first]
    pairs = pairs[np.isin(pairs[:, 1], alive)]
    for i, rows in enumerate(bounds(len(vectors))):
        write_pairs(folder / "growth" / str(i), vectors, queries, pairs, member_indptr, ids, rows)


def check_truth(distances, given, vectors, queries, pairs):
    """The given truth must be the nearest by distance; where it names another id, the distances must be equal."""
    again = ((vectors[given].astype(np.float64) - queries[pairs[:, 0]][:, None].astype(np.float64)) ** 2).sum(2)
    worse = np.abs(np.sort(again, axis=1) - distances) > 1e-6
    if worse.any():
        sys.exit(f"the given truth is not the nearest for {int(worse.any(1).sum())} of {len(pairs)} pairs")


def say(text):
    print(text, file=sys.stderr, flush=True)


def finish(folder, **facts):
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.np[yz]")):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size} ".encode())
        with open(path, "rb") as file:
            digest.update(file.read(1 << 20))
    meta = {**facts, "format": FORMAT, "seed": SEED, "digest": digest.hexdigest()[:16]}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


def make_deb106k(folder, source):
    given = np.load(source)
    vectors = given["base"].astype(np.float32)
    queries = given["query"].astype(np.float32)
    np.save(folder / "vectors.npy", vectors)
    write_parts(folder, vectors)
    access = {}
    for name in ("deb", "zipf"):
        indptr, indices = given[f"{name}_indptr"], given[f"{name}_idx"]
        tenants = int(indices.max()) + 1
        say(f"deb106k/{name}: {len(vectors)} vectors, {tenants} tenants, {len(indices)} grants")
        member_indptr, ids = write_access(folder / name, indptr, indices, tenants)
        pairs = np.stack([given[f"{name}_pq"], given[f"{name}_pt"]], 1).astype(np.int64)
        truth, distances = write_pairs(folder / name / "pairs", vectors, queries, pairs, member_indptr, ids)
        check_truth(distances, given[f"{name}_gt"].astype(np.int64), vectors, queries, pairs)
        same = (np.sort(truth, 1) == np.sort(given[f"{name}_gt"], 1)).all(1).mean()
        say(f"  the given truth of {len(pairs)} pairs computed again: all nearest, {same:.2%} the same ids")
        write_growth(folder / name, vectors, queries, member_indptr, ids, pairs)
        write_held_out(folder / name, vectors, queries, indptr, indices, member_indptr, ids, pairs, HELD_OUT_PER_BUCKET)
        access[name] = {"tenants": tenants, "grants": len(indices), "pairs": len(pairs)}
    finish(folder, vectors=len(vectors), dim=vectors.shape[1], access=access)


def zipf_sizes(tenants, total, slope, smallest, largest):
    """Sizes that fall as rank^−slope within [smallest, largest] and sum to `total`."""
    ranks = np.arange(1, tenants + 1) ** -slope
    low, high = 0.0, float(total)
    for _ in range(100):
        middle = (low + high) / 2
        if np.clip(middle * ranks, smallest, largest).astype(np.int64).sum() > total:
            high = middle
        else:
            low = middle
    sizes = np.clip(low * ranks, smallest, largest).astype(np.int64)
    free = np.flatnonzero((sizes < largest) & (sizes > smallest))
    np.add.at(sizes, np.resize(free, total - sizes.sum()), 1)
    return sizes


def make_synthetic(folder, n=1_000_000, dim=64, tenants=10_000, grants=10_000_000, questions=1000, clusters=4096):
    """Two levels of Gaussian clusters on the unit sphere, written block by block.

    A tenant takes four fifths of its vectors from a few clusters of its own and the rest from anywhere, so that popular
    clusters are shared by many."""
    rng = np.random.default_rng(SEED)
    tops = rng.standard_normal((64, dim), dtype=np.float32)
    centres = tops[rng.integers(64, size=clusters)] + 0.7 * rng.standard_normal((clusters, dim), dtype=np.float32)
    weights = rng.permutation(np.arange(1, clusters + 1) ** -0.5)
    weights /= weights.sum()
    cluster_of = rng.choice(clusters, size=n, p=weights).astype(np.int32)

    def near(centre_numbers, seed):
        noise = np.random.default_rng([SEED, seed]).standard_normal((len(centre_numbers), dim), dtype=np.float32)
        x = centres[centre_numbers] + 0.6 * noise
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    vectors = np.lib.format.open_memmap(folder / "vectors.npy", mode="w+", dtype=np.float32, shape=(n, dim))
    block = 50_000
    for begin in range(0, n, block):
        vectors[begin:begin + block] = near(cluster_of[begin:begin + block], 1 + begin // block)
    vectors.flush()
    queries = near(rng.choice(clusters, size=questions, p=weights), 0)
    write_parts(folder, vectors)

    by_cluster = np.argsort(cluster_of, kind="stable").astype(np.uint32)
    cluster_begin = np.concatenate([[0], np.cumsum(np.bincount(cluster_of, minlength=clusters))])
    sizes = rng.permutation(zipf_sizes(tenants, grants, 0.9, 20, n // 5))
    # One number a grant, vector · tenants + tenant: sorting these in place is the whole transposition.
    keys = np.empty(grants, np.int64)
    at = 0
    for tenant, size in enumerate(sizes):
        own = []
        held = 0
        for cluster in rng.permutation(clusters):
            own.append(by_cluster[cluster_begin[cluster]:cluster_begin[cluster + 1]])
            held += len(own[-1])
            if held >= 2 * size:
                break
        own = np.concatenate(own)
        members = rng.choice(own, size=min(len(own), size * 4 // 5), replace=False)
        while len(members) < size:
            members = np.unique(np.concatenate([members, rng.integers(n, size=size - len(members), dtype=np.uint32)]))
        keys[at:at + size] = members.astype(np.int64) * tenants + tenant
        at += size
    keys.sort()
    indices = (keys % tenants).astype(np.int32)
    indptr = np.searchsorted(keys, np.arange(n + 1, dtype=np.int64) * tenants).astype(np.int64)
    del keys
    member_indptr, ids = write_access(folder / "zipf", indptr, indices, tenants)
    degree = np.diff(indptr)
    say(f"synthetic: {n} vectors, {tenants} tenants of {sizes.min()} to {sizes.max()} vectors, {len(indices)} grants; "
        f"grants a vector: median {np.median(degree):.0f}, most {degree.max()}, {int((degree == 0).sum())} without")
    write_held_out(folder / "zipf", vectors, queries, indptr, indices, member_indptr, ids, np.zeros((0, 2), int), 500)
    os.symlink(Path("held-out") / str(len(EIGHTHS) - 1), folder / "zipf" / "pairs")
    finish(folder, vectors=n, dim=dim, access={"zipf": {"tenants": tenants, "grants": len(indices)}})


def source_file(given):
    """deb106k.npz as the command line or APUS_VECTOR_DATA names it: the file, or the folder it is in."""
    given = given or os.environ.get("APUS_VECTOR_DATA")
    if not given:
        sys.exit("where is deb106k.npz? Give --data FILE, or set APUS_VECTOR_DATA")
    path = Path(given)
    path = path / "deb106k.npz" if path.is_dir() else path
    if not path.is_file():
        sys.exit(f"no file {path}")
    return path


def prepare(name, source=None, out=FOLDER):
    """The folder of the set, made if it is not there (in a folder beside it that is renamed when whole)."""
    folder = Path(out) / name
    try:
        if json.loads((folder / "meta.json").read_text())["format"] == FORMAT:
            return folder
    except (OSError, ValueError, KeyError):
        pass
    making = folder.with_name(f".{name}-{os.getpid()}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    try:
        make_deb106k(making, source_file(source)) if name == "deb106k" else make_synthetic(making)
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("set", nargs="*", default=["deb106k"], choices=["deb106k", "synthetic"])
    p.add_argument("--data", help="deb106k.npz or its folder")
    p.add_argument("--out", default=str(FOLDER))
    p.add_argument("--vectors-python", help="a Python that has numpy and faiss")
    arguments = p.parse_args()
    for name in arguments.set:
        print(prepare(name, arguments.data, arguments.out))


if __name__ == "__main__":
    main()
