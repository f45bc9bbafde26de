#!/usr/bin/env python3
"""Real paragraphs with real rights, as `apus collections add` reads them: Debian's package descriptions.

  sudo apt-get update -o Acquire::Languages=en     # fetches the descriptions
  Examples/debian_paragraphs.py 20000 > paragraphs.jsonl

Each paragraph is a line {"id": "stellarium/2", "text": …, "tenants": […], "payload": {"package": …, "section": …}}. Its
owner is the section of the package (science, games, …); the package's debtags (field::astronomy, use::gameplaying, …)
may see it too. Packages come in the order of their names' MD5, so that a part is a fair sample and always the same.
"""
import glob
import hashlib
import json
import re
import subprocess
import sys

LISTS = "/var/lib/apt/lists/"
SHORTEST = 80  # characters; less is seldom a paragraph


def stanzas(pattern):
    """The stanzas of apt's files, each a dictionary; apt itself unpacks them."""
    for path in sorted(glob.glob(LISTS + pattern)):
        text = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", path], stdout=subprocess.PIPE, check=True).stdout
        for stanza in text.decode().split("\n\n"):
            fields = re.findall(r"^([^\s:]+):[ ]?(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
            if fields:
                yield dict(fields)


def paragraphs(description):
    """A description without its first line; a point alone on a line parts paragraphs."""
    _, _, long = description.partition("\n")
    for part in re.split(r"^ \.$", long, flags=re.MULTILINE):
        text = " ".join(part.split())
        if len(text) >= SHORTEST:
            yield text


def main():
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    sections, tags = {}, {}
    for fields in stanzas("*_Packages*"):
        name = fields["Package"]
        sections[name] = fields.get("Section", "misc").rpartition("/")[2]
        tags[name] = sorted(set(re.findall(r"(?:field|game|use|works-with)::[\w:+-]+", fields.get("Tag", ""))))
    descriptions = {}
    for fields in stanzas("*_Translation-en*"):
        if fields["Package"] in sections:
            descriptions.setdefault(fields["Package"], fields.get("Description-en", ""))
    if not descriptions:
        sys.exit(f"no descriptions in {LISTS}: run  sudo apt-get update -o Acquire::Languages=en")
    seen, written = set(), 0
    for name in sorted(descriptions, key=lambda name: hashlib.md5(name.encode()).digest()):
        for i, text in enumerate(paragraphs(descriptions[name]), 1):
            if text in seen or written == wanted:
                continue
            seen.add(text)
            written += 1
            payload = {"package": name, "section": sections[name]}
            line = {"id": f"{name}/{i}", "text": text, "tenants": [sections[name], *tags[name]], "payload": payload}
            print(json.dumps(line, ensure_ascii=False))
    print(f"{written} paragraphs", file=sys.stderr)


main()
