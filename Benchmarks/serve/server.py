"""An `apus serve` of the harness' own: started on a free port, watched through /proc and its status routes, ended."""
import asyncio
import json
import os
import signal
import subprocess
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Lock

MODEL = "smollm2-135m"
PATIENCE = 120  # seconds until a server that loads its model must listen


class Server:
    """Options are those of `apus serve`. Use `with`, so that no server is left behind."""

    def __init__(self, apus, *options, model=MODEL, port=0):
        begun = time.monotonic()
        models = [word for name in ([model] if isinstance(model, str) else model) for word in ("-m", name)]
        command = [apus, "serve", "--json", "--port", str(port), *models, *map(str, options)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.pid = self.process.pid
        line = self.process.stdout.readline()
        if not line.strip():
            raise RuntimeError(f"{' '.join(command)}: ended with status {self.process.wait()}")
        text = line
        while True:
            try:
                said = json.loads(text)
                break
            except ValueError:
                text += self.process.stdout.readline()
        self.port = int(said["url"].rsplit(":", 1)[1].split("/")[0])
        self.probe, self.lock = None, Lock()
        self.listening_s = time.monotonic() - begun

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.hang_up()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def get(self, path, timeout=10):
        """Status and body, over one connection that is kept: asking shall cost the server little."""
        with self.lock:
            for attempt in (0, 1):
                if self.probe is None:
                    self.probe = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
                try:
                    self.probe.request("GET", path)
                    response = self.probe.getresponse()
                    return response.status, response.read()
                except (OSError, HTTPException):
                    self.hang_up()
                    # The server may have closed it, as it was idle.
                    if attempt:
                        raise

    def hang_up(self):
        if self.probe is not None:
            self.probe.close()
        self.probe = None

    def engine(self, name=MODEL):
        models = json.loads(self.get("/apus/engine")[1])["models"]
        return next(m for m in models if m["name"] == name)

    def sequences(self):
        return {s["id"]: s for s in self.engine()["sequences"]}

    def settle(self, seconds=20):
        """Waits until no sequence is left; the engine's last report."""
        deadline = time.monotonic() + seconds
        while True:
            engine = self.engine()
            if not engine["sequences"] or time.monotonic() > deadline:
                return engine
            time.sleep(0.02)

    def signal(self, number):
        os.kill(self.pid, number)

    def stop(self, seconds=60):
        """SIGTERM; the exit status."""
        self.signal(signal.SIGTERM)
        return self.process.wait(seconds)

    # /proc

    def descriptors(self):
        """Open files and connections, without the harness' own."""
        self.hang_up()
        time.sleep(0.2)
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def memory(self):
        """Bytes: resident, and of these anonymous (not pages of the model's file)."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:]
        fields = dict(line.split(":", 1) for line in lines)
        size = lambda name: int(fields[name].split()[0]) * 1024
        return {"resident": size("Rss"), "anonymous": size("Anonymous")}

    def cpu_seconds(self):
        words = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


async def in_thread(function, *arguments):
    """Blocking status requests beside running streams."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)
