"""What a person sees and does at /, in a real Chromium: figures, two answers side by side, stop, keys, promotion, hostile words."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onecard.engines.engine import Chunk
from onecard.errors import GateFailed
from onecard.serving.answerers import Answerer, Directory
from onecard.serving.dashboard import Expected, Promise
from onecard.serving.keys import KeyRing
from onecard.serving.residency import Change
from onecard.serving.running import Running
from onecard.serving.settings import Settings
from onecard.wire.admin import AdapterRow

Served = Callable[[Settings], AbstractContextManager[Running]]
PLANNED = {"weights": 6 * 2**30, "cache": 3 * 2**30, "adapters": 2**28, "working": 2**30, "process": 2**29}
EXPECTED = Expected("RTX 3090", 24 * 2**30, 2**30, PLANNED, {"explainer": Promise(10.0, 95.0)})
HOSTILE = "<script>window.stolen=1</script><img/src=x/onerror=window.stolen=1>"
ANSWERED = "document.querySelectorAll('.said.writing').length === 0 && document.getElementById('stop').disabled"
READY = "document.getElementById('state').textContent === '● answering' && document.querySelector('.agent')"
COLOUR_PAIRS = [("--text", "--page"), ("--text", "--sheet"), ("--soft", "--sheet"), ("--soft", "--page"), ("--link", "--sheet"),
                ("--good", "--page"), ("--bad", "--page"), ("--good", "--sheet"), ("--bad", "--sheet"), ("--warn", "--sheet"),
                ("--on-button", "--button"), ("--text", "--warn-page"), ("--text", "--bad-page")]  # fmt: skip


@pytest.fixture
def url(served: Served) -> Iterator[str]:
    with served(Settings(expected=EXPECTED)) as running:
        yield f"{running.url}/"


def ask(page: Any, prompt: str, left: str = "explainer", right: str = "quizmaster") -> None:
    page.wait(READY)
    for place, name in (("first", left), ("second", right)):
        page.fill(f"#who-{place}", name)
    page.fill("#prompt", prompt)
    page.click("#send")


def picture(page: Any, name: str) -> None:
    """For people: pictures are kept where $ONECARD_PICTURES says, and nowhere without it."""
    if folder := os.environ.get("ONECARD_PICTURES"):
        page.picture(Path(folder) / f"{name}.png")


def test_it_shows_memory_agents_and_their_versions(page: Any, url: str) -> None:
    page.open(url)
    page.wait(READY)
    assert page.text("h1") == "test"
    weights = page.text("#parts tr:nth-child(1)").split("\t")
    assert weights == ["base weights", "6.00 GiB", "1,000 B", "\u22126.00 GiB"]
    assert page.text("#parts tr.sum").split("\t")[:2] == ["all", "10.75 GiB"]
    segments = page.run(
        "[...document.querySelector('#bars .bar').children].map(one => [one.className, one.style.width])"
    )
    assert segments[0] == ["weights", "25%"] and [kind for kind, _ in segments] == [
        "weights", "cache", "adapters", "rest", "reserve",
    ]  # fmt: skip
    assert "of 24.00 GiB (RTX 3090)" in page.text("#bar-scale")
    cards = [page.text(f".agent:nth-child({place})") for place in (1, 2, 3)]
    assert ["explainer" in cards[0], "style@v0003 · digest-1" in cards[0], "in time (10 s)" in cards[0]] == [True] * 3
    assert "quiz@v0001 · digest-2" in cards[1] and "the bare base, no adapter" in cards[2]
    asked = [one["request"]["url"] for one in page.happened("Network.requestWillBeSent")]
    assert all(one.startswith((url, "data:")) for one in asked), asked
    picture(page, "card")


def test_two_answers_stand_side_by_side_with_who_gave_them(page: Any, url: str) -> None:
    page.open(url)
    page.wait(READY)
    assert page.run("[...document.querySelectorAll('#panes select')].map(one => one.value)") == [
        "explainer", "terse", "explainer", "verbose",
    ]  # fmt: skip
    ask(page, "hello there")
    page.wait(ANSWERED)
    left, right = page.text(".pane:nth-child(1)"), page.text(".pane:nth-child(2)")
    assert (
        "[digest-1] <T> hello there" in left
        and "Answered by explainer · style@v0003 · digest-1 · embedded:fake" in left
    )
    assert "[digest-2] hello there" in right and "quizmaster · quiz@v0001" in right
    assert "4 tokens in" in left and "3 tokens in" in right
    page.wait("document.querySelector('.agent').innerText.includes('✓ 100%')")
    assert "1" in page.text(".agent:nth-child(1) .facts div:nth-child(2) dd")
    assert page.run("document.querySelector('.agent .curve').getAttribute('aria-label')").startswith(
        "Answers of explainer"
    )


def test_stop_ends_both_answers_on_the_service_too(page: Any, url: str, fake: Any) -> None:
    async def without_end(request: Any, words: Any) -> AsyncIterator[Chunk]:
        while True:
            yield Chunk("and ", 1, 1)
            await asyncio.sleep(0.01)

    fake._words = without_end
    page.open(url)
    ask(page, "say")
    page.wait("[...document.querySelectorAll('.said')].every(one => one.textContent.length > 20)")
    assert "writing for" in page.text(".pane:nth-child(1)")
    picture(page, "writing")
    page.click("#stop")
    page.wait(ANSWERED)
    assert "Stopped after" in page.text(".pane:nth-child(1)") and "and and" in page.text(".pane:nth-child(2) .said")
    page.wait("document.querySelector('.agent').innerText.includes('1 left')")
    assert (fake.running, fake.cancelled) == (0, 2)


def test_what_a_model_says_or_is_called_is_only_ever_text(page: Any, service: Any, served: Served, fake: Any) -> None:
    fake._info = replace(fake._info, model_id=f"hub/{HOSTILE}")
    service._ids = {"base": fake._info.model_id}
    service.fleet = replace(service.fleet, name=HOSTILE)
    agents = [Answerer(HOSTILE, "base", fake, f"{HOSTILE}@v0001", HOSTILE), *service.directory.agents]
    service.directory = Directory(agents, service.directory.base)
    with served(Settings(expected=replace(EXPECTED, card=HOSTILE))) as running:
        page.open(f"{running.url}/")
        ask(page, HOSTILE, left="base", right="clerk")
        page.wait(ANSWERED)
        assert f"[base] {HOSTILE}" in page.text(".pane:nth-child(1) .said")
        assert page.text("h1") == HOSTILE == page.text(".agent h3")
        assert HOSTILE in page.text("#memory-says") and HOSTILE in page.text("#bar-scale")
        assert page.text(".pane:nth-child(1) code") == f"base · no adapter · hub/{HOSTILE}"
        assert page.run("document.querySelectorAll('script').length") == 1
        assert page.run("document.querySelectorAll('img').length") == 0
        assert page.run("window.stolen ?? null") is None


def test_the_policy_stops_markup_even_if_the_page_wrote_it(chromium: Any, url: str) -> None:
    page = chromium.page()
    page.open(url)
    page.wait(READY)
    tried = "(() => { try { document.body.innerHTML = '<b>x</b>'; return 'written'; } catch (e) { return e.name; } })()"
    assert page.run(tried) == "TypeError"
    sent = "fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'blocked')"
    assert page.run(sent) == "blocked"
    blocked = [one["entry"]["text"] for one in page.happened("Log.entryAdded")]
    page.close()
    assert any("connect-src" in one for one in blocked) and any("TrustedHTML" in one for one in blocked), blocked


def test_an_error_is_said_in_words_where_it_happened(page: Any, url: str) -> None:
    page.open(url)
    ask(page, "die now", right="clerk")
    page.wait(ANSWERED)
    assert "the engine died" in page.text(".pane:nth-child(1)")
    page.fill("#prompt", "word " * 70)
    page.click("#send")
    page.wait("document.querySelector('.pane [role=status]').innerText.includes('the context holds 64')")
    page.wait(ANSWERED)


def test_a_service_that_is_gone_is_said(page: Any, served: Served) -> None:
    with served(Settings(expected=EXPECTED)) as running:
        page.open(f"{running.url}/")
        page.wait(READY)
    page.wait("document.getElementById('state').textContent.includes('no connection')")
    assert "does not answer" in page.text("#notice")
    assert "from before" in page.text("#notice") and page.text("h1") == "test", (
        "what was known stays, and is said to be old"
    )
    picture(page, "gone")


def test_keys_are_asked_for_and_kept_nowhere(page: Any, served: Served, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys.json")
    secret = ring.add("somebody", ("infer:explainer",))
    with served(Settings(keys=ring, expected=EXPECTED)) as running:
        page.open(f"{running.url}/")
        page.wait("document.getElementById('keys').open")
        assert "wants a key" in page.text("#notice")
        assert not page.run("document.getElementById('ask').checkVisibility()"), "nothing to use before there is a key"
        picture(page, "keys")
        page.fill("#key", "onecard_wrong")
        page.run("document.getElementById('keys-form').requestSubmit()")
        page.wait("document.getElementById('notice').innerText.includes('not known')")
        page.click("#open-keys")
        page.fill("#key", secret)
        page.run("document.getElementById('keys-form').requestSubmit()")
        page.wait(READY)
        page.wait("document.getElementById('agents-say').innerText.includes('has no scope admin')")
        ask(page, "hello", right="clerk")
        page.wait(ANSWERED)
        assert "[digest-1] <T> hello" in page.text(".pane:nth-child(1)")
        assert "no scope infer:clerk" in page.text(".pane:nth-child(2)")
        assert secret not in page.run(
            "location.href + JSON.stringify({...localStorage, ...sessionStorage}) + document.cookie"
        )
        assert all(secret not in one["request"]["url"] for one in page.happened("Network.requestWillBeSent"))
        page.click("#open-keys")
        page.click("#forget")
        page.wait("document.getElementById('notice').innerText.includes('wants a key')")


class Desk:
    """Two versions of quizmaster's adapter. The new one has no verdict, so that it is promoted by force only."""

    leaving: frozenset[str] = frozenset()

    def __init__(self, service: Any) -> None:
        self._service = service
        self.current, self.told = "v0001", []  # type: ignore[var-annotated]

    def rows(self) -> list[AdapterRow]:
        rows = []
        for version, digest in (("v0001", "digest-2"), ("v0002", "digest-3")):
            serves = version == self.current
            aliases = ("production",) if serves else ("previous",) if self.current == "v0002" else ("candidate",)
            residency: Any = "answers" if serves else "stored"
            rows.append(
                AdapterRow(
                    agent="quizmaster", adapter=f"quiz@{version}", digest=digest, aliases=aliases, residency=residency
                )
            )
        return rows

    def promote(self, agent: str, version: str, *, reason: str | None, force: bool) -> Change:
        if not (force and reason):
            raise GateFailed("v0002 has no passing verdict", next_step="onecard evaluate")
        return self._change(version, "digest-3", reason)

    def rollback(self, agent: str, *, reason: str | None) -> Change:
        return self._change("v0001", "digest-2", reason)

    def _change(self, version: str, digest: str, reason: str | None) -> Change:
        self.told.append((version, reason))
        self.current = version
        directory = self._service.directory
        agents = [
            replace(one, adapter=f"quiz@{version}", digest=digest) if one.agent == "quizmaster" else one
            for one in directory.agents
        ]
        self._service.exchange(Directory(agents, directory.base))
        return Change("quizmaster", None, f"quiz@{version}", digest)


