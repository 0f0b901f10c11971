"""Names mean exactly one answerer, or nobody; never the base by accident."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import InputError, UnknownName
from onecard.fleet.schema import Preset
from onecard.serving.answerers import Answerer, Directory

NO_ENGINE: Any = None
STYLES = {"terse": Preset(), "verbose": Preset()}
EXPLAINER = Answerer("explainer", "base", NO_ENGINE, "style@v0003", "d1", STYLES)
CLERK = Answerer("clerk", "base", NO_ENGINE, presets={"terse": Preset(), "default": Preset()})
BASE = Answerer("base", "base", NO_ENGINE)
DIRECTORY = Directory([EXPLAINER, CLERK], BASE)


def test_an_agent_its_version_and_the_base_have_names() -> None:
    assert DIRECTORY.names == ["explainer", "explainer@v0003", "clerk", "base"]
    assert DIRECTORY.find("explainer@v0003") is DIRECTORY.find("explainer") is EXPLAINER
    assert DIRECTORY.find("base") is BASE


@given(st.text(max_size=30))
def test_no_other_name_means_anybody(name: str) -> None:
    if name not in DIRECTORY.names:
        with pytest.raises(UnknownName, match="explainer, explainer@v0003, clerk, base"):
            DIRECTORY.find(name)


def test_a_version_that_is_not_loaded_is_unknown_and_the_nearest_name_is_shown() -> None:
    with pytest.raises(UnknownName, match="did you mean 'explainer@v0003'"):
        DIRECTORY.find("explainer@v0004")


def test_without_a_base_the_base_is_unknown() -> None:
    with pytest.raises(UnknownName):
        Directory([EXPLAINER]).find("base")


def test_the_default_preset_is_the_one_of_that_name_or_the_first() -> None:
    assert CLERK.preset(None, "preset")[0] == "default"
    assert EXPLAINER.preset(None, "preset")[0] == "terse"
    with pytest.raises(InputError, match="Allowed: terse, verbose"):
        EXPLAINER.preset("vebrose", "style")


def test_a_style_that_one_agent_has_finds_it() -> None:
    assert DIRECTORY.with_style("verbose", None) is EXPLAINER
    assert DIRECTORY.with_style("verbose", "clerk") is CLERK  # whose presets then refuse the style
    assert Directory([CLERK]).with_style(None, None) is CLERK


@pytest.mark.parametrize("style", ["terse", None])
def test_a_style_of_several_agents_asks_which(style: str | None) -> None:
    with pytest.raises(InputError, match="Allowed: explainer, clerk") as caught:
        DIRECTORY.with_style(style, None)
    assert caught.value.where == "agent"


def test_a_style_of_nobody_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="Allowed: default, terse, verbose"):
        DIRECTORY.with_style("loud", None)
    with pytest.raises(UnknownName):
        DIRECTORY.with_style("terse", "nobody")
