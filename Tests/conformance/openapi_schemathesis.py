#!/usr/bin/env python3
"""Requests that schemathesis makes from /openapi.json, against a running `apus serve`:
APUS_URL=http://127.0.0.1:PORT python openapi_schemathesis.py [--max-examples N]

Valid requests must be taken, invalid ones refused, every answer must be one that the document describes. The hooks below
make answers short, and take out of valid requests what a schema cannot say: ids that the vocabulary must have, schemas
that must compile, combinations of fields. The server may still be loading its model: the script waits up to two minutes.
"""
import importlib.util
import os
import subprocess
import sys
import tempfile

if importlib.util.find_spec("schemathesis") is None:
    print("SKIPPED: schemathesis is not installed")
    sys.exit(0)

from checks import BASE, get, wait_for

EXAMPLES = sys.argv[sys.argv.index("--max-examples") + 1] if "--max-examples" in sys.argv else "30"
HOOKS = '''
import schemathesis
from schemathesis import GenerationMode

LONGEST_ANSWER = 3
LIMITS = {
    "createChatCompletion": ("max_tokens", "max_completion_tokens"), "createCompletion": ("max_tokens",),
    "createResponse": ("max_output_tokens",), "createMessage": ("max_tokens",)}
OLLAMA = ("ollamaChat", "ollamaGenerate")
# What a schema cannot say.
DEPENDENT = ("logit_bias", "response_format", "text", "tool_choice", "previous_response_id", "top_logprobs", "logprobs",
             "stop", "tools", "options")


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def shorten(definition, body):
    operation = definition["operationId"]
    for name in LIMITS.get(operation, ()):
        schema = definition["requestBody"]["content"]["application/json"]["schema"]["properties"][name]
        value = body.get(name)
        # What is wrong must stay wrong.
        if value is None and operation != "createMessage" or is_number(value) and LONGEST_ANSWER < value <= schema["maximum"]:
            body[name] = LONGEST_ANSWER
    if operation in OLLAMA and isinstance(body.get("options", {}), dict):
        body["options"] = {**body.get("options", {}), "num_predict": LONGEST_ANSWER}


def small_ids(value):
    """Token ids that every vocabulary has."""
    if isinstance(value, list):
        return [small_ids(v) for v in value]
    return value % 200 if is_number(value) else value


def calls_fit(items):
    """Only outputs whose call stands before them, only arguments that are an object."""
    known, kept = set(), []
    for item in items:
        if item.get("type") == "function_call":
            item["arguments"] = "{}"
            known.add(item.get("call_id"))
        elif item.get("type") == "function_call_output" and item.get("call_id") not in known:
            continue
        kept.append(item)
    return kept or "Hi"


@schemathesis.hook
def before_call(context, case, kwargs):
    if not isinstance(case.body, dict):
        return
    definition = case.operation.definition.raw
    operation = definition["operationId"]
    body = dict(case.body)
    shorten(definition, body)
    generation = case.meta.generation if case.meta else None
    if generation is not None and generation.mode == GenerationMode.POSITIVE:
        for name in DEPENDENT:
            body.pop(name, None)
        if operation in LIMITS or operation in OLLAMA:
            body.pop("options", None)
            shorten(definition, body)
        for name in ("prompt", "input", "tokens"):
            if isinstance(body.get(name), list) and operation != "createResponse":
                body[name] = small_ids(body[name])
        if operation == "createResponse" and isinstance(body.get("input"), list):
            body["input"] = calls_fit(body["input"])
        if operation in ("createMessage", "countTokens") and body["messages"][-1]["role"] == "assistant":
            body["messages"] = [*body["messages"], {"role": "user", "content": "Hi"}]
        if operation == "createEmbedding":
            body.pop("dimensions", None)
            if body["input"] == "" or isinstance(body["input"], list) and "" in body["input"]:
                body["input"] = "Hi"
        # Whether a point or a query needs a vector, and of how many numbers, is the collection's affair.
        if operation == "upsertPoints":
            body["points"] = []
        if operation == "searchPoints":
            body = {"text": "Hi", "mode": "keyword", **{k: v for k, v in body.items() if k in ("k", "exact")}}
        for message in body.get("messages") or []:
            if isinstance(message, dict):
                message.pop("tool_calls", None)
        if operation in ("tokenize",) and "prompt" in body:
            body.pop("messages", None)
    case.body = body
'''


wait_for(lambda: get("/openapi.json"))
with tempfile.TemporaryDirectory() as directory:
    hooks = os.path.join(directory, "apus_schemathesis_hooks.py")
    with open(hooks, "w") as file:
        file.write(HOOKS)
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", BASE + "/openapi.json", "--max-examples", EXAMPLES, "--seed", "1",
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
        "negative_data_rejection,positive_data_acceptance",
        "--phases", "coverage,fuzzing", "--request-timeout", "120", "--no-color", "--suppress-health-check", "all"]
    if key := os.environ.get("APUS_API_KEY"):
        command += ["--header", f"Authorization: Bearer {key}"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "apus_schemathesis_hooks", "PYTHONPATH": directory}
    status = subprocess.run(command, cwd=directory, env=environment).returncode
print(f"{'ok' if status == 0 else 'FAILED'}  schemathesis over {BASE}/openapi.json, {EXAMPLES} examples an operation")
sys.exit(1 if status else 0)
