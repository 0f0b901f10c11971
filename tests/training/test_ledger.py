"""The token ledger: counts a person can check by hand, and the faults that stop a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onecard.errors import DataError
from onecard.fleet.schema import Preset
from onecard.training.ledger import build_ledger
from onecard.training.rows import Row

ROWS = [
    Row("What is a mutex?", "A lock.", "terse", "rows.jsonl:1"),
    Row("What is a mutex?", "A lock that one thread holds at a time.", None, "rows.jsonl:2"),
]


def test_the_counts_are_the_tokenizers(chat):
    ledger = build_ledger(ROWS, chat, 100)
    asked = chat.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is a mutex?"}], add_generation_prompt=True
    )
    answers = [chat.tokenizer(f" {row.completion}</s>", add_special_tokens=False)["input_ids"] for row in ROWS]
    assert [row.prompt for row in ledger.rows] == [len(asked["input_ids"])] * 2
    assert [row.trained for row in ledger.rows] == [len(answer) for answer in answers]
    assert ledger.summary() == {
        "rows": 2,
        "prompt_tokens": 2 * len(asked["input_ids"]),
        "trained_tokens": sum(map(len, answers)),
        "mean_length": round(sum(row.total for row in ledger.rows) / 2, 1),
        "longest": max(row.total for row in ledger.rows),
        "max_length": 100,
        "too_long": 0,
        "end_of_turn_trained": 2,
        "presets": {"(none)": 1, "terse": 1},
        "faults": 0,
    }
    ledger.demand_clean()
    assert ledger.only("terse").trained_tokens == len(answers[0])


def test_a_row_that_is_too_long_is_a_fault_and_is_not_cut(chat):
    longest = max(row.total for row in build_ledger(ROWS, chat, 100).rows)
    build_ledger(ROWS, chat, longest).demand_clean()
    ledger = build_ledger(ROWS, chat, longest - 1)
    assert len(ledger.encoded[1].ids) == longest
    with pytest.raises(DataError, match=f"the row has {longest} tokens") as error:
        ledger.demand_clean()
    assert error.value.where == "rows.jsonl:2"


def test_every_fault_is_kept_and_the_first_is_raised_with_their_number(chat):
    faulty = [replace(row, completion="</s>") for row in ROWS]
    ledger = build_ledger([*faulty, ROWS[0]], chat, 100)
    assert [fault.where for fault in ledger.faults] == ["rows.jsonl:1", "rows.jsonl:2"]
    assert len(ledger.rows) == 1
    with pytest.raises(DataError, match=r"\(1 more fault\)"):
        ledger.demand_clean()


def test_an_added_token_that_no_row_uses_is_a_fault(chat):
    chat.tokenizer.add_tokens(["<STYLE_TERSE>", "<STYLE_ODD>"], special_tokens=True)
    styled = replace(chat, presets={"default": Preset(), "terse": Preset(token="<STYLE_TERSE>")})
    ledger = build_ledger(ROWS, styled, 100, ["<STYLE_TERSE>", "<STYLE_ODD>"])
    assert [fault.problem for fault in ledger.faults] == ["no row uses the added token <STYLE_ODD>"]
    assert ledger.faults[0].where == "rows.jsonl"


def test_a_presets_token_that_would_fall_into_pieces_is_a_fault(chat):
    styled = replace(chat, presets={"default": Preset(), "terse": Preset(token="<STYLE_TERSE>")})
    with pytest.raises(DataError, match="the token <STYLE_TERSE> is not in the vocabulary") as error:
        build_ledger(ROWS, styled, 100).demand_clean()
    assert error.value.where == "presets.terse.token"
