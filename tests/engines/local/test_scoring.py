"""Scores are what a plain loop over the continuation's tokens computes, whatever else is scored beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onecard.engines.local.scoring import mean_log_likelihoods
from onecard.engines.local.shared_model import SharedModel
from tests.engines.conftest import load_plain


def test_scores_equal_a_plain_loop(mini: Path) -> None:
    base = load_plain(mini)
    prompt, continuations = [1, 40, 50], [[60], [61, 62, 63, 64], [65, 66], [60]]
    expected = []
    for continuation in continuations:
        total = 0.0
        for place, token in enumerate(continuation):
            ids = torch.tensor([[*prompt, *continuation[:place]]])
            with torch.no_grad():
                total += float(base.model(input_ids=ids).logits[0, -1].double().log_softmax(0)[token])
        expected.append(total / len(continuation))
    scores = mean_log_likelihoods(SharedModel(base), None, prompt, continuations, lines=3)
    assert scores == pytest.approx(expected, rel=1e-5)
