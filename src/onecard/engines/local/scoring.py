"""How likely a model finds continuations of one prompt: the mean log-likelihood per token, for re-ranking candidates."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from onecard.engines.local.batch import PREFILL_TOKENS, padded_left
from onecard.engines.local.shared_model import Resident, SharedModel


def mean_log_likelihoods(
    model: SharedModel,
    adapter: Resident | None,
    prompt: Sequence[int],
    continuations: Sequence[Sequence[int]],
    lines: int,
) -> list[float]:
    """Nats per token of each continuation (none empty) after the prompt (not empty), at most `lines` of them per forward pass."""
    longest = len(prompt) + max(map(len, continuations), default=1)
    together = max(min(lines, PREFILL_TOKENS // longest), 1)
    scores: list[float] = []
    for start in range(0, len(continuations), together):
        scores += _of_one_pass(model, adapter, prompt, continuations[start : start + together])
    return scores


def _of_one_pass(
    model: SharedModel, adapter: Resident | None, prompt: Sequence[int], continuations: Sequence[Sequence[int]]
) -> list[float]:
    ids, mask = padded_left([(*prompt, *continuation) for continuation in continuations], model.device)
    # Padded on the left, all lines end together, so the same last positions predict every continuation.
    logits = model.forward([adapter] * len(continuations), ids, mask, keep=max(map(len, continuations)) + 1)
    logits = logits[..., : model.vocabulary_of(adapter)]
    return [_mean(line, continuation) for line, continuation in zip(logits, continuations, strict=True)]


def _mean(logits: torch.Tensor, continuation: Sequence[int]) -> float:
    """`logits` [positions, vocabulary]; the last of them comes after the continuation and predicts nothing of it."""
    predicting = logits[-len(continuation) - 1 : -1].double().log_softmax(dim=-1)
    return float(predicting.gather(1, torch.tensor(continuation)[:, None]).mean())
