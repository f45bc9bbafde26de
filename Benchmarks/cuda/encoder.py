"""A BERT encoder's pass on Apus' kernels, three ways, in a device arena whose high-water mark is recorded."""
import numpy as np

from driver import Pointer, to_bf16, from_bf16

TILE = 128
# Heads whose queries, keys and values exist in full at a time, when fused.
GROUP = 2
# Rows of a piece, when fused: enough to keep all of a GPU busy.
PIECE = 16384
GELU = 1
MODES = ("dense", "unfused", "fused")


class Matrix:
    """`[rows, columns]` in device memory, rows `ld` elements apart."""

    def __init__(self, address, rows, columns, ld, elements):
        self.address, self.rows, self.columns, self.ld, self.elements = address, rows, columns, ld, elements

    def column_range(self, first, count):
        return Matrix(self.address + first * size(self.elements), self.rows, count, self.ld, self.elements)

    def row_range(self, first, count):
        return Matrix(self.address + first * self.ld * size(self.elements), count, self.columns, self.ld, self.elements)

    @property
    def arguments(self):
        return Pointer(self.address), self.ld


def size(elements):
    return 2 if elements == "bf16" else 4


def pitch(columns, elements):
    """Rows start at multiples of 16 bytes."""
    return -(-columns * size(elements) // 16) * 16 // size(elements)


class Arena:
    """A stack of device memory; without a driver it only counts."""

    def __init__(self, driver=None, capacity=0):
        self.driver, self.capacity, self.used, self.high_water = driver, capacity, 0, 0
        self.base = driver.allocate(capacity) if driver else 0

    def matrix(self, rows, columns, elements):
        start = self.used
        self.used += -(-rows * pitch(columns, elements) * size(elements) // 256) * 256
        self.high_water = max(self.high_water, self.used)
        if self.driver and self.used > self.capacity:
            raise MemoryError(f"{self.used} bytes in an arena of {self.capacity}")
        return Matrix(self.base + start, rows, columns, pitch(columns, elements), elements)

    def free(self):
        if self.driver:
            self.driver.free(self.base)


class Encoder:
    """Random weights of BERT's shapes; with `rank` every matrix of the layers has that rank, queries, keys and values
    through one factor."""

    def __init__(self, kernels, elements, shape, rank=None, seed=1):
        self.kernels, self.driver, self.elements, self.shape, self.rank = kernels, kernels.driver, elements, shape, rank
        self.rng = np.random.default_rng(seed)
        self.owned, self.bytes = [], 0
        d, hidden = shape["dim"], shape["hidden"]
        self.word = self.upload(self.random(shape["vocabulary"], d))
        self.position = self.upload(self.random(shape["context"], d))
        self.ones, self.zeros = self.vector(np.ones(hidden)), self.vector(np.zeros(hidden))
        self.layers = []
        for _ in range(shape["layers"]):
            if rank is None:
                self.layers.append({name: self.upload(self.random(rows, columns)) for name, rows, columns in (
                    ("q", d, d), ("k", d, d), ("v", d, d), ("o", d, d), ("up", hidden, d), ("down", d, hidden))})
            else:
                self.layers.append({name: self.upload(self.random(rows, columns)) for name, rows, columns in (
                    ("qkv_down", rank, d), ("q", d, rank), ("k", d, rank), ("v", d, rank), ("o_down", rank, d),
                    ("o", d, rank), ("up_down", rank, d), ("up", hidden, rank), ("down_down", rank, hidden),
                    ("down", d, rank))})

    def random(self, rows, columns):
        return self.rng.standard_normal((rows, columns), np.float32) / np.float32(np.sqrt(columns))

    def upload(self, array, elements=None):
        elements = elements or self.elements
        ld = pitch(array.shape[1], elements)
        padded = np.zeros((array.shape[0], ld), np.float32)
        padded[:, :array.shape[1]] = array
        raw = to_bf16(padded) if elements == "bf16" else padded
        address = self.driver.allocate(raw.nbytes)
        self.driver.write(address, raw)
        self.owned.append(address)
        self.bytes += raw.nbytes
        return Matrix(address, *array.shape, ld, elements)

    def vector(self, array):
        return Pointer(self.upload(np.asarray(array, np.float32)[None], "f32").address)

    def integers(self, values):
        values = np.asarray(values, np.int32)
        address = self.driver.allocate(values.nbytes)
        self.driver.write(address, values)
        self.owned.append(address)
        return Pointer(address)

    def close(self):
        for address in self.owned:
            self.driver.free(address)

    def batch(self, count, length):
        """What a pass reads: ids, positions and where sequences start, all of one length."""
        rows = count * length
        return {"count": count, "length": length, "rows": rows,
                "ids": self.integers(self.rng.integers(0, self.shape["vocabulary"], rows)),
                "positions": self.integers(np.tile(np.arange(length), count)),
                "starts": self.integers(np.arange(count + 1) * length),
                "firsts": self.integers(np.arange(count) * length),
                "ends": self.integers((np.arange(count) + 1) * length)}

    def run(self, batch, arena, mode):
        """The pooled rows `[count, dim]`. On an arena that counts, launches nothing."""
        t, heads, d = self.elements, self.shape["heads"], self.shape["dim"]
        head_dim, rows = d // heads, batch["rows"]

        def launch(name, grid, *arguments):
            if arena.driver:
                self.kernels.launch(name, grid, *arguments)

        def linear(x, w, out):
            launch(f"linear_{t}", (-(-x.rows // TILE), -(-w.rows // TILE), 1), *x.arguments, *w.arguments, self.zeros,
                   *out.arguments, x.rows, w.rows, w.columns)
            return out

        def new(columns, rows=rows):
            return arena.matrix(rows, columns, t)

        def attend(q, k, v, group, out):
            launch(f"attention_{t}_{head_dim}", (-(-batch["length"] // TILE), group, q.rows // batch["length"]),
                   *q.arguments, head_dim, *k.arguments, head_dim, *v.arguments, head_dim, None, None, None, None, None,
                   batch["starts"], *out.arguments, head_dim, head_dim, float(head_dim ** -0.5))

        def norm(x, residual, out):
            launch(f"layer_norm_{t}", (x.rows, 1, 1), *x.arguments, *(residual.arguments if residual else (None, 0)),
                   self.ones, self.zeros, 1e-12, *out.arguments, d)

        def through(x, w, name, out=None):
            """`x` through one matrix, which is two when the rank is low; what is between is freed."""
            out = out or new(w[name].rows, x.rows)
            mark = arena.used
            if mode != "dense":
                x = linear(x, w[f"{name}_down"], new(self.rank, x.rows))
            linear(x, w[name], out)
            arena.used = mark
            return out

        def attention(x, w):
            """What the heads make of x, through the output map."""
            y = new(d, x.rows)
            mark = arena.used
            if mode == "fused":
                p = linear(x, w["qkv_down"], new(self.rank, x.rows))
                for first in range(0, heads, GROUP):
                    group, here = min(GROUP, heads - first), arena.used
                    span = (first * head_dim, group * head_dim)
                    q, k, v = (linear(p, w[n].row_range(*span), new(span[1], x.rows)) for n in "qkv")
                    attend(q, k, v, group, y.column_range(*span))
                    arena.used = here
                arena.used = mark
                # A narrow product reads all of y before it is written over.
                return through(y, w, "o", y)
            mixed = new(d, x.rows)
            inner = arena.used
            p = x if mode == "dense" else linear(x, w["qkv_down"], new(self.rank, x.rows))
            attend(*(linear(p, w[n], new(d, x.rows)) for n in "qkv"), heads, mixed)
            arena.used = inner
            through(mixed, w, "o", y)
            arena.used = mark
            return y

        def feed_forward(x, w):
            hidden, y = self.shape["hidden"], new(d, x.rows)
            mark = arena.used
            if mode == "fused":
                s = new(self.rank, x.rows)
                p = linear(x, w["up_down"], new(self.rank, x.rows))
                width = next(n for n in (128, 192, 256) if self.rank <= n or n == 256)
                launch(f"feed_forward_{t}_{width}", (-(-x.rows // TILE), -(-self.rank // width), 1), *p.arguments,
                       self.rank, *w["up"].arguments, self.zeros, None, 0, 0, None, 0, None, GELU,
                       *w["down_down"].arguments, *s.arguments, x.rows, hidden, self.rank)
                linear(s, w["down"], y)
            else:
                u = through(x, w, "up")
                launch(f"activate_{t}", (x.rows, 1, 1), GELU, *u.arguments, None, 0, *u.arguments, hidden)
                through(u, w, "down", y)
            arena.used = mark
            return y

        def pieces(size):
            """Rows of whole sequences, about `size` at a time when fused."""
            step = max(1, size // batch["length"]) * batch["length"] if mode == "fused" else rows
            return [(first, min(step, rows - first)) for first in range(0, rows, step)]

        pooled = arena.matrix(batch["count"], d, t)
        x = new(d)
        launch(f"gather_{t}", (rows, 1, 1), *self.word.arguments, batch["ids"], *x.arguments, d, 0)
        launch(f"gather_{t}", (rows, 1, 1), *self.position.arguments, batch["positions"], *x.arguments, d, 1)
        norm(x, None, x)
        for w in self.layers:
            for part, size_ in ((attention, PIECE), (feed_forward, 2 * PIECE)):
                for span in pieces(size_):
                    mark, own = arena.used, x.row_range(*span)
                    norm(part(own, w), own, own)
                    arena.used = mark
        launch(f"pool_{t}", (batch["count"], 1, 1), *x.arguments, batch["firsts"], batch["ends"], *pooled.arguments, d,
               0, 1)
        return pooled

    def read(self, matrix):
        raw = self.driver.read(matrix.address, (matrix.rows, matrix.ld),
                               np.uint16 if matrix.elements == "bf16" else np.float32)
        values = from_bf16(raw) if matrix.elements == "bf16" else raw
        return values[:, :matrix.columns]

    def reference(self, batch, ids):
        """The same pass in f64 on the host, from the weights as they are on the device."""
        w64 = [{n: self.read(m).astype(float) for n, m in layer.items()} for layer in self.layers]
        d, heads = self.shape["dim"], self.shape["heads"]
        from math import erf
        erf64 = np.vectorize(erf)

        def norm(x):
            c = x - x.mean(1, keepdims=True)
            return c / np.sqrt((c * c).mean(1, keepdims=True) + 1e-12)

        def product(x, w, name):
            if self.rank is not None:
                x = x @ w[{"q": "qkv", "k": "qkv", "v": "qkv"}.get(name, name) + "_down"].T
            return x @ w[name].T

        word, position = self.read(self.word).astype(float), self.read(self.position).astype(float)
        out = []
        for sequence in ids.reshape(batch["count"], batch["length"]):
            x = norm(word[sequence] + position[:batch["length"]])
            for w in w64:
                q, k, v = (product(x, w, n).reshape(-1, heads, d // heads).transpose(1, 0, 2) for n in "qkv")
                s = q @ k.transpose(0, 2, 1) * (d // heads) ** -0.5
                s = np.exp(s - s.max(2, keepdims=True))
                mixed = ((s / s.sum(2, keepdims=True)) @ v).transpose(1, 0, 2).reshape(-1, d)
                x = norm(x + product(mixed, w, "o"))
                u = product(x, w, "up")
                x = norm(x + product(0.5 * u * (1 + erf64(u / np.sqrt(2))), w, "down"))
            mean = x.mean(0)
            out.append(mean / np.linalg.norm(mean))
        return np.array(out)
