"""The benchmark of training speed, as far as no trainer is needed: its rows, its table, and what becomes of a variant that fails."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a file of benchmarks/training, and forgets it again: its names are too plain to stay."""
    monkeypatch.syspath_prepend(str(BENCHMARKS / "training"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("train_speed", BENCHMARKS / "train_speed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_are_document_e_s(part: Any) -> None:
    rows = part("speed_rows").make_rows(32768, (32768, 32769))
    lengths = [len(row.ids) for row in rows]
    assert (len(rows), sum(lengths)) == (1600, 206_000)
    assert 40 <= min(lengths) < 60
    assert 300 < max(lengths) <= 400
    assert {row.ids[0] for row in rows} == {32768, 32769}
    assert all(16 <= token < 32768 for row in rows for token in row.ids[1:])
    assert all(12 <= row.trained.index(True) <= 32 and all(row.trained[row.prompt_tokens :]) for row in rows)


def test_rows_are_the_same_every_time(part: Any) -> None:
    rows = part("speed_rows")
    assert rows.make_rows(1000, count=50, total=6450) == rows.make_rows(1000, count=50, total=6450)


def test_rows_that_cannot_be_are_refused(part: Any) -> None:
    with pytest.raises(ValueError, match="cannot hold 100"):
        part("speed_rows").lengths(10, 100)


def test_bins_hold_every_row_once_and_are_full(part: Any) -> None:
    module = part("speed_rows")
    rows = module.make_rows(32768)
    laid = module.bins(rows, 2048)
    assert sorted(row.ids for held in laid for row in held) == sorted(row.ids for row in rows)
    assert max(sum(len(row.ids) for row in held) for held in laid) <= 2048
    assert len(laid) <= 1.02 * 206_000 / 2048 + 1


def test_every_variant_of_ours_is_a_recipe(part: Any) -> None:
    recipe_of = part("ours_recipe").recipe_of
    ours = [variant for variant in part("variants").VARIANTS if variant.trainer == "ours"]
    assert {recipe_of(variant.settings).batch.step_rows for variant in ours} == {16, 64}
    for variant in ours:
        recipe = recipe_of(variant.settings)
        assert recipe.gradient_checkpointing == variant.settings["gradient_checkpointing"]
        assert recipe.lora.rank == 16
        assert recipe.batch.packing


def test_variants_have_names_of_their_own_and_unknown_ones_are_said(part: Any) -> None:
    variants = part("variants")
    names = [variant.name for variant in variants.VARIANTS]
    assert len(set(names)) == len(names)
    assert [variant.name for variant in variants.chosen(["golden"])] == ["trl-golden"]
    assert [variant.name for variant in variants.chosen(["ours-64-4608-none"])] == ["ours-64-4608-none"]
    with pytest.raises(ValueError, match="no variant 'golds'"):
        variants.chosen(["golds"])


def test_the_clock_leaves_the_warm_up_out(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = part("step_clock")
    times = iter([0.0, 0.0, 10.0, 11.0, 12.0, 14.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(times))
    clock = module.StepClock(warm_up=2, seconds=3)
    clock.start()
    assert [clock.step(tokens) for tokens in (100, 100, 300, 600)] == [False, False, False, True]
    found = clock.result()
    assert found["steady_tokens_s"] == 300.0  # 900 tokens in 3 s
    assert found["whole_tokens_s"] == 78.6  # 1,100 in 14 s


def test_the_clock_without_a_steady_step_says_none(part: Any) -> None:
    clock = part("step_clock").StepClock(warm_up=2, seconds=1)
    clock.start()
    clock.step(100)
    assert "steady_tokens_s" not in clock.result()


def test_bins_of_the_bare_loop_learn_answers_only(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("liger_kernel.transformers")
    fake.LigerFusedLinearCrossEntropyLoss = fake.apply_liger_kernel_to_mistral = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", fake)
    rows, liger = part("speed_rows"), part("liger_run")
    found = liger.bin_tensors([rows.SpeedRow((20, 21, 22), 1), rows.SpeedRow((30, 31), 0)], 8)
    assert found["input_ids"].tolist() == [20, 21, 22, 30, 31, 0, 0, 0]
    assert found["labels"].tolist() == [-100, 21, 22, -100, 31, -100, -100, -100]
    assert found["position_ids"].tolist() == [0, 1, 2, 0, 1, 0, 1, 2]


def test_curves_are_judged_by_the_noise_between_seeds(part: Any) -> None:
    judged = part("curves").judged
    trl = {1: [3.0, 2.0], 2: [3.2, 2.2]}
    near = judged({1: [3.0, 2.1], 2: [3.2, 2.2]}, trl)
    assert near["within_noise"]
    assert near["mean_distance"] == pytest.approx(0.025)
    assert near["noise_between_seeds"] == pytest.approx(0.2)
    far = judged({1: [3.5, 2.5], 2: [3.7, 2.7]}, trl)
    assert not far["within_noise"]
    assert "NOT within" in far["said"]


def test_the_table_puts_the_fastest_first_and_keeps_what_failed(part: Any) -> None:
    document = {
        "at": "2026-11-21T18:00:00+00:00",
        "size": {"layers": None, "tiny": False},
        "machine": {"card": "NVIDIA H200", "torch": "2.11.0"},
        "variants": [
            ran("trl-golden", 300.0),
            {"name": "unsloth", "outcome": "not installed: unsloth"},
            ran("ours-64", 12_000.0),
        ],
    }
    lines = part("speed_table").page([document]).splitlines()
    assert "NVIDIA H200, torch 2.11.0" in lines[0]
    assert lines[4].startswith("| ours-64 | x | 12,000 | 40.0x |")
    assert lines[4].endswith("| 10.0 | 11.0 | 20 |")
    assert lines[5].startswith("| trl-golden |")
    assert lines[-1] == "- unsloth: not installed: unsloth"


def ran(name: str, speed: float) -> dict[str, Any]:
    peaks = {"peak_allocated_mib": 10240.0, "peak_reserved_mib": 11264.0}
    return {
        "name": name,
        "about": "x",
        "steady_tokens_s": speed,
        "whole_tokens_s": speed,
        "steps": 20,
        "outcome": "ran",
    } | peaks


def test_a_variant_that_fails_or_hangs_is_recorded(program: ModuleType) -> None:
    late = program.in_fresh_process({"variant": {}, "size": {}}, 0.01)
    assert late["outcome"] == "no result within 0 s"
    broken = program.in_fresh_process({"variant": {}, "size": {}, "scratch": ""}, 60)
    assert broken["outcome"].startswith("failed: TypeError")
    assert "Variant" in broken["traceback"]


def test_a_document_is_replaced_whole(program: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "train-speed.json"
    for number in (1, 2):
        program.write_whole(file, json.dumps({"number": number}))
    assert json.loads(file.read_text()) == {"number": 2}
    assert list(tmp_path.iterdir()) == [file]
