"""Tokens a recipe adds to the vocabulary: only their rows of embedding and head are trained, and both always are.

Training the embedding alone leaves an untied head's rows at their start without an error, and saving whole embeddings makes an
adapter of megabytes into one of half a gigabyte; rows are kilobytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onecard.adapters.manifest import AddedToken
from onecard.engines.local.loading import LoadedBase, grow_vocabulary
from onecard.errors import InputError


def extend_model(base: LoadedBase, tokenizer: Any, added: Sequence[AddedToken]) -> None:
    """Gives every added token its row, starting at the mean of the rows the base's own tokenizer uses.

    InputError for a head with a bias: PEFT's trained rows would drop it.
    """
    if not added:
        return
    head = base.model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise InputError(
            "this base's head has a bias, which rows of added tokens cannot keep",
            where=str(base.folder),
            next_step="take added_tokens out of the recipe, or use another base",
        )
    grow_vocabulary(base.model, tokenizer, known=len(base.tokenizer))


def trained_rows(model: Any, added: Sequence[AddedToken]) -> dict[str, list[int]] | None:
    """PEFT's trainable_token_indices: the embedding's rows and, untied, the head's; a tied head follows its embedding."""
    if not added:
        return None
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = [token.row for token in added]
    layers = [embedding] if head.weight is embedding.weight else [embedding, head]
    return {_last_name(model, layer): list(rows) for layer in layers}


def whole_layers(model: Any) -> list[str]:
    """PEFT's modules_to_save for training all rows: the embedding and the head. InputError for a tied head, which would not follow."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head.weight is embedding.weight:
        raise InputError(
            "token_training: whole would train the embedding and leave this base's tied head as it was",
            where="recipe: token_training",
            allowed="rows",
        )
    return [_last_name(model, embedding), _last_name(model, head)]


def _last_name(model: Any, layer: Any) -> str:
    name: str = next(name for name, module in model.named_modules() if module is layer)
    return name.rpartition(".")[2]
