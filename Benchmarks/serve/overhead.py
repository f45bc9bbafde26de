"""Requests per second of a trivial route, against a server that is nothing but Hummingbird with one route."""
import asyncio
import multiprocessing
import shutil
import statistics
import subprocess
import time

import common
from client import Connection, message
from server import Server

BAR = 0.8
CONNECTIONS, SECONDS = 32, 3.0


def _load(port, seconds, pipe):
    async def go():
        stop = time.perf_counter() + seconds
        request = message("GET", "/health")

        async def ask():
            connection = await Connection.open(port)
            done = 0
            while time.perf_counter() < stop:
                connection.writer.write(request)
                status, _ = await connection.head()
                await connection.body()
                done += status == 200
            connection.close()
            return done

        return sum(await asyncio.gather(*(ask() for _ in range(CONNECTIONS))))

    begun = time.perf_counter()
    count = asyncio.run(go())
    pipe.send(count / (time.perf_counter() - begun))


def requests_per_second(port):
    """By wrk if it is there: a load generator in Python is slower than the servers and hides their difference."""
    url = f"http://127.0.0.1:{port}/health"
    if shutil.which("wrk"):
        said = subprocess.run(["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS:.0f}s", url], capture_output=True,
                              text=True, check=True).stdout
        if "Non-2xx" in said or "Socket errors" in said:
            raise RuntimeError(said)
        return float(next(line for line in said.splitlines() if "Requests/sec" in line).split()[1])
    if shutil.which("ab"):
        said = subprocess.run(["ab", "-q", "-k", f"-c{CONNECTIONS}", f"-t{SECONDS:.0f}", "-n10000000", url],
                              capture_output=True, text=True, check=True).stdout
        return float(next(line for line in said.splitlines() if "Requests per second" in line).split()[3])
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_load, args=(port, SECONDS, theirs))
    process.start()
    rate = ours.recv()
    process.join()
    return rate


def overhead(arguments):
    if not arguments.bare:
        raise RuntimeError("--bare BINARY is missing: swift build -c release --package-path Benchmarks/serve/bare")
    rounds = arguments.rounds or 7
    bare = subprocess.Popen([arguments.bare], stdout=subprocess.PIPE, text=True)
    try:
        port = int(bare.stdout.readline())
        with Server(arguments.apus) as server:
            sides = {"bare Hummingbird": lambda: requests_per_second(port),
                     "apus": lambda: requests_per_second(server.port)}
            for side in sides.values():
                side()
            results = common.alternate(rounds, sides)
    finally:
        bare.kill()
        bare.wait()
    medians = {name: statistics.median(v) for name, v in results.items()}
    ratio = medians["apus"] / medians["bare Hummingbird"]
    generator = "wrk" if shutil.which("wrk") else "ab" if shutil.which("ab") else "asyncio"
    common.table(["server", "requests/s, median", "min", "max", "by"],
                 [[name, f"{medians[name]:.0f}", f"{min(v):.0f}", f"{max(v):.0f}", generator]
                  for name, v in results.items()])
    return {"requests_per_second": results, "ratio": ratio, "by": generator, "verdict": [
        (f"/health ≥ {BAR} × bare Hummingbird", ratio >= BAR, f"{ratio:.3f}")]}
