"""A picture in a page: colours follow the theme, ids are its own, nothing points outside."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from xml.etree import ElementTree

from onecard.benchmark.picture import VARIABLES, themed
from onecard.benchmark.plots import latency_plot, ttft_plot
from onecard.evidence.results import ResultFile


def test_no_colour_is_fixed_and_every_variable_is_known_to_the_page(make_result: Callable[..., ResultFile]) -> None:
    style = (resources.files("onecard.benchmark") / "report.css").read_text()
    for picture in (latency_plot(make_result()), ttft_plot(make_result())):
        assert picture is not None
        page = themed(picture)
        ElementTree.fromstring(page)
        outside_variables = re.sub(r"var\(--[a-z0-9-]+, #[0-9a-f]{6}\)", "", page)
        assert not re.search(r"#[0-9a-f]{6}\b(?!\")", outside_variables)
        for variable in set(re.findall(r"var\(--([a-z0-9-]+),", page)):
            assert f"--{variable}:" in style
    assert set(VARIABLES.values()) == {"ink", "muted", "grid", *(f"series-{n}" for n in range(1, 7))}


def test_two_pictures_share_no_id_and_each_finds_its_own(make_result: Callable[..., ResultFile]) -> None:
    first, second = latency_plot(make_result(), "first"), latency_plot(make_result(), "second")
    assert first is not None and second is not None
    ids = [set(re.findall(r'\bid="([^"]+)"', themed(picture))) for picture in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    for own, picture in zip(ids, (first, second), strict=True):
        wanted = set(re.findall(r'(?:href="#|url\(#)([^")]+)', themed(picture)))
        assert wanted <= own


def test_the_sheet_behind_the_picture_is_gone(make_result: Callable[..., ResultFile]) -> None:
    picture = latency_plot(make_result())
    assert picture is not None
    assert "#ffffff" in picture.svg
    assert 'id="latency-patch_1"' not in themed(picture)
    assert "fill: #ffffff" not in themed(picture)
