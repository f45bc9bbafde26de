"""The peers as sides of a round: the compiled peer.cpp and faiss_peer.py; their indexes are cached in .peers/vectors."""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import common
import numpy as np

HERE = Path(__file__).resolve().parent
HOME = common.ROOT / ".peers" / "vectors"
# Filtered HNSW takes about 10 ms a query: so many of the pairs are enough.
SHARED_PAIRS = 300
EXACT, SHARED, TENANTS, FAISS = "exact scan", "hnswlib shared + filter", "hnswlib per tenant", "faiss IVF + selector"
SWEEPS = {SHARED: (10, 16, 32, 64), TENANTS: (10, 16, 32, 64, 128), FAISS: (128, 256, 512, 1024)}


class PeerFailed(Exception):
    pass


def call(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        words = " ".join(map(str, command[:3]))
        raise PeerFailed(f"{words} ...: status {done.returncode}: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout)


def compiled():
    """The path of the peer program, built again when its source is newer."""
    headers, source, binary = HOME / "hnswlib", HERE / "peer.cpp", HOME / "peer"
    if not (headers / "hnswlib" / "hnswlib.h").exists():
        sys.exit(f"no headers of hnswlib in {headers}: run Benchmarks/peers.sh vectors")
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        command = ["g++", "-O3", "-march=native", "-std=c++17", "-pthread", "-I", headers, source, "-o", binary]
        subprocess.run(list(map(str, command)), check=True)
    return binary


def versions():
    hnswlib = re.search(r"^Version: (.*)$", (HOME / "hnswlib" / "PKG-INFO").read_text(), re.MULTILINE)
    compiler = subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    python = [sys.executable, "-c", "import faiss; print(faiss.__version__)"]
    faiss = subprocess.run(python, capture_output=True, text=True).stdout.strip()
    return {"hnswlib": hnswlib and hnswlib[1], "faiss-cpu": faiss, "numpy": np.__version__, "g++": compiler}


class Peers:
    """The peers of one set and access matrix; builds what is not cached."""

    def __init__(self, folder, access, pairs="pairs"):
        self.program = compiled()
        self.folder, self.access, self.pairs = folder, access, folder / access / pairs
        meta = json.loads((folder / "meta.json").read_text())
        self.cache = HOME / "cache" / f"{folder.name}-{meta['digest']}"
        self.facts = {}

    def words(self, *more):
        return ["--set", self.folder, "--access", self.access, *more]

    def built(self, name, command, is_folder):
        """The path of a cached index: built beside it and renamed, with what the build said in NAME.json."""
        path, said = self.cache / name, self.cache / f"{name}.json"
        if not said.exists():
            print(f"building {name} of {self.folder.name} (minutes, once)", file=sys.stderr, flush=True)
            self.cache.mkdir(parents=True, exist_ok=True)
            making = self.cache / f".{name}"
            shutil.rmtree(making, ignore_errors=True)
            if is_folder:
                making.mkdir()
            facts = call([self.program, command, *self.words("--cache", making)])
            making.rename(path)
            said.write_text(json.dumps({**facts, "load": common.load_average()}) + "\n")
        self.facts.setdefault(command, json.loads(said.read_text()))
        return path

    def shared_index(self):
        return self.built("hnsw-shared", "build-shared", False)

    def tenant_indexes(self):
        return self.built(f"hnsw-tenants-{self.access}", "build-tenants", True)

    def search(self, side, work, limit=None):
        """Runs one side once; {setting: (ids, times)}, and what it said in `facts`."""
        out = work / side.split()[0]
        words = self.words("--pairs", self.pairs, "--out", out, *(["--limit", limit] if limit else []))
        sweep = ",".join(map(str, SWEEPS.get(side, ())))
        if side == EXACT:
            said = call([self.program, "exact", *words])
        elif side == SHARED:
            said = call([self.program, "shared", *words, "--cache", self.shared_index(), "--ef", sweep])
        elif side == TENANTS:
            said = call([self.program, "tenants", *words, "--cache", self.tenant_indexes(), "--ef", sweep])
        else:
            self.cache.mkdir(parents=True, exist_ok=True)
            said = call([sys.executable, HERE / "faiss_peer.py", *words, "--cache", self.cache / "faiss-ivf",
                         "--nprobe", sweep])
        if "build" in said:
            built = {**said["build"], "load": common.load_average()}
            (self.cache / "faiss-ivf.json").write_text(json.dumps(built) + "\n")
        self.facts[side] = said
        return {s: (np.load(f"{out}.{s}.ids.npy"), np.load(f"{out}.{s}.times.npy")) for s in said["settings"]}
