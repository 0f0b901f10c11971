"""The planner of this checkout beside what was measured on a card: the kept page is fresh, and memory keeps its targets."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("truth_table", BENCHMARKS / "truth" / "table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def errors(table: ModuleType, what: str, *, without: str | None = None) -> list[float]:
    """Signed errors of a figure in all kept measurements, cases with this word left out."""
    documents = table.read(sorted((ROOT / "docs" / "measurements" / "planner-truth").glob("*.json")))
    found = [one for document in documents for one in table.compared(document) if one.what == what]
    return [one.error for one in found if without is None or without not in one.case.split()]


def test_the_page_is_fresh() -> None:
    command = [sys.executable, str(BENCHMARKS / "planner_truth.py"), "table", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_weights_are_what_was_held(table: ModuleType) -> None:
    found = errors(table, "weights")
    assert len(found) >= 24
    assert max(map(abs, found)) < 0.0001


def test_serving_peaks_are_within_3_percent_cold(table: ModuleType) -> None:
    """Two of them are not yet: Pythia in nf4 and int8, whose plans are 5% too large. What runs out of memory is a plan that is too small,
    and of those none is more than 1.5%."""
    signed = errors(table, "serving peak")
    found = sorted(map(abs, signed))
    assert len(found) >= 45
    assert median(found) < 0.006
    assert found[-3] < 0.03
    assert found[-1] < 0.055
    assert min(signed) > -0.015


def test_training_peaks_are_within_5_percent(table: ModuleType) -> None:
    """int8 with random weights is left out: what is wrong there is said on the page."""
    found = sorted(map(abs, errors(table, "training peak", without="int8")))
    assert len(found) >= 11
    assert median(found) < 0.02
    assert found[-1] < 0.05


def test_half_of_the_decode_steps_are_within_a_tenth(table: ModuleType) -> None:
    """Cold, host and all; 16 bits and nf4. Worse than this, a constant has slipped."""
    found = sorted(map(abs, errors(table, "decode step", without="int8")))
    assert median(found) < 0.06
    assert found[int(0.75 * len(found))] < 0.12
