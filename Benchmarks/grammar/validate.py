"""Checks samples of constrained decoding with the jsonschema package.

    APUS_GRAMMAR_SAMPLES=samples.txt APUS_GRAMMAR_SCHEMAS=200 swift test --filter SchemaWalk
    validate.py samples.txt      (lines of: schema, tab, text as a JSON string)
"""
import json
import sys

import jsonschema


def main(path):
    checked = failed = 0
    for line in open(path, encoding="utf-8"):
        schema, text = line.rstrip("\n").split("\t")
        schema = json.loads(schema)
        value = json.loads(json.loads(text))
        validator = jsonschema.Draft202012Validator(
            schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
        checked += 1
        errors = list(validator.iter_errors(value))
        if errors:
            failed += 1
            print(f"INVALID {json.dumps(schema)} has {text}: {errors[0].message}")
    print(f"{checked - failed} passed, {failed} failed")
    return 1 if failed or not checked else 0


sys.exit(main(sys.argv[1]))
