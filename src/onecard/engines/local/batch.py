"""The requests being decoded together: one line each, left-padded, with one growing key-value cache.

Lines join and leave between steps. Joining lines are prefilled apart, a piece at a time, and then laid beside the others layer by
layer; a line that leaves takes its part of the cache with it. So beside the cache a step never needs more than PREFILL_TOKENS tokens'
activations and one more tensor of the cache: what the planner counts on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from onecard.engines.local.answer import Answer
from onecard.engines.local.shared_model import SharedModel

PREFILL_TOKENS = 2048  # tokens that go through the layers at once; longer prompts and larger joins go in pieces


class Batch:
    """`answers[i]` is line i of the cache and of every logits tensor given back."""

    def __init__(self, model: SharedModel) -> None:
        self.answers: list[Answer] = []
        self._model = model
        self._cache = DynamicCache()
        self._mask = torch.empty(0)

    @property
    def cache_bytes(self) -> int:
        """What the key-value cache holds now."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self._cache.layers) if self.answers else 0

    def join(self, answers: Sequence[Answer]) -> torch.Tensor:
        """Prefills new lines behind the others and gives the logits [new lines, vocabulary] of their first tokens."""
        ids, mask = padded_left([answer.prompt_ids for answer in answers], self._model.device)
        cache = DynamicCache()  # without the config, so that sliding layers keep all positions and can be padded
        adapters = [answer.adapter for answer in answers]
        columns = max(PREFILL_TOKENS // len(answers), 1)
        for start in range(0, ids.shape[1], columns):
            end = min(start + columns, ids.shape[1])
            logits = self._model.forward(adapters, ids[:, start:end], mask[:, :end], cache)
        if self.answers:
            self._lay_beside(cache, mask)
        else:
            self._cache, self._mask = cache, mask
        self.answers += answers
        return logits[:, -1]

    def step(self) -> torch.Tensor:
        """Feeds every line its last token and gives the logits [lines, vocabulary] of the next."""
        last = torch.tensor([[answer.last_token] for answer in self.answers], device=self._model.device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.answers), 1)], dim=1)
        return self._model.forward([answer.adapter for answer in self.answers], last, self._mask, self._cache)[:, -1]

    def drop_finished(self) -> None:
        """Takes lines that are finished out of the cache, and with them padding that no other line needs."""
        left = [line for line, answer in enumerate(self.answers) if not answer.finished]
        if len(left) == len(self.answers):
            return
        self.answers = [self.answers[line] for line in left]
        if not left:
            self.clear()
            return
        lines = torch.tensor(left, device=self._model.device)
        self._mask = self._mask[lines]
        padding = int(self._mask.argmax(dim=1).min())  # the first 1 of the line with the least padding
        self._mask = self._mask[:, padding:]
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[lines, :, padding:], layer.values[lines, :, padding:]

    def clear(self) -> None:
        """Forgets every line."""
        self.answers, self._cache, self._mask = [], DynamicCache(), torch.empty(0)

    def _lay_beside(self, new: DynamicCache, mask: torch.Tensor) -> None:
        """Layer by layer, so that only one tensor is there twice. Memory that runs out at the first leaves the running lines whole;
        at a later one, where room was just made, every line is lost and the batch is empty.
        """
        length = max(self._mask.shape[1], mask.shape[1])
        for number, (layer, added) in enumerate(zip(self._cache.layers, new.layers, strict=True)):
            try:
                layer.keys = _joined(layer.keys, added.keys, length)
                added.keys = None
                layer.values = _joined(layer.values, added.values, length)
                added.values = None
            except Exception:
                if number or added.keys is None:
                    self.clear()
                raise
        self._mask = _joined(self._mask[:, None, :, None], mask[:, None, :, None], length)[:, 0, :, 0]


def padded_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, both [lines, longest]; padding is id 0 under mask 0."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask


def _joined(old: torch.Tensor, new: torch.Tensor, length: int) -> torch.Tensor:
    """Both [lines, heads, positions, width], one under the other, with zeros before what is shorter than `length` positions."""
    lines, heads, _, width = old.shape
    joined = old.new_zeros(lines + new.shape[0], heads, length, width)
    joined[:lines, :, length - old.shape[2] :] = old
    joined[lines:, :, length - new.shape[2] :] = new
    return joined