def test_a_version_is_promoted_and_rolled_back(page: Any, service: Any, served: Served, fake: Any) -> None:
    desk = service.residency = Desk(service)
    fake.loaded["digest-3"] = None
    card = "document.querySelectorAll('.agent')[1]"
    with served(Settings(expected=EXPECTED)) as running:
        page.open(f"{running.url}/")
        page.wait(f"{card}.querySelector('details:not([hidden])')")
        page.run(f"{card}.querySelector('details').open = true")
        assert "quiz@v0001 · digest-2" in page.text(".versions li") and "production" in page.text(".versions li")
        page.run("document.querySelector('[aria-label=\"Promote… quizmaster@v0002\"]').click()")
        page.run("document.getElementById('change-form').requestSubmit()")
        page.wait("document.getElementById('change-fault').innerText.includes('no passing verdict')")
        picture(page, "promote")
        assert desk.told == []
        page.fill("#reason", "looked at by hand")
        page.click("#force")
        page.run("document.getElementById('change-form').requestSubmit()")
        page.wait(
            f"!document.getElementById('change').open && {card}.querySelector('p').innerText.startsWith('quiz@v0002')"
        )
        page.wait("[...document.querySelectorAll('#who-first option')].some(one => one.value === 'quizmaster@v0002')")
        page.fill("#who-first", "quizmaster@v0002")
        page.wait(
            "[...document.querySelectorAll('.versions button')].some(one => one.innerText.startsWith('Roll back'))"
        )
        page.run("[...document.querySelectorAll('.versions button')].find(b => b.innerText.startsWith('Roll')).click()")
        page.run("document.getElementById('change-form').requestSubmit()")
        page.wait(f"{card}.querySelector('p').innerText.startsWith('quiz@v0001')")
        page.wait("document.getElementById('who-first').innerText.includes('not served any more')")
        page.click("#send")
        page.wait(ANSWERED)
        assert "no model 'quizmaster@v0002'" in page.text(".pane:nth-child(1)"), "never another one in its place"
    assert desk.told == [("v0002", "looked at by hand"), ("v0001", None)]


