"""How a preset changes a prompt: one function for training and serving, so that a style is asked for exactly as it was trained."""

from __future__ import annotations

from onecard.fleet.schema import Preset


def apply_preset(preset: Preset, prompt: str) -> str:
    """The prompt with the preset's token and a space before it; unchanged when the preset has no token."""
    return f"{preset.token} {prompt}" if preset.token else prompt
