from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.catalog.units import GIB, format_bytes
from onecard.cli.plan import plan_of
from onecard.cli.plan_parts import Part, parts_of
from onecard.cli.plan_svg import TEXT_LEFT, TEXT_RIGHT, layout, plan_svg, write_svg
from onecard.errors import ResultError
from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import load_fleet
from onecard.planner.plan import Plan

FILES = sorted(file for file in examples_folder().glob("*.yaml") if file.stem != "demo")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module", params=[(file, card) for file in FILES for card in (None, "rtx-3060-12gb")], ids=str)
def plan(request: pytest.FixtureRequest) -> Plan:
    file, card = request.param
    return plan_of(load_fleet(file), card_id=card)


def test_every_part_is_named_with_its_size_and_the_edge_is_drawn_where_the_card_ends(plan: Plan) -> None:
    root = ElementTree.fromstring(plan_svg(plan))
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    for part in parts_of(plan):
        assert part.name in texts
        assert format_bytes(part.bytes) in texts
    assert any(text.startswith("red line") for text in texts) == (not plan.serving_fits)
    title = root.find(f"{SVG}title")
    assert title is not None and title.text is not None
    assert ("does not fit" in title.text) == (not plan.serving_fits)


def test_nothing_is_fetched_from_anywhere_and_dark_screens_are_thought_of(plan: Plan) -> None:
    text = plan_svg(plan)
    assert "prefers-color-scheme: dark" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


PARTS = st.lists(
    st.builds(
        Part,
        letter=st.just("A"),
        name=st.text(max_size=70),
        detail=st.text(alphabet="ab ,", max_size=300),
        bytes=st.integers(1, 200 * GIB),
        kind=st.sampled_from(["weights", "agent", "working", "free"]),
        hue=st.integers(0, 5),
    ),
    min_size=1,
    max_size=30,
)


@given(PARTS)
def test_labels_never_overlap_and_stay_inside(parts: list[Part]) -> None:
    labels, height = layout(parts)
    assert [label.part for label in labels] == parts
    assert labels[0].begins == 0
    assert labels[-1].ends == height
    assert labels[0].y >= 0
    assert labels[-1].y + labels[-1].height <= height + 0.01
    for one, other in pairwise(labels):
        assert one.ends == other.begins
        assert one.y + one.height <= other.y + 0.01
    assert all(len(line) * 6.5 <= TEXT_RIGHT - TEXT_LEFT for label in labels for line in label.detail)


def test_a_name_that_looks_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    card = "card: {vram_gib: 24, bandwidth_gbs: 9, name: '<script>&\"x'}"
    file.write_text(FILES[0].read_text().replace("card: rtx-3090", card))
    root = ElementTree.fromstring(plan_svg(plan_of(load_fleet(file))))
    assert any('<script>&"x' in "".join(text.itertext()) for text in root.iter(f"{SVG}text"))


def test_a_path_that_cannot_be_written_is_an_error_and_leaves_nothing(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(ResultError, match="cannot be written"):
        write_svg(plan, tmp_path / "taken")
    assert not list(tmp_path.glob(".*"))
    write_svg(plan, tmp_path / "deep" / "plan.svg")
    assert (tmp_path / "deep" / "plan.svg").read_text().startswith("<svg")
