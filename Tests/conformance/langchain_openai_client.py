#!/usr/bin/env python3
"""LangChain's OpenAI classes against a running `apus serve`:
APUS_URL=http://127.0.0.1:PORT python langchain_openai_client.py

Every check says what it saw; the first failure ends the script with status 1. With APUS_ENCODER embeddings are checked,
too. The server may still be loading its model: the script waits up to two minutes for /v1/models.
"""
import os
import sys

try:
    import langchain_openai
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
    from langchain_core.tools import tool
    from pydantic import BaseModel
except ImportError as error:
    print(f"SKIPPED: langchain-openai is not installed ({error})")
    sys.exit(0)
from typing import Literal

from checks import BASE, check, expect, first_model, KEY, run


def chat(**options):
    return langchain_openai.ChatOpenAI(
        **{"base_url": BASE + "/v1", "api_key": KEY, "model": model, "max_tokens": 24, "temperature": 0, "max_retries": 0,
           **options})


@tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@check
def messages_are_answered_with_usage():
    answer = chat().invoke([SystemMessage("Be brief."), HumanMessage("Name three birds.")])
    expect(answer.content, f"{answer}")
    expect(answer.usage_metadata["total_tokens"] > 0, f"{answer.usage_metadata}")


@check
def a_stream_says_what_the_whole_answer_says():
    whole = chat().invoke("Name three birds.").content
    pieces = [c.content for c in chat(stream_usage=True).stream("Name three birds.")]
    expect("".join(pieces) == whole and len(pieces) > 3, f"{pieces} / {whole!r}")


@check
def several_are_answered_at_once():
    questions = ["Say one.", "Say two.", "Say three."]
    alone = [chat().invoke(q).content for q in questions]
    expect([a.content for a in chat().batch(questions)] == alone, "answers alone and together differ")


@check
def an_answer_can_have_the_form_of_a_class():
    class Choice(BaseModel):
        city: Literal["Paris", "Rome"]
        is_sunny: bool

    chosen = chat(max_tokens=64).with_structured_output(Choice, method="json_schema").invoke("Choose a city.")
    expect(isinstance(chosen, Choice), f"{chosen}")


@check
def a_tool_can_be_called_and_answered():
    bound = chat(max_tokens=96).bind_tools([get_weather], tool_choice="required")
    question = HumanMessage("What is the weather in Paris?")
    answer = bound.invoke([question])
    expect(len(answer.tool_calls) >= 1 and answer.tool_calls[0]["name"] == "get_weather", f"{answer}")
    call = answer.tool_calls[0]
    result = get_weather.invoke(call["args"])
    final = chat().bind_tools([get_weather]).invoke([question, answer, ToolMessage(result, tool_call_id=call["id"])])
    expect(isinstance(final, AIMessage), f"{final}")
    streamed = None
    for chunk in bound.stream([question]):
        streamed = chunk if streamed is None else streamed + chunk
    expect([c["name"] for c in streamed.tool_calls] == [c["name"] for c in answer.tool_calls], f"{streamed}")
    expect(streamed.tool_calls[0]["args"] == call["args"], f"{streamed.tool_calls} / {answer.tool_calls}")


@check
def the_responses_api_works_as_well():
    model = chat(use_responses_api=True)
    first = model.invoke("Name three birds.")
    expect(first.text and first.response_metadata["id"].startswith("resp_"), f"{first}")
    second = model.invoke([HumanMessage("Name another.")], previous_response_id=first.response_metadata["id"])
    expect(second.usage_metadata["input_tokens"] > first.usage_metadata["input_tokens"], f"{second.usage_metadata}")
    pieces = [c.text for c in model.stream("Name three birds.")]
    expect("".join(pieces) == first.text, f"{pieces} / {first.text!r}")


@check
def texts_are_embedded():
    encoder = os.environ.get("APUS_ENCODER")
    if not encoder:
        print("SKIPPED: embeddings, without APUS_ENCODER")
        return
    for options in ({"check_embedding_ctx_length": False}, {}):
        if not options:
            # This way the client sends the token ids of its own tokenizer, if it can load one.
            try:
                import tiktoken
                tiktoken.get_encoding("cl100k_base")
            except Exception as error:
                print(f"SKIPPED: embeddings from token ids ({type(error).__name__})")
                continue
        embeddings = langchain_openai.OpenAIEmbeddings(
            base_url=BASE + "/v1", api_key=KEY, model=encoder, max_retries=0, **options)
        vectors = embeddings.embed_documents(["a bird", "two birds"])
        expect(len(vectors) == 2 and len(vectors[0]) == len(embeddings.embed_query("a bird")), f"{len(vectors)}")


model = first_model()
run(f"langchain-openai against {BASE}, model {model}")
