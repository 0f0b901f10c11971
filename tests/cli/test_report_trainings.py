"""What names a training run, and what is shown of one whose adapter is not found; found ones are in test_train.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from onecard.cli.main import main
from onecard.cli.report_trainings import is_training, named_trainings
from onecard.errors import InputError, ResultError, UnknownName

LINES = '{"step": 1, "loss": 2.5, "tokens_s": 10}\n{"step": 2, "loss": 0.5, "tokens_s": 12, "validation_loss": 0.75}\n'


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "store-runs" / "writer-style-20261121T120000-abcdef"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(LINES)
    return folder


def test_runs_and_result_files_are_told_apart(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a@b").write_text("{}")
    named = [str(run), str(run / "metrics.jsonl"), "other.jsonl", "writer/style@v0001"]
    assert [is_training(name) for name in named] == [True] * 4
    assert [is_training(str(name)) for name in (tmp_path, tmp_path / "run.json", tmp_path / "a@b")] == [False] * 3


def test_a_run_without_an_adapter_is_shown_under_its_folders_name(run: Path, tmp_path: Path) -> None:
    for store in (None, str(tmp_path / "store")):
        (told,) = named_trainings([str(run)], store)
        assert told.label == run.name and told.record is None and [point.loss for point in told.points] == [2.5, 0.5]


def test_an_address_needs_a_store_that_has_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs its store"):
        named_trainings(["writer/style@v0001"], None)
    with pytest.raises(UnknownName):
        named_trainings(["writer/style@v0001"], str(tmp_path / "store"))


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="no such file"):
        named_trainings([str(tmp_path / "rows.jsonl")], None)


def test_the_page_shows_a_run_beside_nothing_else(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    assert main(["report", "metrics.jsonl"]) == 0
    page = Path("report.html").read_text()
    assert "<h2>Training</h2>" in page and "2.50 to 0.50" in page and "0.75" in page and "<svg" in page
    assert Path("report-plots/training.png").is_file()
    assert main(["report", "writer/style@v0001"]) == 2
    assert "--store" in capsys.readouterr().err
