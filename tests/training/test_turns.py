"""Turns of a conversation: what is good comes back as it is, and what nobody could learn from is told with its turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import DataError
from onecard.training.turns import turns_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
ASKED, TOLD = {"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}
SYSTEM = {"role": "system", "content": "Be brief."}


@given(system=st.none() | TEXT, pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_a_conversation_comes_back_as_it_is(system, pairs):
    turns = [("system", system)] if system else []
    turns += [turn for asked, told in pairs for turn in (("user", asked), ("assistant", told))]
    value = [{"role": role, "content": content} for role, content in turns]
    assert turns_of(value, "messages", "a:1", answered=True) == tuple(turns)
    assert turns_of(value[:-1], "prompt", "a:1", answered=False) == tuple(turns[:-1])


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("hello", "no list of turns"),
        ([], "no list of turns"),
        ([ASKED, "That."], "turn 2 of the messages is"),
        (
            [{"role": "usr", "content": "a"}, TOLD],
            "the role of turn 1 of the messages is \"usr\" (did you mean 'user'?)",
        ),
        ([{"content": "a"}, TOLD], "the role of turn 1 of the messages is null"),
        ([{"role": "user"}, TOLD], "the content of turn 1 of the messages is missing"),
        ([{**ASKED, "content": " "}, TOLD], "the content of turn 1 of the messages is empty"),
        ([{**ASKED, "content": [{"type": "text", "text": "a"}]}, TOLD], "turn 1 of the messages is not text"),
        ([{**ASKED, "name": "bob"}, TOLD], "unknown key 'name' in turn 1"),
        ([ASKED], "the last turn of the messages is the user's"),
        ([SYSTEM], "the last turn of the messages is the system's"),
        ([TOLD], "turn 1 of the messages answers nothing"),
        ([SYSTEM, TOLD], "turn 2 of the messages answers the system"),
        ([ASKED, TOLD, TOLD], "turn 3 of the messages answers the assistant"),
        ([ASKED, ASKED, TOLD], "turns 1 and 2 of the messages are both the user's"),
        ([ASKED, SYSTEM, TOLD], "turn 2 of the messages is the system's"),
    ],
)
def test_what_is_no_conversation_is_told(value, problem):
    with pytest.raises(DataError) as error:
        turns_of(value, "messages", "a:1", answered=True)
    assert problem in error.value.problem and error.value.where == "a:1"


def test_keys_that_a_table_fills_with_nothing_do_no_harm():
    assert turns_of([{**ASKED, "name": None}, TOLD], "messages", "a:1", answered=True)[0] == ("user", "What?")
