#!/usr/bin/env python3
"""OpenAI's agents framework against a running `apus serve`, over chat completions and over responses:
APUS_URL=http://127.0.0.1:PORT python openai_agents_client.py

Every check says what it saw; the first failure ends the script with status 1. The server may still be loading its
model: the script waits up to two minutes for /v1/models.
"""
import asyncio
import os
import sys

os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"
try:
    import agents
    import openai
except ImportError as error:
    print(f"SKIPPED: openai-agents is not installed ({error})")
    sys.exit(0)
from typing import Literal

from checks import BASE, check, expect, first_model, KEY, run

calls = []


@agents.function_tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather in a city."""
    calls.append(city)
    return f"sunny in {city}"


def agent(kind, tools=(), **settings):
    client = openai.AsyncOpenAI(base_url=BASE + "/v1", api_key=KEY, max_retries=0, timeout=120)
    return agents.Agent(
        name="guide", instructions="Be brief.", model=kind(model=model, openai_client=client), tools=list(tools),
        model_settings=agents.ModelSettings(**{"temperature": 0, "max_tokens": 400, **settings}))


KINDS = (agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel)


@check
async def an_agent_answers():
    for kind in KINDS:
        result = await agents.Runner.run(agent(kind), "Say hello.")
        expect(result.final_output, f"{kind.__name__}: {result}")


@check
async def an_agent_streams_what_it_answers():
    for kind in KINDS:
        whole = (await agents.Runner.run(agent(kind), "Say hello.")).final_output
        result = agents.Runner.run_streamed(agent(kind), "Say hello.")
        text = ""
        async for event in result.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                text += event.data.delta
        expect(text == whole == result.final_output, f"{kind.__name__}: {text!r} / {whole!r}")


@check
async def an_agent_calls_its_tool_and_goes_on():
    for kind in KINDS:
        calls.clear()
        # One call a turn: a small model could go on calling until the limit. The framework lets the model choose freely
        # after the first.
        guide = agent(kind, [get_weather], tool_choice="required", parallel_tool_calls=False)
        result = await agents.Runner.run(guide, "What is the weather in Paris?", max_turns=4)
        expect(calls, f"{kind.__name__}: the tool was not called: {result.new_items}")
        outputs = [i for i in result.new_items if i.type == "tool_call_output_item"]
        expect(outputs and outputs[0].output == f"sunny in {calls[0]}", f"{kind.__name__}: {result.new_items}")


@check
async def a_conversation_is_kept_by_the_server():
    guide = agent(agents.OpenAIResponsesModel)
    first = await agents.Runner.run(guide, "My name is Ada.")
    second = await agents.Runner.run(guide, "What is my name?", previous_response_id=first.last_response_id)
    expect(first.last_response_id.startswith("resp_") and second.final_output, f"{second}")
    usage = [r.raw_responses[0].usage.input_tokens for r in (first, second)]
    expect(usage[1] > usage[0], f"{usage}")


model = first_model()
run(f"openai-agents against {BASE}, model {model}", lambda function: asyncio.run(function()))
