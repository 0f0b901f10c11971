from __future__ import annotations

import json
from pathlib import Path

import pytest

from onecard.cli.main import main
from onecard.fleet.loader import load_fleet


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_writes_a_fleet_for_this_machine_that_fits(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 0
    assert "next: onecard plan fleet.yaml" in capsys.readouterr().out
    assert main(["plan", "fleet.yaml"]) == 0
    assert "fits" in capsys.readouterr().out


def test_it_writes_for_a_card_of_the_catalog(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "team.yaml", "--card", "RTX 3090", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["card"] == "rtx-3090"
    fleet = load_fleet(here / "team.yaml").fleet
    assert fleet.card == "rtx-3090"
    assert fleet.models["base"].id == said["base"]
    assert [file.name for file in here.iterdir()] == ["team.yaml"]


def test_a_file_that_is_there_stays_unless_forced(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "fleet.yaml").write_text("mine")
    assert main(["init", "--card", "l4"]) == 2
    assert "--force" in capsys.readouterr().err
    assert (here / "fleet.yaml").read_text() == "mine"
    assert main(["init", "--card", "l4", "--force"]) == 0
    assert load_fleet(here / "fleet.yaml").fleet.card == "l4"


def test_a_folder_gets_the_default_name(here: Path) -> None:
    (here / "deployment").mkdir()
    assert main(["init", "deployment", "--card", "l4"]) == 0
    assert (here / "deployment" / "fleet.yaml").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--card", "rtx-9999"], "no card 'rtx-9999'"), (["nowhere/fleet.yaml", "--card", "l4"], "no such folder")],
)
def test_bad_input_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["init", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_rest(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "fleet.yaml").write_text("mine")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onecard.cli.init.os.fsync", full)
    assert main(["init", "--card", "l4", "--force"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert [(file.name, file.read_text()) for file in here.iterdir()] == [("fleet.yaml", "mine")]
