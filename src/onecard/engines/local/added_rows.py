"""Tokens an adapter added: their rows of embedding and head live beside the base, never in it.

So the base keeps its vocabulary and its bytes, adapters that added different tokens under the same id do not meet, and a row costs
kilobytes. The arithmetic is PEFT's TrainableTokensLayer: the trained row takes the place of the base's, where it has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class AddedRows:
    """`ids[i]` is embedded as `embedding[i]` and scored by `head[i]`; both are [tokens, hidden], the same tensor for a tied head."""

    ids: tuple[int, ...]
    embedding: torch.Tensor
    head: torch.Tensor


class RowsBesideTheBase:
    """Hooks on a model's embedding and head that apply the rows chosen for each line of the batch. They do nothing when none is."""

    def __init__(self, model: torch.nn.Module) -> None:
        embedding = model.get_input_embeddings()
        self.vocabulary = int(embedding.weight.shape[0])
        self._chosen: list[tuple[int, AddedRows]] = []
        self._ids = torch.empty(0)
        embedding.register_forward_pre_hook(self._before_embedding)
        embedding.register_forward_hook(self._after_embedding)
        model.get_output_embeddings().register_forward_hook(self._after_head)

    def choose(self, rows: Sequence[AddedRows | None]) -> None:
        """The rows for each line of the next batch."""
        self._chosen = [(line, chosen) for line, chosen in enumerate(rows) if chosen is not None]

    def _before_embedding(self, _module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
        if not self._chosen:
            return None
        (self._ids,) = inputs
        return (self._ids.clamp(max=self.vocabulary - 1),)

    def _after_embedding(self, module: torch.nn.Module, _inputs: tuple[torch.Tensor], embedded: torch.Tensor) -> None:
        """Gemma's embedding scales what it looks up; a trained row is scaled alike."""
        scale = getattr(module, "embed_scale", None)
        for line, rows in self._chosen:
            for token, row in zip(rows.ids, rows.embedding, strict=True):
                embedded[line, self._ids[line] == token] = row if scale is None else row * scale.to(row.dtype)

    def _after_head(
        self, _module: torch.nn.Module, inputs: tuple[torch.Tensor], logits: torch.Tensor
    ) -> torch.Tensor | None:
        """Logits [lines, positions, vocabulary], widened by the largest added id; a line's foreign columns hold -inf."""
        if not self._chosen:
            return None
        widest = max(self.vocabulary, *(max(rows.ids) + 1 for _, rows in self._chosen))
        wide = logits.new_full((*logits.shape[:-1], widest), -torch.inf)
        wide[..., : self.vocabulary] = logits
        for line, rows in self._chosen:
            wide[line, :, list(rows.ids)] = torch.nn.functional.linear(inputs[0][line], rows.head)
        return wide
