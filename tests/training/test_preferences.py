"""Preference records in the shapes found in the wild: all say the same, and what is no preference is told."""

from __future__ import annotations

import pytest

from onecard.errors import DataError
from onecard.training.preferences import preference


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def told(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "What?", "chosen": "Good.", "rejected": "Bad."},
        {"prompt": [user("What?")], "chosen": [told("Good.")], "rejected": [told("Bad.")]},
        {"prompt": [user("What?")], "chosen": "Good.", "rejected": [told("Bad.")]},
        {"prompt": "What?", "chosen": [user("What?"), told("Good.")], "rejected": [user("What?"), told("Bad.")]},
        {"chosen": [user("What?"), told("Good.")], "rejected": [user("What?"), told("Bad.")]},
        {"prompt": None, "chosen": [user("What?"), told("Good.")], "rejected": "Bad."},
    ],
)
def test_all_shapes_say_the_same(record):
    assert preference(record, "a:1") == ((("user", "What?"),), "Good.", "Bad.")


def test_turns_before_the_answer_are_the_prompt():
    before = [user("Hi."), told("Hello."), user("What?")]
    turns, chosen, rejected = preference({"prompt": before, "chosen": "Good.", "rejected": "Bad."}, "a:1")
    assert turns == (("user", "Hi."), ("assistant", "Hello."), ("user", "What?"))
    assert (chosen, rejected) == ("Good.", "Bad.")


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"chosen": "a", "rejected": "b"}, "the prompt is missing"),
        ({"prompt": "What?", "chosen": "a"}, "the rejected is missing"),
        ({"prompt": "What?", "rejected": "a"}, "the chosen is missing"),
        ({"prompt": "What?", "chosen": "a", "rejected": "a"}, "the same answer"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "the prompt is not text"),
        ({"prompt": [told("a")], "chosen": "a", "rejected": "b"}, "answers nothing"),
        ({"prompt": "Who?", "chosen": [user("What?"), told("a")], "rejected": "b"}, "do not answer the same prompt"),
        (
            {"chosen": [user("What?"), told("a")], "rejected": [user("Who?"), told("b")]},
            "do not answer the same prompt",
        ),
        ({"prompt": "What?", "chosen": [user("What?")], "rejected": "b"}, "the last turn of the chosen is the user's"),
        ({"prompt": "What?", "chosen": [told(" ")], "rejected": "b"}, "of the chosen is empty"),
    ],
)
def test_what_is_no_preference_is_told(record, problem):
    with pytest.raises(DataError) as error:
        preference(record, "a:1")
    assert problem in error.value.problem
