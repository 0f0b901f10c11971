"""The token ledger: counts a person can check by hand, and the faults that stop a run."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from onecard.errors import DataError
from onecard.fleet.recipe import DataChecksSection
from onecard.training import ledger as ledger_module
from onecard.training.chat import EncodedPair
from onecard.training.ledger import build_ledger
from onecard.training.repeats import HeldOut
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
        "duplicates": 0,
        "conflicting_prompts": 0,
        "leaks": 0,
        "presets": {"(none)": 1, "terse": 1},
        "faults": 0,
        "warnings": 0,
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


def test_a_pair_counts_both_of_its_sequences(chat):
    ledger = build_ledger([replace(ROWS[1], rejected="A very long-winded kind of door, or so they say.")], chat, 100)
    (line,), (pair,) = ledger.rows, ledger.encoded
    assert isinstance(pair, EncodedPair)
    assert line.prompt == 2 * pair.prompt_tokens
    assert line.trained == pair.chosen.trained_tokens + pair.rejected.trained_tokens
    assert line.longest == ledger.summary()["longest"] == len(pair.rejected.ids) < line.total
    assert build_ledger([pair.row], chat, line.longest - 1).rows[0].too_long


def test_a_conversation_whose_template_forgets_is_learned_one_answer_at_a_time(chat):
    """Two lines of the ledger and two encoded rows for one row of the file, and a warning that says so."""
    chat.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]"
        "{% else %}{% if loop.last %}(new){% endif %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    turns = (("user", "What?"), ("assistant", "That."), ("user", "And?"), ("assistant", "This."))
    ledger = build_ledger([replace(ROWS[0], turns=turns), ROWS[1]], chat, 100)
    assert [line.where for line in ledger.rows] == ["rows.jsonl:1", "rows.jsonl:1", "rows.jsonl:2"]
    assert len(ledger.encoded) == 3 and not ledger.faults
    (warning,) = ledger.warnings
    assert "1 conversation is learned one answer at a time" in warning.problem


def test_an_answer_the_template_rewrites_is_a_warning(chat):
    written = chat.tokenizer.chat_template
    chat.tokenizer.chat_template = written.replace(
        "' ' + message['content'] + eos", "' ' + message['content'][:3] + eos"
    )
    (warning,) = build_ledger(ROWS[1:], chat, 100).warnings
    assert "does not write the answers of 1 row as they stand" in warning.problem
    chat.tokenizer.chat_template = written.replace("' ' + message['content']", "message['content'] | trim")
    assert not build_ledger(ROWS[1:], chat, 100).warnings, "white space round an answer may go"


def test_repeats_leaks_and_the_templates_habits_stand_in_the_ledger(chat):
    held = HeldOut({"what is a mutex?": "held.jsonl:4"}, {})
    chat.tokenizer.chat_template = chat.tokenizer.chat_template.replace("eos_token", "''")
    ledger = build_ledger([ROWS[1], ROWS[1]], chat, 100, limits=DataChecksSection(duplicates=0.1), held_out=held)
    assert [fault.where for fault in ledger.faults] == ["rows.jsonl:2", "rows.jsonl:2"]
    assert "repeat another row" in ledger.faults[0].problem and "held.jsonl:4" in ledger.faults[1].problem
    assert [warning.where for warning in ledger.warnings] == ["chat template"]
    allowed = DataChecksSection(duplicates=0.5, leaks=2)
    ledger = build_ledger([ROWS[1], ROWS[1]], chat, 100, limits=allowed, held_out=held)
    assert not ledger.faults and len(ledger.warnings) == 3


def test_faults_of_rows_come_from_every_batch_and_progress_is_told(chat, monkeypatch):
    monkeypatch.setattr(ledger_module, "BATCH_ROWS", 2)
    seen = []
    rows = [replace(ROWS[1], prompt=f"{n}?", where=f"rows.jsonl:{n}") for n in range(1, 6)]
    rows[4] = replace(rows[4], completion="</s>")
    ledger = build_ledger(rows, chat, 100, on_count=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert [fault.where for fault in ledger.faults] == ["rows.jsonl:5"] and len(ledger.rows) == 4
    assert [one.ids for one in ledger.encoded] == [chat.encode(row).ids for row in rows[:4]]


def test_the_histogram_counts_every_row_once(chat):
    rows = [replace(ROWS[1], completion="word " * n, where=f"rows.jsonl:{n}") for n in (1, 2, 3, 40, 80, 80)]
    ledger = build_ledger(rows, chat, 1000)
    bins = ledger.histogram(bins=4)
    lengths = sorted(row.longest for row in ledger.rows)
    assert len(bins) <= 4 and (bins[0][0], bins[-1][1]) == (lengths[0], lengths[-1])
    assert [count for _, _, count in bins] == [sum(low <= n <= high for n in lengths) for low, high, _ in bins]
    assert all(after[0] == before[1] + 1 for before, after in pairwise(bins))
    assert ledger.only("nobody").histogram() == []
