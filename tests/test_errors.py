"""The error tree: messages carry where, what, allowed and next; the docstring draws the tree that exists."""

from __future__ import annotations

import inspect
import re

import onecard.errors as errors
from onecard.errors import InputError, MachineError, OnecardError, Refusal, nearest


def test_message_has_all_four_parts_in_order() -> None:
    error = OnecardError(
        "no card 'rtx-3091'", where="fleet.yaml:2: card", allowed="rtx-3090", next_step="`onecard cards`"
    )
    assert str(error) == "fleet.yaml:2: card: no card 'rtx-3091'. Allowed: rtx-3090. Next: `onecard cards`"


def test_the_docstring_draws_every_class() -> None:
    classes = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, OnecardError)
    }
    drawn = set(re.findall(r"^\s*(?:[|` -]*)([A-Z][A-Za-z]+)\b", errors.__doc__ or "", re.MULTILINE))
    assert classes <= drawn, classes - drawn


def test_exit_codes_by_branch() -> None:
    assert (InputError("x").exit_code, Refusal("x").exit_code, MachineError("x").exit_code) == (2, 1, 2)


def test_nearest_knows_a_misspelling_and_stays_silent_otherwise() -> None:
    assert "context" in nearest("contxt", ["context", "url"])
    assert nearest("zzz", ["context", "url"]) == ""
