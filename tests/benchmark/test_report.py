"""The page: whole and valid, nothing from outside, everything hostile escaped, sections only where there is something to say."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.benchmark.plots import pictures
from onecard.benchmark.report import render
from onecard.benchmark.report_data import (
    Comparison,
    Extras,
    GateLine,
    Measured,
    ReportData,
    Sample,
    SampleAnswer,
    assemble,
)
from onecard.evidence.results import ResultFile

Make = Callable[..., ResultFile]
HOSTILE = '<script>alert("x")</script><img src=http://evil.example onerror=alert(1)>\' & "quoted"'
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Reads a page as a browser would: tags, attributes, text; says when a tag is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data


def whole(make_result: Make, text: str = "plain") -> ReportData:
    """Every section, with `text` in every place that comes from outside."""
    result = make_result(what={"agents": [text], "url": text, "model": text, "engine": text, "fleet": text})
    rows = [r.model_copy(update={"agent": text, "adapter": text, "preset": text}) for r in result.steps[0].requests]
    rows[0] = rows[0].model_copy(update={"outcome": "broken", "detail": text})
    steps = (result.steps[0].model_copy(update={"requests": tuple(rows)}), *result.steps[1:])
    result = result.model_copy(update={"steps": steps, "complete": False, "stopped_because": text})
    extras = Extras(
        title=text,
        intro=text,
        comparisons=(Comparison(what=text, unit=text[:20], predicted=1, low=0.5, high=2, measured=1.5, note=text),),
        gates=(GateLine(agent=text, check=text, observed=text, passed=False),),
        samples=(
            Sample(question=text, answers=(SampleAnswer(label=text, text=text, adapter=text, tokens=3, seconds=0.5),)),
        ),
        environment={text: text},
        commands=(text,),
    )
    return assemble([Measured(name=text, result=result)], [extras])


def page_of(data: ReportData) -> tuple[str, Page]:
    text = render(data)
    return text, Page(text)


@pytest.fixture(scope="module")
def drawn(make_result: Make) -> tuple[str, Page]:
    """Two results with every section and every picture, hostile text throughout; drawn once, it takes seconds."""
    data = whole(make_result, HOSTILE)
    beside = Measured(name="beside.json", result=make_result(callers=(1, 4), repeats=1))
    data = data.model_copy(update={"measured": (*data.measured, beside)})
    text = render(data, pictures(data))
    return text, Page(text)


def test_nothing_on_the_page_comes_from_outside(drawn: tuple[str, Page]) -> None:
    text, page = drawn
    assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & set(page.tags)
    for tag, name, value in page.attributes:
        if name in ("href", "xlink:href", "src", "srcset", "action", "poster", "data"):
            assert value.startswith("#"), (tag, name, value)
        assert not name.startswith("on")
    style = "".join(re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)) + "".join(
        v for _, n, v in page.attributes if n == "style"
    )
    assert "@import" not in style
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", style))


def test_hostile_text_stays_text_everywhere(make_result: Make, drawn: tuple[str, Page]) -> None:
    without_pictures = render(whole(make_result, HOSTILE), note=HOSTILE)
    for text, page in (drawn, (without_pictures, Page(without_pictures))):
        assert "script" not in page.tags and "img" not in page.tags
        assert not any(name.startswith("on") for _, name, _ in page.attributes)
        assert "<script" not in text and '"quoted"' not in text
        assert page.text.count("alert(1)") >= 12


@settings(max_examples=25, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_leaves_the_page_well_formed(make_result: Make, text: str) -> None:
    data = whole(make_result, text)
    Page(render(data))


def test_a_reader_finds_every_section(make_result: Make) -> None:
    _, page = page_of(whole(make_result))
    for words in (
        *(
            "Load: plain",
            "This measurement is partial: plain",
            "requests got no answer (1 broken)",
            "By callers",
            "Every repeat",
        ),
        *(
            "Who answered",
            "What ran, where and how",
            "Prediction beside measurement",
            "The gate",
            "Sample answers",
            "Environment",
        ),
        *("To do it again", "p95 needs 20, p99 100", "meant to start", "onecard bench sweep demo.yaml", "-33%"),
    ):
        assert words in page.text, words


def test_the_figures_on_the_page_are_those_of_the_requests(make_result: Make) -> None:
    result = make_result(callers=(1,), repeats=1, requests=20)
    latencies = sorted(r.end_s - r.intended_s for r in result.steps[0].requests)
    _, page = page_of(assemble([Measured(name="r.json", result=result)]))
    assert f"{(latencies[9] + latencies[10]) / 2 * 1e3:.1f}" in page.text


def test_light_dark_phone_and_print_are_provided_for(drawn: tuple[str, Page]) -> None:
    text, page = drawn
    assert ("meta", "content", "width=device-width, initial-scale=1") in page.attributes
    for rule in ("prefers-color-scheme: dark", "@media print", "@media (max-width"):
        assert rule in text
    labels = [value for tag, name, value in page.attributes if name == "aria-label"]
    assert len(labels) == page.tags.count("figure") >= 4
    assert all(labels)


def test_sections_without_data_are_left_out(make_result: Make) -> None:
    page = Page(render(assemble([])))
    assert page.text.split() == [
        "onecard:",
        "measured",
        "onecard:",
        "measured",
        "Written",
        *page.text.split()[5:-2],
        "by",
        "onecard.",
    ]
    bare = Page(render(assemble([Measured(name="r.json", result=make_result())])))
    for words in ("Prediction", "Training", "gate", "Sample answers", "Environment", "partial"):
        assert words not in bare.text


def test_without_pictures_the_page_says_how_to_get_them(make_result: Make) -> None:
    page = Page(render(assemble([Measured(name="r.json", result=make_result())]), note="pip install 'onecard[plots]'"))
    assert "onecard[plots]" in page.text
    assert "By callers" in page.text


def test_several_results_stand_beside_each_other(drawn: tuple[str, Page]) -> None:
    text, page = drawn
    assert page.text.count("Load: ") == 2
    assert page.tags.count("figure") == 1 + 2 * 4 + 1  # the comparison, four of each result, the prediction
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_an_unfinished_result_without_answers_can_be_shown(make_result: Make) -> None:
    result = make_result(callers=(1,), repeats=1, requests=3)
    failed = tuple(r.model_copy(update={"outcome": "error", "detail": "x"}) for r in result.steps[0].requests)
    for steps in ((), (result.steps[0].model_copy(update={"requests": failed}),)):
        data = assemble([Measured(name="r", result=result.model_copy(update={"steps": steps}))])
        Page(render(data, pictures(data)))
