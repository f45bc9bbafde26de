"""Collections of the stand-in server: few tenants, exact search, and the answers and errors of /v1/collections.

The vectors of `birds` lie on two known directions, the first much longer than the second, so that a test knows where
a projection must put them; a text of `notes` becomes a vector by its words.
"""
import math
import random
import re
import zlib
from urllib.parse import parse_qs, unquote, urlsplit

WORDS = ("swift jackdaw kestrel tower church roof summer nest hole crow flight insect cliff city evening call young "
         "egg feather wing").split()
DIM, BIRDS, NOTES = 48, 1200, 60


def fail(status, message, code, param=None, kind="invalid_request_error"):
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def unit(vector):
    length = math.sqrt(sum(x * x for x in vector)) or 1
    return [x / length for x in vector]


def embed(text):
    vector = [0.01] * DIM
    for word in re.findall(r"\w+", text.lower()):
        vector[zlib.crc32(word.encode()) % DIM] += 1
    return unit(vector)


def payload_bytes(points):
    return sum(len(str(p["text"] or "")) + len(str(p["payload"] or "")) for p in points)


class Collection:
    def __init__(self, name, dim, metric, model=None):
        self.name, self.dim, self.metric, self.model = name, dim, metric, model
        self.points, self.quota, self.byte_quota, self.query_quota = [], None, None, None

    def add(self, ident, owner, vector, text=None, payload=None, share=()):
        self.points.append({"id": ident, "owner": owner, "vector": vector, "text": text, "payload": payload,
                            "readers": {owner, *share}})

    def visible(self, tenant):
        return [p for p in self.points if tenant in p["readers"]]

    def description(self):
        return {"object": "collection", "name": self.name, "dimension": self.dim, "metric": self.metric,
                "quantizer": "sq8", "embedding_model": self.model, "indexed_fields": ["lang"]}

    def tenant(self, name):
        visible = len(self.visible(name))
        own = [p for p in self.points if p["owner"] == name]
        sizes = {"vectors": 4 * self.dim * len(own), "payloads": payload_bytes(own), "grants": 8 * visible}
        return visible and {
            "tenant": name, "state": "active", "quota": self.quota, "byte_quota": self.byte_quota,
            "query_quota": self.query_quota, "groups": ["everybody"], "held": visible, "owned": len(own),
            "visible": visible, "bytes": {**sizes, "total": sum(sizes.values())},
            "refused_queries": 7 if self.query_quota else 0} or None

    def tenants(self):
        return sorted(set().union(*(p["readers"] for p in self.points)))

    def totals(self):
        readers = [p["readers"] for p in self.points]
        sizes = {"vectors": 5 * self.dim * len(readers), "index": 100_000, "payloads": payload_bytes(self.points)}
        return {"vectors": len(readers), "deleted": 0, "tenants": len(self.tenants()),
                "grants": sum(map(len, readers)), "clusters": 37, "bytes": {**sizes, "total": sum(sizes.values())}}

    def distance(self, a, b):
        if self.metric == "l2":
            return sum((x - y) ** 2 for x, y in zip(a, b))
        return 1 - sum(x * y for x, y in zip(unit(a), unit(b)))


def directions():
    """Two orthonormal directions of `birds`."""
    first = unit([math.sin(k + 1) for k in range(DIM)])
    second = [math.cos(3 * k) for k in range(DIM)]
    along = sum(x * y for x, y in zip(first, second))
    return first, unit([y - along * x for x, y in zip(first, second)])


def place(k):
    """Where the bird k lies on them: three clouds."""
    rng = random.Random(k)
    across, up = ((-9, 0), (2, 4), (7, -3))[k % 3]
    return across + rng.gauss(0, 1.2), up + rng.gauss(0, 0.8)


def standard():
    """Collections as the checks know them."""
    birds = Collection("birds", DIM, "l2")
    first, second = directions()
    for k in range(BIRDS):
        x, y = place(k)
        rng = random.Random(-1 - k)
        vector = [x * a + y * b + rng.gauss(0, 0.01) for a, b in zip(first, second)]
        word = WORDS[k % len(WORDS)]
        birds.add(k, "default", vector, f"Sighting {k}: a {word}." if k % 2 else None,
                  {"lang": ("en", "de", "fr")[k % 3], "year": 2000 + k % 25}, ["alice"] if k < 30 else [])
    birds.quota = 5000
    notes = Collection("notes", DIM, "cosine", "minilm-l6")
    rng = random.Random(5)
    for k in range(NOTES):
        text = " ".join(rng.choices(WORDS, k=9)).capitalize() + "."
        owner, share = ("alice", ["default"]) if k % 6 == 0 else ("default", [])
        notes.add(f"note-{k}", owner, embed(text), text, {"lang": "en"} if k % 4 else None, share)
    notes.add(2**63 - 1, "default", embed("swift"), "<img src=x onerror=window.pwned=20> swift", None)
    return {"birds": birds, "notes": notes}


