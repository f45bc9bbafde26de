"""What the scripts of this folder share: where the server is, waiting for it, and running checks.

A script marks its checks with @check, finds the server's model, and ends with `run`. Every check says what it saw; the
first failure ends the script with status 1.
"""
import json
import os
import sys
import time
import urllib.request

BASE = os.environ.get("APUS_URL", "http://127.0.0.1:8080").rstrip("/")
KEY = os.environ.get("APUS_API_KEY", "unused")
PATIENCE = 120  # seconds for a server that is still loading
checks = []


def check(function):
    checks.append(function)
    return function


def expect(condition, message):
    if not condition:
        raise AssertionError(message)


def wait_for(ask, absent=(OSError, IndexError, ValueError)):
    """What `ask` returns, as soon as it raises none of the errors that mean that the server isn't there yet."""
    deadline = time.time() + PATIENCE
    while True:
        try:
            return ask()
        except absent as error:
            if time.time() > deadline:
                sys.exit(f"no server at {BASE}: {error}")
            time.sleep(0.2)


def get(path):
    request = urllib.request.Request(BASE + path, headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read()


def first_model():
    """$APUS_MODEL, or the first model that the server lists; waits for the server."""
    return wait_for(lambda: os.environ.get("APUS_MODEL") or json.loads(get("/v1/models"))["data"][0]["id"])


def run(subject, call=lambda function: function()):
    """Runs the checks in order; `subject` ends the closing line."""
    for function in checks:
        name = function.__name__.replace("_", " ")
        begun = time.time()
        try:
            call(function)
        except Exception as error:
            print(f"FAILED  {name}: {type(error).__name__}: {error}")
            sys.exit(1)
        print(f"ok      {name} ({time.time() - begun:.1f} s)", flush=True)
    print(f"{len(checks)} checks of {subject}")
