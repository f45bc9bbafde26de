#!/usr/bin/env python3
"""A stand-in for `apus serve` to develop and test the web page with: python mock.py [--port 8090] [--key KEY]

It serves the console's page at `/` under the same content security policy as the server, and answers with scripted
texts. The last user message picks the script: a word of SCRIPTS or FAULTS in it, or else a short answer.
"""
import argparse
import base64
import hashlib
import itertools
import json
import math
import random
import re
import sys
import threading
import time
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mock_collections

PAGE = Path(__file__).resolve().parents[2] / "Sources/ApusServer/Console/console.html"
MODELS = {"smollm2-135m": 8192, "qwen2.5-coder-0.5b": 32768}
KV_BLOCKS, BLOCK_TOKENS = 1024, 16
STANDARD = mock_collections.standard()

SHORT = (
    "Three birds that nest in towers:\n\n"
    "1. **Common swift**: it screams around the roofs all summer.\n"
    "2. **Jackdaw**, the smallest crow.\n"
    "3. **Kestrel**, often high up in a church.\n\n"
    "Swifts return to the *same* hole every year. They stay for about 100 days.")
MARKDOWN = """## A function

It splits the sentence, turns the words around and joins them with `joined(separator:)`.

```swift
func reversed(_ sentence: String) -> String {
  // Generic code such as Array<Int> & friends stays text.
  sentence.split(separator: " ").reversed().joined(separator: " ")
}
```

- Time: **O(n)**
  - one pass to split
  - one to join
- It keeps a name such as snake_case_name and 2 * 3 * 4 as they are.

| input | output |
|---|---|
| `a b` | `b a` |
| empty | empty |

> Words are what blanks separate.

See [the documentation](https://www.swift.org/documentation/) or https://www.swift.org."""
XSS = """Text <b>bold</b> <img src=x onerror="window.pwned=1"> <script>window.pwned=2</script>

[link](javascript:window.pwned=3) [ok](https://example.org/"onmouseover="window.pwned=4) <svg onload=window.pwned=5>

```html" onclick="window.pwned=6
<script>window.pwned=7</script></code></pre><script>window.pwned=8</script>
```

# <iframe srcdoc="<script>parent.pwned=9</script>"></iframe>

| <img src=x onerror=window.pwned=10> | b |
|---|---|
| <style>body{display:none}</style> | &lt;kept&gt; |"""
SCRIPTS = {"markdown": MARKDOWN, "attack": XSS, "long": " ".join(f"Sentence number {n} goes on." for n in range(400))}
# word → (status, error, retry-after); `fault` and `cut` end a running stream.
FAULTS = {
    "invalid": (400, {"message": "temperature is 9, expected 0 to 2", "type": "invalid_request_error",
                      "param": "temperature", "code": "invalid_value"}, None),
    "crowded": (429, {"message": "256 requests are waiting already", "type": "rate_limit_error", "param": None,
                      "code": "queue_full"}, "3"),
    "fault": None, "cut": None,
}


def policy(page):
    """The content security policy of a page with one style and one script: what the server has to send."""
    def digest(tag):
        found = re.findall(rb"<" + tag + rb"(?: [^>]*)?>(.*?)</" + tag + rb">", page, re.S)
        assert len(found) == 1, f"{len(found)} <{tag.decode()}> in the page, expected 1"
        return base64.b64encode(hashlib.sha256(found[0]).digest()).decode()

    return (f"default-src 'none'; connect-src 'self'; script-src 'sha256-{digest(b'script')}'; "
            f"style-src 'sha256-{digest(b'style')}'; img-src data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'; require-trusted-types-for 'script'")


