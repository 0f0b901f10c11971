"""How likely a model finds continuations of one prompt, for re-ranking candidates, and the tokens of a prompt itself.

The prompt is computed once: its keys and values are laid under every candidate, and only the candidates' own tokens go through the layers
again, all together. Scores are those of separate forward passes but for the order of floating-point sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import DynamicCache

from onecard.engines.engine import TokenLogprob
from onecard.engines.local.answer_text import Detokenizer
from onecard.engines.local.batch import PREFILL_TOKENS
from onecard.engines.local.sampling import likeliest
from onecard.engines.local.shared_model import Resident, SharedModel

# Positions whose logits are held at once: with 128,000 tokens in the vocabulary 128 of them are 64 MiB, and twice that in float64.
LOGIT_COLUMNS = 128
Likelihood = tuple[float | None, list[tuple[int, float]]]  # a token's own, and the likeliest tokens at its place


def mean_log_likelihoods(
    model: SharedModel, adapter: Resident | None, prompt: Sequence[int], continuations: Sequence[Sequence[int]]
) -> list[float]:
    """Nats per token of each continuation (none empty) after the prompt (not empty)."""
    if not continuations:
        return []
    first, cache = _prefilled(model, adapter, prompt)
    # Each line holds the prompt's keys and values as well: together they stay within what one prefill of the batch may take.
    together = max(PREFILL_TOKENS // (len(prompt) + max(map(len, continuations))), 1)
    scores: list[float] = []
    for start in range(0, len(continuations), together):
        scores += _of_one_pass(model, adapter, len(prompt), first, cache, continuations[start : start + together])
    return scores


def prompt_log_probabilities(
    model: SharedModel, adapter: Resident | None, prompt: Sequence[int], top: int
) -> list[Likelihood]:
    """For each token of a prompt its log-probability after those before it, and the `top` likeliest ids at its place."""
    device = model.device
    ids, mask = torch.tensor([list(prompt)], device=device), torch.ones(1, len(prompt), dtype=torch.long, device=device)
    cache = DynamicCache()
    told: list[Likelihood] = [(None, [])]
    for start in range(0, len(prompt) - 1, LOGIT_COLUMNS):
        end = min(start + LOGIT_COLUMNS, len(prompt) - 1)
        logits = model.forward([adapter], ids[:, start:end], mask[:, :end], cache, keep=end - start)[0]
        logits = logits[:, : model.vocabulary_of(adapter)]
        told += [likeliest(row, prompt[start + at + 1], top) for at, row in enumerate(logits)]
    return told


def spelled(
    ids: Sequence[int], told: Sequence[Likelihood], spell: Callable[[Sequence[int]], str]
) -> list[TokenLogprob]:
    """Ids as text: the texts of all tokens one after the other are the text of all. `spell` writes special tokens out."""
    writer, found = Detokenizer(spell), []
    for token, (own, top) in zip(ids, told, strict=True):
        others = tuple((writer.instead(other), value) for other, value in top)
        found.append(TokenLogprob(writer.add(token), own, others))
    return found


def _prefilled(
    model: SharedModel, adapter: Resident | None, prompt: Sequence[int]
) -> tuple[torch.Tensor, DynamicCache]:
    """The logits [vocabulary] after the prompt, and its keys and values."""
    ids = torch.tensor([list(prompt)], device=model.device)
    mask, cache = torch.ones_like(ids), DynamicCache()
    for start in range(0, len(prompt), PREFILL_TOKENS):
        end = min(start + PREFILL_TOKENS, len(prompt))
        logits = model.forward([adapter], ids[:, start:end], mask[:, :end], cache)
    return logits[0, -1], cache


def _of_one_pass(
    model: SharedModel,
    adapter: Resident | None,
    before: int,
    first: torch.Tensor,
    prompt: DynamicCache,
    continuations: Sequence[Sequence[int]],
) -> list[float]:
    """Padded on the right, where nothing looks at: every line goes on at the same position, behind the prompt."""
    lines, longest = len(continuations), max(map(len, continuations)) - 1  # the last token predicts nothing
    predicting = first.expand(lines, 1, -1)
    if longest:
        width = before + longest
        ids = torch.zeros(lines, longest, dtype=torch.long, device=model.device)
        mask = torch.ones(lines, width, dtype=torch.long, device=model.device)
        for line, continuation in enumerate(continuations):
            ids[line, : len(continuation) - 1] = torch.tensor(continuation[:-1])
            mask[line, before + len(continuation) - 1 :] = 0
        logits = model.forward([adapter] * lines, ids, mask, _under_each_line(prompt, lines), keep=longest)
        predicting = torch.cat([predicting, logits], dim=1)
    predicting = predicting[..., : model.vocabulary_of(adapter)]
    return [_mean(rows, continuation) for rows, continuation in zip(predicting, continuations, strict=True)]


def _under_each_line(prompt: DynamicCache, lines: int) -> DynamicCache:
    """The prompt's keys and values for every line, as views: they are copied once, where a layer adds its new positions."""
    cache = DynamicCache()
    for number, layer in enumerate(prompt.layers):
        cache.update(layer.keys[:, :, :0], layer.values[:, :, :0], number)
        cache.layers[number].keys = layer.keys.expand(lines, -1, -1, -1)
        cache.layers[number].values = layer.values.expand(lines, -1, -1, -1)
    return cache


def _mean(logits: torch.Tensor, continuation: Sequence[int]) -> float:
    """`logits` [positions, vocabulary]: the one before each token of the continuation, then padding."""
    predicting = logits[: len(continuation)].double().log_softmax(dim=-1)
    return float(predicting.gather(1, torch.tensor(continuation)[:, None]).mean())
