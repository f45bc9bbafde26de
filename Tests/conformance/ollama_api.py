#!/usr/bin/env python3
"""A real Ollama client against a running `apus serve`: APUS_URL=http://127.0.0.1:PORT python ollama_api.py

Every check says what it saw; the first failure ends the script with status 1. The server may still be loading its
model: the script waits up to two minutes for /api/tags. Without the client it prints SKIPPED and ends with status 0.
"""
import datetime
import importlib.metadata
import json
import math
import sys
import time
import urllib.error
import urllib.request

try:
    import ollama
except ImportError as error:
    print(f"SKIPPED: ollama_api needs the Python package ollama: {error}")
    sys.exit(0)

from checks import BASE, check, expect, KEY, run, wait_for

client = ollama.Client(host=BASE, timeout=120, headers={"Authorization": f"Bearer {KEY}"})
QUESTION = [{"role": "user", "content": "Name three birds."}]
GREEDY = {"temperature": 0, "num_predict": 24}


def get_weather(city: str) -> str:
    """Tells the weather of a city.

    Args:
      city: the city's name
    """
    return "sunny"


def raw(path, body, method="POST"):
    """One request without the client's help: (status, content type, body text)."""
    request = urllib.request.Request(
        BASE + path, data=body, method=method,
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.headers["Content-Type"], response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def expect_figures(answer):
    expect(answer.done is True and answer.done_reason in ("stop", "length"), f"{answer}")
    expect(answer.prompt_eval_count > 0 and answer.eval_count > 0, f"{answer}")
    # Nanoseconds: an answer takes more than 0.1 ms and less than ten minutes.
    expect(10**5 < answer.total_duration < 600 * 10**9, f"total_duration {answer.total_duration}")
    expect(0 <= answer.prompt_eval_duration + answer.eval_duration <= answer.total_duration * 1.01 + 10**6, f"{answer}")
    created = datetime.datetime.fromisoformat(answer.created_at)
    expect(abs(created.timestamp() - time.time()) < 300, f"created_at {answer.created_at}")


@check
def models_are_listed_running_and_shown():
    models = client.list().models
    expect(models, "no model is listed")
    for m in models:
        expect(m.model and len(m.digest) >= 12 and m.modified_at and m.details is not None, f"{m}")
        shown = client.show(m.model)
        expect(any(k.endswith(".context_length") and v > 0 for k, v in shown.modelinfo.items()), f"{shown.modelinfo}")
        expect(shown.modelinfo["general.architecture"] + ".context_length" in shown.modelinfo, f"{shown.modelinfo}")
        expect(shown.capabilities and set(shown.capabilities) <= {"completion", "tools", "embedding"}, f"{shown}")
    running = client.ps().models
    expect([m.model for m in running] == [m.model for m in models], f"{running}")
    expect(all(m.expires_at and m.context_length > 0 for m in running), f"{running}")


@check
def the_server_and_its_version_are_found():
    expect(raw("/", None, "HEAD")[0] == 200, "HEAD / is not answered")
    version = json.loads(raw("/api/version", None, "GET")[2])["version"]
    expect(all(part.isdigit() for part in version.split(".")), f"version {version}")


@check
def a_chat_is_answered_with_figures():
    answer = client.chat(model, QUESTION, options=GREEDY)
    expect(answer.message.role == "assistant" and answer.message.content and answer.model == model, f"{answer}")
    expect_figures(answer)


@check
def a_stream_says_what_the_whole_answer_says():
    whole = client.chat(model, QUESTION, options=GREEDY)
    parts = list(client.chat(model, QUESTION, options=GREEDY, stream=True))
    expect(len(parts) > 3, f"only {len(parts)} parts: not a stream")
    text = "".join(p.message.content for p in parts)
    expect(text == whole.message.content, f"stream {text!r}, whole {whole.message.content!r}")
    expect([p.done for p in parts] == [False] * (len(parts) - 1) + [True], f"{[p.done for p in parts]}")
    expect(parts[-1].eval_count == whole.eval_count and parts[-1].done_reason == whole.done_reason, f"{parts[-1]}")
    expect_figures(parts[-1])


@check
def a_generation_is_answered_and_streamed():
    whole = client.generate(model, "Name three birds.", options=GREEDY)
    expect(whole.response, f"{whole}")
    expect_figures(whole)
    text = "".join(p.response for p in client.generate(model, "Name three birds.", options=GREEDY, stream=True))
    expect(text == whole.response, f"stream {text!r}, whole {whole.response!r}")
    chat = client.chat(model, QUESTION, options=GREEDY)
    expect(chat.message.content == whole.response, f"chat {chat.message.content!r}, generate {whole.response!r}")
    other = client.generate(model, "Name three birds.", system="Answer in French.", options=GREEDY)
    expect(other.prompt_eval_count != whole.prompt_eval_count, "the system prompt is not read")
    bare = client.generate(model, "Once upon a", raw=True, options=GREEDY)
    expect(bare.prompt_eval_count < whole.prompt_eval_count, f"a raw prompt of {bare.prompt_eval_count} tokens")


@check
def options_change_the_answer():
    def text(**options):
        return client.generate(model, "Name three birds.", options={**GREEDY, **options})
    expect(text(num_predict=3).eval_count == 3 and text(num_predict=3).done_reason == "length", "num_predict")
    whole = text().response
    stop = whole[5:8]
    expect(text(stop=[stop]).response == whole[: whole.index(stop)], f"stop {stop!r} in {whole!r}")
    seeds = [text(temperature=1.0, seed=7).response for _ in range(2)]
    expect(seeds[0] == seeds[1], f"{seeds}")
    expect(len({text(temperature=1.5, seed=s).response for s in range(1, 6)}) > 1, "five seeds gave one text")
    expect(text(temperature=1.5, top_k=1, seed=3).response == text(repeat_penalty=1.1).response, "top_k 1 is not greedy")
    text(top_p=0.5, min_p=0.1, presence_penalty=0.5, frequency_penalty=0.5, repeat_penalty=1.2, num_ctx=512)


@check
def a_format_is_kept_to():
    schema = {"type": "object", "properties": {"bird": {"type": "string"}, "legs": {"type": "integer"}},
              "required": ["bird", "legs"], "additionalProperties": False}
    for format, keys in (("json", None), (schema, {"bird", "legs"})):
        for seed in range(3):
            answer = client.chat(model, QUESTION, format=format, options={"num_predict": 200, "seed": seed})
            if answer.done_reason == "stop":
                break
        expect(answer.done_reason == "stop", f"three answers did not end within 200 tokens: {answer}")
        value = json.loads(answer.message.content)
        expect(isinstance(value, dict) and (keys is None or set(value) == keys), f"{value}")


@check
def log_probabilities_are_reported():
    answer = client.chat(model, QUESTION, options={"temperature": 0, "num_predict": 4}, logprobs=True, top_logprobs=2)
    expect(len(answer.logprobs) == answer.eval_count, f"{len(answer.logprobs)} for {answer.eval_count} tokens")
    for token in answer.logprobs:
        expect(token.logprob <= 0 and len(token.top_logprobs) == 2, f"{token}")


@check
def without_a_prompt_the_model_is_loaded():
    expect(client.generate(model).done_reason == "load", "generate")
    expect(client.chat(model, []).done_reason == "load", "chat")
    expect(client.generate(model, keep_alive="5m").done, "keep_alive")


@check
def tools_and_their_results_are_read():
    question = [{"role": "user", "content": "What is the weather in Bern?"}]
    answer = client.chat(model, question, tools=[get_weather], options={"temperature": 0, "num_predict": 64})
    for call in answer.message.tool_calls or []:
        expect(call.function.name == "get_weather" and isinstance(dict(call.function.arguments), dict), f"{call}")
    history = question + [
        {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": "get_weather", "arguments": {"city": "Bern"}}}]},
        {"role": "tool", "tool_name": "get_weather", "content": "sunny"},
    ]
    result = client.chat(model, history, tools=[get_weather], options=GREEDY)
    expect(result.message.content is not None and result.done, f"{result}")
    print(f"        (the model called a tool: {bool(answer.message.tool_calls)})")


@check
def texts_become_vectors_where_an_encoder_is_loaded():
    encoders = [m.model for m in client.list().models if client.show(m.model).capabilities == ["embedding"]]
    if not encoders:
        print("        (no encoder is loaded: only the refusal was checked)")
        try:
            client.embed(model, "a bird")
        except ollama.ResponseError as error:
            expect(error.status_code == 400 and "encoder" in error.error, f"{error}")
            return
        raise AssertionError("a model that writes text gave a vector")
    answer = client.embed(encoders[0], ["a bird", "an eagle", "a tax form"])
    one, two, three = answer.embeddings
    expect(abs(math.sqrt(sum(x * x for x in one)) - 1) < 1e-3, "not normalised")
    near, far = (sum(x * y for x, y in zip(one, other)) for other in (two, three))
    expect(near > far, f"bird and eagle {near}, bird and tax form {far}")
    expect(list(client.embed(encoders[0], "a bird").embeddings[0]) == list(one), "alone and in a batch differ")
    expect(answer.prompt_eval_count > 0 and answer.total_duration > 0, f"{answer.prompt_eval_count}")
    expect(list(client.embeddings(encoders[0], "a bird").embedding) == list(one), "the older route differs")
    expect(len(client.embed(encoders[0], "a bird", dimensions=8).embeddings[0]) == 8, "dimensions")


@check
def errors_are_the_clients_own():
    for call, expected in [
        (lambda: client.chat("no-such-model", QUESTION), 404),
        (lambda: client.chat("no-such-model", QUESTION, stream=True), 404),
        (lambda: client.generate("no-such-model", "a"), 404),
        (lambda: client.show("no-such-model"), 404),
        (lambda: client.embed("no-such-model", "a"), 404),
        (lambda: client.generate(model, "a", options={"temperature": "hot"}), 400),
        (lambda: client.generate(model, "a", template="{{ .Prompt }}"), 400),
        (lambda: client.generate(model, "a", suffix="b"), 400),
        (lambda: client.chat(model, [{"role": "user", "content": "bird " * 60000}]), 400),
        (lambda: client.chat(model, QUESTION, think=True), 400),
    ]:
        try:
            answer = call()
            if not hasattr(answer, "done"):
                list(answer)
        except ollama.ResponseError as error:
            expect(error.status_code == expected and error.error, f"{error}")
            expect(not error.error.startswith("{"), f"not in the client's shape: {error.error}")
        else:
            raise AssertionError(f"answered: {answer}")
    for path, body, expected in [("/api/chat", b"{", 400), ("/api/chat", b"", 400), ("/api/nothing", b"{}", 404)]:
        status, kind, text = raw(path, body)
        expect(status == expected and kind.startswith("application/json"), f"{status} {kind}")
        expect(isinstance(json.loads(text)["error"], str), text)


# The first model that writes text.
model = wait_for(
    lambda: next(m.model for m in client.list().models if "completion" in client.show(m.model).capabilities),
    (OSError, StopIteration, ollama.ResponseError))
run(f"ollama {importlib.metadata.version('ollama')} against {BASE}, model {model}")
