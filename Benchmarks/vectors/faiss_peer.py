#!/usr/bin/env python3
"""faiss IVF-Flat, one shared index with an IDSelectorBitmap for the tenant, called from Python on one thread.

  faiss_peer.py --set FOLDER --access NAME --pairs FOLDER --out PREFIX --cache FILE --nprobe 128,512 [--limit N]

Builds the index into FILE if it is not there. Writes PREFIX.nprobeN.ids.npy and .times.npy as peer.cpp does, and prints
one JSON object. A time is thread CPU time around `index.search`, Python's call included; `call_us` is the median of the
same call on an index of one vector, which bounds what the call costs."""
import argparse
import json
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
import common  # noqa: E402

common.use_python("vectors", "faiss")
import faiss  # noqa: E402
import numpy as np  # noqa: E402

NLIST = 1024
K = 10


def build(vectors, cache):
    begin = time.thread_time()
    index = faiss.index_factory(vectors.shape[1], f"IVF{NLIST},Flat")
    index.train(vectors)
    trained = time.thread_time()
    index.add(vectors)
    facts = {"train_cpu_s": trained - begin, "insert_cpu_us": (time.thread_time() - trained) * 1e6 / len(vectors)}
    faiss.write_index(index, str(cache))
    return facts


def measure(index, queries, selections, parameters):
    """(ids int64 [p, K], times float32 [p] in µs)."""
    ids = np.empty((len(queries), K), np.int64)
    times = np.empty(len(queries), np.float32)
    clock = time.thread_time_ns
    for i, (query, selection) in enumerate(zip(queries, selections)):
        search = parameters(selection)
        query = query[None]
        begin = clock()
        _, found = index.search(query, K, params=search)
        times[i] = (clock() - begin) / 1000
        ids[i] = found[0]
    return ids, times


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("set", "access", "pairs", "out", "cache"):
        p.add_argument(f"--{name}", required=True)
    p.add_argument("--nprobe", required=True, type=lambda text: [int(n) for n in text.split(",")])
    p.add_argument("--limit", type=int)
    p.add_argument("--vectors-python")
    arguments = p.parse_args()
    faiss.omp_set_num_threads(1)
    facts = {}
    cache = Path(arguments.cache)
    if not cache.exists():
        facts["build"] = build(np.load(Path(arguments.set) / "vectors.npy"), cache)
    index = faiss.read_index(str(cache))

    members = Path(arguments.set) / arguments.access
    indptr, ids = np.load(members / "members.indptr.npy"), np.load(members / "members.ids.npy")
    queries = np.load(Path(arguments.pairs) / "queries.npy")[:arguments.limit]
    tenants = np.load(Path(arguments.pairs) / "tenants.npy")[:arguments.limit]
    bitmaps, selectors = {}, {}
    for tenant in np.unique(tenants):
        bits = np.zeros((index.ntotal + 7) // 8 * 8, np.uint8)
        bits[ids[indptr[tenant]:indptr[tenant + 1]]] = 1
        bitmaps[tenant] = np.packbits(bits, bitorder="little")
        selectors[tenant] = faiss.IDSelectorBitmap(len(bitmaps[tenant]), faiss.swig_ptr(bitmaps[tenant]))
    selections = [selectors[t] for t in tenants]

    single = faiss.index_factory(queries.shape[1], "IVF1,Flat")
    single.train(queries[:64])
    single.add(queries[:1])
    everything = faiss.IDSelectorAll()
    _, calls = measure(single, queries[:2000], [everything] * 2000,
                       lambda s: faiss.SearchParametersIVF(sel=s, nprobe=1))
    measure(index, queries[:500], selections[:500], lambda s: faiss.SearchParametersIVF(sel=s, nprobe=NLIST))
    for nprobe in arguments.nprobe:
        found, times = measure(index, queries, selections, lambda s: faiss.SearchParametersIVF(sel=s, nprobe=nprobe))
        np.save(f"{arguments.out}.nprobe{nprobe}.ids.npy", found)
        np.save(f"{arguments.out}.nprobe{nprobe}.times.npy", times)
    facts |= {"call_us": float(np.median(calls)), "nlist": NLIST, "version": faiss.__version__,
              "memory": {"bytes": index.ntotal * (index.d * 4 + 8) + NLIST * index.d * 4,
                         "bitmap_bytes": (len(indptr) - 1) * next(iter(bitmaps.values())).nbytes},
              "settings": [f"nprobe{n}" for n in arguments.nprobe]}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
