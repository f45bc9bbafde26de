#!/usr/bin/env python3
"""Collects lines of real text in many languages from this machine: manual pages, message catalogues, documentation.

usage: collect_lines.py OUTPUT.json [COUNT]     writes a JSON list of COUNT distinct lines (default 20,000)

Debian packages that add languages: manpages-de manpages-fr manpages-ja manpages-zh manpages-ru debian-handbook. Catalogues (*.mo) of whatever is installed cover some 80 languages.
"""
import glob
import gzip
import json
import random
import re
import struct
import sys


def catalogue(path):
    """The translations in a gettext .mo file."""
    data = open(path, "rb").read()
    if len(data) < 20 or struct.unpack("<I", data[:4])[0] != 0x950412DE:
        return
    _, _, count, _, table = struct.unpack("<5I", data[:20])
    for index in range(count):
        length, offset = struct.unpack_from("<2I", data, table + 8 * index)
        yield data[offset : offset + length].decode("utf-8", "replace")


def manual(path):
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rb") as file:
        for line in file.read(200_000).decode("utf-8", "replace").split("\n"):
            yield re.sub(r"\\f[A-Z]|\\&|^\.[A-Za-z]+ ?", "", line)


def plain(path):
    with open(path, "rb") as file:
        yield from file.read(2_000_000).decode("utf-8", "replace").split("\n")


def main(output, count):
    sources = {
        "catalogues": (catalogue, glob.glob("/usr/share/locale/*/LC_MESSAGES/*.mo")),
        "manuals": (manual, glob.glob("/usr/share/man/*/man*/*.gz")),
        "handbook": (plain, glob.glob("/usr/share/doc/debian-handbook/html/*/*.html")),
        "documents": (plain, glob.glob("/usr/share/doc/**/*.txt", recursive=True) + glob.glob("/usr/share/perl5/**/*.pod", recursive=True)),
        "python": (plain, glob.glob("/usr/lib/python3*/*.py")),
    }
    generator = random.Random(7)
    lines = {}
    for name, (reader, paths) in sources.items():
        paths = sorted(paths)
        generator.shuffle(paths)
        found = 0
        for path in paths[:1500]:
            try:
                mine = [line for text in reader(path) for line in text.split("\n") if line.strip() and "\0" not in line]
            except (OSError, EOFError, struct.error):
                continue
            generator.shuffle(mine)
            for line in mine[: 60 if name in ("catalogues", "manuals") else 400]:
                lines.setdefault(line, name)
                found += 1
        print(f"{name}: {found} lines from {min(len(paths), 1500)} of {len(paths)} files", file=sys.stderr)
    chosen = sorted(lines)
    generator.shuffle(chosen)
    chosen = chosen[:count]
    foreign = sum(not line.isascii() for line in chosen)
    print(f"{len(chosen)} lines, {foreign} beyond ASCII, {sum(map(len, chosen))} characters", file=sys.stderr)
    with open(output, "w") as file:
        json.dump(chosen, file)


main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20_000)
