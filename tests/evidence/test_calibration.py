"""A calibration survives a round trip, gives back the constants its steps were made of, and says what is wrong with a bad file."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onecard.errors import ResultError
from onecard.evidence import results
from onecard.evidence.calibration import (
    Calibration,
    calibration_file,
    find_calibration,
    read_calibration,
    to_json,
    write_calibration,
)
from onecard.weights.places import user_cache

LAYER, REST, ADAPTER, MIXED = 500.0, 300.0, 30.0, 60.0  # microseconds
TRAINED, TRAINED_REST = 4000.0, 900.0
FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)


def figure(median: float, spread: float = 0.01) -> dict[str, Any]:
    return {"median": median, "low": median * (1 - spread), "high": median * (1 + spread), "repeats": 9}


def step(layers: int, lines: int, adapters: int, spread: float = 0.01) -> dict[str, Any]:
    a_linear = 0.0 if adapters == 0 else ADAPTER if adapters == 1 else adapters * MIXED
    us = REST + layers * (LAYER + 7 * a_linear)
    return {"form": "nf4", "layers": layers, "lines": lines, "adapters": adapters, "us": figure(us, spread)}


def document(**changes: Any) -> dict[str, Any]:
    cases = [(1, 0), (4, 0), (1, 1), (4, 2)]
    return {
        "schema": 1,
        "at": "2026-11-21T12:00:00+00:00",
        "seconds": 61.5,
        "card": {
            "id": "h200-sxm",
            "name": "NVIDIA H200",
            "kind": "cuda",
            "driver": "580.1",
            "compute_capability": "9.0",
            "total_bytes": 150_109_880_320,
            "l2_bytes": 62_914_560,
            "others_bytes": 0,
        },
        "host": {
            "cpu": "a CPU",
            "cores": 16,
            "threads": 16,
            "ram_bytes": 1 << 37,
            "system": "Linux 6",
            "load_1min": 0.5,
            "busy_percent": 1.0,
        },
        "versions": {"torch": "2.11.0+cu130"},
        "context": {"bare_bytes": 500 << 20, "serving_bytes": 560 << 20, "training_bytes": None},
        "copy_gbs": figure(4300.0),
        "read_gbs": figure(4100.0),
        "launch_us": figure(4.0),
        "round_trip_us": figure(11.0),
        "gemm": [{"tokens": n, "inputs": 4096, "outputs": 14336, "tflops": figure(0.2 * n)} for n in (1, 64, 1024)],
        "linears": [
            {
                "form": "int8",
                "tokens": 1,
                "inputs": 4096,
                "outputs": 14336,
                "outlier_columns": columns,
                "us": figure(60.0 + columns),
                "called_us": figure(150.0),
                "by": "profiler",
            }
            for columns in (0, 6)
        ],
        "picks": [{"vocabulary": 32000, "sampled": True, "us": figure(3600.0)}],
        "small_model": {"hidden_size": 256, "vocabulary": 32000, "rank": 16},
        "steps": [step(layers, *case) for layers in (4, 12) for case in cases],
        "training_steps": [
            {
                "form": "nf4",
                "layers": layers,
                "checkpointing": True,
                "tokens": 32,
                "us": figure(TRAINED_REST + layers * TRAINED),
            }
            for layers in (4, 12)
        ],
        "absent": [{"part": "training_steps.none", "reason": "RuntimeError: out of memory"}],
        "warnings": ["others hold 3.0 GiB of the card"],
        **changes,
    }


def calibration(**changes: Any) -> Calibration:
    return Calibration.model_validate(document(**changes))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "h200.json"
    write_calibration(file, calibration())
    assert read_calibration(file) == calibration()
    assert [path.name for path in file.parent.iterdir()] == ["h200.json"]
    assert len(file.read_text().splitlines()) > 30  # a figure a line: two files can be compared


@FOLDER
@given(value=st.floats(1e-9, 1e12), name=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_figure_and_name_survives(tmp_path: Path, value: float, name: str) -> None:
    written = calibration(copy_gbs=figure(value), warnings=[name])
    write_calibration(tmp_path / "c.json", written)
    assert read_calibration(tmp_path / "c.json") == written


def test_the_constants_behind_the_steps_come_back() -> None:
    seen = calibration()
    assert seen.steady
    assert seen.layer_us("nf4") == pytest.approx(LAYER)
    assert seen.layer_us("nf4", lines=4) == pytest.approx(LAYER)
    assert seen.step_us("nf4") == pytest.approx(REST)
    assert seen.adapter_linear_us("nf4") == pytest.approx(ADAPTER)
    assert seen.mixed_adapter_linear_us("nf4") == pytest.approx(MIXED)
    assert seen.training_layer_us("nf4", checkpointing=True) == pytest.approx(TRAINED)
    assert seen.training_step_us("nf4", checkpointing=True) == pytest.approx(TRAINED_REST)
    assert seen.context_bytes == 560 << 20
    assert seen.best_tflops == pytest.approx(0.2 * 1024)


def test_what_was_not_measured_is_none_and_not_zero() -> None:
    seen = calibration(context=None, gemm=[], steps=[step(4, 1, 0)])
    assert seen.layer_us("int8") is None and seen.training_layer_us("nf4", checkpointing=False) is None
    assert seen.layer_us("nf4") is None and seen.step_us("nf4") is None  # one depth has no slope
    assert seen.adapter_linear_us("nf4") is None
    assert seen.context_bytes is None and seen.best_tflops is None


def test_a_slope_lost_in_noise_is_none() -> None:
    seen = calibration(steps=[{**step(4, 1, 0), "us": figure(900)}, {**step(12, 1, 0), "us": figure(890)}])
    assert seen.layer_us("nf4") is None and seen.step_us("nf4") is None


def test_a_disturbed_machine_is_judged_by_its_first_quartiles() -> None:
    """Half of the deep model's steps were held up by others: the median is off, the quartile is not."""
    quiet, disturbed = step(4, 1, 0), step(12, 1, 0)
    true = disturbed["us"]["median"]
    disturbed["us"] = {"median": 3 * true, "low": true, "high": 4 * true, "repeats": 9}
    quiet["us"] = {**quiet["us"], "low": quiet["us"]["median"], "high": 2 * quiet["us"]["median"]}
    seen = calibration(steps=[quiet, disturbed], training_steps=[])
    assert not seen.steady
    assert seen.layer_us("nf4") == pytest.approx(LAYER)


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value that is no list and no object, and of every list and object."""
    if path:
        yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from leaves(value, (*path, key))


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    broken = copy.deepcopy(document())
    place: Any = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return broken


@FOLDER
@given(
    path=st.sampled_from(list(leaves(document()))), value=st.sampled_from([{}, {"no": 1}, float("nan"), -1, [[]], "\0"])
)
def test_a_broken_value_is_named_with_file_and_key_or_means_something(
    tmp_path: Path, path: tuple[Any, ...], value: Any
) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps(changed(path, value)))
    words = {"name", "driver", "compute_capability", "cpu", "system", "reason", "part", "torch"}
    is_a_word = path[-1] in words or (path[0] == "warnings" and len(path) > 1)
    if (value == "\0" and is_a_word) or (value == {} and path == ("versions",)):
        read_calibration(file)  # any text is a name, and no versions are known
        return
    with pytest.raises(ResultError) as caught:
        read_calibration(file)
    assert caught.value.where.startswith(f"{file}: {path[0]}") and caught.value.next_step


@FOLDER
@given(end=st.integers(0, len(to_json(calibration())) - 3))
def test_a_cut_file_is_never_half_read(tmp_path: Path, end: int) -> None:
    file = tmp_path / "c.json"
    file.write_text(to_json(calibration())[:end])
    with pytest.raises(ResultError) as caught:
        read_calibration(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"copy_gbs": figure(-1)}, "copy_gbs.median", "greater than 0"),
        ({"copy_gbs": {**figure(1), "low": 2}}, "copy_gbs", "run backwards"),
        ({"speed": 1}, "speed", "not permitted"),
        ({"card": {**document()["card"], "id": "../../evil"}}, "card.id", "match"),
        ({"at": "yesterday"}, "at", "isoformat"),
        ({"steps": [step(4, 1, 0), step(4, 1, 0)]}, "document", "twice"),
        ({"schema": 2}, "schema", "newer onecard"),
        ({"schema": "1"}, "schema", "not a calibration"),
    ],
)
def test_what_is_wrong_and_where(tmp_path: Path, changes: dict[str, Any], key: str, said: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps(document(**changes)))
    with pytest.raises(ResultError) as caught:
        read_calibration(file)
    assert caught.value.where == f"{file}: {key}" and said in caught.value.problem
    assert caught.value.next_step


@pytest.mark.parametrize("key", [key for key in document() if key in ("at", "card", "host", "versions", "small_model")])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({name: value for name, value in document().items() if name != key}))
    with pytest.raises(ResultError, match=f"{key}: .*required"):
        read_calibration(file)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[]", b"[" * 100_000, b'{"schema": 1' + b"0" * 5000 + b"}"])
def test_what_is_no_calibration_is_said(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "c.json"
    file.write_bytes(content)
    with pytest.raises(ResultError, match=r"c\.json"):
        read_calibration(file)


def test_no_file_and_a_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"no such file.*onecard calibrate"):
        read_calibration(tmp_path / "none.json")
    with pytest.raises(ResultError, match="cannot be read"):
        read_calibration(tmp_path)


def test_a_card_finds_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert calibration_file("h200-sxm").is_relative_to(user_cache() / "onecard")  # beside the other caches
    assert find_calibration("h200-sxm") is None
    write_calibration(calibration_file("h200-sxm"), calibration())
    assert find_calibration("h200-sxm") == calibration()
    assert find_calibration("rtx-3090") is None
    calibration_file("h200-sxm").write_text("{")
    with pytest.raises(ResultError):
        find_calibration("h200-sxm")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.json"
    write_calibration(file, calibration())

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_calibration(file, calibration(warnings=["new"]))
    assert read_calibration(file) == calibration()
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]