class Engine:
    """The figures of a made-up engine: real sequences of this server, and two that never end."""

    def __init__(self):
        self.lock = threading.Lock()
        self.started = time.monotonic()
        self.sequences, self.requests, self.seen = {}, [], set()
        self.prompt = self.hits = self.generated = 0
        self.ids = itertools.count(1)

    def begin(self, model, route, messages):
        tokens = sum(len(m["content"].split()) * 4 // 3 + 4 for m in messages)
        # Blocks of 16 tokens that an earlier request has computed; the last token never comes from the cache.
        cached, text = 0, ""
        with self.lock:
            for message in messages:
                text += message["role"] + message["content"]
                if text in self.seen:
                    cached = min(tokens - 1, cached + len(message["content"].split()) * 4 // 3 + 4)
                self.seen.add(text)
            cached = cached // BLOCK_TOKENS * BLOCK_TOKENS
            self.prompt += tokens
            self.hits += cached
            ident = f"chatcmpl-{next(self.ids):04x}{random.getrandbits(64):016x}"
            entry = {"id": ident, "model": model, "route": route, "state": "prefilling", "prompt_tokens": tokens,
                     "generated_tokens": 0, "cached_tokens": cached, "begun": time.monotonic(), "first": None}
            self.sequences[ident] = entry
        return entry

    def end(self, entry, status, finish):
        now = time.monotonic()
        with self.lock:
            self.sequences.pop(entry["id"], None)
            self.requests.insert(0, {
                "id": entry["id"], "model": entry["model"], "route": entry["route"], "status": status,
                "finish_reason": finish, "prompt_tokens": entry["prompt_tokens"],
                "cached_tokens": entry["cached_tokens"], "completion_tokens": entry["generated_tokens"],
                "queue_ms": round(random.uniform(0.1, 2), 2),
                "ttft_ms": entry["first"] and round(1000 * (entry["first"] - entry["begun"]), 1),
                "total_ms": round(1000 * (now - entry["begun"]), 1),
                "at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")})
            del self.requests[200:]

    def view(self):
        now = time.monotonic()
        up = now - self.started
        with self.lock:
            sequences = [
                {"id": e["id"], "state": e["state"], "prompt_tokens": e["prompt_tokens"],
                 "generated_tokens": e["generated_tokens"], "cached_tokens": e["cached_tokens"],
                 "age_s": round(now - e["begun"], 1)} for e in self.sequences.values()]
            for k, length in enumerate((400, 900)):
                at = int(up * (17 + 4 * k)) % length
                sequences.append({"id": f"cmpl-background{k}", "state": "decoding", "prompt_tokens": 120 + 400 * k,
                                  "generated_tokens": at, "cached_tokens": 96, "age_s": round(at / 20, 1)})
            sequences.append({"id": "cmpl-background2", "state": "waiting", "prompt_tokens": 2000,
                              "generated_tokens": 0, "cached_tokens": 0, "age_s": 0.4})
            used = sum(-(-(s["prompt_tokens"] + s["generated_tokens"]) // BLOCK_TOKENS) for s in sequences)
            wave = 1 + 0.3 * math.sin(up / 5) + 0.1 * math.sin(up * 1.7)
            first = {
                "name": "smollm2-135m", "state": "ready", "running": len(sequences) - 1, "waiting": 1,
                "kv_blocks_used": used, "kv_blocks_total": KV_BLOCKS, "kv_blocks_cached": 200,
                "tokens_per_second": {"decode": round(240 * wave, 1), "prefill": round(900 * max(0, wave - 0.9), 1)},
                "prefix_hit_tokens": 1200 + self.hits, "prompt_tokens": 5000 + self.prompt,
                "generated_tokens": 8000 + self.generated, "preemptions": 2, "sequences": sequences}
        idle = {"name": "qwen2.5-coder-0.5b", "state": "unloaded", "running": 0, "waiting": 0, "kv_blocks_used": 0,
                "kv_blocks_total": 0, "kv_blocks_cached": 0, "tokens_per_second": {"decode": 0, "prefill": 0},
                "prefix_hit_tokens": 0, "prompt_tokens": 0, "generated_tokens": 0, "preemptions": 0, "sequences": []}
        return {"models": [first, idle], "uptime_s": round(up, 1)}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, kind, body, headers=()):
        self.send_response(status)
        for name, value in [("content-type", kind), ("content-length", str(len(body))), *headers]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def json(self, value, status=200, headers=()):
        self.reply(status, "application/json", json.dumps(value).encode(), headers)

    def allowed(self):
        key = self.server.key
        if key is None or self.headers.get("authorization") == f"Bearer {key}":
            return True
        self.json({"error": {"message": "the API key is missing or unknown", "type": "invalid_request_error",
                             "param": None, "code": "invalid_api_key"}}, 401)
        return False

    def do_GET(self):
        engine = self.server.engine
        if self.path == "/":
            page = PAGE.read_bytes()
            return self.reply(200, "text/html; charset=utf-8", page, [
                ("content-security-policy", policy(page)), ("x-content-type-options", "nosniff")])
        if not self.allowed():
            return None
        if self.path == "/v1/models":
            return self.json({"object": "list", "data": [
                {"id": m, "object": "model", "created": 0, "owned_by": "apus", "context_length": n}
                for m, n in MODELS.items()]})
        if self.path == "/apus/engine":
            return self.json(engine.view())
        if self.path == "/apus/requests":
            with engine.lock:
                return self.json({"requests": engine.requests})
        if self.path.startswith("/v1/collections"):
            return self.answer_collections("GET")
        return self.json({"error": {"message": f"nothing is at {self.path}", "type": "invalid_request_error",
                                    "param": None, "code": "not_found"}}, 404)

    def answer_collections(self, method, body=None):
        status, value = mock_collections.answer(self.server, method, self.path, self.headers, body)
        return self.json(value, status)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.allowed():
            return None
        self.server.bodies.append(body)
        if self.path.startswith("/v1/collections"):
            return self.answer_collections("POST", body)
        engine = self.server.engine
        entry = engine.begin(body["model"], self.path, body["messages"])
        said = body["messages"][-1]["content"]
        fault = next((word for word in FAULTS if word in said), None)
        if body["model"] not in MODELS:
            engine.end(entry, 404, None)
            return self.json({"error": {
                "message": f"the model '{body['model']}' does not exist here; loaded: {', '.join(MODELS)}",
                "type": "invalid_request_error", "param": "model", "code": "model_not_found"}}, 404)
        if fault and FAULTS[fault]:
            status, error, wait = FAULTS[fault]
            engine.end(entry, status, None)
            return self.json({"error": error}, status, [("retry-after", wait)] if wait else [])
        script = next((text for word, text in SCRIPTS.items() if word in said), SHORT)
        try:
            finish = self.stream(body, entry, script, fault)
            engine.end(entry, 200, finish)
        except OSError:
            engine.end(entry, 499, "cancelled")
            self.close_connection = True
        return None

    def stream(self, body, entry, script, fault):
        def send(text):
            data = text.encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

        def chunk(choices, usage=None):
            send("data: " + json.dumps({
                "id": entry["id"], "object": "chat.completion.chunk", "created": 0, "model": body["model"],
                "choices": choices, "usage": usage}) + "\n\n")

        def delta(value, finish=None):
            chunk([{"index": 0, "delta": value, "finish_reason": finish}])

        time.sleep(0.12)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        send(": ping\n\n")
        delta({"role": "assistant", "content": ""})
        pieces = re.findall(r"\s*\S+|\s+$", script)
        limit = body.get("max_tokens", len(pieces))
        for piece in pieces[:limit]:
            if entry["generated_tokens"] == 8 and fault == "fault":
                send('data: {"error": {"message": "the engine stopped", "type": "server_error", "param": null, '
                     '"code": "internal_error"}}\n\n')
                send("")
                return "error"
            if entry["generated_tokens"] == 8 and fault == "cut":
                raise OSError("cut on purpose")
            if entry["first"] is None:
                entry["first"], entry["state"] = time.monotonic(), "decoding"
            delta({"content": piece})
            entry["generated_tokens"] += 1
            self.server.engine.generated += 1
            time.sleep(self.server.pace)
        finish = "length" if limit < len(pieces) else "stop"
        delta({}, finish)
        if body.get("stream_options", {}).get("include_usage"):
            chunk([], {"prompt_tokens": entry["prompt_tokens"], "completion_tokens": entry["generated_tokens"],
                       "total_tokens": entry["prompt_tokens"] + entry["generated_tokens"],
                       "prompt_tokens_details": {"cached_tokens": entry["cached_tokens"]}})
        send("data: [DONE]\n\n")
        send("")
        return finish


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        # A browser that leaves resets its connections.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def start(port=0, key=None, pace=0.02, is_admin=False, collections=STANDARD, scroll_has_vectors=True):
    """A server on its own thread; `pace` is the seconds between two tokens, `is_admin` whether its key may act as any
    tenant, `collections` its collections by name or None where it keeps none."""
    server = Server(("127.0.0.1", port), Handler)
    server.engine, server.key, server.pace, server.bodies = Engine(), key, pace, []
    server.is_admin, server.collections, server.scroll_has_vectors = is_admin, collections, scroll_has_vectors
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--key", help="ask for this API key")
    parser.add_argument("--pace", type=float, default=0.02, help="seconds between two tokens")
    options = parser.parse_args()
    server = start(options.port, options.key, options.pace)
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    threading.Event().wait()
