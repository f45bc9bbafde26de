#!/usr/bin/env python3
"""A real Anthropic client against a running `apus serve`: APUS_URL=http://127.0.0.1:PORT python anthropic_messages.py

Every check says what it saw; the first failure ends the script with status 1. The server may still be loading its
model: the script waits up to two minutes for /v1/models. Without the client it prints SKIPPED and ends with status 0.
"""
import json
import sys
import urllib.error
import urllib.request

try:
    import anthropic
except ImportError as error:
    print(f"SKIPPED: anthropic_messages needs the Python package anthropic: {error}")
    sys.exit(0)

from checks import BASE, check, expect, first_model, KEY, run

client = anthropic.Anthropic(base_url=BASE, api_key=KEY, max_retries=0, timeout=120)
QUESTION = [{"role": "user", "content": "Name three birds."}]
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather of a city.",
    "input_schema": {
        "type": "object", "properties": {"city": {"type": "string", "description": "the city's name"}},
        "required": ["city"]},
}


def fields(**options):
    """A request's fields. Clients since 2.13 have no arguments for sampling: it goes into the body as it is."""
    body = {name: options.pop(name) for name in ("temperature", "top_k", "top_p") if name in options}
    return {"model": model, "messages": QUESTION, "max_tokens": 24, "extra_body": body, **options}


def ask(**options):
    return client.messages.create(**fields(**options))


