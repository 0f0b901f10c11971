"""Tokens that would train nothing or fall to pieces are faults of the whole file."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onecard.errors import DataError
from onecard.fleet.schema import Preset
from onecard.training.ledger import build_ledger
from onecard.training.rows import Row

ROWS = [Row("What is a mutex?", "A lock.", "terse", "rows.jsonl:1")]


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
