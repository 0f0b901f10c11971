"""The base of the speed comparison: Mistral 7B's shape, two rows longer for document E's added tokens; tiny for a trial on a processor."""

from __future__ import annotations

from typing import Any

from random_base import random_base, settings_of, tokenizer

__all__ = ["ADDED_TOKENS", "added_ids", "config_of", "random_base", "tokenizer"]

MISTRAL = "mistralai/Mistral-7B-v0.3"
ADDED_TOKENS = ("<STYLE_TERSE>", "<STYLE_VERBOSE>")
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
TINY |= {"num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 2048}


def config_of(layers: int | None, tiny: bool) -> Any:
    """Mistral 7B's config as the catalog has it, with the rows of the added tokens; fewer layers or tiny for a trial."""
    changes: dict[str, Any] = dict(TINY) if tiny else {}
    if layers is not None:
        changes["num_hidden_layers"] = layers
    config = settings_of(MISTRAL, **changes)
    config.vocab_size += len(ADDED_TOKENS)
    return config


def added_ids(config: Any) -> tuple[int, ...]:
    """The last rows of the vocabulary: those of the added tokens."""
    return tuple(range(config.vocab_size - len(ADDED_TOKENS), config.vocab_size))
