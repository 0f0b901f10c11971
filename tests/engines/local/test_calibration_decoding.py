"""Decode steps are those of the engine: every line gets a token, every case its turn."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from onecard.engines.local import calibration_decoding as decoding
from onecard.engines.local.calibration_decoding import CASES, Decoding, decode_steps, in_turn, pick_times
from onecard.engines.local.calibration_models import ON_A_CPU, small_llama
from onecard.engines.local.shared_model import SharedModel

CPU = torch.device("cpu")


def test_every_case_is_measured_at_every_depth() -> None:
    steps = decode_steps(CPU, "nf4", ON_A_CPU, seconds=0.0, layers=(1, 2))
    assert {(s.layers, s.lines, s.adapters) for s in steps} == {(depth, *case) for depth in (1, 2) for case in CASES}
    assert all(s.form == "nf4" and s.us.low > 0 and s.us.repeats >= 4 for s in steps)


def test_a_batch_begins_anew_and_every_step_gives_each_line_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "STEPS_A_BATCH", 3)
    picked = []
    monkeypatch.setattr(decoding.Answer, "take", lambda answer, logits: picked.append(logits.shape))
    lines = Decoding(SharedModel(small_llama(1, "none", ON_A_CPU, CPU)), 4, (), ON_A_CPU)
    for _ in range(7):
        assert lines.step() > 0
    assert picked == [(ON_A_CPU.vocabulary,)] * 4 * (7 + 3)  # three batches began, each with a prefill


def test_no_timed_step_has_a_length_that_was_not_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    forward = SharedModel.forward

    def noted(model: SharedModel, adapters: Any, ids: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        lengths.append(mask.shape[1])
        return forward(model, adapters, ids, mask, *rest, **named)

    monkeypatch.setattr(SharedModel, "forward", noted)
    batch = Decoding(SharedModel(small_llama(1, "none", ON_A_CPU, CPU)), 4, (), ON_A_CPU)

    def step() -> float:
        """Not seconds but whether the step's length was there before."""
        batch.step()
        return float(lengths[-1] in lengths[:-1])

    assert in_turn({"only": step}, end=time.perf_counter()) == {"only": [1e6] * decoding.STEPS_A_ROUND}


def test_a_model_that_computes_nan_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    base = small_llama(1, "none", ON_A_CPU, CPU)
    base.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="NaN"):
        Decoding(SharedModel(base), 1, (), ON_A_CPU).step()


def test_cases_take_turns_until_the_time_is_over() -> None:
    order: list[str] = []

    def named(name: str) -> float:
        order.append(name)
        return 0.5

    taken = in_turn({"a": lambda: named("a"), "b": lambda: named("b")}, end=time.perf_counter())
    assert taken == {"a": [0.5e6] * 4, "b": [0.5e6] * 4}
    assert order.index("b") < len(order) - order[::-1].index("a")  # b had a turn before a had its last


def test_choosing_is_measured_greedy_and_sampled() -> None:
    cases = [(pick.vocabulary, pick.sampled) for pick in pick_times(CPU, seconds=0.02)]
    assert cases == [(32_000, False), (32_000, True), (128_256, False), (128_256, True)]
