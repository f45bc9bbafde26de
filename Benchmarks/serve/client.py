"""HTTP/1.1 over plain sockets: streams with the time of each event, and connections that end in every bad way."""
import asyncio
import json
import random
import socket
import struct
import time

from server import MODEL

NO_LINGER = struct.pack("ii", 1, 0)  # closing then sends RST


class Closed(Exception):
    """The other side closed the connection in the middle of a message."""


class Connection:
    @classmethod
    async def open(cls, port, receive_buffer=None):
        self = cls()
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=1 << 24)
        self.socket = self.writer.get_extra_info("socket")
        return self

    async def send(self, method, path, body=None, headers=()):
        self.writer.write(message(method, path, body, headers))
        await self.writer.drain()

    async def head(self):
        """Status and headers (names in lower case) of the response."""
        line = await self.reader.readline()
        if not line.endswith(b"\n"):
            raise Closed("before the response")
        status = int(line.split()[1])
        self.headers = {}
        while (line := await self.reader.readline()).strip():
            name, _, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()
        return status, self.headers

    async def pieces(self):
        """The response's body as it comes."""
        if self.headers.get("transfer-encoding") == "chunked":
            while True:
                line = await self.reader.readline()
                if not line.endswith(b"\n"):
                    raise Closed("in a chunked body")
                size = int(line, 16)
                try:
                    piece = await self.reader.readexactly(size + 2)
                except asyncio.IncompleteReadError:
                    raise Closed("in a chunk") from None
                if size == 0:
                    return
                yield piece[:-2]
        else:
            left = int(self.headers.get("content-length", 0))
            while left:
                piece = await self.reader.read(left)
                if not piece:
                    raise Closed("in a body")
                left -= len(piece)
                yield piece

    async def body(self):
        return b"".join([piece async for piece in self.pieces()])

    def stop_reading(self):
        self.writer.transport.pause_reading()

    def go_on_reading(self):
        self.writer.transport.resume_reading()

    def half_close(self):
        self.writer.write_eof()

    def reset(self):
        if self.socket.fileno() < 0:
            return
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.writer.transport.abort()

    def close(self):
        self.writer.close()


def message(method, path, body=None, headers=()):
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", *headers]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


class Answer:
    """A response read whole."""

    def __init__(self, status, headers, body, seconds):
        self.status, self.headers, self.body, self.seconds = status, headers, body, seconds

    @property
    def json(self):
        return json.loads(self.body)


async def call(port, method, path, body=None, headers=(), connection=None, timeout=300):
    """One request; without a connection it opens and closes its own."""
    async def run():
        own = connection or await Connection.open(port)
        try:
            begun = time.perf_counter()
            await own.send(method, path, body, headers)
            status, seen = await own.head()
            content = await own.body()
            return Answer(status, seen, content, time.perf_counter() - begun)
        finally:
            if connection is None:
                own.close()
    return await asyncio.wait_for(run(), timeout)


# Dialects: how each asks and how its stream is read.

def _chat(name, data):
    choice = (data["choices"] or [{}])[0]
    return (choice.get("delta") or {}).get("content") or "", choice.get("finish_reason")


def _completion(name, data):
    choice = (data["choices"] or [{}])[0]
    return choice.get("text") or "", choice.get("finish_reason")


def _responses(name, data):
    end = {"response.completed": "stop", "response.incomplete": "length"}.get(name)
    return data.get("delta", "") if name == "response.output_text.delta" else "", end


def _messages(name, data):
    if name == "content_block_delta":
        return data["delta"].get("text", ""), None
    return "", data["delta"].get("stop_reason") if name == "message_delta" else None


def _ollama(name, data):
    return data["message"]["content"], data.get("done_reason") if data.get("done") else None


class Dialect:
    def __init__(self, path, read, limit, shape, ends, **extra):
        self.path, self.read, self.limit, self.shape, self.extra = path, read, limit, shape, extra
        # Names of the events that end a whole stream; "done": lines of JSON that end with one that says so. OpenAI's
        # older streams end with [DONE], whatever stands here.
        self.ends = ends

    def body(self, text, max_tokens, stream=True, **more):
        body = {"model": MODEL, "stream": stream, **self.extra}
        body["input" if self.shape == "input" else "messages"] = (
            text if self.shape == "input" else [{"role": "user", "content": text}])
        if self.limit == "options":
            body["options"] = {"num_predict": max_tokens, "temperature": 0}
        else:
            body |= {self.limit: max_tokens, "temperature": 0}
        return body | more


