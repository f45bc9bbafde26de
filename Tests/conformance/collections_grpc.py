#!/usr/bin/env python3
"""Drives the collections of `apus serve --collections FOLDER --grpc-port PORT` with Python's grpcio.

The stubs are made of the repository's .proto files when the script runs, as any user's would be. Prints SKIPPED where
grpcio is not installed or the server speaks no gRPC.

    pip install grpcio grpcio-tools
    APUS_GRPC=127.0.0.1:50051 Tests/conformance/collections_grpc.py
    APUS_GRPC='[::1]:50051' APUS_GRPC_CA=certificate.pem Tests/conformance/collections_grpc.py

Environment: APUS_GRPC (host:port), APUS_GRPC_CA (a certificate to trust: speaks TLS), APUS_API_KEY (an administrator's,
where the server has keys), APUS_BODY_LIMIT (bytes of a message, where it is not 16 MiB).
"""
import os
import random
import sys
import tempfile
import uuid
from pathlib import Path

from checks import KEY, PATIENCE, check, expect, run

ADDRESS = os.environ.get("APUS_GRPC")
PROTOS = Path(__file__).resolve().parents[2] / "Sources/ApusGRPC/Protos"
PROTO_FILES = "apus/vectors/v1/collections.proto", "grpc/health/v1/health.proto"
BODY_LIMIT = int(os.environ.get("APUS_BODY_LIMIT", 16 << 20))

if not ADDRESS:
    sys.exit(print("SKIPPED: APUS_GRPC says no address of a server") or 0)
try:
    import grpc
    from grpc_tools import protoc
except ImportError as error:
    sys.exit(print(f"SKIPPED: {error}") or 0)

stubs = tempfile.TemporaryDirectory()
status = protoc.main(["protoc", f"--proto_path={PROTOS}", f"--python_out={stubs.name}",
                      f"--grpc_python_out={stubs.name}", *PROTO_FILES])
expect(status == 0, f"protoc left with {status}")
sys.path.insert(0, stubs.name)
# The stubs' folder grpc must not hide the package of that name.
grpc.__path__.append(f"{stubs.name}/grpc")
from apus.vectors.v1 import collections_pb2 as wire  # noqa: E402
from apus.vectors.v1.collections_pb2_grpc import CollectionsStub  # noqa: E402
from grpc.health.v1 import health_pb2 as health  # noqa: E402
from grpc.health.v1.health_pb2_grpc import HealthStub  # noqa: E402

if os.environ.get("APUS_GRPC_CA"):
    trusted = Path(os.environ["APUS_GRPC_CA"]).read_bytes()
    channel = grpc.secure_channel(ADDRESS, grpc.ssl_channel_credentials(trusted))
else:
    channel = grpc.insecure_channel(ADDRESS)
try:
    grpc.channel_ready_future(channel).result(timeout=PATIENCE)
except grpc.FutureTimeoutError:
    sys.exit(f"no gRPC server at {ADDRESS}")
service = CollectionsStub(channel)
# Of its own, so that runs do not meet.
NAME = f"grpc-{uuid.uuid4().hex[:12]}"
DIM = 16


def caller(tenant):
    return [("authorization", f"Bearer {KEY}"), ("x-apus-tenant", tenant)]


ADMIN, ALICE, BOB = caller("admin"), caller("alice"), caller("bob")


def integer(number):
    return wire.PointID(integer=number)


def text(name):
    return wire.PointID(text=name)


def fails(code, call):
    """The error's details, as text; fails unless the call ends with this status."""
    try:
        answer = call()
    except grpc.RpcError as error:
        expect(error.code() == code, f"{error.code()} instead of {code}: {error.details()}")
        return error.details()
    raise AssertionError(f"answered with {str(answer)[:200]}")


@check
def is_healthy_without_a_key():
    probe = HealthStub(channel)
    for name in "", "apus.vectors.v1.Collections":
        status = probe.Check(health.HealthCheckRequest(service=name)).status
        expect(status == health.HealthCheckResponse.SERVING, f"{name}: {status}")
    fails(grpc.StatusCode.NOT_FOUND, lambda: probe.Check(health.HealthCheckRequest(service="other")))
    watch = probe.Watch(health.HealthCheckRequest())
    expect(next(watch).status == health.HealthCheckResponse.SERVING, "the first status of a watch")
    watch.cancel()


