"""Narrow keys and values of decoders: the same tokens, bytes as the formula has them, perplexity, decode speed."""
import statistics
import subprocess

import common
from lowrank import in_work, peak

GEMMA, SMOL = "gemma-3-270m", "smollm2-135m"
# Growing and other layers, key heads, elements of a head.
SHAPES = {GEMMA: (3, 15, 1, 256), SMOL: (30, 0, 3, 64)}
LAYOUTS = ("dense", "rank-v", "rank-kv")
# Keys and values, which layers, greatest perplexity against the original's.
CASES = [
    (GEMMA, {"k": 128}, "all", None), (GEMMA, {"k": 64}, "all", None), (GEMMA, {"k": 128, "v": 192}, "all", None),
    (GEMMA, {"k": 96, "v": 128}, "growing", 1.15), (GEMMA, {"kv": 160}, "growing", None),
    (SMOL, {"k": 128}, "all", None), (SMOL, {"k": 64}, "all", None), (SMOL, {"k": 96, "v": 128}, "all", None),
    (SMOL, {"k": 128, "v": 160}, "all", None), (SMOL, {"kv": 224}, "all", None),
]
# Those whose layouts are compared.
CHOSEN = {GEMMA: ({"k": 96, "v": 128}, "growing"), SMOL: ({"k": 96, "v": 128}, "all")}
PROMPT = "The swift is a bird that spends most of its life in the air. "


def made(work, model, ranks, layers, encoding="f32", method="output-pca"):
    """A model with these factors and nothing else changed."""
    name = f"{model}-{layers}-{encoding}-{method}-" + "-".join(f"{k}{v}" for k, v in ranks.items()) + ".gguf"
    place = work.path(name)
    if name not in work.made:
        options = {"k": "--kv-rank-k", "v": "--kv-rank-v", "kv": "--kv-rank"}
        work.run("compress", model, "--statistics", work.calibrated(model), "--kv", "rank-kv",
                 "--kv-layers", layers, "--encoding", encoding, "--method", method, "-o", place,
                 *(word for k, v in ranks.items() for word in (options[k], v)))
        work.made.add(name)
    return place


def bytes_per_token(model, ranks, layers, layout, element):
    """By the formula: ranks in units of 16 elements, whole rows where a layer has no factors."""
    growing, windowed, heads, dim = SHAPES[model]
    whole = heads * dim
    if layout == "dense":
        narrow = 2 * whole
    elif "kv" in ranks:
        narrow = ranks["kv"] if layout == "rank-kv" else whole + min(whole, ranks["kv"])
    else:
        narrow = (ranks.get("k", whole) if layout == "rank-kv" else whole) + ranks.get("v", whole)
    cut = growing + (windowed if layers == "all" else 0)
    return element * (cut * narrow + (growing + windowed - cut) * 2 * whole)


def said(arguments, place, layout, *words, text=PROMPT):
    return common.apus_json(arguments, "run", text, "-m", place, "--kv-layout", layout, "--temperature", "0",
                            "--ignore-eos", *map(str, words))


def resident(arguments, place, layout, sentences):
    """Tokens of a prompt, and the peak of a child's anonymous memory that reads it, in bytes."""
    command = [arguments.apus, "run", PROMPT * sentences, "-m", place, "--kv-layout", layout, "-n", "200", "--context",
               "4096", "--temperature", "0", "--ignore-eos"]
    return peak(command, "RssAnon", stderr=subprocess.DEVNULL)


def perplexity(work, verdict):
    rows = []
    for model, ranks, layers, bar in CASES:
        place = made(work, model, ranks, layers)
        seen = work.json("verify", place, "--against", model, "--text", work.text("test"), "--tokens", 4096)
        times = seen["perplexity"] / seen["original_perplexity"]
        share = bytes_per_token(model, ranks, layers, "rank-kv", 2) / bytes_per_token(model, {}, layers, "dense", 2)
        rows.append([model, " ".join(f"{k} {v}" for k, v in ranks.items()), layers, f"{seen['perplexity']:.2f}",
                     f"{seen['original_perplexity']:.2f}", f"{times:.3f}", f"{share:.3f}"])
        if bar:
            verdict.append((f"{model}, {ranks}, {layers} layers: perplexity ≤ {bar} × the original's", times <= bar,
                            f"{times:.3f}"))
    model, (ranks, layers) = GEMMA, CHOSEN[GEMMA]
    plain = work.json("verify", made(work, model, ranks, layers, method="plain"), "--against", model, "--text",
                      work.text("test"), "--tokens", 4096)
    rows.append([model, " ".join(f"{k} {v}" for k, v in ranks.items()) + ", plain SVD", layers,
                 f"{plain['perplexity']:.2f}", f"{plain['original_perplexity']:.2f}",
                 f"{plain['perplexity'] / plain['original_perplexity']:.3f}", ""])
    common.table(["model", "ranks", "layers", "perplexity", "original", "times", "KV bytes of dense"], rows)
    return rows


