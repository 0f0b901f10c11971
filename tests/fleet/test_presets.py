"""A preset's token stands before the prompt with one space; a preset without one changes nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onecard.fleet.presets import apply_preset, default_preset
from onecard.fleet.schema import Preset


@given(prompt=st.text())
def test_the_token_and_a_space_come_first(prompt):
    assert apply_preset(Preset(token="<STYLE_TERSE>"), prompt) == f"<STYLE_TERSE> {prompt}"


@given(prompt=st.text())
def test_without_a_token_the_prompt_is_unchanged(prompt):
    assert apply_preset(Preset(temperature=0.7), prompt) == prompt


def test_a_prompt_that_names_no_preset_gets_the_default_or_the_first():
    assert default_preset({"verbose": 1, "default": 2}) == "default"
    assert default_preset(["verbose", "terse"]) == "verbose"
