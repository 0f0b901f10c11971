"""Habits of templates, one at a time: each variant is seen, and the embedded base's own has none."""

from __future__ import annotations

from onecard.training.template_checks import template_facts, template_remarks


def problems(chat):
    return [remark.problem for remark in template_remarks(chat)]


def test_the_embedded_base_has_no_bad_habit(chat):
    assert problems(chat) == []
    assert template_facts(chat) == {
        "bos": "<s>",
        "tokenizer_adds_bos": True,
        "template_writes_bos": True,
        "template_ends_turn": True,
        "template_depends_on_the_date": False,
    }


def test_a_template_without_begin_of_text(chat):
    chat.tokenizer.chat_template = chat.tokenizer.chat_template.replace("{{ bos_token }}", "").replace(
        "bos_token", "''"
    )
    assert problems(chat) == ["prompts begin without <s>, which the tokenizer puts before any other text"]


def test_a_template_without_end_of_turn(chat):
    chat.tokenizer.chat_template = chat.tokenizer.chat_template.replace("eos_token", "''")
    assert problems(chat) == ["it ends no answer with a stop token; </s> is put there and learned"]


def test_a_template_that_writes_the_date(chat):
    chat.tokenizer.chat_template += "{% if strftime_now is defined %}{% set date = strftime_now('%d') %}{% endif %}"
    assert problems(chat) == ["it writes today's date: prompts served later will differ from those learned"]


def test_without_a_template_nothing_is_said_of_it(chat):
    chat.tokenizer.chat_template = None
    assert problems(chat) == [] and template_facts(chat)["template_writes_bos"] is None
