#!/usr/bin/env python3
"""A real OpenAI client against a running `apus serve`: APUS_URL=http://127.0.0.1:PORT python openai_chat.py

Every check says what it saw; the first failure ends the script with status 1. The server may still be loading its
model: the script waits up to two minutes for /v1/models.
"""
import http.client
import json
import time
import urllib.error
import urllib.request

import openai

from checks import BASE, check, expect, first_model, KEY, run

client = openai.OpenAI(base_url=BASE + "/v1", api_key=KEY, max_retries=0, timeout=120)
QUESTION = [{"role": "user", "content": "Name three birds."}]


def chat(**options):
    return client.chat.completions.create(**{"model": model, "messages": QUESTION, "max_tokens": 24, **options})


def raw(path, body, headers=None):
    """One request without the client's help: (status, content type, body text)."""
    request = urllib.request.Request(
        BASE + path, data=body, headers={"Content-Type": "application/json", **(headers or {})}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.headers["Content-Type"], response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def error_of(status, kind, text, expected_status):
    """The OpenAI error object of a response, after checking its shape."""
    expect(status == expected_status, f"status {status}, expected {expected_status}: {text[:200]}")
    expect(kind and kind.startswith("application/json"), f"an error of type {kind}")
    error = json.loads(text)["error"]
    expect(set(error) >= {"message", "type", "param", "code"}, f"error has only {sorted(error)}")
    expect(isinstance(error["message"], str) and error["message"], "an error without a message")
    return error


@check
def models_are_listed_and_each_can_be_retrieved():
    models = client.models.list().data
    expect(models, "no model is listed")
    for m in models:
        expect(m.object == "model" and m.owned_by, f"{m}")
        expect(client.models.retrieve(m.id).id == m.id, f"{m.id} cannot be retrieved")


@check
def an_unknown_model_cannot_be_retrieved():
    try:
        client.models.retrieve("no-such-model")
    except openai.NotFoundError as error:
        expect("no-such-model" in str(error), f"the message does not name it: {error}")
    else:
        raise AssertionError("retrieved a model that does not exist")


@check
def a_chat_is_answered_with_usage():
    answer = chat()
    expect(answer.object == "chat.completion" and answer.id, f"{answer}")
    expect(answer.model, "no model in the answer")
    expect(abs(answer.created - time.time()) < 300, f"created {answer.created}")
    expect(len(answer.choices) == 1, f"{len(answer.choices)} choices")
    choice = answer.choices[0]
    expect(choice.index == 0 and choice.message.role == "assistant", f"{choice}")
    expect(choice.message.content, "empty content")
    expect(choice.finish_reason in ("stop", "length"), f"finish_reason {choice.finish_reason}")
    usage = answer.usage
    expect(usage.prompt_tokens > 0 and usage.completion_tokens > 0, f"{usage}")
    expect(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, f"{usage}")


@check
def max_tokens_is_the_number_of_tokens_and_finishes_by_length():
    for limit in ({"max_tokens": 3}, {"max_tokens": openai.NOT_GIVEN, "max_completion_tokens": 3}):
        answer = chat(temperature=0, **limit)
        expect(answer.usage.completion_tokens == 3, f"{answer.usage} for {limit}")
        expect(answer.choices[0].finish_reason == "length", answer.choices[0].finish_reason)


@check
def a_stream_says_what_the_whole_answer_says():
    whole = chat(temperature=0)
    role, text, reasons, last, chunks = None, "", [], None, 0
    for chunk in chat(temperature=0, stream=True, stream_options={"include_usage": True}):
        expect(chunk.object == "chat.completion.chunk", chunk.object)
        chunks += 1
        last = chunk
        for choice in chunk.choices:
            role = role or choice.delta.role
            text += choice.delta.content or ""
            if choice.finish_reason:
                reasons.append(choice.finish_reason)
    expect(role == "assistant", f"role {role}")
    expect(text == whole.choices[0].message.content, f"stream {text!r}, whole {whole.choices[0].message.content!r}")
    expect(reasons == [whole.choices[0].finish_reason], f"finish reasons {reasons}")
    expect(chunks > 3, f"only {chunks} chunks: not a stream")
    expect(last.choices == [] and last.usage is not None, "the last chunk does not carry the usage alone")
    expect(last.usage.completion_tokens == whole.usage.completion_tokens, f"{last.usage} / {whole.usage}")


@check
def a_stream_is_server_sent_events_that_end_with_done():
    body = json.dumps({"model": model, "messages": QUESTION, "max_tokens": 4, "stream": True}).encode()
    status, kind, text = raw("/v1/chat/completions", body)
    expect(status == 200 and kind.startswith("text/event-stream"), f"{status} {kind}")
    events = [e for e in text.split("\n\n") if e]
    expect(events[-1] == "data: [DONE]", f"the last event is {events[-1]!r}")
    ids = {json.loads(e.removeprefix("data: "))["id"] for e in events[:-1]}
    expect(len(ids) == 1, f"chunks of one answer have ids {ids}")


@check
def a_stream_without_usage_option_carries_none():
    for chunk in chat(stream=True, max_tokens=3):
        expect(chunk.usage is None, "usage without include_usage")


@check
def a_stop_string_ends_the_answer_and_is_not_part_of_it():
    whole = chat(temperature=0, max_tokens=24).choices[0].message.content
    expect(len(whole) > 8, f"answer too short to cut: {whole!r}")
    stop = whole[5:8]
    expected = whole[: whole.index(stop)]
    answer = chat(temperature=0, stop=[stop])
    expect(answer.choices[0].message.content == expected, f"{answer.choices[0].message.content!r}, not {expected!r}")
    expect(answer.choices[0].finish_reason == "stop", answer.choices[0].finish_reason)
    streamed = "".join(
        c.choices[0].delta.content or "" for c in chat(temperature=0, stop=stop, stream=True) if c.choices)
    expect(streamed == expected, f"streamed {streamed!r}, not {expected!r}")


@check
def the_same_seed_gives_the_same_text():
    first, second = (chat(temperature=1.0, seed=7).choices[0].message.content for _ in range(2))
    expect(first == second, f"{first!r} and {second!r}")
    others = {chat(temperature=1.5, seed=s).choices[0].message.content for s in range(1, 6)}
    expect(len(others) > 1, "five seeds at temperature 1.5 gave one text")


@check
def a_system_message_and_a_history_are_accepted():
    messages = [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Say yes."},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": [{"type": "text", "text": "Say it again."}]},
    ]
    answer = client.chat.completions.create(model=model, messages=messages, max_tokens=8)
    shorter = client.chat.completions.create(model=model, messages=messages[1:2], max_tokens=8)
    expect(answer.usage.prompt_tokens > shorter.usage.prompt_tokens, f"{answer.usage} / {shorter.usage}")


