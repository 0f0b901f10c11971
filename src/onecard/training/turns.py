"""Texts and turns of a record, checked: every answer has something to answer, and nothing is empty or half a character."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from onecard.errors import DataError, nearest

Turn = tuple[str, str]  # role and content
ROLES = ("system", "user", "assistant")
TURN = '{"role": "system", "user" or "assistant", "content": text}'


def text_of(record: Mapping[str, Any], key: str, where: str, name: str | None = None) -> str:
    """The text under `key`, called `name` in errors. DataError when it is missing, empty or not text."""
    text, called = record.get(key), name or f"the {key}"
    if not isinstance(text, str) or not text.strip():
        state = "missing" if key not in record else "not text" if not isinstance(text, str) else "empty"
        raise DataError(f"{called} is {state}", where=where, allowed="text with at least one character")
    if not text.isprintable() and any("\ud800" <= c <= "\udfff" for c in text):
        raise DataError(f"{called} holds half a surrogate pair, which is no character", where=where)
    return text


def turns_of(value: Any, key: str, where: str, *, answered: bool) -> tuple[Turn, ...]:
    """A list of turns; `answered` when it must end with the assistant's, else it must end before one. DataError otherwise."""
    if not isinstance(value, list) or not value:
        raise DataError(f"the {key} are no list of turns", where=where, allowed=f"[{TURN}, ...]")
    turns = tuple(_turn(turn, f"turn {number} of the {key}", where) for number, turn in enumerate(value, start=1))
    for number, (role, _) in enumerate(turns, start=1):
        before = turns[number - 2][0] if number > 1 else None
        if role == "system" and number > 1:
            raise DataError(f"turn {number} of the {key} is the system's", where=where, allowed="the first turn only")
        if role == "assistant" and before != "user":
            what = "nothing" if before is None else f"the {before}"
            raise DataError(f"turn {number} of the {key} answers {what}", where=where, allowed="an answer to a user")
        if role == "user" and before == "user":
            raise DataError(f"turns {number - 1} and {number} of the {key} are both the user's", where=where)
    if (turns[-1][0] == "assistant") != answered:
        wanted = "the assistant's, which is learned" if answered else "the user's, which is answered"
        raise DataError(f"the last turn of the {key} is the {turns[-1][0]}'s", where=where, allowed=wanted)
    return turns


def _turn(turn: Any, name: str, where: str) -> Turn:
    if not isinstance(turn, dict):
        raise DataError(f"{name} is {json.dumps(turn, default=str)[:40]}", where=where, allowed=TURN)
    for key, value in turn.items():
        if key not in ("role", "content") and value is not None:  # tables have every key in every turn
            raise DataError(
                f"unknown key '{key}' in {name}{nearest(str(key), ('role', 'content'))}", where=where, allowed=TURN
            )
    role = turn.get("role")
    if role not in ROLES:
        said = json.dumps(role, default=str)[:40]
        raise DataError(
            f"the role of {name} is {said}{nearest(str(role), ROLES)}", where=where, allowed=", ".join(ROLES)
        )
    return role, text_of(turn, "content", where, f"the content of {name}")
