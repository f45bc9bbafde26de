"""`apus vectors` as the checks call it: a store in a folder of its own, and what its commands answer."""
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np

WORK = common.ROOT / ".peers" / "vectors" / "work"


def require_vectors(arguments):
    """Ends the run when the binary cannot do what is measured here."""
    if not os.access(arguments.apus, os.X_OK):
        sys.exit(f"no binary {arguments.apus}: build it (./apus --build-only), give --apus, or --no-apus for the peers")
    help_text = subprocess.run([arguments.apus, "vectors", "--help"], capture_output=True, text=True).stdout
    if "apus vectors" not in help_text:
        sys.exit(f"{arguments.apus} lacks `vectors`: the checks need it; --no-apus measures the peers alone")


def workplace():
    """A folder that is removed at the end of a `with`."""
    WORK.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=WORK)


class Store:
    """A store under `folder`; `spent` gathers the processor and wall seconds of each command."""

    def __init__(self, arguments, folder, dim, quantizer="none", name="store"):
        self.arguments, self.folder = arguments, Path(folder)
        self.path = self.folder / f"{name}-{quantizer}"
        self.spent = {}
        self.run("create", self.path, "--dim", dim, "--metric", "l2", "--quantizer", quantizer)

    def run(self, command, *words):
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run([self.arguments.apus, "vectors", command, *map(str, words)],
                              capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0:
            raise common.ApusFailed(f"apus vectors {command} {' '.join(map(str, words))[:200]}: status "
                                    f"{done.returncode}: {done.stderr.strip()[-400:]}")
        cpu, wall = self.spent.get(command, (0.0, 0.0))
        cpu += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self.spent[command] = (cpu, wall + time.monotonic() - begun)
        return done.stdout

    def json(self, command, *words):
        before = time.monotonic()
        said = common.apus_json(self.arguments, "vectors", command, *words)
        return {**said, "outside_s": time.monotonic() - before}

    def load(self, dataset, access, parts=None):
        """Imports the whole set, or these of its parts, which follow one another."""
        if parts is None:
            self.run("import", self.path, "--vectors", dataset / "vectors.npy",
                     "--access", dataset / access / "access.npz", "--no-train")
            return self
        for part in parts:
            vectors = dataset / "parts" / f"{part}.npy"
            first = sum(len(np.load(dataset / "parts" / f"{i}.npy", mmap_mode="r")) for i in range(part))
            self.run("import", self.path, "--vectors", vectors, "--access", dataset / access / "parts" / f"{part}.npz",
                     "--first-id", first, "--no-train")
        return self

    def train(self):
        self.run("train", self.path)
        return self

    def tune(self, targets):
        self.run("tune", self.path, "--target-recall", *targets)
        return self

    def stats(self):
        return self.json("stats", self.path)

    def search(self, asked, *options, k=10):
        """(ids, times in µs, JSON) of the pairs, one by one on one thread after an unmeasured pass."""
        with tempfile.TemporaryDirectory(dir=self.folder) as work:
            work = Path(work)
            np.save(work / "queries.npy", asked.queries)
            np.save(work / "tenants.npy", asked.tenants)
            said = self.json("search", self.path, "--queries", work / "queries.npy", "--tenants", work / "tenants.npy",
                             "--k", k, "--threads", 1, "--warm", "--out", work / "ids.npy",
                             "--times", work / "times.npy", *options)
            return np.load(work / "ids.npy"), np.load(work / "times.npy"), said

    def change(self, verb, pairs):
        """`grant` or `revoke` of pairs int64 [n, 2]: id, tenant."""
        path = self.folder / "changes.npy"
        np.save(path, pairs.astype(np.int64))
        return self.json(verb, self.path, "--pairs", path)

    def bench(self, what, *options):
        return self.json("bench", self.path, "--what", what, *options)

    def file_bytes(self):
        files = [self.path] if self.path.is_file() else [f for f in self.path.rglob("*") if f.is_file()]
        return sum(f.stat().st_size for f in files)
