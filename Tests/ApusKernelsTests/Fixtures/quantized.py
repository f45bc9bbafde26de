"""Writes quantized.bin: 512 weights of every block-quantised kind as f32, dequantised by the gguf package.

The bytes come from SplitMix64 with the kind's number as the seed, as in QuantizedReference.swift.
Run with a Python that has gguf and numpy: python3 quantized.py
"""

import pathlib

import gguf
import numpy

MASK = (1 << 64) - 1
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}


class SplitMix64:
    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)


out = []
for name in sorted(HALVES, key=lambda name: gguf.GGMLQuantizationType[name]):
    kind = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    random = SplitMix64(int(kind))
    data = bytearray(random.next() & 255 for _ in range(512 // elements * size))
    for block in range(0, len(data), size):
        for at in HALVES[name]:
            bits = random.next() % 0x3800 + 0x0400
            bits += (random.next() % 2) << 15
            data[block + at:block + at + 2] = bits.to_bytes(2, "little")
    out.append(gguf.quants.dequantize(numpy.frombuffer(bytes(data), dtype=numpy.uint8), kind).astype("<f4").ravel())
path = pathlib.Path(__file__).with_name("quantized.bin")
path.write_bytes(numpy.concatenate(out).tobytes())
print(path.name, path.stat().st_size, "bytes")
