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
from onecard.fleet.recipe import Recipe


def demand_rows(recipe: Recipe) -> None:
    """InputError for whole matrices instead of rows, before anything is read.

    A tied head would not follow its embedding, a 7B's adapter would be a gigabyte instead of megabytes, and neither the store nor an
    engine takes one: the run would be for nothing.
    """
    if recipe.token_training != "rows":
        raise InputError(
            f"token_training: {recipe.token_training} makes an adapter that no store and no engine takes",
            where=f"recipe {recipe.name}: token_training",
            allowed="rows",
            next_step="leave token_training out: the added tokens' rows of embedding and head are trained",
        )


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


def _last_name(model: Any, layer: Any) -> str:
    name: str = next(name for name, module in model.named_modules() if module is layer)
    return name.rpartition(".")[2]
