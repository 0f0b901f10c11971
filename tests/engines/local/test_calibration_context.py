"""The second process is watched from outside: its stages, its last words, and that it never stays behind."""

from __future__ import annotations

import sys
from typing import Any

import psutil
import pytest
import torch

from onecard.engines.local import calibration_context as context
from onecard.engines.local.calibration_context import STAGES, Context, context_of, stages

CPU = torch.device("cpu")
SAYS = """
import json, sys
for number, stage in enumerate({stages!r}):
    print(json.dumps(dict(stage=stage, reserved=0, resident=number + 1)), flush=True)
    sys.stdin.readline()
"""


def child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(context, "CHILD", (sys.executable, "-c", code))


def test_the_stages_of_a_real_life() -> None:
    assert tuple(stages(CPU)) == STAGES


def test_what_each_stage_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: list[str] = []
    child(monkeypatch, SAYS.format(stages=STAGES))
    assert context_of(CPU, missing) == Context(1, 2, 3) and not missing


def test_a_process_that_fails_later_leaves_what_it_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: list[str] = []
    child(monkeypatch, SAYS.format(stages=STAGES[:1]) + "raise RuntimeError('no kernel image')")
    assert context_of(CPU, missing) == Context(1, None, None)
    assert missing == ["after bare: RuntimeError: no kernel image"]


def test_a_process_that_fails_at_once_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "raise SystemExit('no card today')")
    with pytest.raises(RuntimeError, match="no card today"):
        context_of(CPU, [])


def test_a_process_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "LONGEST_S", 0.3)
    child(monkeypatch, "import time; time.sleep(600)")
    with pytest.raises(RuntimeError, match="did not answer"):
        context_of(CPU, [])


def test_ctrl_c_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> int:
        raise KeyboardInterrupt

    code = 'import time; print(\'{"stage": "bare", "resident": 1}\', flush=True); time.sleep(600)'
    child(monkeypatch, code)
    monkeypatch.setattr(context, "_taken", interrupted)
    before = psutil.Process().children()  # servers of other tests in this process
    with pytest.raises(KeyboardInterrupt):
        context_of(CPU, [])
    assert set(psutil.Process().children()) <= set(before)


def test_on_a_card_only_differences_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 were free before; now 60 are, of which torch holds 15 in the child: 25 are its context."""
    monkeypatch.setattr(context, "_free_bytes", lambda device: 60)
    assert context._taken(torch.device("cuda", 0), 100, {"reserved": 15, "resident": 1}) == 25
