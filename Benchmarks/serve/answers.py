"""What is answered: the same text alone and in any company, and JSON that fits its schema."""
import asyncio
import json
import random
import statistics

import common
from client import DIALECTS, Stream, call, completion, percentile, tokens
from server import MODEL, Server

COMPANY = 8
PASSAGES = ["Once upon a time in a quiet village", "The three laws of motion are", "def fibonacci(n):",
            "Dear Sir or Madam,", "A recipe for bread begins with", "The history of the Roman Empire"]
SAMPLINGS = {"greedy": {"temperature": 0}, "seeded": {"temperature": 0.9, "top_p": 0.95}}


def invariance(arguments):
    """Each text is asked for alone, without and with a known prefix, and beside eight others of other lengths."""
    rounds = arguments.rounds or 3

    def ask(index, name, salt, **more):
        sampling = dict(SAMPLINGS[name]) | ({"seed": 17 + index} if name == "seeded" else {})
        prompt = PASSAGES[index] if index % 2 else tokens(100 + 37 * index, f"prompt {index}")
        return completion(prompt, 64, logprobs=5, cache_salt=salt, **(sampling | more))

    async def company(port, draw, stop):
        while not stop.is_set():
            other = completion(tokens(draw.randrange(4, 300), draw.random()), draw.randrange(2, 80),
                               temperature=draw.choice([0, 1]))
            await other.run(port)

    async def measure(port):
        rows = []
        alone = {}
        for name in SAMPLINGS:
            for index in range(len(PASSAGES)):
                alone[name, index] = await ask(index, name, f"alone {index}").run(port)
        for name in SAMPLINGS:
            for index in range(len(PASSAGES)):
                rows.append((name, index, "alone, prefix known", await ask(index, name, f"alone {index}").run(port)))
        for turn in range(rounds):
            draw = random.Random(arguments.seed + turn)
            stop = asyncio.Event()
            others = [asyncio.create_task(company(port, random.Random(draw.random()), stop)) for _ in range(COMPANY)]
            await asyncio.sleep(0.5)
            for name in SAMPLINGS:
                for index in range(len(PASSAGES)):
                    rows.append((name, index, "among eight", await ask(index, name, f"{turn} {index}").run(port)))
            # All at once: their chunks share steps.
            mixed = [ask(index, name, f"all {turn}") for name in SAMPLINGS for index in range(len(PASSAGES))]
            await asyncio.gather(*(s.run(port) for s in mixed))
            for (name, index), s in zip(((n, i) for n in SAMPLINGS for i in range(len(PASSAGES))), mixed):
                rows.append((name, index, "all at once", s))
            stop.set()
            await asyncio.gather(*others)
        return alone, rows

    with Server(arguments.apus) as server:
        alone, rows = asyncio.run(measure(server.port))
    table, bad = [], []
    for name in SAMPLINGS:
        for company_name in ("alone, prefix known", "among eight", "all at once"):
            these = [(i, s) for n, i, c, s in rows if (n, c) == (name, company_name)]
            same = [s.whole and s.text == alone[name, i].text for i, s in these]
            exact = [s.logprobs == alone[name, i].logprobs for i, s in these]
            bad += [(name, company_name, i, s.error, common_length(s.text, alone[name, i].text))
                    for (i, s), ok in zip(these, same) if not ok]
            table.append([name, company_name, len(these), sum(same), sum(exact)])
    distinct = len({a.text for a in alone.values()})
    common.table(["sampling", "company", "answers", "same text", "same log-probabilities"], table)
    return {"table": table, "bad": bad, "verdict": [
        ("the same text in any company", not bad, bad[:4] or f"{len(rows)} answers, {distinct} different texts"),
        ("the same log-probabilities", all(r[2] == r[4] for r in table), f"{sum(r[4] for r in table)} of {len(rows)}"),
        ("the texts are not empty", all(len(a.text) > 20 and a.whole for a in alone.values()),
         f"{distinct} different")]}


