"""Each kernel's results against f64 on random shapes."""
from math import erf

import numpy as np

from driver import Pointer, from_bf16, to_bf16

BARS = {"bf16": 2e-3, "f32": 1e-5}
ERF = np.vectorize(erf)


class Operand:
    """A random matrix on the device, `pad` elements between rows, and what the device made of it, in f64."""

    def __init__(self, driver, array, elements, pad=0):
        array = np.atleast_2d(np.asarray(array, np.float32))
        self.driver, self.elements, self.shape, self.ld = driver, elements, array.shape, array.shape[1] + pad
        # What nobody should read is no number.
        full = np.full((array.shape[0], self.ld), np.nan, np.float32)
        full[:, :array.shape[1]] = array
        raw = to_bf16(full) if elements == "bf16" else full
        self.address = driver.allocate(raw.nbytes)
        driver.write(self.address, raw)
        self.value = (from_bf16(to_bf16(array)) if elements == "bf16" else array).astype(float)

    @property
    def pointer(self):
        return Pointer(self.address)

    @property
    def arguments(self):
        return self.pointer, self.ld

    def read(self):
        kind = np.uint16 if self.elements == "bf16" else np.float32
        raw = self.driver.read(self.address, (self.shape[0], self.ld), kind)
        return (from_bf16(raw) if self.elements == "bf16" else raw)[:, :self.shape[1]].astype(float)


def activation(kind, x):
    if kind == 0:
        return x / (1 + np.exp(-x))
    if kind == 1:
        return 0.5 * x * (1 + ERF(x / np.sqrt(2)))
    if kind == 2:
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))
    return np.maximum(x, 0)


