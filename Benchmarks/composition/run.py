#!/usr/bin/env python3
"""How many lines must change to enable a feature in every model (the LoC-complexity of AXLearn's paper).

Features: ALiBi positions, a norm kind that Apus doesn't have (written in this folder as a user would), and a swap of
every dense feed-forward part for a mixture of experts. For N = 4, 10, 50 and 100 variants of the real recipes:

  enabled    variants in which the feature works: the modifier changed as many slots as the model has such parts, and
             the changed model, really run, gives finite numbers that differ from the unchanged model's
  outside    lines changed outside the feature's own file and the modifier: the sources are hashed before and after the
             run, so this is what the run needed, not what somebody believes
  modifier   lines of the modifier that enables it everywhere
  subclass   lines that change in the model files of a framework where each model has its own attention, MLP and block
             classes and a flat config (Subclasses/, idiomatic and compiled), one file a variant
  coupling   lines of Apus outside the feature's own file that name it (a registration line for reading JSON is all that
             may be there)

  Benchmarks/composition/run.py [--json FILE]
"""
import argparse
import difflib
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COUNTS = [4, 10, 50, 100]
# feature: (file with the modifier, its name, mark in the fixture)
FEATURES = {
    "ALiBi": ("EnableALiBi.swift", "enableALiBi", "alibi"),
    "PlainLayerNorm": ("PlainLayerNorm.swift", "enablePlainLayerNorm", "norm"),
    "MixtureOfExperts": ("EnableMixtureOfExperts.swift", "enableMixtureOfExperts", "moe"),
}
FAMILIES = ["Llama", "Qwen2", "Gemma3", "BERT"]


def modifier_lines(file, name):
    """Non-blank lines of the function that enables a feature, signature and braces included."""
    lines = (HERE / "Features" / file).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if f"func {name}" in line)
    indent = lines[start][: len(lines[start]) - len(lines[start].lstrip())]
    end = next(i for i in range(start + 1, len(lines)) if lines[i] == indent + "}")
    return sum(bool(line.strip()) for line in lines[start : end + 1])


def fixture(family, mark, index):
    """A variant's model file without and with a feature; the other features are left out of both."""
    before, after = [], []
    for line in (HERE / "Subclasses" / f"{family}.swift").read_text().splitlines():
        old = re.match(r"(\s*)//-(\w+) (.*)", line)
        new = re.search(r"  // \+(\w+)$", line)
        if old:
            before.append(old[1] + old[3])
            if old[2] != mark:
                after.append(old[1] + old[3])
        elif new:
            if new[1] == mark:
                after.append(line[: new.start()])
        else:
            before.append(line)
            after.append(line)
    rename = lambda lines: [re.sub(rf"\b{family}(?=[A-Z])", f"{family}Variant{index}", line) for line in lines]
    return rename(before), rename(after)


def changed_lines(before, after):
    """Lines added or replaced."""
    return sum(line.startswith("+ ") for line in difflib.ndiff(before, after))


def coupling(name):
    """Lines of Apus that name a type outside the file that defines it, comments aside."""
    found = []
    for file in sorted((ROOT / "Sources").rglob("*.swift")):
        text = file.read_text()
        if re.search(rf"\b(struct|class|enum) {name}\b", text):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(rf"\b{name}\b", line.split("//")[0]):
                found.append(f"{file.relative_to(ROOT)}:{number}")
    return found


def sources_hash():
    digest = hashlib.sha256()
    for folder in (ROOT / "Sources", HERE):
        for file in sorted(folder.rglob("*.swift")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--json", help="write the results to this file")
    arguments = p.parse_args()
    subprocess.run(["swift", "build", "--package-path", ROOT, "-c", "release", "--product", "composition"], check=True,
                   stdout=sys.stderr)
    before = sources_hash()
    said = subprocess.run([ROOT / ".build/release/composition", *map(str, COUNTS)], check=True, stdout=subprocess.PIPE)
    outside = 0 if sources_hash() == before else None
    rows = []
    for r in json.loads(said.stdout):
        file, modifier, mark = FEATURES[r["feature"]]
        rows.append({
            **r, "outside": outside, "modifier": modifier_lines(file, modifier), "coupling": coupling(r["feature"]),
            "subclass": sum(changed_lines(*fixture(FAMILIES[i % 4], mark, i)) for i in range(r["variants"]))})
    print(f"{'feature':18} {'N':>4} {'enabled':>8} {'slots':>6} {'outside':>8} {'modifier':>9} {'subclass':>9}"
          " coupling")
    for r in rows:
        print(f"{r['feature']:18} {r['variants']:4} {r['enabled']:8} {r['slots']:6} {r['outside']:8} "
              f"{r['modifier']:9} {r['subclass']:9} {', '.join(r['coupling']) or '0'}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(0 if all(r["enabled"] == r["variants"] and r["outside"] == 0 and r["modifier"] <= 10 for r in rows) else 1)


if __name__ == "__main__":
    main()
