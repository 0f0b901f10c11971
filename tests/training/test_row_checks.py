"""Faults of a row, each on a template or a row that has just that fault; without the check each would train and nobody would see it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onecard.training import chat as chat_module
from onecard.training.row_checks import answer_starts, row_faults
from onecard.training.rows import Row

ROW = Row("What is a mutex?", "A lock.", None, "rows.jsonl:1")
SILENT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}[/INST]{% endif %}{% endfor %}"
)


def faults(chat, row=ROW, max_length=100):
    return [fault.problem for fault in row_faults(chat.encode(row), chat, max_length)]


def test_a_good_row_has_no_fault(chat):
    assert faults(chat) == []
    assert faults(replace(chat, chat_template=False)) == []


def test_two_begin_of_text_tokens(chat):
    """The trap of writing the template's begin-of-text token and letting the tokenizer add its own."""
    chat.tokenizer.chat_template = "{{ bos_token }}" + chat.tokenizer.chat_template
    assert faults(chat) == ["the row begins with two <s>"]


def test_a_prompt_that_brings_the_token_the_tokenizer_adds(chat):
    assert faults(replace(chat, chat_template=False), replace(ROW, prompt="<s>What?")) == [
        "the row begins with two <s>"
    ]


def test_a_template_that_never_writes_the_answer(chat):
    chat.tokenizer.chat_template = SILENT
    assert faults(chat) == ["no token of the answer is learned"]


def test_an_answer_that_does_not_end(chat):
    one = chat.encode(ROW)
    unending = replace(one, ids=one.ids[:-1], trained=one.trained[:-1])
    found = [fault.problem for fault in row_faults(unending, chat, 100)]
    assert found == ["an answer's end of turn is not learned, so the model would not stop"]
    masked = replace(one, trained=(*one.trained[:-1], False))
    assert [fault.problem for fault in row_faults(masked, chat, 100)] == found


def test_only_the_last_of_two_answers_ends(chat):
    turns = (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    one = chat.encode(replace(ROW, turns=turns))
    first_end = one.ids.index(chat.tokenizer.eos_token_id)
    masked = replace(one, trained=tuple(learned and place != first_end for place, learned in enumerate(one.trained)))
    assert "end of turn is not learned" in next(row_faults(masked, chat, 100)).problem


def test_a_prompt_that_ends_with_the_end_of_turn(chat):
    chat.tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    assert faults(chat) == ["the prompt ends with the end-of-turn token </s>, and the answer would come after it"]


def test_a_row_that_is_too_long(chat):
    length = len(chat.encode(ROW).ids)
    assert faults(chat, max_length=length) == []
    assert faults(chat, max_length=length - 1) == [f"the row has {length} tokens"]


@pytest.mark.parametrize("chat_template", [True, False])
def test_a_prompt_that_serving_would_not_send(chat, monkeypatch, chat_template):
    """Training that tokenized prompts in a way of its own, here without the first token."""
    monkeypatch.setattr(chat_module, "chat_ids", lambda tokenizer, turns: _without_bos(tokenizer, turns))
    monkeypatch.setattr(chat_module, "text_ids", chat_module.written_ids)
    assert faults(replace(chat, chat_template=chat_template)) == [
        "serving would send another prompt: it differs at token 0"
    ]


def _without_bos(tokenizer, turns):
    return chat_module.written_ids(tokenizer, chat_module.chat_text(tokenizer, turns, answer_next=True))[1:]


def test_where_learning_begins():
    assert answer_starts((False, True, True, False, True)) == [1, 4]
    assert answer_starts((True, False)) == [0]
