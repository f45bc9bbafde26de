#!/usr/bin/env python3
"""Collections over HTTP as two tenants against a running `apus serve --collections FOLDER` that has an encoder:
APUS_URL=http://127.0.0.1:PORT python collections_rest.py

With APUS_TENANT_KEYS=anna:KEY,bert:KEY,admin:KEY each tenant has a key and the key says who acts; without it the header
x-apus-tenant does, and everybody is an administrator. Every check says what it saw; the first failure ends the script
with status 1. A server without collections is printed as skipped.
"""
import json
import os
import sys
import urllib.error
import urllib.request

from checks import BASE, check, expect, get, run, wait_for

KEYS = dict(pair.split(":") for pair in os.environ.get("APUS_TENANT_KEYS", "").split(",") if pair)
DOCS = "/v1/collections/conformance"
TEXTS = {
    "swift": ("Swifts spend most of their lives in the air and even sleep there.", "birds"),
    "heron": ("A heron stands in shallow water and waits for fish.", "birds"),
    "loan": ("The bank lends money against interest and wants a security.", "money"),
    "tax": ("Value added tax is due when the invoice is written.", "money"),
    "bread": ("Knead flour, water, salt and yeast, and let the dough rise.", "food"),
}


def ask(method, path, body=None, who="anna", tenant=None, status=200):
    """The parsed answer, or its text; anything but the status that is expected is a failure."""
    headers = {"Content-Type": "application/json"}
    if KEYS and who:
        headers["Authorization"] = f"Bearer {KEYS[who]}"
    if tenant or not KEYS and who:
        headers["x-apus-tenant"] = tenant or who
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(BASE + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            seen, text = response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        seen, text = error.code, error.read().decode()
    expect(seen == status, f"{method} {path} as {who}: {seen} {text[:300]}")
    return text if "\n" in text.strip() else json.loads(text)


def refused(*arguments, code, param=None, **options):
    error = ask(*arguments, **options)["error"]
    expect(error["code"] == code and error["param"] == param, f"{error}")
    return error["message"]


def found(text, who="anna", **options):
    answer = ask("POST", DOCS + "/search", {"text": text, **options}, who)
    return [hit["id"] for hit in answer["data"]]


@check
def a_collection_takes_its_size_from_its_model():
    made = ask("PUT", DOCS, {"embedding_model": encoder, "indexed_fields": ["topic"]}, "admin")
    expect(made["embedding_model"] == encoder and made["dimension"] > 0 and made["metric"] == "cosine", f"{made}")
    expect(ask("GET", DOCS) == made and made in ask("GET", "/v1/collections")["data"], "it is not listed as made")
    again = ask("PUT", DOCS, {"embedding_model": encoder, "indexed_fields": ["topic"]}, "admin")
    expect(again == made, f"{again}")
    refused("PUT", DOCS, {"dimension": 3}, "admin", status=409, code="already_exists")
    message = refused("PUT", DOCS + "2", {"embedding_model": "no-such-model"}, "admin", status=404,
                      code="model_not_found", param="embedding_model")
    expect(encoder in message, f"the models that there are aren't named: {message}")
    refused("PUT", DOCS + "2", {"embedding_model": encoder, "dimension": made["dimension"] + 1}, "admin", status=400,
            code="invalid_value", param="dimension")


@check
def text_is_found_by_meaning_by_word_and_by_both():
    points = [{"id": name, "text": text, "payload": {"topic": topic}} for name, (text, topic) in TEXTS.items()]
    expect(ask("PUT", DOCS + "/points", {"points": points})["count"] == len(points), "not all were stored")
    expect(found("birds that hunt in ponds", k=1) == ["heron"], found("birds that hunt in ponds"))
    expect(found("how do I bake a loaf?", k=1) == ["bread"], found("how do I bake a loaf?"))
    expect(found("invoice", mode="keyword") == ["tax"], found("invoice", mode="keyword"))
    expect(found("invoice", mode="hybrid", k=1) == ["tax"], found("invoice", mode="hybrid"))
    money = found("birds that hunt in ponds", filter={"field": "topic", "equals": "money"})
    expect(set(money) == {"loan", "tax"}, f"{money}")


@check
def a_hit_is_the_embedding_s_neighbour():
    body = json.dumps({"model": encoder, "input": ["sleeping while flying", TEXTS["swift"][0]]}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEYS.get('anna', 'unused')}"}
    request = urllib.request.Request(BASE + "/v1/embeddings", body, headers)
    with urllib.request.urlopen(request, timeout=120) as response:
        query, swift = [d["embedding"] for d in json.load(response)["data"]]
    by_text = ask("POST", DOCS + "/search", {"text": "sleeping while flying", "k": 1})["data"][0]
    by_vector = ask("POST", DOCS + "/search", {"vector": query, "k": 1})["data"][0]
    distance = 1 - sum(a * b for a, b in zip(query, swift))
    expect(by_text["id"] == by_vector["id"] == "swift", f"{by_text} {by_vector}")
    # Kernels may sum a batch in another order than one text.
    for hit in (by_text, by_vector):
        expect(abs(hit["distance"] - distance) < 1e-3, f"{hit['distance']} instead of {distance}")
    stored = ask("GET", DOCS + "/points/swift")
    expect(stored["text"] == TEXTS["swift"][0] and stored["owner"] == "anna", f"{stored}")
    expect(sum(a * b for a, b in zip(stored["vector"], swift)) > 0.999, "the stored vector is another")


@check
def each_tenant_finds_its_own_and_what_it_was_granted():
    expect(found("birds", "bert") == [], f"bert sees {found('birds', 'bert')}")
    ask("PUT", DOCS + "/points", {"points": [{"id": "swift", "text": "Bert's own note on swifts."}]}, "bert")
    expect(found("birds", "bert") == ["swift"], f"{found('birds', 'bert')}")
    ask("POST", DOCS + "/points/heron/grants", {"tenants": ["bert"]})
    expect(set(found("birds", "bert")) == {"swift", "heron"}, f"{found('birds', 'bert')}")
    expect(found("invoice", "bert", mode="keyword") == [], "a word of anna's is found")
    expect(ask("POST", DOCS + "/count", {}, "bert")["count"] == 2, "the count shows more")
    expect(ask("DELETE", DOCS + "/points/heron/grants/bert")["revoked"] == 1, "no grant was revoked")
    expect(found("birds", "bert") == ["swift"], "a revoked point is found")
    absent = ask("GET", DOCS + "/points/absent?owner=anna", who="bert", status=404)
    hidden = ask("GET", DOCS + "/points/heron?owner=anna", who="bert", status=404)
    expect(absent == hidden, f"{absent} / {hidden}")


@check
def a_cursor_is_its_tenant_s():
    page = ask("POST", DOCS + "/scroll", {"limit": 2})
    names = [point["id"] for point in page["data"]]
    refused("POST", DOCS + "/scroll", {"cursor": page["next_cursor"]}, "bert", status=400, code="invalid_value",
            param="cursor")
    while page["next_cursor"]:
        page = ask("POST", DOCS + "/scroll", {"limit": 2, "cursor": page["next_cursor"]})
        names += [point["id"] for point in page["data"]]
    expect(sorted(names) == sorted(TEXTS), f"{names}")


@check
def what_is_exported_can_be_stored_again():
    lines = ask("GET", f"{DOCS}/tenants/anna/export").splitlines()
    points = [json.loads(line) for line in lines]
    expect({p["id"] for p in points} == set(TEXTS) and all(p["vector"] and p["text"] for p in points), f"{lines[:1]}")
    before = found("water", k=5)
    ask("PUT", DOCS + "/points", {"points": points})
    expect(found("water", k=5) == before, "another order after storing the export")


@check
def wrong_requests_are_named():
    for method, path, body, code, param in [
            ("PUT", "/points", {"points": [{"id": 1}]}, "invalid_value", "points.0"),
            ("PUT", "/points", {"points": [{"id": 1, "text": ""}]}, "invalid_value", "points.0.text"),
            ("PUT", "/points", {"points": [{"id": 1, "vector": [1, 2]}]}, "invalid_value", "points.0.vector"),
            ("POST", "/search", {}, "missing_required_parameter", "vector"),
            ("POST", "/search", {"text": "a", "k": 0}, "invalid_value", "k"),
            ("POST", "/search", {"text": "a", "filter": {"field": "nope", "equals": 1}}, "invalid_value", "filter")]:
        refused(method, DOCS + path, body, status=400, code=code, param=param)
    ask("PATCH", DOCS, who="admin", status=405)


@check
def a_text_longer_than_the_model_s_context_is_read_whole():
    padding = "The committee met on Tuesday and adjourned without a decision. " * 120
    ask("PUT", DOCS + "/points", {"points": [{"id": "long", "text": padding + TEXTS["bread"][0] * 20}]}, "bert")
    expect("long" in found("kneading dough", "bert", k=2), "the long text is not found")
    expect(found("yeast", "bert", mode="keyword") == ["long"], "its last words are not found")


@check
def keys_say_who_acts():
    if not KEYS:
        print("        (no keys: the header names the tenant)")
        return
    for who, tenant in [("anna", "bert"), ("bert", "anna")]:
        refused("POST", DOCS + "/search", {"text": "a"}, who, tenant, 403, code="other_tenant", param="x-apus-tenant")
        refused("POST", DOCS + "/search", {"text": "a", "tenant": tenant}, who, None, 403, code="other_tenant",
                param="tenant")
    for method, path in [("DELETE", ""), ("POST", "/train"), ("POST", "/snapshot"), ("PUT", "/tenants/anna")]:
        refused(method, DOCS + path, None if method == "DELETE" else {}, status=403, code="forbidden")
    expect(ask("POST", DOCS + "/count", {}, "admin", "bert")["count"] == 2, "the administrator cannot act as bert")
    ask("GET", "/v1/collections", who=None, status=401)


@check
def a_tenant_leaves_and_the_other_stays():
    ask("PUT", f"{DOCS}/tenants/bert", {"quota": 2}, "admin")
    refused("PUT", DOCS + "/points", {"points": [{"id": 9, "text": "one more"}]}, "bert", status=403,
            code="quota_exceeded", param="points.0")
    expect(ask("DELETE", f"{DOCS}/tenants/bert?erase=true", who="bert")["erased"], "it was not erased")
    expect(found("birds", "bert") == [] and len(found("birds", k=10)) == len(TEXTS), "the wrong points are gone")
    ask("DELETE", DOCS, who="admin")
    ask("GET", DOCS, status=404)


def prepare():
    """An encoder's name; ends the script if the server keeps no collections, and removes what an earlier run left."""
    wait_for(lambda: get("/health"))
    headers = {"Authorization": f"Bearer {KEYS.get('admin', 'unused')}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(BASE + "/v1/collections", headers=headers), timeout=30) as response:
            if DOCS.rpartition("/")[2] in [c["name"] for c in json.load(response)["data"]]:
                ask("DELETE", DOCS, who="admin")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            print(f"SKIPPED: the server at {BASE} keeps no collections: {json.load(error)['error']['message']}")
            sys.exit(0)
        raise
    return os.environ.get("APUS_ENCODER", "minilm-l6")


encoder = prepare()
run(f"collections against {BASE}, model {encoder}, {'with keys' if KEYS else 'without keys'}")
