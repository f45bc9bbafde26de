#!/usr/bin/env python3
"""Kills `apus vectors apply` with SIGKILL at random moments and checks what the store holds when it is opened again.

  Tests/vectors/kill.py [--apus BINARY] [--kills N] [--seed S]

Every change that was acknowledged must be there, every one that was never sent must not, and of the one that was on its
way either. A revoked or deleted vector never comes back. The exit status is 1 if that fails."""
import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TENANTS = 6
IDS = 80
DIM = 4


class Model:
    """What the store should hold: the tenants of each id."""

    def __init__(self):
        self.grants = {}

    def apply(self, change):
        op, number = change["op"], change.get("id")
        if op == "upsert":
            self.grants.setdefault(number, set()).update(change["tenants"])
        elif op == "delete":
            self.grants.pop(number, None)
        elif op == "grant":
            self.grants[number].add(change["tenant"])
        elif op == "revoke":
            self.grants[number].discard(change["tenant"])
        elif op == "drop_tenant":
            for tenants in self.grants.values():
                tenants.discard(change["tenant"])

    def copy(self):
        other = Model()
        other.grants = {number: set(tenants) for number, tenants in self.grants.items()}
        return other

    def of(self, tenant):
        return {number for number, tenants in self.grants.items() if tenant in tenants}


def next_change(rng, model):
    known = list(model.grants)
    kind = rng.random()
    if kind < 0.3 or not known:
        vector = [rng.uniform(-1, 1) for _ in range(DIM)]
        return {"op": "upsert", "id": rng.randrange(IDS), "vector": vector, "tenants": rng.sample(range(TENANTS), 2)}
    number = rng.choice(known)
    if kind < 0.6:
        return {"op": "grant", "id": number, "tenant": rng.randrange(TENANTS)}
    if kind < 0.85:
        return {"op": "revoke", "id": number, "tenant": rng.randrange(TENANTS)}
    if kind < 0.93:
        return {"op": "delete", "id": number}
    if kind < 0.96:
        # Whether a tenant is in memory changes nothing of what it has.
        return {"op": rng.choice(["offload", "load"]), "tenant": rng.randrange(TENANTS)}
    return {"op": "drop_tenant", "tenant": rng.randrange(TENANTS)} if kind < 0.98 else {"op": "compact"}


def load_all(apus, store):
    tenants = [str(tenant) for tenant in range(TENANTS)]
    subprocess.run([apus, "vectors", "load", store, "--tenant", *tenants, "--json"], check=True, stdout=subprocess.DEVNULL)


def exported(apus, store, tenant):
    out = store + ".export.jsonl"
    subprocess.run(
        [apus, "vectors", "export", store, "--tenant", str(tenant), "--out", out, "--json"], check=True,
        stdout=subprocess.DEVNULL)
    with open(out) as file:
        return {json.loads(line)["id"] for line in file}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--apus", default=".build/release/apus")
    p.add_argument("--kills", type=int, default=12)
    p.add_argument("--seed", type=int, default=int(time.time()))
    arguments = p.parse_args()
    rng = random.Random(arguments.seed)
    folder = tempfile.mkdtemp(prefix="apus-kill-")
    store = os.path.join(folder, "store")
    subprocess.run([arguments.apus, "vectors", "create", store, "--dim", str(DIM), "--metric", "l2"], check=True)
    model, acknowledged, unsure = Model(), 0, 0
    for kill in range(arguments.kills):
        process = subprocess.Popen(
            [arguments.apus, "vectors", "apply", store, "--checkpoint-every", "40"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, bufsize=1)
        deadline = time.monotonic() + rng.uniform(0.02, 0.8)
        pending = None
        # Each change is sent once the one before was acknowledged; the killer does not care.
        killer = subprocess.Popen(["sh", "-c", f"sleep {deadline - time.monotonic():.3f}; kill -9 {process.pid}"])
        try:
            while True:
                pending = next_change(rng, model)
                process.stdin.write(json.dumps(pending) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
                # A line that the kill cut is no acknowledgement.
                if not answer.endswith("\n"):
                    break
                assert "sequence" in json.loads(answer), answer
                model.apply(pending)
                acknowledged += 1
                pending = None
        except BrokenPipeError:
            pass
        killer.wait()
        status = process.wait()
        assert status == -signal.SIGKILL, f"the process ended by itself with status {status}"
        after = model.copy()
        if pending is not None:
            unsure += 1
            after.apply(pending)
        subprocess.run([arguments.apus, "vectors", "verify", store, "--json"], check=True, stdout=subprocess.DEVNULL)
        load_all(arguments.apus, store)
        seen = [exported(arguments.apus, store, tenant) for tenant in range(TENANTS)]
        states = [[m.of(tenant) for tenant in range(TENANTS)] for m in (model, after)]
        if seen not in states:
            for tenant in range(TENANTS):
                print(f"tenant {tenant}: lost {states[0][tenant] - seen[tenant]}, extra {seen[tenant] - states[0][tenant]}")
            print(f"FAILED at kill {kill} (seed {arguments.seed}); the change on its way: {pending}; store: {store}")
            return 1
        if seen == states[1]:
            model = after
        subprocess.run([arguments.apus, "vectors", "verify", store, "--json"], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(folder)
    print(f"{arguments.kills} kills, {acknowledged} acknowledged changes, {unsure} on their way: nothing lost, nothing back")
    return 0


if __name__ == "__main__":
    sys.exit(main())
