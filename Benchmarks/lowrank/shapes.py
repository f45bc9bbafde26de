"""Encoders of given shapes with random weights, dense and low-rank, as folders that `apus svd bench` takes."""
import json
import shutil
from pathlib import Path

import numpy as np

# The checks of speed and memory do not look at what a model says, only at its shapes.
BERT_BASE = {"dim": 768, "heads": 12, "hidden": 3072, "layers": 12, "context": 4096}
MINILM = {"dim": 384, "heads": 12, "hidden": 1536, "layers": 6, "context": 512}


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values, np.float32).tobytes())


def encoder(folder, tokenizer, shape, rank=None, vocabulary=512, seed=1):
    """A folder with a BERT of `shape`; with `rank` every matrix of its layers has that rank, queries, keys and values
    through one factor. `tokenizer` is a folder whose tokenizer is taken: nobody reads text with it."""
    rng = np.random.default_rng(seed)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (Path(tokenizer) / name).exists():
            shutil.copy(Path(tokenizer) / name, folder / name)
    dim, hidden = shape["dim"], shape["hidden"]
    (folder / "config.json").write_text(json.dumps({
        "model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12, "num_attention_heads": shape["heads"],
        "hidden_size": dim, "vocab_size": vocabulary, "max_position_embeddings": shape["context"],
        "type_vocab_size": 2, "intermediate_size": hidden, "num_hidden_layers": shape["layers"]}))

    def matrix(rows, columns):
        return (rng.standard_normal((rows, columns), np.float32) / np.sqrt(columns)).astype(np.float32)

    tensors = {"embeddings.word_embeddings.weight": matrix(vocabulary, dim),
               "embeddings.position_embeddings.weight": matrix(shape["context"], dim),
               "embeddings.token_type_embeddings.weight": matrix(2, dim)}

    def norm(name):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = np.ones(dim, np.float32), np.zeros(dim, np.float32)

    norm("embeddings.LayerNorm")
    names = {"attention.query": "attention.self.query", "attention.key": "attention.self.key",
             "attention.value": "attention.self.value", "attention.output": "attention.output.dense",
             "feedForward.up": "intermediate.dense", "feedForward.down": "output.dense"}
    for layer in range(shape["layers"]):
        for part, name in names.items():
            rows = hidden if part == "feedForward.up" else dim
            columns = hidden if part == "feedForward.down" else dim
            place = f"encoder.layer.{layer}.{name}"
            tensors[f"{place}.bias"] = np.zeros(rows, np.float32)
            if rank is None:
                tensors[f"{place}.weight"] = matrix(rows, columns)
                continue
            own = f"layers.{layer}.{part}.factor"
            shared = f"layers.{layer}.attention.factor.down"
            tensors[f"{own}.up"] = matrix(rows, rank)
            if part in ("attention.query", "attention.key", "attention.value"):
                tensors.setdefault(shared, matrix(rank, columns))
            else:
                tensors[f"{own}.down"] = matrix(rank, columns)
        norm(f"encoder.layer.{layer}.attention.output.LayerNorm")
        norm(f"encoder.layer.{layer}.output.LayerNorm")
    write_safetensors(folder / "model.safetensors", tensors)
    return folder
