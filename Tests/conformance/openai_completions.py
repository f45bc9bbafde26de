#!/usr/bin/env python3
"""Text completions, tokens and their text, with a real OpenAI client against a running `apus serve`:
APUS_URL=http://127.0.0.1:PORT python openai_completions.py

Every check says what it saw; the first failure ends the script with status 1. The server may still be loading its
model: the script waits up to two minutes for /v1/models.
"""
import json
import sys
import urllib.request

try:
    import openai
except ImportError:
    print("SKIPPED: openai is not installed")
    sys.exit(0)

from checks import BASE, check, expect, first_model, KEY, run

client = openai.OpenAI(base_url=BASE + "/v1", api_key=KEY, max_retries=0, timeout=120)
PROMPT = "The capital of France is"


def complete(**options):
    return client.completions.create(**{"model": model, "prompt": PROMPT, "max_tokens": 8, "temperature": 0, **options})


def post(path, body):
    request = urllib.request.Request(
        BASE + path, json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}, method="POST")
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


@check
def a_text_is_continued_with_usage():
    answer = complete()
    expect(answer.object == "text_completion" and answer.id, f"{answer}")
    expect(len(answer.choices) == 1 and answer.choices[0].text, f"{answer.choices}")
    expect(answer.choices[0].finish_reason in ("stop", "length"), answer.choices[0].finish_reason)
    expect(answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, f"{answer.usage}")


@check
def a_stream_says_what_the_whole_answer_says():
    whole = complete()
    text, reasons, last = "", [], None
    for chunk in complete(stream=True, stream_options={"include_usage": True}):
        last = chunk
        for choice in chunk.choices:
            text += choice.text
            if choice.finish_reason:
                reasons.append(choice.finish_reason)
    expect(text == whole.choices[0].text, f"stream {text!r}, whole {whole.choices[0].text!r}")
    expect(reasons == [whole.choices[0].finish_reason], f"{reasons}")
    expect(last.choices == [] and last.usage == whole.usage or
           last.usage.total_tokens == whole.usage.total_tokens, f"{last.usage} / {whole.usage}")


@check
def several_prompts_are_answered_in_their_order():
    prompts = [PROMPT, "Once upon a time", "1, 2, 3,"]
    alone = [complete(prompt=p).choices[0].text for p in prompts]
    together = complete(prompt=prompts)
    expect([c.index for c in together.choices] == [0, 1, 2], f"{together.choices}")
    expect([c.text for c in together.choices] == alone, f"{[c.text for c in together.choices]} / {alone}")


@check
def token_ids_are_a_prompt_like_their_text():
    tokens = post("/tokenize", {"model": model, "prompt": PROMPT})
    expect(tokens["count"] == len(tokens["tokens"]) > 2, f"{tokens}")
    expect(tokens["max_model_len"] >= 128, f"{tokens['max_model_len']}")
    expect(complete(prompt=tokens["tokens"]).choices[0].text == complete().choices[0].text, "ids and text differ")
    expect(complete(prompt=[tokens["tokens"]] * 2).choices[1].text == complete().choices[0].text, "lists of ids differ")


@check
def echo_gives_the_prompt_back():
    answer = complete(echo=True)
    expect(answer.choices[0].text == PROMPT + complete().choices[0].text, f"{answer.choices[0].text!r}")


@check
def no_tokens_means_that_only_the_prompt_is_read():
    answer = complete(max_tokens=0)
    expect(answer.choices[0].text == "" and answer.usage.completion_tokens == 0, f"{answer}")
    expect(answer.choices[0].finish_reason == "length", answer.choices[0].finish_reason)


