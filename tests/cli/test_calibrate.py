"""`onecard calibrate` as a person meets it: a file the planner can read, figures, or clear words; and nothing after Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from onecard.cli import calibrate as verb
from onecard.cli.main import main
from onecard.engines.local import calibration as measuring
from onecard.engines.local.calibration_card import CardFacts
from onecard.evidence.calibration import calibrations_folder, find_calibration, read_calibration

QUICK = ["--card", "cpu", "--seconds", "6"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_tiny_budget_writes_a_valid_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "here.json"
    assert main(["calibrate", *QUICK, "--output", str(file)]) == 0
    said = capsys.readouterr()
    assert f"onecard plan FLEET --calibration {file}" in said.out
    assert "GB/s" in said.out and "cold start" in said.out and "measuring: " in said.err
    found = read_calibration(file)
    assert found.card.id == "cpu" and found.copy_gbs and found.host.cores >= 1
    assert {"onecard", "python", "torch", "bitsandbytes"} <= found.versions.keys()
    assert any(part.part == "context" and part.reason in said.out.replace("\n", " ") for part in found.absent)
    assert find_calibration("cpu") is None  # a named file is the only one written
    assert [path.name for path in file.parent.iterdir()] == ["here.json"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the parts that are over at once."""
    for name in ("decode_steps", "training_steps", "linear_times", "products", "pick_times"):
        monkeypatch.setattr(measuring, name, lambda *_: [])


def test_without_a_file_it_lies_where_the_planner_looks(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", *QUICK, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    found = find_calibration("cpu")
    assert found and said["file"] == str(calibrations_folder() / "cpu.json")
    assert said["calibration"] == found.model_dump(mode="json", by_alias=True)
    assert said["derived"]["nf4"]["layer_us"] is None
    assert [path.name for path in calibrations_folder().iterdir()] == ["cpu.json"]


def test_a_place_that_cannot_be_written_is_said_before_the_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(measuring, "measure", lambda *_: pytest.fail("it measured first"))
    assert main(["calibrate", "--output", str(tmp_path / "file" / "c.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing_and_what_was_there(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    old = tmp_path / "c.json"
    old.write_text("old")
    monkeypatch.setattr(measuring, "launches", pressed)
    assert main(["calibrate", *QUICK, "--output", str(old)]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert old.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_nothing_measured_is_no_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no kernel image is available")

    for name in ("bandwidths", "launches", "decode_steps", "training_steps", "linear_times", "products", "pick_times"):
        monkeypatch.setattr(measuring, name, broken)
    monkeypatch.setattr(measuring, "context_of", broken)
    assert main(["calibrate", "--card", "cpu", "--seconds", "40", "--output", str(tmp_path / "c.json")]) == 2
    said = capsys.readouterr().err
    assert "nothing could be measured" in said and "no kernel image" in said and "Traceback" not in said
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("wrong", [["--card", "rtx-3090"], ["--seconds", "0"], ["--seconds", "soon"]])
def test_wrong_use_is_said(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", *wrong]) == 2
    assert wrong[0] in capsys.readouterr().err


def test_without_the_libraries_it_names_the_line_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(*_: Any) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(measuring, "measure", absent)
    assert main(["calibrate"]) == 2
    assert "torch is not installed" in capsys.readouterr().err


def test_its_help_needs_no_torch() -> None:
    code = (
        "import sys; from onecard.cli.main import main; main(['calibrate', '--help']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def facts(name: str, gib: float) -> CardFacts:
    return CardFacts(name, "cuda", "580.1", "9.0", round(gib * (1 << 30)), None)


@pytest.mark.parametrize(
    ("name", "gib", "expected"),
    [
        ("NVIDIA H200", 139.8, "h200-sxm"),
        ("NVIDIA GeForce RTX 3070", 7.6, "rtx-3070"),
        ("NVIDIA GeForce RTX 3060", 11.75, "rtx-3060-12gb"),
        ("Vendor's New_Card (X) 9000", 31.0, "vendor-s-new-card-x-9000"),
        ("???", 31.0, "unnamed"),
    ],
)
def test_the_file_is_named_by_the_catalogs_card(name: str, gib: float, expected: str) -> None:
    assert verb.card_id(facts(name, gib)) == expected


def test_a_busy_machine_and_a_card_torch_does_not_see_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = measuring.Measured(CardFacts("x86", "cpu", None, None, 1, None), measuring.ON_A_CPU, 1, {})
    monkeypatch.setattr(verb, "_unseen_card", lambda: "RTX 3090")
    busy, unseen = verb._doubts(seen, {"busy_percent": 63.0})
    assert "63% of the processor" in busy and "RTX 3090" in unseen and "CPU build" in unseen
    monkeypatch.setattr(verb, "_unseen_card", lambda: None)
    assert verb._doubts(seen, {"busy_percent": 3.0}) == []
