"""Perplexity and the comparison of logits, against hand-made models whose answers are known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from onecard.weights.quantize_measure import Seen, compare, largest_difference, look


class Always:
    """A model that gives every token of the vocabulary the same logits, wherever it stands."""

    device = torch.device("cpu")

    def __init__(self, *logits: float) -> None:
        self.logits = torch.tensor(logits)

    def __call__(self, input_ids, use_cache):
        return SimpleNamespace(logits=self.logits.expand(1, input_ids.shape[1], -1))


def seen(*rows: tuple[float, ...]) -> Seen:
    return Seen(0.0, 1, torch.tensor(rows))


def test_a_model_that_knows_nothing_has_the_vocabulary_as_its_perplexity() -> None:
    told: list[float] = []
    ids = [torch.tensor([[0, 1, 2]]), torch.tensor([[3, 3, 1, 0, 2]])]
    found = look(Always(0.0, 0.0, 0.0, 0.0), ids, 4, told.append)
    assert found.perplexity == pytest.approx(4.0)
    assert found.tokens == 6  # each text's first token is given
    assert found.logits.shape == (4, 4)
    assert told == [0.5, 1.0]


def test_perplexity_weighs_tokens_and_not_texts() -> None:
    model = Always(math.log(3.0), 0.0)  # p = 3/4, 1/4
    found = look(model, [torch.tensor([[0, 0, 0, 0]]), torch.tensor([[0, 1]])], 2, lambda share: None)
    assert found.nll == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4)


def test_what_is_the_same_differs_in_nothing() -> None:
    one = seen((1.0, 2.0), (3.0, -1.0))
    assert compare(one, one) == {"logit_error": 0.0, "same_top_token": 1.0, "kl_divergence": pytest.approx(0.0)}
    assert largest_difference(one, one) == 0.0


def test_what_differs_is_measured() -> None:
    source, made = seen((3.0, 4.0), (0.0, 0.0)), seen((3.0, 0.0), (0.0, 0.0))
    found = compare(source, made)
    assert found["logit_error"] == pytest.approx(4 / 5)
    assert found["same_top_token"] == 0.5
    p, q = 1 / (1 + math.e), 1 / (1 + math.e**-3)
    assert found["kl_divergence"] == pytest.approx((p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))) / 2)
    assert largest_difference(source, made) == 4.0


def test_no_number_is_never_equal() -> None:
    assert largest_difference(seen((math.nan, 1.0)), seen((math.nan, 1.0))) == math.inf
