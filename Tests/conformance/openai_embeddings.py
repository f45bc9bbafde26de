#!/usr/bin/env python3
"""Embeddings and reranking with real clients against a running `apus serve` that has an encoder:
APUS_URL=http://127.0.0.1:PORT APUS_ENCODER=minilm-l6 python openai_embeddings.py

Every check says what it saw; the first failure ends the script with status 1. Without APUS_ENCODER the first model that
makes embeddings is taken; a server without one is printed as skipped.
"""
import json
import os
import struct
import sys
import urllib.request

try:
    import openai
except ImportError:
    print("SKIPPED: openai is not installed")
    sys.exit(0)

from checks import BASE, check, expect, first_model, KEY, run

client = openai.OpenAI(base_url=BASE + "/v1", api_key=KEY, max_retries=0, timeout=120)


TEXTS = ["a bird that flies fast", "swifts are fast birds", "the tax return of a company"]


def embed(input, **options):
    return client.embeddings.create(**{"model": model, "input": input, **options})


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


def single(vector):
    return struct.pack(f"<{len(vector)}f", *vector)


def post(path, body):
    request = urllib.request.Request(
        BASE + path, json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}, method="POST")
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


@check
def likeness_of_meaning_is_likeness_of_vectors():
    answer = embed(TEXTS)
    vectors = [d.embedding for d in answer.data]
    expect([d.index for d in answer.data] == [0, 1, 2], f"{[d.index for d in answer.data]}")
    expect(cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2]) + 0.1, "the wrong texts are alike")
    for vector in vectors:
        expect(abs(sum(x * x for x in vector) - 1) < 1e-3, "a vector is not of length 1")
    expect(answer.usage.prompt_tokens == answer.usage.total_tokens > len(TEXTS), f"{answer.usage}")


@check
def both_encodings_give_the_same_numbers():
    # The client asks for base64 unless told otherwise, and decodes it.
    base64, floats = embed(TEXTS), embed(TEXTS, encoding_format="float")
    for a, b in zip(base64.data, floats.data):
        # The text is the shortest that reads back as the same 32-bit number.
        expect(single(a.embedding) == single(b.embedding), "base64 and float differ")


@check
def texts_and_their_tokens_have_one_vector():
    tokens = [post("/tokenize", {"model": model, "prompt": t})["tokens"] for t in TEXTS]
    # Kernels may sum a batch in another order than one text.
    for a, b in zip(embed(TEXTS).data, embed(tokens).data):
        expect(cosine(a.embedding, b.embedding) > 0.9999, "tokens and text differ")
    one = embed(tokens[0]).data
    expect(len(one) == 1 and cosine(one[0].embedding, embed(TEXTS[0]).data[0].embedding) > 0.9999, "one list of tokens")


@check
def dimensions_must_be_those_of_the_model():
    size = len(embed("a").data[0].embedding)
    expect(len(embed("a", dimensions=size).data[0].embedding) == size, "the model's own size was refused")
    try:
        embed("a", dimensions=size - 1)
    except openai.BadRequestError as error:
        expect(error.param == "dimensions" and str(size) in str(error), f"{error}")
    else:
        raise AssertionError("another size was accepted")


@check
def wrong_inputs_are_named():
    for options, field in [({"input": []}, "input"), ({"input": ["a", 1]}, "input.1"), ({"input": [10 ** 8]}, "input.0"),
                           ({"input": "bird " * 5000}, "input"), ({"encoding_format": "int8"}, "encoding_format")]:
        try:
            embed(**{"input": "a", **options})
        except openai.BadRequestError as error:
            expect(error.param == field, f"{error.param} for {str(options)[:60]}")
        else:
            raise AssertionError(f"{options} was accepted")
    try:
        embed("a", model="no-such-model")
    except openai.NotFoundError as error:
        expect("no-such-model" in str(error), f"{error}")
    else:
        raise AssertionError("an unknown model was accepted")


@check
def documents_are_ranked_by_likeness():
    for path in ("/v1/rerank", "/rerank"):
        answer = post(path, {"model": model, "query": "quick birds", "documents": [TEXTS[2], {"text": TEXTS[1]}, TEXTS[0]],
                             "top_n": 2, "return_documents": True})
        results = answer["results"]
        expect(len(results) == 2 and {r["index"] for r in results} == {1, 2}, f"{results}")
        expect(results[0]["relevance_score"] >= results[1]["relevance_score"], f"{results}")
        expect({r["document"]["text"] for r in results} == {TEXTS[0], TEXTS[1]}, f"{results}")


def encoder():
    first_model()
    if name := os.environ.get("APUS_ENCODER"):
        return name
    for candidate in client.models.list().data:
        try:
            client.embeddings.create(model=candidate.id, input="a")
            return candidate.id
        except openai.BadRequestError:
            continue
    print(f"SKIPPED: no model at {BASE} makes embeddings")
    sys.exit(0)


model = encoder()
run(f"embeddings with openai {openai.__version__} against {BASE}, model {model}")