def same_tokens(arguments, work, verdict):
    for model, (ranks, layers) in CHOSEN.items():
        place = made(work, model, ranks, layers)
        seen = {layout: said(arguments, place, layout, "-n", 128, "--exact") for layout in LAYOUTS}
        tokens = [seen[layout]["tokens"] for layout in LAYOUTS]
        verdict.append((f"{model}: the same 128 greedy tokens in three layouts, f32",
                        len(tokens[0]) == 128 and all(t == tokens[0] for t in tokens), f"{len(tokens[0])} tokens"))


def formula(arguments, work, verdict):
    rows = []
    for model, (ranks, layers) in CHOSEN.items():
        place = made(work, model, ranks, layers)
        for layout in LAYOUTS:
            expected = bytes_per_token(model, ranks, layers, layout, 2)
            short, long = (said(arguments, place, layout, "-n", 16, "--context", t)["memory"] for t in (1024, 3072))
            slope = (long["kv"] - short["kv"]) / 2048
            # From outside: memory of the child by tokens read.
            few, many = (resident(arguments, place, layout, n) for n in (20, 160))
            tokens = 140 * len_tokens(arguments, place)
            outside = (many - few) / tokens
            rows.append([model, layout, expected, f"{slope:.0f}", f"{outside:.0f}"])
            verdict.append((f"{model}, {layout}: KV bytes of a token are the formula's", slope == expected,
                            f"{slope:.0f}, formula {expected}"))
            verdict.append((f"{model}, {layout}: a child's memory grows by that much a token, ± 10 % + 1 kB",
                            abs(outside - expected) <= 0.1 * expected + 1024, f"{outside:.0f}"))
            for memory in (short, long):
                verdict.append((f"{model}, {layout}: transient memory as planned, to the byte",
                                memory["transient_plan"] == memory["transient_high_water"], memory["transient_plan"]))
    common.table(["model", "layout", "bytes/token by formula", "of the ledger", "of the child"], rows)
    return rows


def len_tokens(arguments, place):
    """Tokens of one more sentence."""
    one, two = (said(arguments, place, "dense", "-n", 1, text=PROMPT * n)["prompt_tokens"] for n in (1, 2))
    return two - one


def speed(arguments, work):
    """Median tokens/s of decoding, sides in turns."""
    rounds, rows = arguments.rounds or 5, []
    for model, (ranks, layers) in CHOSEN.items():
        small = made(work, model, ranks, layers, encoding="q8_0")
        sides = [("original", model, "dense"), *((layout, small, layout) for layout in LAYOUTS)]
        for context in (128, 2048):
            rates = {name: [] for name, _, _ in sides}
            for _ in range(rounds):
                for name, place, layout in sides:
                    row = common.apus_json(arguments, "bench", "decode", "-m", place, "--prompt", context, "--tokens",
                                           32, "--rounds", 1, "--kv-layout", layout)[0]
                    rates[name].append(row["tokens_per_s"]["median"])
            for name, _, _ in sides:
                rate = statistics.median(rates[name])
                rows.append([model, context, name, f"{rate:.1f}", f"{rate / statistics.median(rates['original']):.2f}",
                             f"{min(rates[name]):.1f}–{max(rates[name]):.1f}"])
    common.table(["model", "context", "layout", "decode tokens/s", "of the original", "range"], rows)
    return rows


@in_work
def kv(arguments, work):
    work.made, verdict = set(), []
    result = {"perplexity": perplexity(work, verdict)}
    same_tokens(arguments, work, verdict)
    result["bytes"] = formula(arguments, work, verdict)
    result["speed"] = speed(arguments, work)
    return {**result, "verdict": verdict}
