"""Preference records: a prompt, the answer that is preferred, and the one it is preferred to.

Each of the three is text or a list of turns; whole conversations under chosen and rejected are cut where their answers begin.
"""

from __future__ import annotations

from typing import Any

from onecard.errors import DataError
from onecard.training.turns import Turn, text_of, turns_of


def preference(record: dict[str, Any], where: str) -> tuple[tuple[Turn, ...], str, str]:
    """The turns that are answered, the chosen and the rejected answer. DataError when they are not two answers to one prompt."""
    sides = {key: _side(record, key, where) for key in ("chosen", "rejected")}
    prompts = [before for before, _ in sides.values() if before]
    if "prompt" in record and record["prompt"] is not None:
        prompts.append(_prompt(record, where))
    if not prompts:
        raise DataError(
            "the prompt is missing", where=where, allowed="text, or a list of turns that ends with the user's"
        )
    if any(prompt != prompts[0] for prompt in prompts):
        raise DataError("chosen and rejected do not answer the same prompt", where=where)
    chosen, rejected = sides["chosen"][1], sides["rejected"][1]
    if chosen == rejected:
        raise DataError("chosen and rejected are the same answer, so there is nothing to prefer", where=where)
    return prompts[0], chosen, rejected


def _prompt(record: dict[str, Any], where: str) -> tuple[Turn, ...]:
    if isinstance(record["prompt"], list):
        return turns_of(record["prompt"], "prompt", where, answered=False)
    return (("user", text_of(record, "prompt", where)),)


def _side(record: dict[str, Any], key: str, where: str) -> tuple[tuple[Turn, ...], str]:
    """What stands before the answer, empty when nothing does, and the answer."""
    value = record.get(key)
    if not isinstance(value, list):
        return (), text_of(record, key, where)
    if len(value) == 1 and isinstance(value[0], dict) and value[0].get("role") == "assistant":
        asked: list[Any] = [{"role": "user", "content": "-"}, *value]  # an answer alone stands for itself
        return (), turns_of(asked, key, where, answered=True)[-1][1]
    turns = turns_of(value, key, where, answered=True)
    return turns[:-1], turns[-1][1]