class Checks:
    def __init__(self, kernels, seed):
        self.kernels, self.driver, self.rng = kernels, kernels.driver, np.random.default_rng(seed)
        self.worst = {}

    def operand(self, shape, elements, scale=1.0, pad=0):
        return Operand(self.driver, self.rng.standard_normal(shape) * scale, elements, pad)

    def note(self, name, seen, expected):
        error = np.linalg.norm(seen - expected) / np.linalg.norm(expected)
        greatest = np.abs(seen - expected).max() / np.abs(expected).max()
        if not np.isfinite(seen).all():
            error = greatest = float("inf")
        before = self.worst.get(name, (0.0, 0.0))
        self.worst[name] = (max(before[0], error), max(before[1], greatest))

    def linear(self, t, rows, columns, inner, pad=0):
        x, w = self.operand((rows, inner), t, 1, pad), self.operand((columns, inner), t, inner ** -0.5, pad)
        bias, out = self.operand((1, columns), "f32"), self.operand((rows, columns), t, 0, pad)
        self.kernels.launch(f"linear_{t}", (-(-rows // 128), -(-columns // 128), 1), *x.arguments, *w.arguments,
                            bias.pointer, *out.arguments, rows, columns, inner)
        self.note(f"linear_{t}", out.read(), x.value @ w.value.T + bias.value)

    def attention(self, t, lengths, heads, rank, head_dim, shared, seen_share):
        """In rank space, with a share of keys that are seen; None: ordinary attention."""
        rows, starts = sum(lengths), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        ranked = seen_share is not None
        head = 0 if shared else rank
        q, k, v = (self.operand((rows, rank if shared else heads * rank), t) for _ in range(3))
        out = self.operand((rows, heads * head_dim), t, 0)
        seen = np.ones(rows, np.uint8)
        factors = [None] * 4
        if ranked:
            seen = (self.rng.random(rows) < seen_share).astype(np.uint8)
            if len(lengths) > 1:
                seen[:lengths[0]] = 0
            mix, shift = self.operand((heads * rank, rank), t, rank ** -0.5), self.operand((heads, rank), "f32")
            lift, bias = self.operand((heads * rank, head_dim), t), self.operand((heads, head_dim), "f32")
            factors = [mix.pointer, shift.pointer, lift.pointer, bias.pointer]
        mask = Operand(self.driver, np.zeros((1, -(-rows // 4))), "f32")
        self.driver.write(mask.address, seen)
        at = Operand(self.driver, np.zeros((1, len(starts))), "f32")
        self.driver.write(at.address, starts)
        scale = head_dim ** -0.5
        self.kernels.launch(f"attention_{t}_{-(-rank // 16) * 16}", (-(-max(lengths) // 128), heads, len(lengths)),
                            *q.arguments, head, *k.arguments, head, *v.arguments, head, *factors,
                            mask.pointer if ranked else None, at.pointer, *out.arguments, rank, head_dim, float(scale))
        expected = np.zeros((rows, heads * head_dim))
        for start, end in zip(starts, starts[1:]):
            keep = seen[start:end] > 0
            for h in range(heads if keep.any() else 0):
                columns, own = slice(h * head, h * head + rank), slice(h * rank, (h + 1) * rank)
                left = q.value[start:end, columns]
                if ranked:
                    left = left @ mix.value[own] + shift.value[h]
                s = np.where(keep, left @ k.value[start:end, columns].T * scale, -np.inf)
                s = np.exp(s - s.max(1, keepdims=True))
                o = s / s.sum(1, keepdims=True) @ v.value[start:end, columns]
                expected[start:end, h * head_dim:(h + 1) * head_dim] = \
                    o @ lift.value[own] + bias.value[h] if ranked else o
        self.note(f"{'rank-space ' if ranked else ''}attention_{t}", out.read(), expected)

    def feed_forward(self, t, rows, rank, inner, out_rank, gated, kind):
        p, up = self.operand((rows, rank), t), self.operand((inner, rank), t, rank ** -0.5)
        gate = self.operand((inner, rank), t, rank ** -0.5)
        bias, down = self.operand((1, inner), "f32"), self.operand((out_rank, inner), t, inner ** -0.5)
        s = self.operand((rows, out_rank), t, 0)
        width = next(n for n in (128, 192, 256) if out_rank <= n or n == 256)
        gates = (*p.arguments, rank, *gate.arguments, bias.pointer) if gated else (None, 0, 0, None, 0, None)
        self.kernels.launch(f"feed_forward_{t}_{width}", (-(-rows // 128), -(-out_rank // width), 1), *p.arguments,
                            rank, *up.arguments, bias.pointer, *gates, kind, *down.arguments, *s.arguments, rows, inner,
                            out_rank)
        z = p.value @ up.value.T + bias.value
        h = activation(kind, p.value @ gate.value.T + bias.value) * z if gated else activation(kind, z)
        self.note(f"feed_forward_{t}", s.read(), h @ down.value.T)

    def run(self, large):
        for t in ("f32", "bf16"):
            for rows, columns, inner, pad in ((1, 77, 5, 0), (33, 130, 33, 0), (130, 64, 96, 0), (31, 384, 64, 8)):
                self.linear(t, rows, columns, inner, pad)
            for i, rank in enumerate((1, 7, 16, 31, 33, 48, 64)):
                self.attention(t, [31, 1, 97], 2, rank, 64, i % 2 == 0, 0.7)
                self.attention(t, [2, 33], 3, rank, 32, i % 2 == 1, 0.5)
            for head_dim in (32, 64):
                self.attention(t, [130, 97], 2, head_dim, head_dim, False, None)
            for i, (rows, rank, inner, out_rank) in enumerate(
                    ((31, 33, 96, 7), (97, 16, 130, 200), (130, 96, 64, 300), (33, 1, 7, 129))):
                self.feed_forward(t, rows, rank, inner, out_rank, i % 2 == 0, i)
            if large:
                self.linear(t, 4096, 3072, 768)
                self.attention(t, [1024] * 2, 4, 64, 64, False, None)
                self.attention(t, [1024] * 2, 4, 32, 64, True, 0.9)
                for rank in (96, 192, 384):
                    self.feed_forward(t, 1024, rank, 3072, rank, False, 1)
        return self.worst