def tool(name, properties, **options):
    parameters = {"type": "object", "properties": properties, "required": list(properties),
                  "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": parameters, **options}}


WEATHER = tool("get_weather", {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}})
CLOCK = tool("get_time", {})


@check
def a_call_can_be_demanded():
    for choice, names in (("required", {"get_weather", "get_time"}),
                          ({"type": "function", "function": {"name": "get_weather"}}, {"get_weather"})):
        options = dict(tools=[WEATHER, CLOCK], tool_choice=choice, parallel_tool_calls=False, max_tokens=200,
                       temperature=0)
        whole = chat(**options).choices[0]
        expect(whole.finish_reason == "tool_calls" and not whole.message.content, f"{whole}")
        expect(len(whole.message.tool_calls) == 1, f"{whole.message.tool_calls}")
        function = whole.message.tool_calls[0].function
        expect(function.name in names, f"{function}")
        arguments = json.loads(function.arguments)
        if function.name == "get_weather":
            expect(set(arguments) == {"city", "unit"} and arguments["unit"] in ("C", "F"), f"{arguments}")
        name = text = ""
        for chunk in chat(**options, stream=True):
            for call in chunk.choices[0].delta.tool_calls or [] if chunk.choices else []:
                name += call.function.name or ""
                text += call.function.arguments or ""
        expect((name, text) == (function.name, function.arguments), f"stream {name} {text}, whole {function}")


