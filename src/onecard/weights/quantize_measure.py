"""What a quantized model lost: perplexity on held-out text, and its logits beside the source's. Runs in the runner's interpreter only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Told = Callable[[float], None]


@dataclass(frozen=True)
class Seen:
    """A model on the held-out text: mean negative log-likelihood of a token, how many tokens, and logits of some of them.

    `logits` are (positions, vocabulary) on the CPU, in the model's dtype.
    """

    nll: float
    tokens: int
    logits: Any

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood over every token but each text's first."""
        return math.exp(min(self.nll, 700.0))


def look(model: Any, ids: list[Any], positions: int, told: Told) -> Seen:
    """Runs every text through the model once; the last tokens of each are kept, `positions` in all."""
    each = max(positions // len(ids), 1)
    total, tokens, kept = 0.0, 0, []
    with torch.inference_mode():
        for number, row in enumerate(ids):
            row = row.to(model.device)
            logits = model(input_ids=row, use_cache=False).logits[0]
            target = row[0, 1:]
            total += torch.nn.functional.cross_entropy(logits[:-1].float(), target, reduction="sum").item()
            tokens += target.numel()
            kept.append(logits[-each:].cpu().clone())
            told((number + 1) / len(ids))
    return Seen(total / max(tokens, 1), tokens, torch.cat(kept))


def compare(source: Seen, made: Seen) -> dict[str, float]:
    """`logit_error` is the norm of the difference over the source's norm; `same_top_token` the share of positions that agree;
    `kl_divergence` the mean of KL(source || made) in nats."""
    difference = norm = agree = divergence = 0.0
    rows = len(source.logits)
    for left, right in zip(source.logits, made.logits, strict=True):
        a, b = left.float(), right.float()
        difference += float((a - b).square().sum())
        norm += float(a.square().sum())
        agree += float(a.argmax() == b.argmax())
        p, q = a.log_softmax(-1), b.log_softmax(-1)
        divergence += float((p.exp() * (p - q)).sum())
    return {
        "logit_error": math.sqrt(difference / norm) if norm else 0.0,
        "same_top_token": agree / rows,
        "kl_divergence": divergence / rows,
    }


def largest_difference(one: Seen, other: Seen) -> float:
    """Of any two logits; 0.0 when the two models answer the same to the last bit. NaN counts as infinite."""
    if torch.equal(one.logits, other.logits):
        return 0.0
    value = float((one.logits.float() - other.logits.float()).abs().max())
    return value if math.isfinite(value) else math.inf