DIALECTS = {
    "chat": Dialect("/v1/chat/completions", _chat, "max_tokens", "messages", (), ignore_eos=True),
    "responses": Dialect("/v1/responses", _responses, "max_output_tokens", "input",
                         ("response.completed", "response.incomplete"), ignore_eos=True),
    "messages": Dialect("/v1/messages", _messages, "max_tokens", "messages", ("message_stop",)),
    "ollama": Dialect("/api/chat", _ollama, "options", "messages", "done"),
}


class Stream:
    """A streamed answer: when each piece of text came, and whether it ended as a whole answer ends."""

    def __init__(self, path, body, read=None, ends=()):
        self.path, self.request = path, body
        self.read, self.ends = read or (_completion if path == "/v1/completions" else _chat), ends
        self.status = None
        self.headers = {}
        self.begun = None
        self.times = []
        self.text = ""
        self.finish = None
        self.whole = False
        self.id = None
        self.usage = {}
        self.logprobs = []
        self.error = None
        self.last = None
        self.first_text = asyncio.Event()

    @classmethod
    def of(cls, dialect, text, max_tokens, **more):
        d = DIALECTS[dialect]
        return cls(d.path, d.body(text, max_tokens, **more), d.read, d.ends)

    @property
    def ttft(self):
        return self.times[0] - self.begun

    @property
    def gaps(self):
        return [b - a for a, b in zip(self.times, self.times[1:])]

    async def begin(self, port, connection=None, receive_buffer=None, headers=()):
        self.connection = connection or await Connection.open(port, receive_buffer)
        self.begun = time.perf_counter()
        await self.connection.send("POST", self.path, self.request, headers)

    async def follow(self):
        """Reads to the end; never raises because of what the server does, but notes it."""
        try:
            self.status, self.headers = await self.connection.head()
            if self.status != 200:
                self.error = (await self.connection.body()).decode(errors="replace")
                return self
            rest = b""
            separator = b"\n" if self.ends == "done" else b"\n\n"
            async for piece in self.connection.pieces():
                now = time.perf_counter()
                *events, rest = (rest + piece).split(separator)
                for event in events:
                    self.take(event, now)
        except (Closed, ConnectionError, asyncio.IncompleteReadError) as error:
            self.error = f"{type(error).__name__}: {error}"
        return self

    async def run(self, port, **options):
        try:
            await self.begin(port, **options)
        except OSError as error:
            self.error = f"{type(error).__name__}: {error}"
            return self
        try:
            return await self.follow()
        finally:
            if options.get("connection") is None:
                self.connection.close()

    def take(self, event, now):
        name, data = None, None
        if self.ends == "done":
            data = event
        else:
            for line in event.split(b"\n"):
                if line.startswith(b"event: "):
                    name = line[7:].decode()
                elif line.startswith(b"data: "):
                    data = line[6:]
        if not data:
            return
        if data == b"[DONE]":
            self.whole = True
            return
        value = json.loads(data)
        if "error" in value and value["error"]:
            self.error = json.dumps(value["error"])
            return
        self.last = value
        self.id = self.id or value.get("id") or (value.get("response") or {}).get("id")
        self.usage = value.get("usage") or self.usage
        text, finish = self.read(name, value)
        for choice in value.get("choices") or []:
            if choice.get("logprobs"):
                self.logprobs.append(choice["logprobs"])
        self.finish = finish or self.finish
        if text:
            self.times.append(now)
            self.text += text
            self.first_text.set()
        self.whole = self.whole or (value.get("done", False) if self.ends == "done" else name in self.ends)


def completion(prompt, max_tokens, **more):
    """A greedy streamed `/v1/completions` that does not end by itself; `prompt` may be token ids."""
    body = {"model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True,
            "ignore_eos": True, "stream_options": {"include_usage": True}, **more}
    return Stream("/v1/completions", body)


def tokens(count, seed):
    """Token ids of ordinary words, different for each seed."""
    draw = random.Random(seed)
    return [draw.randrange(1000, 40000) for _ in range(count)]


WORDS = ("time people water house river stone garden letter window music winter morning country bridge story paper "
         "light voice ship field horse road market silver forest doctor island number summer table answer").split()


def text(count, seed):
    """About one token a word."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(count))


def percentile(values, share):
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))] if ordered else float("nan")


def ms(seconds):
    return f"{seconds * 1000:.1f}"