@check
def strict_tools_and_a_format_go_together():
    strict = tool("get_weather", {"city": {"type": "string", "maxLength": 20}}, strict=True)
    schema = {"type": "object", "properties": {"birds": {"type": "array", "items": {"type": "string", "maxLength": 12},
                                                         "maxItems": 3}}, "required": ["birds"]}
    form = {"type": "json_schema", "json_schema": {"name": "birds", "schema": schema}}
    for options in ({}, {"response_format": form}):
        message = chat(tools=[strict], max_tokens=200, temperature=0, **options).choices[0].message
        for call in message.tool_calls or []:
            expect(set(json.loads(call.function.arguments)) == {"city"}, f"{call}")
        if options and not message.tool_calls:
            expect(isinstance(json.loads(message.content)["birds"], list), f"{message}")
    try:
        chat(tools=[tool("f", {"a": {"not": {}}}, strict=True)], tool_choice="required")
        expect(False, "a schema that cannot be followed was taken")
    except openai.BadRequestError as error:
        expect(error.param == "tools.0.function.parameters", f"{error}")


@check
def an_unknown_model_is_an_error_that_names_it():
    body = json.dumps({"model": "no-such-model", "messages": QUESTION}).encode()
    error = error_of(*raw("/v1/chat/completions", body), 404)
    expect("no-such-model" in error["message"], error["message"])


@check
def broken_json_is_a_400():
    error_of(*raw("/v1/chat/completions", b'{"model": "x", "messages": ['), 400)
    error_of(*raw("/v1/chat/completions", b""), 400)
    error_of(*raw("/v1/chat/completions", b"\xff\xfe\x00"), 400)


@check
def wrong_fields_are_named():
    for field, value in [("temperature", "hot"), ("temperature", -1), ("max_tokens", -5), ("max_tokens", 1.5),
                         ("messages", []), ("messages", "hello"), ("top_p", 7)]:
        body = {"model": model, "messages": QUESTION, "max_tokens": 2, field: value}
        error = error_of(*raw("/v1/chat/completions", json.dumps(body).encode()), 400)
        expect(field in (error["param"] or "") or field in error["message"], f"{field}={value!r}: {error}")
    missing = error_of(*raw("/v1/chat/completions", json.dumps({"model": model}).encode()), 400)
    expect("messages" in missing["message"], missing["message"])


@check
def a_prompt_longer_than_the_context_is_refused_with_both_lengths():
    body = {"model": model, "messages": [{"role": "user", "content": "bird " * 60000}], "max_tokens": 2}
    error = error_of(*raw("/v1/chat/completions", json.dumps(body).encode()), 400)
    expect(error["code"] == "context_length_exceeded", f"code {error['code']}")
    expect(sum(c.isdigit() for c in error["message"]) >= 4, f"no lengths in {error['message']!r}")


@check
def an_unknown_route_is_an_error_in_the_same_shape():
    error_of(*raw("/v1/no-such-route", b"{}"), 404)


@check
def a_client_that_hangs_up_does_not_stop_the_server():
    host, port = BASE.split("//")[1].split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    body = json.dumps({"model": model, "messages": QUESTION, "max_tokens": 400, "stream": True})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    connection.getresponse().read(20)
    connection.close()
    begun = time.time()
    expect(chat(max_tokens=2).choices[0].message is not None, "no answer afterwards")
    expect(time.time() - begun < 60, "the abandoned answer was finished first")


model = first_model()
run(f"openai {openai.__version__} against {BASE}, model {model}")
