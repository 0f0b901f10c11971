"""What a person reads: every figure beside what was believed, and nothing where nothing was measured."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from onecard.catalog.cards import Card, find_card
from onecard.cli.calibrate_output import Row, figures_table, record_of, rows_of, show
from onecard.evidence.calibration import Calibration

H200 = find_card("h200")


def figure(median: float) -> dict[str, Any]:
    return {"median": median, "low": median, "high": median * 1.02, "repeats": 5}


def calibration(**changes: Any) -> Calibration:
    card = {"id": "h200-sxm", "name": "NVIDIA H200", "kind": "cuda", "total_bytes": H200.total_bytes}
    host = {"cpu": "EPYC", "cores": 16, "threads": 16, "ram_bytes": 1 << 37, "system": "Linux"}
    steps = [
        {"form": "nf4", "layers": layers, "lines": 1, "adapters": 0, "us": figure(100.0 + 400 * layers)}
        for layers in (4, 12)
    ]
    linears = [
        {"form": form, "tokens": tokens, "inputs": 4096, "outputs": 14336, "us": figure(tokens * 10.0),
         "called_us": figure(99.0), "by": "events"}
        for form in ("none", "nf4") for tokens in (1, 64)
    ]  # fmt: skip
    return Calibration.model_validate(
        {
            "schema": 1,
            "at": "2026-11-21T12:00:00+00:00",
            "seconds": 60,
            "card": card,
            "host": host,
            "versions": {},
            "copy_gbs": figure(4320.0),
            "gemm": [{"tokens": 64, "inputs": 4096, "outputs": 14336, "tflops": figure(400.0)}],
            "linears": linears,
            "small_model": {"hidden_size": 256, "vocabulary": 32000, "rank": 16},
            "steps": steps,
            **changes,
        }
    )


def shown(capsys: pytest.CaptureFixture[str], card: Card | None = H200, **changes: Any) -> str:
    show(calibration(**changes), Path("my file.json"), card, found_by_itself=False)
    return capsys.readouterr().out


def test_a_figure_stands_beside_the_catalogs_with_their_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = [line for line in shown(capsys).splitlines() if line.strip().startswith("copy")]
    assert line.split()[-2:] == ["4,800", "0.90"]
    assert "4,320" in line and "GB/s" in line


def test_what_was_not_measured_has_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row.what: row.measured for row in rows_of(calibration(), H200)}
    assert rows["nf4: a layer, one line"] == pytest.approx(400)
    assert rows["nf4: the rest of a step"] == pytest.approx(100)
    assert not any(name.startswith("int8") or "taken beside" in name for name in rows)
    assert "int8: a layer" not in shown(capsys)


def test_a_card_the_catalog_does_not_know_has_no_cold_start(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = [line for line in shown(capsys, card=None).splitlines() if line.strip().startswith("copy")]
    assert "4,320" in line and "4,800" not in line


def test_linears_stand_by_tokens_and_forms(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = [line for line in shown(capsys).splitlines() if line.split()[:1] == ["64"]]
    assert line.split() == ["64", "640", "-", "640", "-", "400"]


def test_what_failed_what_is_doubtful_and_what_is_next_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(
        capsys, absent=[{"part": "linears.int8", "reason": "RuntimeError: no kernel"}], warnings=["others hold 3 GiB"]
    )
    assert "absent  linears.int8: RuntimeError: no kernel" in said and "! others hold 3 GiB" in said
    assert "onecard plan FLEET --calibration 'my file.json'" in said
    show(calibration(), Path("c.json"), None, found_by_itself=True)
    assert "when the fleet's card is h200-sxm" in capsys.readouterr().out


def test_on_a_narrow_terminal_no_figure_is_cut() -> None:
    rows = [Row("16 bit: the same, each of two mixed", 123456.0, "TFLOP/s", None, 99999.0)]
    text = StringIO()
    Console(file=text, width=80).print(figures_table(rows, roomy=False))
    assert "16 bit: the same, each of two mixed" in text.getvalue() and "123,456" in text.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in text.getvalue()


def test_markup_in_a_reason_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert "[/bold] [red]" in shown(capsys, absent=[{"part": "x", "reason": "[/bold] [red]"}])


def test_a_script_gets_what_follows_from_the_figures() -> None:
    record = record_of(calibration(), Path("c.json"))
    assert record["file"] == "c.json" and record["derived"]["nf4"]["layer_us"] == pytest.approx(400)
    assert record["derived"]["int8"]["layer_us"] is None and record["calibration"]["schema"] == 1
