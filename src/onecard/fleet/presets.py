"""How a preset changes a prompt: one function for training and serving, so that a style is asked for exactly as it was trained."""

from __future__ import annotations

from collections.abc import Iterable

from onecard.fleet.schema import Preset


def apply_preset(preset: Preset, prompt: str) -> str:
    """The prompt with the preset's token and a space before it; unchanged when the preset has no token."""
    return f"{preset.token} {prompt}" if preset.token else prompt


def default_preset(names: Iterable[str]) -> str:
    """The preset of a prompt that names none: the one called `default`, or else the first in the fleet file."""
    known = list(names)
    return "default" if "default" in known else known[0]
