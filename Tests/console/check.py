#!/usr/bin/env python3
"""The web page in headless Chromium: Tests/console/check.py

Without APUS_URL it starts mock.py and tests everything; with APUS_URL=http://127.0.0.1:PORT it drives the page of that
running server (APUS_API_KEY if it asks for one) and prints the checks that need scripted answers as skipped. CHROMIUM
names the browser, SHOTS the folder for the screenshots (default: shots beside this file). Words as arguments choose the
checks whose names contain one of them. The status is 1 when a check failed.
"""
import contextlib
import json
import math
import os
import re
import shutil
import sys
import time
import traceback
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
SHOTS = Path(os.environ.get("SHOTS", HERE / "shots"))
KEY = os.environ.get("APUS_API_KEY", "")
REAL = os.environ.get("APUS_URL", "").rstrip("/")
WAIT = 120_000 if REAL else 10_000  # milliseconds; a real server may be loading its model
MAXIMUM_BYTES = 87_000
if not REAL:
    import mock
checks = []


def check(function=None, *, scripted=False):
    """Marks a check; `scripted` ones need the mock's answers."""
    def mark(f):
        checks.append((f, scripted))
        return f
    return mark(function) if function else mark


def expect(condition, message):
    if not condition:
        raise AssertionError(message)


class Console:
    """The page in a browser context of its own, and what a person does with it."""

    def __init__(self, browser, url, key=KEY, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.context.set_default_timeout(WAIT)
        self.page = self.context.new_page()
        self.problems = []
        self.page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        self.page.on("console", self.heard)
        self.page.on("request", self.asked)
        self.url = url
        if key:
            # Only at first, so that a key which the test types stays.
            value = json.dumps(json.dumps(key))
            self.page.add_init_script(
                f"sessionStorage.getItem('apus.key') ?? sessionStorage.setItem('apus.key', {value})")
        self.page.goto(url + "/")
        if key == KEY:
            self.until("document.querySelector('#model').value !== ''")

    def heard(self, message):
        # A refused request is logged by the browser itself; everything else, such as a blocked style, is a defect.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.problems.append(f"{message.type}: {message.text}")

    def asked(self, request):
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.problems.append(f"a request to another origin: {request.url}")

    def close(self):
        self.context.close()
        expect(not self.problems, "; ".join(self.problems))

    def until(self, condition):
        """Waits for a JavaScript expression. (The browser driver's own wait needs `unsafe-eval`.)"""
        end = time.monotonic() + WAIT / 1000
        while not self.page.evaluate(condition):
            expect(time.monotonic() < end, f"waited {WAIT / 1000:.0f} s for {condition}")
            time.sleep(0.02)

    def say(self, text):
        self.page.locator("#prompt").fill(text)
        self.page.keyboard.press("Enter")

    def settle(self):
        """Waits for the end of the answer and returns its element."""
        self.until("!document.querySelector('#send').hidden")
        return self.page.locator(".message.assistant").last

    def ask(self, text):
        self.say(text)
        return self.settle()

    def stored(self):
        return self.page.evaluate("JSON.parse(localStorage.getItem('apus.chat')).messages")

    def focused(self):
        return self.page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")


# MARK: chat


@check
def a_message_is_answered_in_pieces_with_figures(open_console):
    with open_console() as console:
        page = console.page
        console.say("Name three birds that nest in towers.")
        question = page.locator(".message.user .text").inner_text()
        expect(question == "Name three birds that nest in towers.", f"the question reads {question!r}")
        expect(page.locator("#stop").is_visible(), "no stop button while the answer is written")
        lengths = set()
        while page.locator("#stop").is_visible():
            lengths.add(page.evaluate("document.querySelector('.prose')?.textContent.length ?? 0"))
            time.sleep(0.02)
        answer = console.settle()
        expect(len(lengths) > 3, f"the text did not grow in pieces: lengths {sorted(lengths)}")
        text = answer.locator(".figures").inner_text()
        for part in (r"\d+ tokens?", r"[\d.,]+ tokens/s", r"first token [\d.]+ m?s", r"prompt \d+"):
            expect(re.search(part, text), f"no figure like {part!r} in {text!r}")
        expect("about" not in text, f"the figures are the page's, not the server's usage: {text!r}")
        stored = console.stored()
        expect([m["role"] for m in stored] == ["user", "assistant"], f"stored: {stored}")
        expect(stored[1]["content"] and stored[1]["state"] == "done", f"stored: {stored[1]}")
        expect(page.evaluate("document.activeElement.id") == "prompt", "the focus left the message box")
        context = page.locator("#context").inner_text()
        expect(re.match(r"Context: [\d,]+ of [\d,]+ tokens", context), f"the context reads {context!r}")


@check
def the_chat_survives_a_reload_and_a_new_chat_can_be_undone(open_console):
    with open_console() as console:
        console.ask("Say one word.")
        before = console.page.locator("#messages").inner_text()
        console.page.reload()
        console.page.wait_for_selector(".message.assistant")
        expect(console.page.locator("#messages").inner_text() == before, "the reloaded chat differs")
        console.page.get_by_role("button", name="New chat").click()
        expect(console.page.locator(".message").count() == 0 and console.stored() == [], "the chat is not new")
        console.page.get_by_role("button", name="Bring the last one back").click()
        expect(console.page.locator("#messages").inner_text() == before, "the old chat did not come back")


@check
def an_answer_can_be_stopped(open_console):
    with open_console() as console:
        page = console.page
        console.say("Write a long story. Count from one to five hundred in words.")
        console.until("(document.querySelector('.prose')?.textContent.length ?? 0) > 20")
        page.get_by_role("button", name="Stop", exact=True).click()
        answer = console.settle()
        expect("Stopped." in answer.inner_text(), answer.inner_text())
        length = len(console.stored()[1]["content"])
        time.sleep(0.3)
        expect(len(console.stored()[1]["content"]) == length, "text arrives after the stop")
        expect(console.focused() == "prompt", f"the focus is at {console.focused()!r}")
        # The stopped text is part of the next request.
        sent = sent_bodies(console)
        console.ask("Say one word.")
        expect([m["role"] for m in sent[-1]["messages"]] == ["user", "assistant", "user"], f"sent: {sent[-1]}")


def sent_bodies(console):
    bodies = []
    console.page.on("request", lambda r: bodies.append(json.loads(r.post_data)) if r.method == "POST" else None)
    return bodies


@check
def settings_are_sent_and_wrong_ones_are_not(open_console):
    with open_console() as console:
        page, sent = console.page, sent_bodies(console)
        page.get_by_label("System prompt").fill("Answer briefly.")
        page.get_by_label("Temperature").fill("0")
        page.get_by_label("Max tokens").fill("3")
        page.get_by_label("Seed").fill("7")
        answer = console.ask("Name three birds that nest in towers.")
        body = sent[-1]
        expect(body["messages"][0] == {"role": "system", "content": "Answer briefly."}, f"sent: {body}")
        expect((body["temperature"], body["max_tokens"], body["seed"]) == (0, 3, 7), f"sent: {body}")
        expect(body["stream"] is True and body["stream_options"] == {"include_usage": True}, f"sent: {body}")
        expect("Cut at the token limit." in answer.inner_text(), answer.inner_text())
        page.get_by_label("Temperature").fill("9")
        console.say("Not to be sent.")
        expect(len(sent) == 1, "a temperature of 9 was sent")
        expect(console.focused() == "temperature", f"the focus is at {console.focused()!r}")
        page.get_by_label("Temperature").fill("")
        page.get_by_label("Seed").fill("")
        console.ask("Again.")
        expect("temperature" not in sent[-1] and "seed" not in sent[-1], f"empty fields were sent: {sent[-1]}")


@check
def the_last_message_can_be_edited_and_its_answer_made_again(open_console):
    with open_console() as console:
        page, sent = console.page, sent_bodies(console)
        page.get_by_label("Max tokens").fill("8")
        console.ask("First question.")
        console.ask("Second question.")
        page.get_by_role("button", name="Regenerate").click()
        console.settle()
        expect(sent[-1]["messages"] == sent[-2]["messages"], "regenerating sent other messages")
        page.get_by_role("button", name="Edit").click()
        box = page.get_by_label("Edit your message")
        expect(box.input_value() == "Second question.", f"the edit box holds {box.input_value()!r}")
        box.fill("Other question.")
        page.get_by_role("button", name="Send again").click()
        console.settle()
        questions = [m["content"] for m in console.stored() if m["role"] == "user"]
        expect(questions == ["First question.", "Other question."], f"stored: {questions}")
        expect(sent[-1]["messages"][-1]["content"] == "Other question.", f"sent: {sent[-1]}")


@check
def the_chat_is_exported_without_the_key(open_console):
    with open_console() as console:
        console.ask("Say one word.")
        if not REAL:
            console.page.get_by_label("API key").fill("sk-secret")
        with console.page.expect_download() as download:
            console.page.get_by_role("button", name="Export chat as JSON").click()
        text = Path(download.value.path()).read_text()
        content = json.loads(text)
        expect(content["format"] == "apus-chat" and len(content["messages"]) == 2, text[:300])
        expect("secret" not in text and (not KEY or KEY not in text), "the export holds the key")
        expect("secret" not in console.page.evaluate("JSON.stringify(localStorage)"), "the key is kept for long")


# MARK: errors


@check
def an_unknown_model_is_explained(open_console):
    def other_model(route):
        route.continue_(post_data={**route.request.post_data_json, "model": "no-such-model"})

    with open_console() as console:
        console.page.route("**/v1/chat/completions", other_model)
        answer = console.ask("Hello")
        error = answer.get_by_role("alert")
        expect("no-such-model" in error.inner_text(), error.inner_text())
        expect("The server doesn’t have this." in error.inner_text(), error.inner_text())
        console.page.unroute("**/v1/chat/completions")
        answer.get_by_role("button", name="Try again").click()
        answer = console.settle()
        expect(answer.get_by_role("alert").count() == 0, "the error stays after the retry")
        expect(answer.locator(".prose").inner_text(), "no answer at the retry")


@check
def an_unreachable_server_is_explained(open_console):
    with open_console() as console:
        console.page.route("**/v1/chat/completions", lambda route: route.abort("connectionrefused"))
        console.page.route("**/apus/engine", lambda route: route.abort("connectionrefused"))
        error = console.ask("Hello").get_by_role("alert").inner_text()
        expect("can’t be reached" in error, error)
        console.until("document.querySelector('#status-text').textContent === 'Offline'")
        console.page.unroute("**/apus/engine")
        console.until("/running/.test(document.querySelector('#status-text').textContent)")


@check(scripted=True)
def errors_of_every_kind_are_readable(open_console):
    for word, parts in {
        "invalid": ["The server refused the request.", "Temperature is 9, expected 0 to 2", "Field: temperature."],
        "crowded": ["too much to do", "256 requests are waiting", "Retry after: 3 s"],
        "fault": ["stopped this answer because of an error", "The engine stopped"],
        "cut": ["The answer is not complete."],
    }.items():
        with open_console() as console:
            answer = console.ask(f"Be {word}.")
            text = answer.get_by_role("alert").inner_text()
            for part in parts:
                expect(part in text, f"{word}: no {part!r} in {text!r}")
            if word in ("fault", "cut"):
                expect("Three birds" in answer.locator(".prose").inner_text(), "the text before the error is lost")
            # What failed without an answer is joined with the next question: roles alternate.
            sent = sent_bodies(console)
            console.ask("Go on.")
            roles = [m["role"] for m in sent[-1]["messages"]]
            expect(all(a != b for a, b in zip(roles, roles[1:])), f"{word}: roles sent: {roles}")


@check(scripted=True)
def a_key_is_asked_for_sent_and_forgotten(open_console):
    server = mock.start(key="sk-right")
    url = f"http://127.0.0.1:{server.server_port}"
    with open_console(url, key="sk-wrong") as console:
        page = console.page
        page.get_by_role("button", name="Enter an API key").first.click()
        expect(console.focused() == "key", f"the focus is at {console.focused()!r}")
        notice = page.locator("#notice").inner_text()
        expect("doesn’t know this API key" in notice, notice)
        page.keyboard.press("Control+A")
        page.keyboard.type("sk-right")
        page.keyboard.press("Tab")
        console.until("document.querySelector('#model').value !== ''")
        expect(console.ask("Hello").locator(".prose").inner_text(), "no answer with the right key")
        expect(page.evaluate("sessionStorage.getItem('apus.key')") == '"sk-right"', "the key is not kept for the tab")
    server.shutdown()


# MARK: what models write


@check(scripted=True)
def markup_in_an_answer_stays_text(open_console):
    with open_console() as console:
        page = console.page
        answer = console.ask("An attack, please.")
        time.sleep(0.3)
        expect(page.evaluate("window.pwned") is None, f"code of the answer ran: {page.evaluate('window.pwned')}")
        text = answer.locator(".prose").inner_text()
        for part in ('<img src=x onerror="window.pwned=1">', "<script>window.pwned=2</script>",
                     "javascript:window.pwned=3", "<script>window.pwned=7</script></code></pre>", "<iframe srcdoc=",
                     "&lt;kept&gt;"):
            expect(part in text, f"{part!r} is not shown as text: {text!r}")
        tags = page.evaluate(
            "[...new Set([...document.querySelectorAll('.prose *')].map((e) => e.tagName.toLowerCase()))]")
        allowed = {"p", "br", "a", "code", "pre", "figure", "figcaption", "span", "button", "h3", "h4", "h5", "div",
                   "table", "thead", "tbody", "tr", "th", "td", "strong", "em", "ul", "ol", "li", "hr", "blockquote"}
        expect(set(tags) <= allowed, f"elements in the answer: {sorted(tags)}")
        for link in page.evaluate("[...document.querySelectorAll('.prose a')].map((a) => a.href)"):
            expect(link.startswith(("http://", "https://")), f"a link to {link}")
        names = page.evaluate("[...document.querySelectorAll('.prose *')].flatMap((e) => e.getAttributeNames())")
        active = [n for n in names if n.startswith("on") or n in ("style", "src", "srcdoc")]
        expect(not active, f"attributes: {active}")
        # The same text after a reload, and as the user's own message.
        page.reload()
        page.wait_for_selector(".prose")
        console.ask("<img src=x onerror=window.pwned=11>")
        expect(page.evaluate("window.pwned") is None, "stored text ran")


@check(scripted=True)
def markdown_is_shown_and_code_can_be_copied(open_console):
    with open_console(permissions=["clipboard-read", "clipboard-write"]) as console:
        page = console.page
        answer = console.ask("Use markdown.").locator(".prose")
        for selector, text in {
            "h4": "A function", "p > code": "joined(separator:)", "li strong": "O(n)", "li li": "one pass to split",
            "th": "input", "td code": "a b", "blockquote": "Words are what blanks separate.", "a": "the documentation",
            "figcaption span": "swift",
        }.items():
            seen = answer.locator(selector).first.inner_text()
            expect(text in seen, f"{selector}: {seen!r}")
        expect("snake_case_name and 2 * 3 * 4" in answer.inner_text(), answer.inner_text())
        page.get_by_role("button", name="Copy this code").click()
        copied = page.evaluate("navigator.clipboard.readText()")
        expect(copied.startswith("func reversed") and "Array<Int> & friends" in copied, f"copied: {copied!r}")
        expect("Copied." in page.locator("#announcer").inner_text(), "copying is not announced")


@check
def screen_readers_get_sentences_and_not_tokens(open_console):
    with open_console() as console:
        page = console.page
        log, region = page.get_by_role("log"), page.locator("#announcer")
        expect(log.get_attribute("aria-live") == "off", "the log would read out every token")
        expect(region.get_attribute("aria-live") == "polite", "no polite region")
        console.ask("Name three birds that nest in towers.")
        said = region.locator("p").all_inner_texts()
        expect(said and said[-1] == "Answer complete.", f"announced: {said}")
        answer = console.stored()[1]["content"]
        words = len(answer.split())
        expect(len(said) < max(3, words / 2), f"{len(said)} announcements for {words} words")
        if not REAL:
            expect("Swifts return to the same hole every year." in said, f"announced: {said}")


# MARK: keyboard and accessibility


@check
def everything_works_by_keyboard(open_console):
    with open_console() as console:
        page, press = console.page, console.page.keyboard.press
        press("Tab")
        expect(console.focused() == "skip", f"the first stop is {console.focused()!r}")
        expect(page.locator("#skip").bounding_box()["width"] > 20, "the skip link is not visible")
        press("Enter")
        expect(console.focused() == "main", f"the skip link leads to {console.focused()!r}")
        press("Alt+Shift+KeyM")
        page.keyboard.type("One line")
        press("Shift+Enter")
        page.keyboard.type("and another")
        press("Enter")
        console.settle()
        expect(page.locator(".message.user .text").inner_text() == "One line\nand another", "the line break is lost")
        page.keyboard.type("Write a long story. Count from one to five hundred in words.")
        press("Enter")
        console.until("(document.querySelectorAll('.prose')[1]?.textContent.length ?? 0) > 20")
        press("Escape")
        expect("Stopped." in console.settle().inner_text(), "Escape does not stop the answer")
        press("ArrowUp")
        expect(page.get_by_label("Edit your message").evaluate("e => e === document.activeElement"), "no edit by arrow")
        press("Escape")
        expect(console.focused() == "prompt", "Escape does not leave the edit")
        for key, heading in {"KeyV": "Collections", "KeyE": "Engine", "KeyR": "Requests", "KeyC": "Chat"}.items():
            press(f"Alt+Shift+{key}")
            expect(console.focused() == f"h-{heading.lower()}", f"{key} leads to {console.focused()!r}")
            expect(page.title() == f"{heading} · Apus", page.title())
        press("Alt+Shift+KeyK")
        expect(page.get_by_role("dialog").is_visible(), "no list of shortcuts")
        press("Escape")
        expect(not page.get_by_role("dialog").is_visible(), "the list stays")
        # Tab reaches every control and leaves the page again: no trap.
        wanted = set(page.evaluate("""[...document.querySelectorAll('button, select, textarea, input, nav a')]
            .filter((e) => e.checkVisibility()).map((e) => e.id || e.textContent.trim())"""))
        page.evaluate("document.activeElement.blur()")
        seen = []
        for _ in range(len(wanted) + 25):
            press("Tab")
            seen.append(console.focused())
            outline = page.evaluate("""(() => { const e = document.activeElement, s = getComputedStyle(e);
                return e === document.body || s.outlineStyle !== 'none' || e.closest('.box') !== null })()""")
            expect(outline, f"no visible focus at {seen[-1]!r}")
        expect(wanted <= set(seen), f"not reached: {wanted - set(seen)}")
        expect(seen.count("skip") >= 1 and seen.index("skip") < len(seen), f"the order does not come around: {seen}")


@check
def every_control_has_a_name_and_landmarks_exist(open_console):
    with open_console() as console:
        page = console.page
        console.ask("Hello")
        for view in ("collections", "engine", "requests", "chat"):
            page.goto(console.url + "/#" + view)
            if view == "collections" and not REAL:
                fill_collections(console)
            console.until("!/Connecting/.test(document.querySelector('#status-text').textContent)")
            nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
            roles = {"button", "link", "textbox", "combobox", "spinbutton", "region", "log", "table", "image", "dialog"}
            for node in nodes:
                if node.get("ignored") or node["role"]["value"] not in roles:
                    continue
                name = node.get("name", {}).get("value", "").strip()
                expect(name, f"{view}: a {node['role']['value']} without a name: {node.get('properties')}")
            present = {node["role"]["value"] for node in nodes if not node.get("ignored")}
            landmarks = {"banner", "navigation", "main"}
            if view == "chat":
                landmarks |= {"complementary", "log", "form"}
            expect(landmarks <= present, f"{view}: no {landmarks - present}")
            ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
            expect(len(ids) == len(set(ids)), f"{view}: an id is used twice")
            titles = page.evaluate("[...document.querySelectorAll('h1')].filter((e) => e.checkVisibility()).length")
            expect(titles == 1, f"{view}: {titles} main headings")


# Contrast as in WCAG 2.2, 1.4.3, of every visible text against the backgrounds below it.
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const d = canvas.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255]; };
  const over = (a, b) => a.slice(0, 3).map((v, k) => v * a[3] + b[k] * (1 - a[3]));
  const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (c) => { const [r, g, b] = c.map((v) => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b; };
  const ground = (e) => { const below = [];
    for (; e; e = e.parentElement) below.unshift(rgba(getComputedStyle(e).backgroundColor));
    return below.reduce((c, a) => over(a, c), [255, 255, 255]); };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    const unseen = !e.checkVisibility() || e.closest('.unseen, .skip, script, style, option');
    if (unseen || !walker.currentNode.data.trim()) continue;
    const back = ground(e), ink = over(rgba(getComputedStyle(e).color), back), [x, y] = [light(ink), light(back)];
    found.push([(Math.max(x, y) + .05) / (Math.min(x, y) + .05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}"""


@check
def texts_have_contrast_in_light_and_dark(open_console):
    for scheme in ("light", "dark"):
        with open_console(color_scheme=scheme) as console:
            page = console.page
            page.route("**/v1/chat/completions", lambda route: route.abort("failed"))
            console.ask("Hello")
            page.unroute("**/v1/chat/completions")
            console.ask("Use markdown.")
            for view in ("chat", "collections", "engine", "requests"):
                page.goto(console.url + "/#" + view)
                if view == "requests":
                    page.locator("#requests .row button").first.click()
                if view == "collections" and not REAL:
                    fill_collections(console)
                time.sleep(0.3)
                found = page.evaluate(CONTRAST)
                expect(len(found) > 10, f"{scheme} {view}: only {len(found)} texts")
                worst = found[0]
                expect(worst[0] >= 4.5, f"{scheme} {view}: contrast {worst[0]:.2f} of {worst[1]!r}")
                print(f"  {scheme:5} {view:8} {len(found):3} texts, lowest contrast {worst[0]:.2f} ({worst[1]!r})")


@check
def the_theme_can_be_chosen_and_is_kept(open_console):
    ground = "getComputedStyle(document.body).backgroundColor"
    with open_console(color_scheme="light") as console:
        page = console.page
        light = page.evaluate(ground)
        page.locator("#theme").click()  # light
        expect(page.evaluate(ground) == light, "light is not light")
        page.locator("#theme").click()  # dark
        dark = page.evaluate(ground)
        expect(dark != light, "dark looks like light")
        page.reload()
        expect(page.evaluate(ground) == dark, "the choice is not kept")
        page.locator("#theme").click()  # as the system has it
        page.emulate_media(color_scheme="dark")
        expect(page.evaluate(ground) == dark, "the system's dark is not followed")


@check
def narrow_pages_do_not_scroll_sideways_and_motion_can_be_reduced(open_console):
    with open_console(viewport={"width": 360, "height": 640}, reduced_motion="reduce") as console:
        page = console.page
        console.ask("Use markdown.")
        for view in ("chat", "collections", "engine", "requests"):
            page.goto(console.url + "/#" + view)
            if view == "collections" and not REAL:
                fill_collections(console)
            time.sleep(0.2)
            width = page.evaluate("document.documentElement.scrollWidth")
            expect(width <= 360, f"{view} is {width} px wide")
            small = page.evaluate("""[...document.querySelectorAll('button, select, nav a')]
                .filter((e) => e.checkVisibility())
                .map((e) => [e.textContent.trim().slice(0, 30), e.getBoundingClientRect()])
                .filter(([, r]) => r.height < 24 || r.width < 24 || r.right > 361).map(([t]) => t)""")
            expect(not small, f"{view}: too small or cut off: {small}")
        moving = page.evaluate("document.getAnimations().length")
        expect(moving == 0, f"{moving} animations although motion is reduced")
        page.goto(console.url + "/#chat")
        page.get_by_role("button", name="Settings").click()
        expect(page.get_by_label("Temperature").is_visible(), "the settings do not open")
    # 1280×1024 at a zoom of 400 %: the page scrolls and the message box can be reached.
    with open_console(viewport={"width": 320, "height": 256}) as console:
        console.page.locator("#prompt").scroll_into_view_if_needed()
        console.ask("Hello")
        expect(console.page.evaluate("document.documentElement.scrollWidth") <= 320, "it scrolls sideways at 320 px")


# MARK: engine and requests


@check
def the_engine_view_shows_figures_that_move(open_console):
    with open_console() as console:
        page = console.page
        page.locator("#prompt").fill("Write a long story. Count from one to five hundred in words.")
        page.keyboard.press("Enter")
        page.get_by_role("link", name="Engine").click()
        name = page.evaluate("document.querySelector('#model').value")
        card = page.get_by_role("region", name=name, exact=True)
        card.locator("tr.mine").wait_for()
        expect("this chat" in card.locator("tr.mine").inner_text(), card.locator("tr.mine").inner_text())
        for label in ("Running", "Waiting", "Prefix hits", "Preemptions", "Generated"):
            value = card.locator(".tiles > div", has_text=label).locator("dd").first.inner_text()
            expect(re.search(r"\d", value), f"{label}: {value!r}")
        legend = card.locator(".legend").inner_text()
        expect(all(re.search(part + r" [\d,]+ \(", legend) for part in ("Used", "Cached", "Free")), legend)
        time.sleep(2.2)
        first = card.locator(".spark path").nth(1).get_attribute("d")
        expect(first.count("L") >= 2, f"the line has too few points: {first}")
        drawn = card.locator(".legend i, .spark path, .track span").evaluate_all(
            "all => all.map((e) => e.checkVisibility())")
        expect(len(drawn) >= 9 and all(drawn), f"parts of the bar or the lines are hidden: {drawn}")
        page.get_by_role("button", name="Pause updates").first.click()
        time.sleep(0.5)
        state = lambda: (card.inner_text(), card.locator(".spark path").nth(1).get_attribute("d"))
        held = state()
        time.sleep(1.5)
        expect(state() == held, "it moves while paused")
        page.get_by_role("button", name="Pause updates").first.click()
        console.until(
            f"document.querySelectorAll('#engine-models .spark path')[1].getAttribute('d') !== {json.dumps(held[1])}")
        page.get_by_role("link", name="Chat").click()
        page.get_by_role("button", name="Stop", exact=True).click()
        console.settle()


@check(scripted=True)
def the_engine_figures_are_the_servers(open_console):
    model = {"name": "smollm2-135m", "state": "ready", "running": 2, "waiting": 1, "kv_blocks_used": 40,
             "kv_blocks_total": 1024, "kv_blocks_cached": 200, "tokens_per_second": {"decode": 310.5, "prefill": 900.0},
             "prefix_hit_tokens": 1200, "prompt_tokens": 5000, "generated_tokens": 8000, "preemptions": 3,
             "sequences": [{"id": "chatcmpl-<b>x</b>", "state": "decoding", "prompt_tokens": 120,
                            "generated_tokens": 33, "cached_tokens": 96, "age_s": 1.2}]}
    with open_console() as console:
        page = console.page
        page.route("**/apus/engine", lambda route: route.fulfill(json={"models": [model], "uptime_s": 123}))
        page.goto(console.url + "/#engine")
        console.until("document.querySelector('#uptime').textContent === 'Up 2 min 3 s'")
        text = page.locator("#engine-models").inner_text()
        for part in ("24 %", "1,200 of 5,000 prompt tokens", "Used 40 (3.9 %)", "Cached 200 (19.5 %)",
                     "Free 784 (76.6 %)", "310.5 tokens/s", "900 tokens/s", "8,000",
                     "chatcmpl-<b>x</b>", "1.2 s", "KV blocks: 1,024"):
            expect(part in text, f"no {part!r} in {text!r}")
        status = page.locator("#status-text").inner_text()
        expect(status == "2 running, 1 waiting", status)
        # A model that is gone leaves; null figures are a dash.
        page.unroute("**/apus/engine")
        other = {"models": [{"name": "other", "state": "loading"}]}
        page.route("**/apus/engine", lambda route: route.fulfill(json=other))
        page.get_by_role("heading", name="other").wait_for()
        expect(page.locator("#engine-models .card").count() == 1, "the old model stays")


@check
def a_request_can_be_inspected(open_console):
    with open_console() as console:
        page = console.page
        console.ask("Say one word.").get_by_role("button", name="Inspect").click()
        detail = page.locator("#requests tr.detail:visible")
        detail.wait_for()
        ident = console.stored()[1]["id"]
        text = detail.inner_text()
        for part in (ident, "Queue", "Prefill", "Decode", "From the prefix cache", "/v1/chat/completions"):
            expect(part in text, f"no {part!r} in {text!r}")
        opened = page.locator("#requests button[aria-expanded=true]")
        expect(opened.evaluate("e => e === document.activeElement"), "the focus is not at the request")
        time.sleep(1.3)
        expect(opened.evaluate("e => e === document.activeElement"), "an update moved the focus")
        page.keyboard.press("Enter")
        expect(page.locator("#requests tr.detail:visible").count() == 0, "the detail does not close")
        page.locator("#requests tr.row td").nth(3).click()
        expect(page.locator("#requests tr.detail:visible").count() == 1, "a click on the row does not open it")
        page.get_by_label("Show").select_option("failed")
        statuses = page.locator("#requests tr.row .state").all_inner_texts()
        expect(all(int(s) >= 400 for s in statuses), f"failed only: {statuses}")
        expect("Say one word" not in page.locator("#view-requests").inner_text(), "a prompt is shown")


# MARK: collections


def open_collection(console, name="birds"):
    """Goes to the view, and to the collection of that name."""
    page = console.page
    page.goto(console.url + "/#collections")
    row = page.locator("#collections .row", has=page.get_by_role("button", name=name, exact=True))
    row.wait_for()
    if row.get_attribute("data-open") is None:
        row.get_by_role("button").click()
    console.until("!document.querySelector('#collection').hidden")


def draw_map(console):
    console.page.get_by_role("button", name="Draw the map").click()
    console.until("document.querySelector('#map-cover').hidden")
    return console.page.locator("#map span").all_text_contents()


def search(console, kind, text, payload_filter=""):
    """Searches and returns the hits as `[rank, score, id, text]`."""
    page = console.page
    page.get_by_label("Search by").select_option(kind)
    page.locator("#search-query").fill(text)
    page.get_by_label("Filter of payloads").fill(payload_filter)
    page.get_by_role("button", name="Search", exact=True).click()
    console.until("/^\\d+ hits? in/.test(document.querySelector('#search-note').textContent)"
                  " || document.querySelector('#search-problem').firstChild")
    time.sleep(0.1)
    return hits(page)


def fill_collections(console):
    """A search in `notes` and the map, so that all parts of the view are there."""
    open_collection(console, "notes")
    draw_map(console)
    search(console, "text", "swift tower")


def hits(page):
    return [[part.strip() for part in row] for row in page.locator("#hits tbody tr").evaluate_all(
        "rows => rows.map((row) => [...row.cells].map((c) => (c.querySelector('code:not(.hint)') ?? c).textContent))")]


@check(scripted=True)
def collections_and_the_figures_of_tenants_are_shown(open_console):
    with open_console() as console:
        page = console.page
        open_collection(console)
        rows = page.locator("#collections .row").all_inner_texts()
        expect(rows[0].split() == ["birds", "1,200", "1,200", "48", "l2", "sq8", "none"], f"the first row: {rows[0]!r}")
        expect(rows[1].split() == ["notes", "61", "61", "48", "cosine", "sq8", "minilm-l6"], f"the second: {rows[1]!r}")
        own, everything = page.locator("#figures .card").all_inner_texts()
        birds = mock.STANDARD["birds"]
        stored, total = (size(each["bytes"]["total"]) for each in (birds.tenant("default"), birds.totals()))
        for part in ("Tenant default", "active", "in everybody", "1,200", "of at most 5,000", f"Stored\n{stored}\nno quota"):
            expect(part in own, f"no {part!r} in {own!r}")
        for part in ("Collection birds", "Vectors\n1,200", "Grants\n1,230\nto 2 tenants", f"Size\n{total}",
                     "vectors 288 kB", "index 100 kB"):
            expect(part in everything, f"no {part!r} in {everything!r}")
        # All tenants, and what they may have; a click acts as one.
        rows = tenant_rows(page, 2)
        expect([row[0] for row in rows] == ["alice", "default"], f"tenants: {rows}")
        expect(rows[0][4] == "30 of 5,000, 0.6 %" and rows[0][5] == "240 B", f"alice: {rows[0]}")
        page.get_by_role("button", name="Act as alice").click()
        console.until("document.querySelector('#figures').textContent.includes('Tenant alice')")
        # As another tenant; a name is no ASCII.
        for name, part in (("alice", "Visible points\n30\n0 own"), ("zürich", "sees no points")):
            page.get_by_label("Act as tenant").fill(name)
            page.keyboard.press("Enter")
            console.until(f"document.querySelector('#figures').textContent.includes('Tenant {name}')")
            own = page.locator("#figures .card").first.inner_text()
            expect(part in own, f"{name}: no {part!r} in {own!r}")
        expect("sees no points" in page.locator("#map-cover").inner_text(), "the map of nothing says nothing")


def size(count):
    """Bytes as the page writes them."""
    unit = next(k for k in range(5) if count < 1000 ** (k + 1))
    return f"{count / 1000 ** unit:,.1f}".removesuffix(".0") + " " + ("B", "kB", "MB", "GB", "TB")[unit]


def tenant_rows(page, count):
    rows = page.locator("#tenants tbody tr")
    rows.nth(count - 1).wait_for()
    return [row.split("\t") for row in rows.all_inner_texts()]


@check(scripted=True)
def many_tenants_come_a_page_at_a_time(open_console):
    flock = mock.start(collections=mock.mock_collections.crowd())
    with open_console(f"http://127.0.0.1:{flock.server_port}") as console:
        page = console.page
        open_collection(console, "flock")
        for count, note in ((50, "50 tenants, and more"), (100, "100 tenants, and more"), (120, "120 tenants")):
            rows = tenant_rows(page, count)
            expect(len(rows) == count, f"{len(rows)} rows instead of {count}")
            expect(page.locator("#tenants-note").inner_text() == note, page.locator("#tenants-note").inner_text())
            if count < 120:
                page.get_by_role("button", name="More", exact=True).click()
        expect([row[0] for row in rows] == [f"tenant-{k:03}" for k in range(120)], "wrong tenants")
        expect(rows[7][4:] == ["1 of 4, 25 %", "40 B of 80 B, 50 %", "2.5", "7"], f"{rows[7]}")
        expect(not page.get_by_role("button", name="More", exact=True).is_visible(), "more than all")
    # Who is no administrator is shown no tenants.
    reader = mock.start(key="sk-reader", collections=mock.mock_collections.crowd())
    with open_console(f"http://127.0.0.1:{reader.server_port}", key="sk-reader") as console:
        open_collection(console, "flock")
        expect(not console.page.locator("#tenants-card").is_visible(), "tenants are shown to a tenant")
    for server in (flock, reader):
        server.shutdown()


@check(scripted=True)
def a_search_finds_what_the_server_finds(open_console):
    birds = mock.STANDARD["birds"]
    with open_console() as console:
        page, sent = console.page, sent_bodies(console)
        open_collection(console)
        kinds = page.locator("#search-by option").all_inner_texts()
        expect("Text" not in kinds and len(kinds) == 3, f"without an embedding model: {kinds}")
        page.get_by_label("Hits at most").fill("5")
        found = search(console, "like", "41")
        nearest = sorted(birds.points, key=lambda p: birds.distance(p["vector"], birds.points[41]["vector"]))[:5]
        expect([row[2] for row in found] == [str(p["id"]) for p in nearest], f"hits: {found}")
        expect([row[0] for row in found] == list("12345"), f"ranks: {found}")
        expect(re.match(r"5 hits in [\d.]+ m?s", page.locator("#search-note").inner_text()), "no time")
        found = search(console, "vector", json.dumps(birds.points[7]["vector"]), '{"field": "lang", "equals": "de"}')
        expect(found[0][2] == "7" and all('"lang":"de"' in row[3] for row in found), f"hits: {found}")
        expect(sent[-1]["filter"] == {"field": "lang", "equals": "de"} and sent[-1]["mode"] == "vector", "wrong body")
        found = search(console, "words", "kestrel tower")
        expect(len(found) == 5 and sent[-1]["mode"] == "keyword" and "vector" not in sent[-1], f"hits: {found}")
        # A mistake of the JSON is told at the field, one that only the server knows as it says.
        asked = len(sent)
        page.get_by_label("Filter of payloads").fill('{"field": ')
        page.get_by_role("button", name="Search", exact=True).click()
        expect(page.locator("#search-filter").evaluate("e => e.validationMessage") == "This is no JSON", "no message")
        expect(len(sent) == asked, "a broken filter was sent")
        search(console, "vector", "[1, 2]")
        error = page.locator("#search-problem").get_by_role("alert").inner_text()
        for part in ("The server refused the request.", "Vector is 2 numbers, expected 48", "Field: vector."):
            expect(part in error, f"no {part!r} in {error!r}")
        expect(hits(page) == [], "old hits stay beside the error")


@check(scripted=True)
def texts_hybrid_search_and_similar_points(open_console):
    with open_console() as console:
        page, sent = console.page, sent_bodies(console)
        open_collection(console, "notes")
        expect(page.get_by_label("Search by").input_value() == "text", "text is not the first choice")
        found = search(console, "text", "swift tower")
        expect(sent[-1] == {"k": 10, "mode": "vector", "text": "swift tower"}, f"sent: {sent[-1]}")
        expect(len(found) == 10, f"hits: {found}")
        page.get_by_label("Hybrid").check()
        search(console, "text", "swift tower")
        expect(sent[-1]["mode"] == "hybrid", f"sent: {sent[-1]}")
        # 64-bit ids are whole, and markup of a text stays text.
        found = search(console, "text", "swift")
        row = next((row for row in found if row[2] == str(2**63 - 1)), None)
        expect(row and "<img src=x" in row[3], f"no whole id in {found}")
        expect(page.evaluate("window.pwned") is None, "a text ran")
        page.locator("#hits tr", has_text=str(2**63 - 1)).get_by_role("button").click()
        console.until("document.querySelector('#search-by').value === 'like'")
        console.until("document.querySelector('#hits code').textContent === '9223372036854775807'")
        expect(console.focused() == "Similar", f"the focus went to {console.focused()!r}")
        # A point of another tenant's is named with its owner.
        search(console, "text", "church roof summer nest hole crow")
        shared = page.locator("#hits tr", has_text="of alice").first
        name = shared.locator("code").first.inner_text()
        shared.get_by_role("button").click()
        console.until("document.querySelector('#search-query').value.includes('alice')")
        console.until(f"document.querySelector('#hits code').textContent === {json.dumps(name)}")


@check(scripted=True)
def the_map_is_the_principal_components(open_console):
    with open_console() as console:
        page = console.page
        open_collection(console)
        names = draw_map(console)
        expect(len(names) == 1000, f"{len(names)} points")
        at = [tuple(map(float, re.search(r"\(at (\S+), (\S+)\)$", name).groups())) for name in names]
        # Where the points lie on the directions that they were made of, around their middle. The mean of the cloud
        # does not turn the axes, but their correlation does: the oracle is the exact solution of its 2 x 2 covariance.
        made = [mock.mock_collections.place(k) for k in range(1000)]
        middle = [sum(p[k] for p in made) / 1000 for k in (0, 1)]
        made = [(x - middle[0], y - middle[1]) for x, y in made]
        xx, yy, xy = (sum(p[a] * p[b] for p in made) for a, b in ((0, 0), (1, 1), (0, 1)))
        turn = math.atan2(2 * xy, xx - yy) / 2
        wanted = [(x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)) for x, y in made]
        signs = [math.copysign(1, sum(a[k] * w[k] for a, w in zip(at, wanted))) for k in (0, 1)]
        worst = max(abs(a[k] - signs[k] * w[k]) for a, w in zip(at, wanted) for k in (0, 1))
        print(f"  the greatest distance from the exact place: {worst:.3f}, the cloud is {max(map(max, at)):.1f} wide")
        expect(worst < 0.06, f"a point lies {worst:.3f} beside its place")
        first = (xx * math.cos(turn)**2 + yy * math.sin(turn)**2 + xy * math.sin(2 * turn)) / (xx + yy)
        text = page.locator("#map-summary").inner_text()
        shares = [float(n) / 100 for n in re.findall(r"([\d.]+) %", text)]
        expect(abs(shares[0] - first) < 0.002 and abs(sum(shares) - 1) < 0.002, f"{shares}, expected {first:.4f}")
        expect("The oldest 1,000 of 1,200 points" in text, text)
        # What the pointer is over is what lies there: both axes to one scale, in the middle of the canvas.
        page.locator("#map").scroll_into_view_if_needed()
        box = page.locator("#map").bounding_box()
        ranges = [(min(p[k] for p in at), max(p[k] for p in at)) for k in (0, 1)]
        scale = min((box[side] - 60) / (high - low) for side, (low, high) in zip(("width", "height"), ranges))
        for k in sorted(range(1000), key=lambda k: -abs(at[k][0]) - abs(at[k][1]))[:8]:
            x = box["x"] + box["width"] / 2 + scale * (at[k][0] - sum(ranges[0]) / 2)
            y = box["y"] + box["height"] / 2 - scale * (at[k][1] - sum(ranges[1]) / 2)
            page.mouse.move(x, y)
            seen = page.locator("#map-point").inner_text()
            expect(seen == names[k], f"at the place of {names[k]!r} is {seen!r}")


@check(scripted=True)
def the_map_is_read_by_keyboard_and_screen_reader_and_marks_hits(open_console):
    with open_console(reduced_motion="reduce") as console:
        page = console.page
        open_collection(console)
        draw_map(console)
        page.locator("#map").focus()
        nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        options = [n["name"]["value"] for n in nodes if n["role"]["value"] == "option" and not n.get("ignored")]
        points = [name for name in options if re.match(r"\d+: .* \(at ", name)]
        expect(len(points) == 1000, f"{len(points)} points are told to screen readers")
        active = lambda: page.evaluate("""document.getElementById(
            document.querySelector('#map').getAttribute('aria-activedescendant'))?.textContent""")
        expect(active().startswith("0: "), f"the first point: {active()!r}")
        seen = {active()}
        for key in ("PageDown", "End", "ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown", "ArrowLeft", "Home"):
            page.keyboard.press(key)
            expect(page.locator("#map-point").inner_text() == active(), "the text is another than the active option's")
            seen.add(active())
        expect(len(seen) >= 6 and active().startswith("0: "), f"keys led to {seen}")
        # The last 200 are not on the map until they are hits.
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        console.until("document.querySelectorAll('#hits tbody tr').length === 10")
        console.until("document.querySelector('#map-summary').textContent.includes('10 of 10 hits shown')")
        expect(active().startswith("999, hit 1: ") and console.focused() == "map", f"{active()!r}")
        search(console, "like", "1150")
        console.until("document.querySelector('#map-summary').textContent.includes('10 of 10 hits shown')")
        text = page.locator("#map span", has_text="1150, hit 1: ").text_content()
        page.locator("#hits tr button").first.focus()
        expect(page.locator("#map-point").inner_text() == text, "the row's point is not read")
        # A hit has another colour than the rest, in light and in dark, and nothing moves.
        for theme in ("light", "dark"):
            page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
            page.set_viewport_size({"width": 1280 if theme == "dark" else 1100, "height": 800})
            time.sleep(0.3)
            colours = page.evaluate("""(() => { const c = document.querySelector('#map');
                const copy = new OffscreenCanvas(c.width, c.height).getContext('2d', { willReadFrequently: true });
                copy.drawImage(c, 0, 0);
                const d = new Uint32Array(copy.getImageData(0, 0, c.width, c.height).data.buffer);
                const n = new Map(); for (const v of d) n.set(v, (n.get(v) ?? 0) + 1);
                return [...n].filter(([v, k]) => k > 40 && v >>> 24 === 255).map(([v]) =>
                    [v & 255, v >> 8 & 255, v >> 16 & 255].join()); })()""")
            wanted = [page.evaluate("getComputedStyle(document.querySelector('.legend %s')).borderTopColor" % kind)
                      for kind in (".dot", ".hit")]
            for colour in wanted:
                plain = ",".join(re.findall(r"\d+", colour)[:3])
                expect(plain in colours, f"{theme}: {plain} is not among {colours}")
            expect(wanted[0] != wanted[1], "hits look like other points")
        expect(page.evaluate("document.getAnimations().length") == 0, "something moves")
        size = page.evaluate("[document.querySelector('#map').width, document.querySelector('#map').clientWidth]")
        expect(size[0] == size[1], f"the canvas was not drawn again at its new size: {size}")


@check(scripted=True)
def the_map_reads_vectors_one_by_one_where_a_list_has_none(open_console):
    with open_console() as console:
        open_collection(console, "notes")
        names = draw_map(console)
    server = mock.start(scroll_has_vectors=False)
    with open_console(f"http://127.0.0.1:{server.server_port}") as console:
        open_collection(console, "notes")
        found = draw_map(console)
        expect(len(found) == mock.mock_collections.NOTES + 1 and found == names, f"{len(found)} points, or others")
    server.shutdown()


@check(scripted=True)
def every_state_of_collections_is_clear(open_console):
    def at(url, **options):
        return open_console(url, **options)

    off, empty = mock.start(collections=None), mock.start(collections={})
    with at(f"http://127.0.0.1:{off.server_port}") as console:
        console.page.goto(console.url + "/#collections")
        text = console.page.locator("#collections-empty")
        text.get_by_text("This server keeps no collections").wait_for()
        expect("apus serve --collections FOLDER" in text.inner_text(), text.inner_text())
        expect(console.page.locator("#view-collections").get_by_role("alert").count() == 0, "it counts as an error")
    with at(f"http://127.0.0.1:{empty.server_port}") as console:
        console.page.goto(console.url + "/#collections")
        text = console.page.locator("#collections-empty")
        text.get_by_text("No collection yet").wait_for()
        line = text.locator("code").inner_text()
        expect(f"curl -X PUT {console.url}/v1/collections/notes" in line and '{"dimension": 384}' in line, line)
        expect(not console.page.locator("#collection").is_visible(), "a collection is shown")
        # The server goes away, and comes back.
        console.page.route("**/v1/collections", lambda route: route.abort("connectionrefused"))
        console.page.get_by_role("button", name="Refresh").click()
        error = console.page.locator("#collections-problem").get_by_role("alert")
        error.wait_for()
        expect("can’t be reached" in error.inner_text(), error.inner_text())
        console.page.unroute("**/v1/collections")
        error.get_by_role("button", name="Try again").click()
        text.get_by_text("No collection yet").wait_for()
        expect(error.count() == 0, "the error stays")
    # A key that is no administrator's sees its own tenant only, and what it may not do is told.
    reader = mock.start(key="sk-reader", collections=mock.STANDARD)
    with at(f"http://127.0.0.1:{reader.server_port}", key="sk-reader") as console:
        open_collection(console, "notes")
        expect(console.page.locator("#figures .card").count() == 1, "totals are shown to a tenant")
        expect(not console.page.get_by_label("Act as tenant").is_visible(), "it may choose a tenant")
        expect("sees no points" in console.page.locator("#figures").inner_text(), "no word of the empty tenant")
        refusal = {"error": {"message": "x-apus-tenant names another tenant than the API key's", "param": None,
                             "type": "permission_error", "code": "other_tenant"}}
        console.page.route("**/v1/collections/notes/search", lambda route: route.fulfill(status=403, json=refusal))
        search(console, "text", "swift")
        error = console.page.locator("#search-problem").inner_text()
        expect("This isn’t allowed." in error and "another tenant" in error, error)
        console.page.get_by_role("link", name="Chat").click()
        console.page.get_by_label("API key").fill("sk-wrong")
        console.page.keyboard.press("Tab")
        console.page.get_by_role("link", name="Collections").click()
        console.page.locator("#collections-problem").get_by_role("button", name="Enter an API key").wait_for()
        expect(not console.page.locator("#collection").is_visible(), "what another key saw stays")
    for server in (off, empty, reader):
        server.shutdown()


# MARK: the file


@check
def the_page_is_one_small_file_under_a_strict_policy(open_console):
    with open_console() as console:
        response = console.page.goto(console.url + "/")
        text = response.text()
        expect(len(text.encode()) <= MAXIMUM_BYTES, f"{len(text.encode())} bytes, at most {MAXIMUM_BYTES}")
        expect(text.count("<script") == 1 and text.count("<style") == 1, "more than one script or style")
        body = text.split("<script")[0].split("</style>")[1]
        expect(not re.search(r"<[^>]+\s(?:on\w+|style)=", body), "an inline handler or style")
        expect("innerHTML" not in text and "\r" not in text, "innerHTML or a carriage return")
        allowed = response.headers.get("content-security-policy", "")
        expect("default-src 'none'" in allowed and "unsafe" not in allowed, f"the policy is {allowed!r}")


@check
def screenshots_are_taken(open_console):
    SHOTS.mkdir(parents=True, exist_ok=True)
    for scheme in ("dark", "light"):
        for width, height in ((1280, 800), (390, 844)):
            with open_console(viewport={"width": width, "height": height}, color_scheme=scheme) as console:
                page = console.page
                shot = lambda name: page.screenshot(path=SHOTS / f"{name}-{scheme}-{width}x{height}.png")
                time.sleep(0.2)
                shot("empty")
                console.ask("Name three birds that nest in towers.")
                shot("chat")
                console.say("Write a Swift function that reverses the words of a sentence. Use markdown.")
                console.settle()
                time.sleep(0.2)
                shot("code")
                page.route("**/v1/chat/completions", lambda route: route.abort("failed"))
                console.ask("And now?")
                shot("error")
                page.unroute("**/v1/chat/completions")
                if width < 500:
                    page.get_by_role("button", name="Settings").click()
                    shot("settings")
                    page.get_by_role("button", name="Settings").click()
                time.sleep(0 if REAL else 4)
                if not REAL:
                    page.goto(console.url + "/#collections")
                    page.get_by_role("button", name="notes").wait_for()
                    shot("collections")
                    fill_collections(console)
                    page.locator("#map").focus()
                    page.screenshot(path=SHOTS / f"map-{scheme}-{width}x{height}.png")
                    page.locator("#search").scroll_into_view_if_needed()
                    shot("search")
                for view in ("engine", "requests"):
                    page.goto(console.url + "/#" + view)
                    time.sleep(1.2)
                    if view == "requests":
                        page.locator("#requests .row button").first.click()
                    shot(view)
                page.locator("#help").click()
                shot("shortcuts")


def main():
    chosen = sys.argv[1:]
    browser_path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not browser_path:
        sys.exit("no Chromium found: install Debian's 'chromium' or set CHROMIUM to its path")
    url = REAL or f"http://127.0.0.1:{mock.start().server_port}"
    failures = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])

        @contextlib.contextmanager
        def open_console(url=url, **options):
            console = Console(browser, url, **options)
            yield console
            console.close()

        for function, scripted in checks:
            name = function.__name__
            if chosen and not any(part in name for part in chosen):
                continue
            if scripted and REAL:
                print(f"skipped  {name.replace('_', ' ')} (needs scripted answers)")
                continue
            begun = time.monotonic()
            try:
                function(open_console)
            except Exception:
                failures += 1
                lines = traceback.format_exc().splitlines()
                ours = [k for k, line in enumerate(lines) if str(HERE) in line]
                places = [lines[k] + lines[k + 1] for k in ours]
                print(f"FAILED   {name.replace('_', ' ')}", *places, *lines[ours[-1] + 2:][-8:], sep="\n", flush=True)
            else:
                print(f"ok       {name.replace('_', ' ')} ({time.monotonic() - begun:.1f} s)", flush=True)
        browser.close()
    if failures:
        sys.exit(f"{failures} checks failed")


if __name__ == "__main__":
    main()
