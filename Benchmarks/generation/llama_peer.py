"""llama.cpp through its low-level API: what the harnesses measure and compare with.

Everything is llama.cpp's default except the thread counts and the context size: its own flash-attention choice, its
repacked weights, f16 KV cache, 512-token physical batches. Timings are of `llama_decode` calls alone, as in
llama-bench: no Python work, no sampling and no detokenisation is counted."""
import ctypes
import time

import llama_cpp as L
import numpy as np

_quiet = L.llama_log_callback(lambda level, text, data: None)
L.llama_log_set(_quiet, ctypes.c_void_p(0))
L.llama_backend_init()


class Llama:
    """A loaded model and one context."""

    def __init__(self, path, threads, context=2048, sequences=1):
        begun = time.perf_counter()
        self.model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp could not load {path}")
        self.vocab = L.llama_model_get_vocab(self.model)
        self.vocabulary = L.llama_vocab_n_tokens(self.vocab)
        self.context = None
        self.open(threads, context, sequences)
        self.load_s = time.perf_counter() - begun

    def open(self, threads, context=2048, sequences=1):
        """A fresh context for `sequences` parallel sequences of up to `context` tokens each."""
        if self.context:
            L.llama_free(self.context)
        p = L.llama_context_default_params()
        p.n_ctx = context * sequences
        p.n_seq_max = sequences
        p.n_batch = max(512, context)
        p.n_threads = p.n_threads_batch = threads
        self.context = L.llama_init_from_model(self.model, p)
        if not self.context:
            raise RuntimeError("llama.cpp could not make a context")
        self.capacity = p.n_batch
        self.batch = L.llama_batch_init(self.capacity, 0, 1)

    def close(self):
        L.llama_batch_free(self.batch)
        L.llama_free(self.context)
        L.llama_model_free(self.model)

    def clear(self):
        L.llama_memory_clear(L.llama_get_memory(self.context), True)

    def tokenize(self, text, special=True):
        data = text.encode()
        out = (L.llama_token * (len(data) + 8))()
        n = L.llama_tokenize(self.vocab, data, len(data), out, len(out), special, False)
        if n < 0:
            raise RuntimeError("llama.cpp could not tokenize")
        return list(out[:n])

    def decode(self, entries):
        """One llama_decode of [(token, position, sequence, wants logits)]; returns its seconds."""
        b = self.batch
        b.n_tokens = len(entries)
        for i, (token, position, sequence, logits) in enumerate(entries):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, position, 1, logits
            b.seq_id[i][0] = sequence
        begun = time.perf_counter()
        status = L.llama_decode(self.context, b)
        L.llama_synchronize(self.context)
        took = time.perf_counter() - begun
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        return took

    def row(self, index):
        """The logits of the batch's entry `index`, float32 [vocabulary]."""
        pointer = L.llama_get_logits_ith(self.context, index)
        return np.ctypeslib.as_array(pointer, (self.vocabulary,)).copy()

    def logits_in_one_batch(self, ids):
        self.clear()
        self.decode([(t, i, 0, 1) for i, t in enumerate(ids)])
        return np.stack([self.row(i) for i in range(len(ids))])

    def logits_token_by_token(self, ids):
        self.clear()
        rows = []
        for i, t in enumerate(ids):
            self.decode([(t, i, 0, 1)])
            rows.append(self.row(0))
        return np.stack(rows)

    def greedy(self, prompt, count):
        """`count` greedy tokens after the prompt, numpy's argmax (the lowest id wins a tie)."""
        self.clear()
        self.decode([(t, i, 0, i == len(prompt) - 1) for i, t in enumerate(prompt)])
        out = [int(self.row(len(prompt) - 1).argmax())]
        while len(out) < count:
            self.decode([(out[-1], len(prompt) + len(out) - 1, 0, 1)])
            out.append(int(self.row(0).argmax()))
        return out

    def prefill_rate(self, tokens):
        """Prompt tokens a second, logits for the last one."""
        self.clear()
        ids = self.filler(tokens)
        return tokens / self.decode([(t, i, 0, i == tokens - 1) for i, t in enumerate(ids)])

    def decode_rate(self, prompt, tokens, sequences=1):
        """Generated tokens a second over all sequences, each after its own prompt; given tokens, as in llama-bench."""
        self.clear()
        for sequence in range(sequences):
            ids = self.filler(prompt, sequence)
            self.decode([(t, i, sequence, i == prompt - 1) for i, t in enumerate(ids)])
        following = [self.filler(tokens, 100 + s) for s in range(sequences)]
        took = 0.0
        for step in range(tokens):
            took += self.decode([(following[s][step], prompt + step, s, 1) for s in range(sequences)])
        return tokens * sequences / took

    def filler(self, count, salt=0):
        """Arbitrary ids: a step's work does not depend on which token it gets."""
        generator = np.random.default_rng(salt)
        return [int(t) for t in generator.integers(256, min(self.vocabulary, 30000), count)]