@check
def log_probabilities_are_parallel_lists():
    choice = complete(logprobs=3).choices[0]
    lists = choice.logprobs
    count = len(lists.tokens)
    expect(count > 0 and len(lists.token_logprobs) == len(lists.top_logprobs) == len(lists.text_offset) == count, "lengths")
    expect("".join(lists.tokens) == choice.text, f"{lists.tokens} / {choice.text!r}")
    expect(all(x <= 0 for x in lists.token_logprobs), f"{lists.token_logprobs}")
    for token, value, best in zip(lists.tokens, lists.token_logprobs, lists.top_logprobs):
        expect(best[token] == value == max(best.values()), f"greedy took {token!r} {value}, best are {best}")
        expect(3 <= len(best) <= 4, f"{best}")
    for offset, token in zip(lists.text_offset, lists.tokens):
        expect(choice.text[offset:].startswith(token), f"{token!r} is not at {offset} of {choice.text!r}")


@check
def an_echoed_prompt_has_log_probabilities():
    answer = complete(logprobs=2, max_tokens=8).choices[0]
    whole = client.completions.create(
        model=model, prompt=PROMPT + answer.text, max_tokens=0, logprobs=2, echo=True).choices[0]
    expect(whole.text == PROMPT + answer.text and whole.finish_reason == "length", f"{whole.text!r}")
    lists = whole.logprobs
    expect("".join(lists.tokens) == whole.text, f"{lists.tokens}")
    expect(lists.token_logprobs[0] is None and lists.top_logprobs[0] is None, "nothing comes before the first token")
    expect(all(value <= 0 for value in lists.token_logprobs[1:]), f"{lists.token_logprobs}")
    for offset, token in zip(lists.text_offset, lists.tokens):
        expect(whole.text[offset:].startswith(token), f"{token!r} is not at {offset} of {whole.text!r}")
    # The answer's tokens were as probable when they were chosen.
    count = len(answer.logprobs.tokens)
    if lists.tokens[-count:] == answer.logprobs.tokens:
        for token, a, b in zip(answer.logprobs.tokens, answer.logprobs.token_logprobs, lists.token_logprobs[-count:]):
            expect(abs(a - b) < 0.05, f"{token!r}: {a} as an answer, {b} as a prompt")
    streamed = list(client.completions.create(
        model=model, prompt=PROMPT, max_tokens=2, logprobs=0, echo=True, stream=True))
    first = streamed[0].choices[0]
    expect(first.text == PROMPT and first.logprobs.token_logprobs[0] is None, f"{first}")
    expect(all(c.choices[0].logprobs is None or None not in c.choices[0].logprobs.token_logprobs
               for c in streamed[1:] if c.choices), "only a prompt's first token has none")


@check
def texts_come_back_from_their_tokens():
    for text in (PROMPT, "Grüße, 世界! 🐦 \n\t x", "a  b   c"):
        tokens = post("/tokenize", {"model": model, "prompt": text, "add_special_tokens": False, "return_token_strs": True})
        expect(len(tokens["token_strs"]) == tokens["count"], f"{tokens}")
        back = post("/detokenize", {"model": model, "tokens": tokens["tokens"]})["prompt"]
        expect(back == text, f"{back!r}, not {text!r}")


@check
def a_chat_has_the_tokens_that_its_usage_says():
    messages = [{"role": "user", "content": "Hi"}]
    tokens = post("/tokenize", {"model": model, "messages": messages})
    used = client.chat.completions.create(model=model, messages=messages, max_tokens=1).usage.prompt_tokens
    expect(tokens["count"] == used, f"{tokens['count']} tokens, usage says {used}")


@check
def wrong_fields_are_named():
    for options, field in [({"n": 2}, "n"), ({"best_of": 2}, "best_of"), ({"suffix": "x"}, "suffix"), ({"prompt": []}, "prompt"),
                           ({"max_tokens": -1}, "max_tokens"), ({"logprobs": 99}, "logprobs"), ({"prompt": [10 ** 8]}, "prompt.0")]:
        try:
            complete(**options)
        except openai.BadRequestError as error:
            expect(error.param == field, f"{error.param} for {options}")
        else:
            raise AssertionError(f"{options} was accepted")


model = first_model()
run(f"completions with openai {openai.__version__} against {BASE}, model {model}")
