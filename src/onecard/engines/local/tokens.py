"""Text to token ids and back, once for training and serving: an adapter must be asked with the very ids it was trained on.

The chat template is always the tokenizer's own. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onecard.errors import InputError, MissingPart

Turn = Mapping[str, str]  # role and content


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model or adapter folder, from local files only. MissingPart without one, InputError for a broken one."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise MissingPart("no tokenizer", where=str(folder), next_step="fetch the model, or name its folder")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception for broken JSON
        problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"the tokenizer cannot be read: {problem}", where=str(folder)) from error


def chat_text(tokenizer: Any, turns: Sequence[Turn], *, answer_next: bool) -> str:
    """The turns in the base's own chat template; with `answer_next` it ends where the model's answer begins.

    InputError when the tokenizer has no template or the template refuses the turns (such as a role it does not know).
    """
    if not tokenizer.chat_template:
        raise InputError(
            "the base has no chat template", next_step="use a base with one, or set chat_template: false in the recipe"
        )
    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=answer_next))
    except Exception as error:  # jinja's errors and whatever a template raises
        raise InputError(f"the chat template refuses the turns: {error}") from error


def chat_ids(tokenizer: Any, turns: Sequence[Turn]) -> list[int]:
    """The prompt of a chat request: the rendered template, which brings its own begin-of-text token, so that none is added twice."""
    return written_ids(tokenizer, chat_text(tokenizer, turns, answer_next=True))


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """The prompt of a plain request, with the special tokens the tokenizer puts before any text."""
    return list(tokenizer(text)["input_ids"])


def written_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of text as it stands: special tokens that are written in it count, none is added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def stop_ids(tokenizer: Any, folder: Path) -> tuple[int, ...]:
    """Token ids that end an answer, ascending: the tokenizer's end-of-sequence and those of generation_config.json."""
    found = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    file = folder / "generation_config.json"
    if file.is_file():
        try:
            named = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        except (ValueError, AttributeError) as error:
            raise InputError(f"cannot be read: {error}", where=str(file)) from error
        found |= set(named) if isinstance(named, list) else {named} if named is not None else set()
    if not found:
        raise InputError(
            "neither the tokenizer nor generation_config.json names an end-of-turn token", where=str(folder)
        )
    return tuple(sorted(found))


def chat_template_sha256(tokenizer: Any) -> str:
    """sha256 hex of the chat template's text; of the empty text when there is none."""
    return hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest()