def common_length(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


# schemas

NAMES = "name age city items total unit code tags note price x y left right value next state kind date id".split()


class Schemas:
    """Random schemas of the supported keywords. Everything is bounded, so that the answer comes to an end."""

    def __init__(self, seed):
        self.draw = random.Random(seed)

    def one(self, depth):
        make = [self.string, self.integer, self.number, self.enum, self.boolean]
        if depth > 0:
            make += [self.object, self.object, self.array, self.any_of]
        return self.draw.choice(make)(depth - 1)

    def schema(self):
        draw = self.draw
        schema = self.object(3)
        if draw.random() < 0.25:
            definition = self.object(1)
            schema["$defs"] = {"part": definition}
            name = draw.choice(NAMES)
            schema["properties"][name] = {"$ref": "#/$defs/part"}
            schema["required"] = sorted({*schema["required"], name})
        if draw.random() < 0.15:
            # Recursive: each level may have one more below it, so that a model may go on for ever.
            schema["$defs"] = schema.get("$defs", {}) | {"node": {
                "type": "object", "additionalProperties": False, "required": ["value"],
                "properties": {"value": {"type": "integer", "minimum": 0, "maximum": 99},
                               "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}}}
            schema["properties"]["next"] = {"$ref": "#/$defs/node"}
        return schema

    def string(self, _):
        draw = self.draw
        kind = draw.random()
        if kind < 0.25:
            return {"type": "string", "format": draw.choice(["date", "time", "date-time", "uuid", "ipv4", "email"])}
        if kind < 0.5:
            return {"type": "string", "pattern": draw.choice(
                ["^[a-z]{2,8}$", "^[A-Z]{3}-[0-9]{2,4}$", "^(red|green|blue)( dark)?$", "^\\d{3}\\.\\d{2}$", "^a.c$"]),
                "maxLength": 40}
        low = draw.randrange(4)
        return {"type": "string", "minLength": low, "maxLength": low + draw.randrange(1, 24)}

    def integer(self, _):
        low = self.draw.randrange(-1000, 1000)
        return {"type": "integer", "minimum": low, self.draw.choice(["maximum", "exclusiveMaximum"]):
                low + self.draw.randrange(1, 5000)}

    def number(self, _):
        low = round(self.draw.uniform(-50, 50), 1)
        return {"type": "number", self.draw.choice(["minimum", "exclusiveMinimum"]): low, "maximum": low + 100}

    def enum(self, _):
        values = ["red", "two words", 3, 2.5, None, True, "ünï", {"a": 1}, [1, 2], ""]
        if self.draw.random() < 0.2:
            return {"const": self.draw.choice(values)}
        return {"enum": self.draw.sample(values, self.draw.randrange(1, 5))}

    def boolean(self, _):
        return {"type": self.draw.choice(["boolean", "null", ["boolean", "null"]])}

    def object(self, depth):
        names = self.draw.sample(NAMES, self.draw.randrange(1, 6))
        return {"type": "object", "properties": {n: self.one(depth) for n in names},
                "required": sorted(n for n in names if self.draw.random() < 0.7), "additionalProperties": False}

    def array(self, depth):
        low = self.draw.randrange(3)
        schema = {"type": "array", "items": self.one(depth), "minItems": low,
                  "maxItems": low + self.draw.randrange(1, 4)}
        if self.draw.random() < 0.2:
            schema = {"type": "array", "prefixItems": [self.one(0) for _ in range(2)], "items": False,
                      "minItems": 2}
        return schema

    def any_of(self, depth):
        # Of different types, or else oneOf could match twice.
        return {self.draw.choice(["anyOf", "oneOf"]): [
            {"type": "string", "maxLength": 12}, self.object(depth), {"type": "integer", "minimum": 0, "maximum": 999}]}


def schemas(arguments):
    """Schemas by turns over chat, Responses and `guided_json`, greedy and sampled, several at once. For each answer
    that a recursive schema let go on to the limit, another schema is drawn."""
    import jsonschema

    count, at_once, limit = arguments.count or 200, 8, 600
    made = Schemas(arguments.seed)

    async def one(index, port, gate):
        schema = made_list[index]
        sampling = {"temperature": 0} if index % 2 else {"temperature": 1, "seed": index}
        prompt = "Fill in a record about a random thing."
        way = ("chat", "responses", "guided")[index % 3]
        if way == "responses":
            body = {"model": MODEL, "input": prompt, "max_output_tokens": limit, **sampling,
                    "text": {"format": {"type": "json_schema", "name": "record", "schema": schema, "strict": True}}}
        else:
            body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": limit, **sampling}
            body |= {"guided_json": schema} if way == "guided" else {
                "response_format": {"type": "json_schema",
                                    "json_schema": {"name": "record", "schema": schema, "strict": True}}}
        async with gate:
            answer = await call(port, "POST", DIALECTS["responses"].path if way == "responses"
                                else DIALECTS["chat"].path, body)
        row = {"way": way, "schema": schema, "status": answer.status, "seconds": answer.seconds}
        if answer.status != 200:
            return row | {"outcome": "refused", "why": answer.body.decode()[:300]}
        value = answer.json
        if way == "responses":
            content = "".join(p["text"] for o in value["output"] for p in o["content"])
            finish, used = value["status"], value["usage"]["output_tokens"]
        else:
            content = value["choices"][0]["message"]["content"]
            finish, used = value["choices"][0]["finish_reason"], value["usage"]["completion_tokens"]
        row |= {"text": content, "tokens": used, "finish": finish}
        if finish not in ("stop", "completed"):
            return row | {"outcome": "unfinished"}
        try:
            errors = list(jsonschema.Draft202012Validator(
                schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER).iter_errors(json.loads(content)))
        except ValueError as error:
            errors = [error]
        return row | ({"outcome": "invalid", "why": str(errors[0])[:300]} if errors else {"outcome": "valid"})

    async def everything(port):
        gate = asyncio.Semaphore(at_once)
        rows = []
        while (missing := count - sum(r["outcome"] != "unfinished" for r in rows)) and len(rows) < 2 * count:
            made_list.extend(made.schema() for _ in range(missing))
            rows += await asyncio.gather(*(one(i, port, gate) for i in range(len(rows), len(rows) + missing)))
        return rows

    async def cost(port):
        """Steps of eight streams with and without a schema that never ends early, in alternation."""
        free = {"type": "object", "additionalProperties": False, "required": ["text"], "properties": {
            "text": {"type": "string", "minLength": 400, "maxLength": 2000}}}
        sides = {"free": {}, "schema": {"guided_json": free}}
        seen = {side: [] for side in sides}
        for turn in range(5):
            for side in (list(sides) if turn % 2 else list(sides)[::-1]):
                streams = [Stream.of("chat", f"Write a text. {i}", 100, **sides[side]) for i in range(8)]
                await asyncio.gather(*(s.run(port) for s in streams))
                seen[side].append(statistics.median(g for s in streams for g in s.gaps))
        return {side: statistics.median(v) for side, v in seen.items()}

    made_list = []
    with Server(arguments.apus) as server:
        rows = asyncio.run(everything(server.port))
        step = asyncio.run(cost(server.port))
    counts = {o: sum(r["outcome"] == o for r in rows) for o in ("valid", "invalid", "unfinished", "refused")}
    endless = [r["schema"] for r in rows if r["outcome"] == "unfinished" and "node" not in r["schema"].get("$defs", {})]
    times = [r["seconds"] for r in rows if r["outcome"] == "valid"]
    per_token = [r["seconds"] / r["tokens"] for r in rows if r["outcome"] == "valid" and r["tokens"]]
    row_cost = (step["schema"] - step["free"]) / 8
    common.table(["schemas", *counts, "seconds, mean", "p95", "ms a token, mean", "step ms: free", "with schema",
                  "ms a row and step"],
                 [[len(rows), *counts.values(), statistics.mean(times), percentile(times, 0.95),
                   statistics.mean(per_token) * 1000, step["free"] * 1000, step["schema"] * 1000, row_cost * 1000]])
    for r in rows:
        if r["outcome"] in ("invalid", "refused"):
            print(f"{r['outcome']}: {json.dumps(r['schema'])} {r.get('text', '')!r}: {r['why']}")
    return {"counts": counts, "rows": rows, "step_s": step, "row_and_step_s": row_cost, "verdict": [
        ("every finished answer is valid", counts["invalid"] == 0, counts),
        ("every schema is accepted", counts["refused"] == 0, counts["refused"]),
        (f"{count} answers came to their end, and all but those of recursive schemas",
         counts["valid"] + counts["invalid"] == count and not endless,
         endless or f"{counts['unfinished']} of recursive schemas did not"),
        ("a row and step costs ≤ 1 ms more with a schema", row_cost <= 0.001, f"{row_cost * 1000:.3f} ms")]}