def raw(path, body):
    """One request without the client's help: (status, headers, body text)."""
    request = urllib.request.Request(
        BASE + path, data=body, method="POST",
        headers={"Content-Type": "application/json", "x-api-key": KEY, "anthropic-version": "2023-06-01"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.headers, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


@check
def a_message_is_answered_with_usage():
    answer = ask()
    expect(answer.type == "message" and answer.role == "assistant", f"{answer}")
    expect(answer.id.startswith("msg_") and answer.model == model, f"{answer.id} {answer.model}")
    expect([b.type for b in answer.content] == ["text"] and answer.content[0].text, f"{answer.content}")
    expect(answer.stop_reason in ("end_turn", "max_tokens"), f"{answer.stop_reason}")
    usage = answer.usage
    total = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    expect(total > 0 and 0 < usage.output_tokens <= 24, f"{usage}")
    expect(answer._request_id and answer._request_id.startswith("req_"), f"request id {answer._request_id}")


@check
def the_answer_ends_with_max_tokens():
    answer = ask(max_tokens=3)
    expect(answer.stop_reason == "max_tokens" and answer.usage.output_tokens == 3, f"{answer}")


@check
def a_stream_says_what_the_whole_answer_says():
    whole = ask(temperature=0)
    kinds = []
    with client.messages.stream(**fields(temperature=0)) as stream:
        for event in stream:
            kinds.append(event.type)
        final = stream.get_final_message()
    expect(final.content[0].text == whole.content[0].text, f"stream {final.content}, whole {whole.content}")
    expect(final.stop_reason == whole.stop_reason, f"{final.stop_reason} / {whole.stop_reason}")
    expect(final.usage.output_tokens == whole.usage.output_tokens, f"{final.usage} / {whole.usage}")
    expect(kinds[0] == "message_start" and kinds[-1] == "message_stop", f"{kinds}")
    expect(kinds.count("content_block_delta") > 3, f"only {kinds.count('content_block_delta')} deltas: not a stream")


@check
def the_events_come_in_the_documented_order():
    body = json.dumps({"model": model, "messages": QUESTION, "max_tokens": 4, "stream": True}).encode()
    status, headers, text = raw("/v1/messages", body)
    expect(status == 200 and headers["Content-Type"].startswith("text/event-stream"), f"{status} {headers}")
    names = []
    for event in text.split("\n\n")[:-1]:
        name, data = event.split("\n")
        kind = json.loads(data.removeprefix("data: "))["type"]
        expect(name == f"event: {kind}", f"{name!r} carries {kind}")
        if kind != "ping" and names[-1:] != [kind]:
            names.append(kind)
    expect(names == ["message_start", "content_block_start", "content_block_delta", "content_block_stop",
                     "message_delta", "message_stop"], f"{names}")


@check
def a_stop_sequence_ends_the_answer_and_is_named():
    text = ask(temperature=0).content[0].text
    expect(len(text) > 8, f"answer too short to cut: {text!r}")
    stop = text[5:8]
    answer = ask(temperature=0, stop_sequences=[stop])
    expect(answer.content[0].text == text[: text.index(stop)], f"{answer.content} of {text!r}")
    expect(answer.stop_reason == "stop_sequence" and answer.stop_sequence == stop, f"{answer}")


@check
def system_prompts_and_histories_are_read():
    messages = [
        {"role": "user", "content": "Say yes."},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
        {"role": "user", "content": [{"type": "text", "text": "Say it "}, {"type": "text", "text": "again."}]},
    ]
    system = [{"type": "text", "text": "Answer in one word.", "cache_control": {"type": "ephemeral"}}]
    answer = ask(messages=messages, system=system, max_tokens=8)
    expect(answer.content and answer.stop_reason, f"{answer}")
    expect(ask(messages=messages, system="Answer in one word.", max_tokens=2).content, "no answer")


@check
def tokens_are_counted_as_the_answer_counts_them():
    count = client.messages.count_tokens(model=model, messages=QUESTION)
    usage = ask(max_tokens=1).usage
    total = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    expect(count.input_tokens == total, f"counted {count.input_tokens}, used {usage}")
    # Templates have a system prompt of their own for requests without one: compare two given ones.
    short, long = (client.messages.count_tokens(model=model, messages=QUESTION, system=system).input_tokens
                   for system in ("Be brief.", "Be brief. " * 20))
    expect(long > short + 20, f"{long} / {short}")


@check
def tools_and_their_results_are_read():
    messages = [
        {"role": "user", "content": "What is the weather in Bern?"},
        {"role": "assistant", "content": [
            {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Bern"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "Sunny, 21 °C"}]},
    ]
    answer = ask(messages=messages, tools=[WEATHER], tool_choice={"type": "auto"}, max_tokens=32)
    expect(answer.content, f"{answer}")
    # A small model may or may not call: what it does must be well-formed.
    has_called = False
    for options in ({}, {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
                    {"tool_choice": {"type": "none"}}):
        answer = ask(messages=messages[:1], tools=[WEATHER], max_tokens=64, temperature=0, **options)
        calls = [b for b in answer.content if b.type == "tool_use"]
        expect((answer.stop_reason == "tool_use") <= bool(calls), f"{answer}")
        has_called = has_called or bool(calls)
        for call in calls:
            expect(call.id and call.name == "get_weather" and isinstance(call.input, dict), f"{call}")
        with client.messages.stream(**fields(
                messages=messages[:1], tools=[WEATHER], max_tokens=64, temperature=0, **options)) as stream:
            final = stream.get_final_message()
        expect([(b.type, getattr(b, "text", None) or getattr(b, "input", None)) for b in final.content]
               == [(b.type, getattr(b, "text", None) or getattr(b, "input", None)) for b in answer.content],
               f"stream {final.content}, whole {answer.content}")
    print(f"        (the model called a tool: {has_called})")


@check
def a_call_can_be_demanded():
    question = [{"role": "user", "content": "What is the weather in Bern?"}]
    clock = {"name": "get_time", "input_schema": {"type": "object", "properties": {}}}
    # One call each: a small model that may go on repeats a call until the limit cuts the last one.
    for choice, names in (({"type": "any"}, {"get_weather", "get_time"}),
                          ({"type": "tool", "name": "get_time"}, {"get_time"})):
        answer = ask(messages=question, tools=[WEATHER, clock], max_tokens=200,
                     tool_choice={**choice, "disable_parallel_tool_use": True})
        calls = [b for b in answer.content if b.type == "tool_use"]
        expect(calls and calls == answer.content and answer.stop_reason in ("tool_use", "max_tokens"), f"{answer}")
        expect({c.name for c in calls} <= names, f"{calls}")
        expect(len(calls) == 1, f"{calls}")


@check
def the_stop_sequence_that_came_is_named():
    answer = ask(max_tokens=200, temperature=0, stop_sequences=["no such text", "a", "e"])
    expect(answer.stop_reason == "stop_sequence" and answer.stop_sequence in ("a", "e"), f"{answer}")


@check
def a_schema_is_kept_to():
    schema = {"type": "object", "properties": {"bird": {"type": "string"}, "legs": {"type": "integer"}},
              "required": ["bird", "legs"], "additionalProperties": False}
    for _ in range(3):
        answer = ask(max_tokens=200, output_config={"format": {"type": "json_schema", "schema": schema}})
        if answer.stop_reason == "max_tokens":
            continue
        value = json.loads(answer.content[0].text)
        expect(set(value) == {"bird", "legs"} and isinstance(value["legs"], int), f"{value}")
        return
    raise AssertionError("three answers did not end within 200 tokens")


@check
def errors_are_the_clients_own():
    for error, options in [
        (anthropic.NotFoundError, {"model": "no-such-model"}),
        (anthropic.BadRequestError, {"messages": []}),
        (anthropic.BadRequestError, {"temperature": 7}),
        (anthropic.BadRequestError, {"top_p": "high"}),
        (anthropic.BadRequestError, {"max_tokens": -1}),
        (anthropic.BadRequestError, {"messages": [{"role": "user", "content": "bird " * 60000}]}),
        (anthropic.BadRequestError, {"messages": [{"role": "user", "content": [{"type": "image", "source": {
            "type": "base64", "media_type": "image/png", "data": "AA=="}}]}]}),
        (anthropic.BadRequestError, {"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_9", "content": "x"}]}]}),
    ]:
        for stream in (False, True):
            try:
                ask(stream=stream, **options)
            except error as seen:
                body = seen.body
                expect(body["type"] == "error" and body["error"]["type"] and body["error"]["message"], f"{body}")
                expect(seen.request_id and seen.request_id == body["request_id"], f"{seen.request_id} / {body}")
            else:
                raise AssertionError(f"{options} was answered")


@check
def broken_bodies_have_the_same_shape():
    for path, body, expected, kind in [
        ("/v1/messages", b'{"model": "x", "messages": [', 400, "invalid_request_error"),
        ("/v1/messages", b"", 400, "invalid_request_error"),
        ("/v1/messages/count_tokens", b"[]", 400, "invalid_request_error"),
        ("/v1/messages/no-such-route", b"{}", 404, "not_found_error"),
    ]:
        status, headers, text = raw(path, body)
        error = json.loads(text)
        expect(status == expected and error["type"] == "error" and error["error"]["type"] == kind, f"{status} {text}")
        expect(headers["request-id"] == error["request_id"], f"{headers['request-id']} / {text}")


model = first_model()
run(f"anthropic {anthropic.__version__} against {BASE}, model {model}")