def test_the_keyboard_is_enough(page: Any, url: str) -> None:
    page.open(url)
    page.wait(READY)
    page.press("Tab", 9)
    assert page.run("document.activeElement.textContent") == "To the playground"
    page.press("Enter", 13, text="\r")
    for _ in range(30):
        page.press("Tab", 9)
        if page.run("document.activeElement.id") == "prompt":
            break
    page.press("Enter", 13, modifiers=2)
    page.wait("document.querySelectorAll('.pane code').length === 2")
    page.wait(ANSWERED)
    assert "What is a hash table?" in page.text(".pane:nth-child(1) .said")
    nameless = page.run(
        "[...document.querySelectorAll('button, select, textarea, input, summary')].filter(one => one.checkVisibility() && "
        "!one.innerText?.trim() && !one.labels?.length && !one.getAttribute('aria-label')).map(one => one.outerHTML)"
    )
    assert nameless == []


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_has_enough_contrast(page: Any, url: str, dark: bool) -> None:
    """WCAG AA: 4.5 to 1 for every pair of text and ground that the page uses."""
    page.open(url, dark=dark)
    page.wait(READY)
    colours = {name for pair in COLOUR_PAIRS for name in pair}
    seen = {name: page.run(f"getComputedStyle(document.body).getPropertyValue('{name}').trim()") for name in colours}
    poor = {pair: contrast(seen[pair[0]], seen[pair[1]]) for pair in COLOUR_PAIRS}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < 4.5} == {}


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio of two #rgb or #rrggbb colours."""

    def luminance(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
        parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_cut_off_on_a_small_screen(page: Any, service: Any, served: Served, width: int) -> None:
    service.residency = Desk(service)
    with served(Settings(expected=EXPECTED)) as running:
        page.open(f"{running.url}/", width=width, height=800)
        ask(page, "averylongword" * 20)
        page.wait(ANSWERED)
        page.wait("document.querySelector('details:not([hidden])')")
        page.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert page.run("document.documentElement.scrollWidth") <= width
        outside = page.run(
            f"[...document.querySelectorAll('body *')].filter(one => one.checkVisibility() && !one.closest('.out, svg') && "
            f"one.getBoundingClientRect().right > {width} + 0.5).map(one => one.outerHTML.slice(0, 80))"
        )
        assert outside == []
        picture(page, f"small-{width}")


def test_whoever_wants_less_motion_gets_none(page: Any, url: str) -> None:
    moving = "getComputedStyle(document.querySelector('.bar i')).transitionDuration"
    page.open(url, still=True)
    page.wait(READY)
    assert page.run(moving) == "0s"
    page.open(url, still=False)
    page.wait(READY)
    assert page.run(moving) != "0s"
