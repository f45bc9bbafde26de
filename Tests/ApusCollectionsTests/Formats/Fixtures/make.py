"""Writes the files of this folder with numpy and scipy, the references of what Apus reads.

Every array holds (7 row + 3 column) mod 17, less 8 where the type has a sign, floats a quarter of that; the matrix has
an entry where (3 row + 5 column) mod 4 is 0. FormatFixtureTests.swift computes the same.
Run with a Python that has numpy and scipy: python3 make.py
"""

import io
import json
import pathlib
import struct
import zipfile

import numpy
import scipy.sparse

HERE = pathlib.Path(__file__).parent


def values(shape, dtype):
    rows, columns = numpy.indices(shape if len(shape) == 2 else (1, shape[0]))
    numbers = (7 * rows + 3 * columns) % 17
    if numpy.dtype(dtype).kind != "u":
        numbers = numbers - 8
    if numpy.dtype(dtype).kind == "f":
        numbers = numbers / 4
    return numbers.astype(dtype).reshape(shape)


def npy(array, version=None):
    out = io.BytesIO()
    numpy.lib.format.write_array(out, array, version=version)
    return out.getvalue()


def write(name, data):
    (HERE / name).write_bytes(data)


for number in 1, 2, 3:
    write(f"v{number}.npy", npy(values((3, 5), "<f4"), (number, 0)))
write("ids.npy", npy(values((5,), "<i8")))
types = ["<f2", "<f4", "<f8", "|i1", "|u1", "<i4", "<u4", "<i8", "<u8"]
numpy.savez(HERE / "types.npz", **{name.strip("<|"): values((3, 5), name) for name in types})
numpy.savez_compressed(HERE / "deflated.npz", half=values((40, 6), "<f2"), ids=values((5,), "<i8"))

# What must be refused.
write("fortran.npy", npy(numpy.asfortranarray(values((3, 5), "<f4"))))
write("big-endian.npy", npy(values((3, 5), ">f4")))
write("object.npy", npy(numpy.array([{}, None], dtype=object)))
write("fields.npy", npy(numpy.zeros(2, dtype=[("a", "<f4"), ("b", "<i4")])))
write("cube.npy", npy(numpy.zeros((2, 1, 2), "<f4")))
write("scalar.npy", npy(numpy.float32(1)))

# Zip64: numpy.savez writes its extra field only where it must, so this one is made by hand; numpy reads it.
member = npy(values((3, 5), "<f4"))
crc = zipfile.crc32(member)
name = b"big.npy"
local = struct.pack("<4s5H3I2H", b"PK\3\4", 45, 0, 0, 0, 33, crc, 0xFFFFFFFF, 0xFFFFFFFF, len(name), 20) + name
local += struct.pack("<2H2Q", 1, 16, len(member), len(member)) + member
entry = struct.pack(
    "<4s6H3I5H2I", b"PK\1\2", 45, 45, 0, 0, 0, 33, crc, 0xFFFFFFFF, 0xFFFFFFFF, len(name), 28, 0, 0, 0, 0, 0xFFFFFFFF
) + name + struct.pack("<2H3Q", 1, 24, len(member), len(member), 0)
end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(entry), len(local))
end += struct.pack("<4sIQI", b"PK\6\7", 0, len(local) + len(entry), 1)
end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
write("zip64.npz", local + entry + end)
assert (numpy.load(HERE / "zip64.npz")["big"] == values((3, 5), "<f4")).all()

# Access matrices: scipy's two forms, and big-ann-benchmarks' layout (its dataset_io.py, write_sparse_matrix).
rows, columns = numpy.indices((6, 7))
dense = (3 * rows + 5 * columns) % 4 == 0
matrix = scipy.sparse.csr_matrix(dense)
scipy.sparse.save_npz(HERE / "csr.npz", matrix)
scipy.sparse.save_npz(HERE / "csc.npz", matrix.tocsc())
zero = scipy.sparse.csr_array(dense.astype("<f4"))
zero.data[3] = 0
scipy.sparse.save_npz(HERE / "zero.npz", zero)
write("access.spmat", struct.pack("<3q", 6, 7, matrix.nnz) + matrix.indptr.astype("<i8").tobytes()
      + matrix.indices.astype("<i4").tobytes() + numpy.ones(matrix.nnz, "<f4").tobytes())

for ending, dtype in {"fvecs": "<f4", "bvecs": "|u1", "ivecs": "<i4"}.items():
    rows = [struct.pack("<i", 5) + row.tobytes() for row in values((3, 5), dtype)]
    write(f"base.{ending}", b"".join(rows))
for ending, dtype in {"fbin": "<f4", "f16bin": "<f2", "u8bin": "|u1", "i8bin": "|i1", "ibin": "<i4"}.items():
    write(f"base.{ending}", struct.pack("<2I", 3, 5) + values((3, 5), dtype).tobytes())

records = [
    {"id": 7, "vector": values((5,), "<f4").tolist(), "tenants": [3, "acme"], "payload": {"year": 2024, "a": [1, {}]}},
    {"id": "seven \u2603 \U0001F40D", "text": "quote \" slash \\ line\nend \u0007", "vector": None},
]
lines = [json.dumps(records[0]), "", json.dumps(records[1]), json.dumps(records[1], ensure_ascii=False)]
write("records.jsonl", "\n".join(lines).encode())

print(sum(path.stat().st_size for path in HERE.iterdir() if path.name != "make.py"), "bytes")
