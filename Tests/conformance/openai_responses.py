#!/usr/bin/env python3
"""The Responses API with a real OpenAI client against a running `apus serve`:
APUS_URL=http://127.0.0.1:PORT python openai_responses.py

Every check says what it saw; the first failure ends the script with status 1. The server may still be loading its
model: the script waits up to two minutes for /v1/models.
"""
import sys

try:
    import openai
except ImportError:
    print("SKIPPED: openai is not installed")
    sys.exit(0)

from checks import BASE, check, expect, first_model, KEY, run

client = openai.OpenAI(base_url=BASE + "/v1", api_key=KEY, max_retries=0, timeout=120)


TOOL = {"type": "function", "name": "get_weather", "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}


def respond(**options):
    return client.responses.create(
        **{"model": model, "input": "Name three birds.", "max_output_tokens": 16, "temperature": 0, **options})


@check
def a_response_has_text_and_usage():
    response = respond(metadata={"a": "b"})
    expect(response.object == "response" and response.id.startswith("resp_"), f"{response}")
    expect(response.output_text, f"no text in {response.output}")
    expect(response.status in ("completed", "incomplete"), f"{response.status}")
    expect(response.metadata == {"a": "b"} and response.model, f"{response}")
    usage = response.usage
    expect(usage.input_tokens > 0 and usage.total_tokens == usage.input_tokens + usage.output_tokens, f"{usage}")


@check
def a_limit_makes_it_incomplete():
    response = respond(max_output_tokens=2)
    expect(response.status == "incomplete", f"{response.status}")
    expect(response.incomplete_details.reason == "max_output_tokens", f"{response.incomplete_details}")
    expect(response.usage.output_tokens == 2, f"{response.usage}")


@check
def a_stream_tells_every_step_in_order():
    whole = respond()
    events = list(respond(stream=True))
    names = [e.type.removeprefix("response.") for e in events]
    expect(names[:4] == ["created", "in_progress", "output_item.added", "content_part.added"], f"{names[:4]}")
    expect(names[-4:-1] == ["output_text.done", "content_part.done", "output_item.done"], f"{names[-4:]}")
    expect(names[-1] in ("completed", "incomplete"), names[-1])
    expect(set(names[4:-4]) == {"output_text.delta"}, f"{set(names[4:-4])}")
    expect([e.sequence_number for e in events] == list(range(len(events))), "sequence numbers have gaps")
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    expect(text == whole.output_text == events[-1].response.output_text, f"{text!r} / {whole.output_text!r}")


@check
def the_clients_own_accumulator_accepts_the_stream():
    with client.responses.stream(model=model, input="Say hello.", temperature=0) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    expect(final.output_text and final.id.startswith("resp_"), f"{final}")


@check
def a_response_is_kept_and_can_be_deleted():
    response = respond()
    kept = client.responses.retrieve(response.id)
    expect(kept.output_text == response.output_text and kept.id == response.id, f"{kept}")
    items = client.responses.input_items.list(response.id).data
    expect(len(items) == 1 and items[0].content[0].text == "Name three birds.", f"{items}")
    expect(client.responses.cancel(response.id).status == response.status, "cancel changed a finished response")
    client.responses.delete(response.id)
    for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel,
                 lambda id: client.responses.input_items.list(id)):
        try:
            call(response.id)
        except openai.NotFoundError as error:
            expect(response.id in str(error), f"{error}")
        else:
            raise AssertionError("a deleted response is still there")


@check
def nothing_is_kept_without_store():
    response = respond(store=False)
    expect(response.store is False, f"{response.store}")
    try:
        client.responses.retrieve(response.id)
    except openai.NotFoundError:
        return
    raise AssertionError("a response with store: false was kept")


@check
def a_conversation_goes_on_by_the_id_of_its_last_response():
    first = respond(input="My name is Ada.", instructions="Be brief.")
    second = respond(input="What is my name?", previous_response_id=first.id)
    alone = respond(input="What is my name?")
    expect(second.previous_response_id == first.id, f"{second.previous_response_id}")
    expect(second.usage.input_tokens > alone.usage.input_tokens + first.usage.output_tokens, f"{second.usage} / {alone.usage}")
    expect(second.id[5:21] == first.id[5:21], "the key of the conversation did not go on")
    spelt = respond(input=[
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "What is my name?"}])
    expect(spelt.usage.input_tokens == second.usage.input_tokens, f"{spelt.usage} / {second.usage}")
    expect(spelt.output_text == second.output_text, f"{spelt.output_text!r} / {second.output_text!r}")


@check
def calls_and_their_outputs_are_part_of_a_conversation():
    response = respond(tools=[TOOL], input=[
        {"role": "user", "content": "What is the weather in Paris?"},
        {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{\"city\": \"Paris\"}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}])
    expect(response.status in ("completed", "incomplete"), f"{response}")
    expect(response.tools[0].name == "get_weather", f"{response.tools}")


@check
def unknown_responses_models_and_fields_are_named():
    for options, kind, field in [
        ({"previous_response_id": "resp_0000000000000000none"}, openai.BadRequestError, "previous_response_id"),
        ({"model": "no-such-model"}, openai.NotFoundError, "model"),
        ({"background": True}, openai.BadRequestError, "background"),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"input": []}, openai.BadRequestError, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, openai.BadRequestError, "input.0.call_id"),
        ({"tools": [{"type": "web_search"}]}, openai.BadRequestError, "tools.0.type"),
    ]:
        try:
            respond(**options)
        except kind as error:
            expect(error.param == field, f"{error.param} for {options}")
        else:
            raise AssertionError(f"{options} was accepted")


model = first_model()
run(f"responses with openai {openai.__version__} against {BASE}, model {model}")