@check
def makes_a_collection():
    made = service.CreateCollection(
        wire.Collection(name=NAME, dimension=DIM, metric=wire.METRIC_L2, indexed_fields=["lang"]), metadata=ADMIN)
    expect(made.dimension == DIM and made.quantizer == wire.QUANTIZER_RABITQ, str(made))
    names = [c.name for c in service.ListCollections(wire.ListCollectionsRequest(), metadata=ALICE).collections]
    expect(NAME in names, str(names))


@check
def finds_what_a_brute_force_search_finds():
    source = random.Random(11)
    vectors = {owner: [[source.uniform(-1, 1) for _ in range(DIM)] for _ in range(300)] for owner in ("alice", "bob")}
    for owner, rows in vectors.items():
        points = [wire.Point(id=integer(i), vector=row, payload='{"lang":"%s"}' % ("en", "de")[i % 2])
                  for i, row in enumerate(rows)]
        count = service.UpsertPoints(wire.UpsertPointsRequest(collection=NAME, points=points),
                                     metadata=caller(owner)).count
        expect(count == 300, f"{count} points")
    shared = [i for i in range(300) if i % 7 == 0]
    granted = service.Grant(wire.GrantRequest(collection=NAME, ids=map(integer, shared), tenants=["bob"]),
                            metadata=ALICE).granted
    expect(granted == len(shared), f"{granted} grants")
    for who, metadata in (("alice", ALICE), ("bob", BOB)):
        visible = [(who, i, row) for i, row in enumerate(vectors[who])]
        if who == "bob":
            visible += [("alice", i, vectors["alice"][i]) for i in shared]
        queries = [[source.uniform(-1, 1) for _ in range(DIM)] for _ in range(10)]
        batch = service.SearchBatch(wire.SearchBatchRequest(
            collection=NAME, queries=[wire.Query(vector=q, k=20) for q in queries]), metadata=metadata)
        for query, result in zip(queries, batch.results):
            nearest = sorted(visible, key=lambda entry: sum((a - b) ** 2 for a, b in zip(entry[2], query)))[:20]
            found = [(hit.point.owner, hit.point.id.integer) for hit in result.hits]
            expect(found == [(owner, i) for owner, i, _ in nearest], f"{who}: {found}")


@check
def filters_by_the_payload():
    german = wire.PayloadFilter(field=wire.FieldCondition(field="lang", equals=wire.Value(text="de")))
    hits = service.Search(wire.SearchRequest(
        collection=NAME, query=wire.Query(vector=[0] * DIM, k=300, filter=german)), metadata=ALICE).hits
    expect(sorted(hit.point.id.integer for hit in hits) == list(range(1, 300, 2)), f"{len(hits)} hits")


@check
def streams_10000_points():
    def batches():
        for batch in range(20):
            yield wire.UpsertPointsRequest(collection=NAME, points=[
                wire.Point(id=text(f"{batch}-{i}"), vector=[batch, i] + [0] * (DIM - 2)) for i in range(500)])

    answers = [answer.count for answer in service.StreamPoints(batches(), metadata=caller("carol"))]
    expect(answers == [500] * 20, str(answers))
    count = service.Count(wire.CountRequest(collection=NAME), metadata=caller("carol")).count
    expect(count == 10_000, f"{count} points")


@check
def reveals_nothing_of_others():
    absent = fails(grpc.StatusCode.NOT_FOUND, lambda: service.GetPoint(
        wire.GetPointRequest(collection=NAME, id=text("none")), metadata=BOB))
    foreign = fails(grpc.StatusCode.NOT_FOUND, lambda: service.GetPoint(
        wire.GetPointRequest(collection=NAME, id=text("0-0"), owner="carol"), metadata=BOB))
    expect(absent == foreign, f"{absent!r} and {foreign!r}")


