"""The chat page in a real browser, under the policy that it is served with."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.integration.scripted_api import Lost, ScriptedApi
from tests.integration.served import KEY, Served

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

HOSTILE = (
    "<script>window.owned = 1</script>",
    "<img src=x onerror='window.owned = 1'>",
    "<svg onload=window.owned=1>",
    "</p></article><iframe srcdoc='<script>parent.owned=1</script>'></iframe>",
    '<a href="javascript:window.owned=1" id=bait>click</a>',
    "{{constructor.constructor('window.owned=1')()}} ${window.owned=1} &lt;b&gt;",
)

pytestmark = [pytest.mark.integration]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium: the machine's own, else the one that playwright has downloaded."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium: apt-get install chromium, or: playwright install chromium")
        # Chromium's sandbox does not start for root, as which containers run.
        sandbox = os.geteuid() != 0
        opened = playwright.chromium.launch(executable_path=found, chromium_sandbox=sandbox)
        yield opened
        opened.close()


@pytest.fixture
def api() -> ScriptedApi:
    return ScriptedApi()


@pytest.fixture
def page(browser: Browser, api: ScriptedApi) -> Iterator[Page]:
    """The page, opened. The test fails if the browser has complained about anything."""
    context = browser.new_context()
    opened = context.new_page()
    opened.set_default_timeout(5000)
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "console",
        lambda said: (
            # The browser reports every status of 400 or above, which tests here provoke.
            complaints.append(said.text)
            if said.type in ("error", "warning") and "Failed to load resource" not in said.text
            else None
        ),
    )
    with api.listening() as url:
        opened.goto(url)
        yield opened
        context.close()
    assert complaints == []


def say(page: Page, text: str) -> None:
    """Sends a message as a person does."""
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def test_a_conversation(page: Page, api: ScriptedApi) -> None:
    say(page, "one")
    expect(page.get_by_role("article")).to_have_count(2)
    expect(page.locator("article.assistant .text")).to_have_text("You said one.")
    say(page, "two\nlines: 你好")
    expect(page.locator("article.assistant .text").last).to_have_text("You said two\nlines: 你好.")
    assert [m["content"] for m in api.asked[1]["messages"]] == [
        "one", "You said one.", "two\nlines: 你好",
    ]  # fmt: skip
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("article")).to_have_count(0)
    say(page, "three")
    expect(page.locator("article.assistant .text")).to_have_text("You said three.")
    assert [m["content"] for m in api.asked[2]["messages"]] == ["three"]


def test_settings_reach_the_model(page: Page, api: ScriptedApi) -> None:
    say(page, "plain")
    expect(page.locator("article.assistant .text")).to_have_text("You said plain.")
    assert set(api.asked[0]) == {"model", "messages", "stream"}
    page.get_by_label("Model").select_option("adapter")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System message").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Longest answer").fill("12")
    say(page, "again")
    expect(page.locator("article.assistant .text").last).to_have_text("You said again.")
    asked = api.asked[1]
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("adapter", 0.5, 12)
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert asked["stream"] is True
    page.get_by_label("Longest answer").fill("0")
    say(page, "refused by the page")
    expect(page.get_by_label("Message", exact=True)).to_have_value("refused by the page")
    assert len(api.asked) == 2


def test_an_answer_is_shown_as_it_comes_and_can_be_stopped(page: Page, api: ScriptedApi) -> None:
    def endless(question: str) -> Iterator[str]:
        yield "begun"
        for number in itertools.count():
            if api.hung_up.wait(0.02):
                return
            yield f" {number}"

    api.answer = endless
    say(page, "count")
    expect(page.locator("article.assistant .text")).to_contain_text("begun 0 1")
    page.get_by_role("button", name="Stop").click()
    assert api.hung_up.wait(5), "the service was not told"
    expect(page.locator("article.assistant small")).to_have_text("stopped")
    said = page.locator("article.assistant .text").text_content()
    api.answer = lambda _: ["end"]
    say(page, "go on")
    expect(page.locator("article.assistant .text").last).to_have_text("end")
    assert [m["content"] for m in api.asked[1]["messages"]] == ["count", said, "go on"]


def test_a_new_conversation_ends_the_answer(page: Page, api: ScriptedApi) -> None:
    released = threading.Event()

    def slow(question: str) -> Iterator[str]:
        yield "begun"
        released.wait(5)
        yield "late" * 100_000

    api.answer = slow
    say(page, "one")
    expect(page.locator("article.assistant .text")).to_have_text("begun")
    page.get_by_role("button", name="New chat").click()
    released.set()
    api.answer = lambda _: ["two"]
    say(page, "again")
    expect(page.locator("article.assistant .text")).to_have_text("two")
    assert len(api.asked[1]["messages"]) == 1


def test_what_a_model_writes_is_never_markup(page: Page, api: ScriptedApi) -> None:
    for text in HOSTILE:
        # Also where it arrives in pieces.
        api.answer = lambda _, text=text: iter(text)  # type: ignore[misc]
        say(page, text)
        expect(page.locator("article.assistant .text").last).to_have_text(text)
    assert page.evaluate("window.owned") is None
    for element in ("script", "img", "svg", "iframe", "a", "b"):
        assert page.locator(f"#log {element}").count() == 0
    api.refusal = 400, HOSTILE[1]
    say(page, "?")
    expect(page.get_by_role("alert")).to_have_text(HOSTILE[1])
    assert page.locator("#alert *").count() == 0
    assert page.evaluate("window.owned") is None


def test_the_policy_stops_what_a_mistake_would_let_in(browser: Browser, api: ScriptedApi) -> None:
    with api.listening() as url, ScriptedApi().listening() as elsewhere:
        page = browser.new_page()
        page.goto(url)
        stopped = page.evaluate(
            """async (elsewhere) => {
                const script = document.createElement("script");
                const tries = {
                    async markup() { document.body.innerHTML = "<b>x</b>"; },
                    async code() { script.text = "owned = 1"; document.body.append(script); },
                    async request() { await fetch(elsewhere, {mode: "no-cors"}); },
                };
                const stopped = [];
                for (const name in tries) await tries[name]().catch(() => stopped.push(name));
                return stopped;
            }""",
            elsewhere,
        )
        assert stopped == ["markup", "code", "request"]
        assert page.evaluate("window.owned") is None
        page.close()


def test_code_has_a_box_of_its_own_and_stays_text(page: Page, api: ScriptedApi) -> None:
    answer = f"Look:\n```html\n{HOSTILE[1]}\n\n  two\n```\nand\n```\nthree\n```\nan ``` open one"
    api.answer = lambda _: [answer]
    say(page, "?")
    code = page.locator("article.assistant pre")
    expect(code).to_have_count(2)
    assert code.all_text_contents() == [f"{HOSTILE[1]}\n\n  two", "three"]
    expect(page.locator("article.assistant .text")).to_contain_text("an ``` open one")
    assert page.evaluate("window.owned") is None
    say(page, "again")
    expect(code).to_have_count(4)
    assert api.asked[1]["messages"][1]["content"] == answer


def test_a_failed_question_can_be_sent_again(page: Page, api: ScriptedApi) -> None:
    def lost(question: str) -> Iterator[str]:
        yield "half"
        raise Lost

    api.answer = lost
    say(page, "one")
    expect(page.get_by_role("alert")).to_contain_text("lost")
    expect(page.get_by_role("article")).to_have_count(0)
    expect(page.get_by_label("Message", exact=True)).to_have_value("one")
    api.answer, api.refusal = lambda _: ["whole"], (429, "queue is full")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("busy")
    api.refusal = None
    page.get_by_role("button", name="Send").click()
    expect(page.locator("article.assistant .text")).to_have_text("whole")
    expect(page.get_by_role("alert")).to_be_hidden()
    assert [m["content"] for m in api.asked[-1]["messages"]] == ["one"]


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(page: Page, api: ScriptedApi) -> None:
    expect(page.get_by_label("API key")).to_be_hidden()
    api.key = "the-key"
    page.reload()
    expect(page.get_by_role("alert")).to_have_text("This service wants an API key.")
    for wrong, said in (("wrong", "not accepted"), ("schlüssel", "no accents")):
        page.get_by_label("API key").fill(wrong)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text(said)
    page.get_by_label("API key").fill(" the-key ")
    page.keyboard.press("Enter")
    expect(page.get_by_label("API key")).to_be_hidden()
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    say(page, "one")
    expect(page.locator("article.assistant .text")).to_have_text("You said one.")
    assert page.evaluate("[Object.keys(sessionStorage).length, localStorage.length]") == [1, 0]
    assert page.context.cookies() == []
    assert "the-key" not in page.url
    page.reload()
    expect(page.get_by_label("Model")).to_have_value("base")
    api.key = "another"
    say(page, "two")
    expect(page.get_by_role("alert")).to_contain_text("not accepted")
    expect(page.get_by_label("Message", exact=True)).to_have_value("two")
    assert page.evaluate("sessionStorage.length") == 0


def test_the_keyboard_alone_is_enough(page: Page, api: ScriptedApi) -> None:
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.type("a")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("b")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Send")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("article.user .text")).to_have_text("a\nb")
    unnamed = page.evaluate("""[...document.querySelectorAll("button, input, select, textarea")]
        .filter((field) => !field.textContent.trim() && !field.labels?.length && !field.ariaLabel)
        .map((field) => field.id)""")
    assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen_and_is_readable(page: Page, api: ScriptedApi, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 320, "height": 560})
    api.answer = lambda _: ["w" * 400]
    say(page, "x" * 300)
    expect(page.locator("article.assistant .text")).to_have_text("w" * 400)
    page.get_by_role("button", name="Settings").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.get_by_role("button", name="Send").is_visible()
    background, text = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (luminance(background) < luminance(text)) == (scheme == "dark")
    assert contrast(background, text) > 7


@pytest.mark.slow
def test_the_page_of_a_real_service(browser: Browser, service: Served) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(service.url)
    expect(page.get_by_role("alert")).to_have_text("This service wants an API key.")
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_label("Model")).to_have_value("tiny")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Longest answer").fill("8")
    for number in (1, 2):
        say(page, "Who are you?")
        expect(page.locator("article.assistant")).to_have_count(number)
        expect(page.locator("article.assistant small")).to_have_count(number, timeout=30_000)
    assert page.locator("article.assistant .text").first.text_content()
    expect(page.get_by_role("alert")).to_be_hidden()
    context.close()


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG defines it."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