def crowd(count=120):
    """A collection of many tenants, each of one point and with quotas."""
    flock = Collection("flock", 8, "cosine")
    for k in range(count):
        flock.add(k, f"tenant-{k:03}", unit([1 + k] + [1] * 7))
    flock.quota, flock.byte_quota, flock.query_quota = 4, 80, 2.5
    return {"flock": flock}


def passes(condition, payload):
    value = (payload or {}).get(condition["field"])
    return value == condition["equals"] if "equals" in condition else value in condition.get("in", [])


def search(collection, tenant, body):
    mode, vector, text = body.get("mode", "vector"), body.get("vector"), body.get("text")
    if mode != "keyword" and vector is None:
        if collection.model is None:
            return fail(400, "query.vector is nothing, expected a vector: the collection has no embedding model",
                        "invalid_value", "query.vector")
        vector = embed(text)
    if vector is not None and len(vector) != collection.dim:
        return fail(400, f"vector is {len(vector)} numbers, expected {collection.dim}", "invalid_value", "vector")
    if "filter" in body and "field" not in body["filter"]:
        return fail(400, "filter is an object without one of them, expected field, and, or, or not", "invalid_value",
                    "filter")
    points = [p for p in collection.visible(tenant) if "filter" not in body or passes(body["filter"], p["payload"])]
    distances = {id(p): collection.distance(vector, p["vector"]) for p in points} if vector else {}
    near = sorted(points, key=lambda p: distances[id(p)]) if vector and mode != "keyword" else []
    scores = {id(p): -distances[id(p)] for p in near}
    if mode != "vector":
        wanted = set(re.findall(r"\w+", text.lower()))
        found = {id(p): len(wanted & set(re.findall(r"\w+", (p["text"] or "").lower()))) for p in points}
        worded = sorted((p for p in points if found[id(p)]), key=lambda p: -found[id(p)])
        lists, scores = [worded] + ([near[:100]] if mode == "hybrid" else []), {}
        for ranked in lists:
            for rank, p in enumerate(ranked):
                scores[id(p)] = scores.get(id(p), 0) + 1 / (61 + rank)
    best = sorted((p for p in points if id(p) in scores), key=lambda p: -scores[id(p)])[:body.get("k", 10)]
    return 200, {"object": "list", "data": [
        {**shown(p), "score": scores[id(p)], "distance": distances.get(id(p))} for p in best]}


def shown(point, vector=False):
    fields = {k: point[k] for k in ("id", "owner", "text", "payload")} | {"expires_at": None}
    return fields | {"vector": point["vector"]} if vector else fields


def answer(server, method, path, headers, body):
    """(status, JSON) of a request to /v1/collections. `server.collections` is None where none are kept."""
    split = urlsplit(path)
    parts, query = [unquote(p) for p in split.path.split("/")[3:]], parse_qs(split.query)
    is_admin = server.key is None or server.is_admin
    own = "default" if server.key is None else "reader"
    tenant = headers.get("x-apus-tenant", own).encode("latin-1").decode()
    if tenant != own and not is_admin:
        return fail(403, "x-apus-tenant names another tenant than the API key's", "other_tenant", "x-apus-tenant",
                    "permission_error")
    if server.collections is None:
        return fail(404, "this server keeps no collections: start it with --collections FOLDER, or with collections: "
                    "FOLDER in the file of --config", "collections_disabled")
    if not parts:
        return 200, {"object": "list", "data": [c.description() for c in server.collections.values()]}
    collection = server.collections.get(parts[0])
    if collection is None:
        return fail(404, "there is no such collection", "not_found")
    if tenant == "frozen" and parts[1:] != ["stats"]:
        return fail(403, "the tenant 'frozen' is inactive", "tenant_inactive", None, "permission_error")
    match method, parts[1:]:
        case "GET", ["stats"]:
            own = {"object": "stats", "tenant": collection.tenant(tenant)}
            return 200, own | {"collection": collection.totals()} if is_admin else own
        case "GET", ["tenants"]:
            if not is_admin:
                return fail(403, "only an administrator may list tenants", "forbidden", None, "permission_error")
            limit, after = int(query.get("limit", ["100"])[0]), query.get("after", [""])[0]
            names = [name for name in collection.tenants() if name > after]
            page = names[:limit]
            return 200, {"object": "list", "data": [collection.tenant(name) for name in page],
                         "next_after": page[-1] if len(names) > limit else None}
        case "POST", ["search"]:
            return search(collection, tenant, body)
        case "POST", ["scroll"]:
            points, start = collection.visible(tenant), int(body.get("cursor", 0))
            end = start + body.get("limit", 100)
            vectors = server.scroll_has_vectors and body.get("with_vectors", False)
            return 200, {"object": "list", "data": [shown(p, vectors) for p in points[start:end]],
                         "next_cursor": str(end) if end < len(points) else None}
        case "GET", ["points", name]:
            key = name if query.get("key") == ["string"] or not re.fullmatch(r"-?\d+", name) else int(name)
            owner = query.get("owner", [tenant])[0]
            for p in collection.visible(tenant):
                if p["id"] == key and p["owner"] == owner:
                    return 200, shown(p, vector=True)
            return fail(404, "the point is not there", "not_found")
    return fail(404, f"there is no route {path}", "unknown_url")