@check
def says_what_is_wrong():
    def search(query):
        return lambda: service.Search(wire.SearchRequest(collection=NAME, query=query), metadata=ALICE)

    message = fails(grpc.StatusCode.INVALID_ARGUMENT, search(wire.Query(vector=[float("nan")] + [0] * (DIM - 1))))
    expect(message == "query.vector.0 is nan, expected a finite number", message)
    message = fails(grpc.StatusCode.INVALID_ARGUMENT, search(wire.Query(vector=[1, 2])))
    expect(message == f"query.vector is 2 numbers, expected {DIM}", message)
    message = fails(grpc.StatusCode.ALREADY_EXISTS, lambda: service.CreateCollection(
        wire.Collection(name=NAME, dimension=3), metadata=ADMIN))
    expect(NAME in message, message)


@check
def a_message_beyond_the_limit_is_told():
    for size in BODY_LIMIT + 1, 3 * BODY_LIMIT:
        point = wire.Point(id=text("large"), vector=[0] * DIM, payload=" " * size)
        message = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, lambda: service.UpsertPoints(
            wire.UpsertPointsRequest(collection=NAME, points=[point]), metadata=ALICE))
        expect(f"expected at most {BODY_LIMIT}" in message, message)
    fails(grpc.StatusCode.NOT_FOUND, lambda: service.GetPoint(
        wire.GetPointRequest(collection=NAME, id=text("large")), metadata=ALICE))


@check
def holds_quotas_and_shows_them():
    dora = caller("dora")

    def change(**fields):
        return service.UpdateTenant(
            wire.UpdateTenantRequest(collection=NAME, tenant="dora", **fields), metadata=ADMIN)

    def store(name):
        return service.UpsertPoints(wire.UpsertPointsRequest(
            collection=NAME, points=[wire.Point(id=text(name), vector=[1] * DIM)]), metadata=dora)

    expect(change(byte_quota=4 * DIM + 9).byte_quota == 4 * DIM + 9, "the quota")
    store("a")
    message = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, lambda: store("b"))
    expect("can hold no more bytes" in message, message)
    change(query_quota=0.01)
    count = wire.CountRequest(collection=NAME)
    expect(service.Count(count, metadata=dora).count == 1, "the first count")
    message = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, lambda: service.Count(count, metadata=dora))
    expect("0.01 queries a second: try again in" in message, message)
    names, after = [], None
    while True:
        page = service.ListTenants(wire.ListTenantsRequest(collection=NAME, limit=2, after=after), metadata=ADMIN)
        names += [tenant.tenant for tenant in page.tenants]
        if not page.HasField("next_after"):
            break
        after = page.next_after
    expect(names == ["alice", "bob", "carol", "dora"], str(names))
    own = service.GetTenant(wire.GetTenantRequest(collection=NAME, tenant="dora"), metadata=dora)
    expect(own.bytes.total == 4 * DIM + 9 and own.refused_queries == 1, str(own))
    stats = service.GetStats(wire.GetStatsRequest(collection=NAME), metadata=ADMIN).collection.bytes
    expect(stats.total == stats.vectors + stats.index + stats.payloads > 0, str(stats))


@check
def says_the_id_of_a_call():
    _, call = service.Count.with_call(
        wire.CountRequest(collection=NAME), metadata=[*ALICE, ("x-request-id", "from-python")])
    expect(("x-request-id", "from-python") in [(k, v) for k, v in call.initial_metadata()], str(call.initial_metadata()))


@check
def exports_and_forgets():
    request = wire.ExportTenantRequest(collection=NAME, tenant="alice")
    lines = b"".join(page.lines for page in service.ExportTenant(request, metadata=ALICE)).splitlines()
    expect(len(lines) == 300, f"{len(lines)} lines")
    service.DeleteTenant(wire.DeleteTenantRequest(collection=NAME, tenant="alice", erase=True), metadata=ALICE)
    count = service.Count(wire.CountRequest(collection=NAME), metadata=ALICE).count
    expect(count == 0, f"{count} points left")
    service.DeleteCollection(wire.DeleteCollectionRequest(collection=NAME), metadata=ADMIN)
    fails(grpc.StatusCode.NOT_FOUND, lambda: service.GetCollection(
        wire.GetCollectionRequest(collection=NAME), metadata=ADMIN))


run(f"grpcio {grpc.__version__}")
