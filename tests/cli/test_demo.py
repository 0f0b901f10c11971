"""The demo from start to end on a fleet made small, and what happens when it is interrupted or started twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from onecard.adapters.store import Store
from onecard.cli import demo as story
from onecard.cli.main import main
from onecard.fleet.examples import examples_folder


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A demo folder whose fleet trains three steps and asks two questions: the demo keeps a fleet that is there."""
    fleet = yaml.safe_load((examples_folder() / "demo.yaml").read_text())
    for agent in fleet["agents"].values():
        agent["recipe"]["max_steps"] = 3
        agent["suite"]["rows"] = 2
        preset = next(iter(agent["presets"]))
        agent["suite"]["checks"] = [{"preset": preset, "repetition": 1.0}]
        for settings in agent["presets"].values():
            settings["max_new_tokens"] = 8
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "demo.yaml").write_text(yaml.safe_dump(fleet))
    monkeypatch.setattr(story, "CALLERS", (1, 2))
    monkeypatch.setattr(story, "REQUESTS", 2)
    monkeypatch.setattr(story, "NEW_TOKENS", 4)
    return folder


def test_the_whole_story_is_told_and_left_behind(small: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--folder", str(small)]) == 0
    out = capfd.readouterr().out
    titles = re.findall(r"^(\d)/8  (\w+)", out, re.MULTILINE)
    assert [title for _, title in titles] == ["Plan", "Train", "Train", "Gate", "Gate", "Serve", "Load", "Report"]
    for shown in ("untouched", "terse", "verbose", "the bare base", "base weights", "exact", "onecard serve"):
        assert shown in out, shown
    store = Store(small / "modelstore")
    assert store.aliases("explainer", "style").production == "v0001"
    assert store.verify("explainer", "style", "v0001") == []
    page = (small / "report.html").read_text()
    assert "Prediction beside measurement" in page and "<script" not in page
    assert list((small / "report-plots").glob("latency.png"))


@pytest.mark.parametrize(
    "title", ["Plan", "Train explainer", "Train quizmaster", "Gate explainer", "Serve", "Load", "Report"]
)
def test_interrupted_at_a_step_it_leaves_whole_things_only(
    small: Path, title: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from onecard.cli.demo_output import Teller

    told = Teller.step

    def interrupted(self: Teller, step: str, why: str) -> None:
        told(self, step, why)
        if step == title:
            raise KeyboardInterrupt

    monkeypatch.setattr(Teller, "step", interrupted)
    assert main(["demo", "--folder", str(small)]) == 130
    assert "interrupted" in capfd.readouterr().err
    for listing in Store(small / "modelstore").list():
        for version in listing.versions:
            assert Store(small / "modelstore").verify(listing.agent, listing.name, version) == []
    assert not (small / "report.html").exists()


def test_a_second_demo_in_the_same_folder_is_told_so(small: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with FileLock(small / ".demo.lock"):
        assert main(["demo", "--folder", str(small)]) == 2
    said = capfd.readouterr().err
    assert "another demo is running" in said and "--folder" in said


def test_a_file_where_the_folder_should_be(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("mine")
    assert main(["demo", "--folder", str(tmp_path / "taken")]) == 2
    assert (tmp_path / "taken").read_text() == "mine"
    assert "Traceback" not in capfd.readouterr().err


def test_a_fleet_that_was_changed_is_kept(small: Path) -> None:
    before = (small / "demo.yaml").read_text()
    loaded = story.prepare(small)
    assert (small / "demo.yaml").read_text() == before
    assert loaded.fleet.agents["explainer"].recipe is not None
    assert (small / "data" / "style-train.jsonl").read_bytes() == (
        examples_folder() / "data" / "style-train.jsonl"
    ).read_bytes()
