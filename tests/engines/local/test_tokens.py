"""Text to ids: the template's own special tokens once, the stop ids of all files, and errors for what is not there."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.engines.local.tokens import (
    chat_ids,
    chat_template_sha256,
    chat_text,
    load_tokenizer,
    stop_ids,
    text_ids,
    written_ids,
)
from onecard.errors import InputError, MissingPart

ASKED = [{"role": "user", "content": "What is a mutex?"}]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def tokenizer(mini):
    return load_tokenizer(mini)


@settings(deadline=None)
@given(content=TEXT)
def test_a_chat_prompt_is_the_tokenizers_own_template(tokenizer, content):
    turns = [{"role": "user", "content": content}]
    assert chat_ids(tokenizer, turns) == tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]


def test_the_begin_of_text_token_stands_once(tokenizer):
    for ids in (chat_ids(tokenizer, ASKED), text_ids(tokenizer, "What is a mutex?")):
        assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in written_ids(tokenizer, "What is a mutex?")


def test_special_tokens_written_in_text_count(tokenizer):
    assert written_ids(tokenizer, "a</s>")[-1] == tokenizer.eos_token_id


def test_stop_ids_come_from_the_tokenizer_and_the_generation_config(mini, tmp_path, tokenizer):
    assert stop_ids(tokenizer, mini) == (tokenizer.eos_token_id,)
    for said, expected in (([7, 2], (2, 7)), (9, (2, 9)), (None, (2,))):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": said}))
        assert stop_ids(tokenizer, tmp_path) == expected
    (tmp_path / "generation_config.json").write_text("[")
    with pytest.raises(InputError, match="cannot be read"):
        stop_ids(tokenizer, tmp_path)


def test_no_stop_id_at_all_is_an_error(mini, tmp_path):
    bare = load_tokenizer(mini)
    bare.eos_token = None
    with pytest.raises(InputError, match="end-of-turn"):
        stop_ids(bare, tmp_path)


def test_turns_a_template_refuses_are_an_error(tokenizer):
    with pytest.raises(InputError, match="only system, user and assistant turns"):
        chat_text(tokenizer, [{"role": "tool", "content": "x"}], answer_next=True)


def test_a_folder_without_a_tokenizer_is_said(tmp_path):
    with pytest.raises(MissingPart, match="no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="the tokenizer cannot be read"):
        load_tokenizer(tmp_path)


def test_the_templates_digest_changes_with_the_template(mini, tmp_path, tokenizer):
    shutil.copytree(mini, tmp_path / "copy")
    assert chat_template_sha256(load_tokenizer(tmp_path / "copy")) == chat_template_sha256(tokenizer)
    with (tmp_path / "copy" / "chat_template.jinja").open("a") as file:
        file.write("!")
    assert chat_template_sha256(load_tokenizer(tmp_path / "copy")) != chat_template_sha256(tokenizer)
