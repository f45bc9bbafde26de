#!/usr/bin/env python3
"""The exact oracle: a plain numpy forward pass over a dequantised GGUF file.

Engines that compute with quantised activations all round, llama.cpp included, so none of them can judge another. This
file judges them all: every weight is dequantised to float32 by the `gguf` package (the format's own reference code),
every product is a float32 matrix product, and norms, softmax and rotations accumulate in float64. It shares nothing
with Apus. Supported architectures: llama, qwen2, gemma3.

    exact.py MODEL.gguf --ids IDS.json --out LOGITS.npy     IDS.json: [[id, ...], ...]
                                                            LOGITS.npy: float32 [all tokens, vocabulary], in order
    --float64 computes everything in float64, which shows how exact the float32 oracle itself is.
"""
import argparse
import json
import sys

import numpy as np
from gguf import GGUFReader, dequantize


class Model:
    """The tensors and hyper-parameters of one GGUF file, dequantised on demand, one matrix at a time."""

    def __init__(self, path, dtype=np.float32):
        reader = GGUFReader(path)
        self.dtype = dtype
        self.tensors = {t.name: t for t in reader.tensors}
        self.fields = reader.fields
        self.architecture = self.text("general.architecture")
        if self.architecture not in ("llama", "qwen2", "gemma3"):
            raise SystemExit(f"{path}: the oracle knows llama, qwen2 and gemma3, not '{self.architecture}'")
        self.layers = int(self.number("block_count"))
        self.heads = int(self.number("attention.head_count"))
        self.kv_heads = int(self.number("attention.head_count_kv", self.heads))
        self.width = int(self.number("embedding_length"))
        self.head_size = int(self.number("attention.key_length", self.width // self.heads))
        self.epsilon = float(self.number("attention.layer_norm_rms_epsilon"))
        self.theta = float(self.number("rope.freq_base", 10000.0))
        for key in self.fields:
            if ".rope.scaling." in key and self.text(key) != "none":
                raise SystemExit(f"{path}: the oracle does not know rope scaling ({key})")
        self.gemma = self.architecture == "gemma3"
        self.window = int(self.number("attention.sliding_window", 0)) if self.gemma else 0

    def text(self, key):
        field = self.fields[key]
        return bytes(field.parts[field.data[0]]).decode()

    def number(self, key, default=None):
        field = self.fields.get(f"{self.architecture}.{key}")
        if field is None:
            if default is None:
                raise SystemExit(f"the file has no key {self.architecture}.{key}")
            return default
        return field.parts[field.data[0]][0]

    def __contains__(self, name):
        return name in self.tensors

    def weight(self, name):
        tensor = self.tensors[name]
        return dequantize(tensor.data, tensor.tensor_type).astype(self.dtype)

    def rows(self, name, indices):
        """Some rows of a matrix: dequantising a whole 262144-row embedding for a few tokens would be waste."""
        tensor = self.tensors[name]
        return dequantize(tensor.data[indices], tensor.tensor_type).astype(self.dtype)

    def is_local(self, layer):
        """Gemma 3: five sliding-window layers, then a global one (Gemma 3 report, section 2)."""
        return self.gemma and (layer + 1) % 6 != 0


def rms_norm(x, weight, epsilon):
    wide = x.astype(np.float64)
    scale = 1.0 / np.sqrt((wide * wide).mean(-1, keepdims=True) + epsilon)
    return (wide * scale * weight).astype(x.dtype)


def rotate(x, positions, theta, interleaved):
    """RoPE over [tokens, heads, size]: neighbouring pairs for llama files, halves for the others."""
    half = x.shape[-1] // 2
    angles = np.outer(positions, theta ** (-np.arange(half, dtype=np.float64) / half))
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    out = np.empty(x.shape, np.float64)
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        out[..., 0::2], out[..., 1::2] = a * cos - b * sin, b * cos + a * sin
    else:
        a, b = x[..., :half], x[..., half:]
        out[..., :half], out[..., half:] = a * cos - b * sin, b * cos + a * sin
    return out.astype(x.dtype)


def attend(q, k, v, window):
    """Causal attention of one sequence: q [n, heads, size], k and v [n, kv heads, size]."""
    n, heads, size = q.shape
    group = heads // k.shape[1]
    distance = np.arange(n)[:, None] - np.arange(n)[None]
    visible = (distance >= 0) & ((distance < window) if window else True)
    out = np.empty_like(q)
    for head in range(heads):
        scores = (q[:, head] @ k[:, head // group].T).astype(np.float64) / np.sqrt(size)
        scores = np.where(visible, scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        out[:, head] = scores.astype(q.dtype) @ v[:, head // group]
    return out


def activation(gate, gemma):
    wide = gate.astype(np.float64)
    if gemma:
        return 0.5 * wide * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    return wide / (1 + np.exp(-wide))


def hidden_states(model, sequences):
    """The normed last hidden states of all sequences, concatenated: [all tokens, width].

    All sequences go through a layer together, so each matrix is dequantised once."""
    ids = np.concatenate([np.asarray(s, np.int64) for s in sequences])
    positions = np.concatenate([np.arange(len(s)) for s in sequences])
    bounds = np.cumsum([0] + [len(s) for s in sequences])
    x = model.rows("token_embd.weight", ids)
    if model.gemma:
        x = x * model.dtype(np.sqrt(np.float64(model.width)))

    def linear(x, name):
        y = x @ model.weight(name + ".weight").T
        return y + model.weight(name + ".bias") if name + ".bias" in model else y

    def norm(x, name):
        return rms_norm(x, model.weight(name + ".weight"), model.epsilon)

    for layer in range(model.layers):
        at = f"blk.{layer}."
        local = model.is_local(layer)
        h = norm(x, at + "attn_norm")
        q = linear(h, at + "attn_q").reshape(len(ids), model.heads, model.head_size)
        k = linear(h, at + "attn_k").reshape(len(ids), model.kv_heads, model.head_size)
        v = linear(h, at + "attn_v").reshape(len(ids), model.kv_heads, model.head_size)
        if at + "attn_q_norm.weight" in model:
            q, k = norm(q, at + "attn_q_norm"), norm(k, at + "attn_k_norm")
        theta = 10000.0 if local else model.theta
        interleaved = model.architecture == "llama"
        q, k = rotate(q, positions, theta, interleaved), rotate(k, positions, theta, interleaved)
        mixed = np.empty_like(q)
        for a, b in zip(bounds[:-1], bounds[1:]):
            mixed[a:b] = attend(q[a:b], k[a:b], v[a:b], model.window if local else 0)
        h = linear(mixed.reshape(len(ids), -1), at + "attn_output")
        if at + "post_attention_norm.weight" in model:
            h = norm(h, at + "post_attention_norm")
        x = x + h
        h = norm(x, at + "ffn_norm")
        gated = activation(linear(h, at + "ffn_gate"), model.gemma) * linear(h, at + "ffn_up")
        h = linear(gated.astype(model.dtype), at + "ffn_down")
        if at + "post_ffw_norm.weight" in model:
            h = norm(h, at + "post_ffw_norm")
        x = x + h
    return norm(x, "output_norm")


def logits(path, sequences, dtype=np.float32, out=None):
    """Logits [all tokens, vocabulary] of the concatenated sequences, float32; `out` names an .npy file to map."""
    model = Model(path, dtype)
    states = hidden_states(model, sequences)
    head = "output.weight" if "output.weight" in model else "token_embd.weight"
    vocabulary = model.tensors[head].data.shape[0]
    shape = (len(states), vocabulary)
    result = np.lib.format.open_memmap(out, "w+", np.float32, shape) if out else np.empty(shape, np.float32)
    step = 16384
    for begin in range(0, vocabulary, step):
        rows = model.rows(head, slice(begin, begin + step))
        result[:, begin : begin + step] = states @ rows.T
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--ids", required=True, help="JSON file: a list of token-id lists")
    parser.add_argument("--out", required=True, help="the .npy file to write")
    parser.add_argument("--float64", action="store_true")
    arguments = parser.parse_args()
    with open(arguments.ids) as file:
        sequences = json.load(file)
    if not sequences or not all(isinstance(s, list) and s for s in sequences):
        sys.exit(f"{arguments.ids}: expected a list of non-empty lists of token ids")
    result = logits(arguments.model, sequences, np.float64 if arguments.float64 else np.float32, arguments.out)
    print(f"{arguments.out}: float32 {list(result.shape)}")


if __name__ == "__main__":
    main()
