"""What a quantized model lost: perplexity on held-out text, its logits beside the source's, and its answers to a suite.

Runs in the runner's interpreter only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from onecard.weights.quantize_order import ANSWERED_TOGETHER, Asked, Said

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


def answers(model: Any, tokenizer: Any, asked: Sequence[Asked], special_tokens: bool, told: Told) -> list[Said]:
    """The answers in the order of the questions. Those of one kind are written together, padded on the left, so that two models are
    asked the very same; what is drawn at random follows from the questions' seeds."""
    said: dict[int, Said] = {}
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for number, one in enumerate(asked):
        kinds.setdefault((one.max_new_tokens, one.temperature, one.top_p, one.stop_ids), []).append(number)
    for numbers in kinds.values():
        for first in range(0, len(numbers), ANSWERED_TOGETHER):
            some = numbers[first : first + ANSWERED_TOGETHER]
            written = _written(model, tokenizer, [asked[number] for number in some], special_tokens)
            said.update(zip(some, written, strict=True))
            told(len(said) / len(asked))
    return [said[number] for number in range(len(asked))]


def _written(model: Any, tokenizer: Any, asked: Sequence[Asked], special_tokens: bool) -> list[Said]:
    kind = asked[0]
    rows = [tokenizer(one.text, add_special_tokens=special_tokens)["input_ids"] for one in asked]
    longest, pad = max(map(len, rows)), kind.stop_ids[0]
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    torch.manual_seed(kind.seed)
    drawn = {"temperature": kind.temperature, "top_p": kind.top_p, "top_k": 0} if kind.temperature > 0 else {}
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=kind.max_new_tokens,
            do_sample=kind.temperature > 0,
            eos_token_id=list(kind.stop_ids),
            pad_token_id=pad,
            **drawn,
        )
    return [_said(tokenizer, row, kind.stop_ids) for row in out[:, longest:].tolist()]


def _said(tokenizer: Any, new: list[int], stop_ids: tuple[int, ...]) -> Said:
    """The answer up to its first stop token, which counts as one of its tokens."""
    end = next((place for place, token in enumerate(new) if token in stop_ids), None)
    kept = new if end is None else new[:end]
    text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Said(text, len(kept) + (end is not None), "length" if end is None else "stop")
