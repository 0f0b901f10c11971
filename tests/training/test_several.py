"""A run on several cards from one command: the adapter of one card, and one clear error with nothing left when a card is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from onecard.errors import DataError, EngineFailed, InputError, OnecardError
from onecard.training import several
from onecard.training.ranks import OthersAreGone
from onecard.training.several import count_cards, train_on_cards
from onecard.training.training import train_adapter

RECIPE = {
    "base_quantization": "none",
    "compute_dtype": "fp32",
    "epochs": 3,
    "optimizer": {"name": "adamw_torch", "learning_rate": 2e-3, "schedule": "constant", "warmup_ratio": 0},
    "checkpoints": {"every_steps": 1},
}


def our_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]


def test_a_lost_card_ends_the_run_and_two_cards_go_on_to_the_adapter_of_one(order, tmp_path):
    expected = train_adapter(order(recipe=RECIPE, output=tmp_path / "alone" / "out"), lambda _: None)
    made = order(recipe=RECIPE, run_folder=tmp_path / "run")
    seen: list[int] = []

    def lose_one_at_step_three(told):
        seen.append(told.step)
        if told.step == 3:
            assert len(our_processes()) == 2
            os.kill(max(child.pid for child in our_processes()), signal.SIGKILL)

    with pytest.raises(EngineFailed) as ended:
        train_on_cards(made, 2, lose_one_at_step_three)
    assert "the process of card" in ended.value.problem and "SIGKILL" in ended.value.problem
    assert "--resume" in ended.value.next_step
    assert our_processes() == [] and list(made.output.parent.iterdir()) == []
    left = sorted(place.name for place in (tmp_path / "run").iterdir())
    assert left[-1] == "metrics.jsonl" and all(name.startswith("checkpoint-") for name in left[:-1]) and len(left) > 1

    told = []
    trained = train_on_cards(order(recipe=RECIPE, run_folder=tmp_path / "run", resume=True), 2, told.append)
    assert trained.folder == made.output and [place.name for place in made.output.parent.iterdir()] == ["out"]
    run = trained.manifest.training
    assert any(note.startswith("went on from step") for note in run.notes) and any(
        "2 cards" in note for note in run.notes
    )
    assert [point.loss for point in run.curve] == pytest.approx(
        [point.loss for point in expected.manifest.training.curve], rel=1e-5
    )
    ours, theirs = (load_file(made.folder / "adapter_model.safetensors") for made in (trained, expected))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-4, msg=name)
    assert [progress.stage for progress in told][-1] == "done" and told[0].ledger is not None
    assert our_processes() == []


def test_an_interruption_ends_all_and_leaves_nothing(order, monkeypatch):
    """Ctrl-C reaches this process alone; it is here that the others are ended."""
    made, started = order(recipe=RECIPE), []

    def interrupted(members, progress):
        started.extend(our_processes())
        raise KeyboardInterrupt

    monkeypatch.setattr(several, "_followed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_on_cards(made, 2, lambda _: None)
    assert len(started) == 2 and our_processes() == [] and list(made.output.parent.iterdir()) == []


class Ended:
    """A process that is over."""

    def __init__(self, exitcode):
        self.exitcode = exitcode

    def join(self, timeout):
        pass


def followed(*said, progress=lambda _: None):
    """What comes of members of which each told one thing and ended; None: it told nothing."""
    members = []
    for rank, one in enumerate(said):
        heard, told = multiprocessing.Pipe(duplex=False)
        if one is not None:
            told.send(one)
        told.close()
        members.append(several._Member(rank, Ended(-9 if one is None else 0), heard))
    return several._followed(members, progress)


GONE = ("failed", OthersAreGone("the other cards do not answer"))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ((GONE, ("failed", DataError("row 3 is empty"))), "row 3 is empty"),
        ((GONE, None), "the process of card 1 was ended by SIGKILL"),
        ((("failed", DataError("row 3 is empty")), None), "row 3 is empty"),
        ((("made", None), ("made", None)), "no card has made an adapter"),
    ],
)
def test_the_error_told_is_the_cause_and_not_what_it_caused(said, told):
    with pytest.raises(OnecardError, match=told):
        followed(*said)


def test_an_error_travels_whole():
    """It is told as if it had been raised here: place, values, next step, exit code."""
    with pytest.raises(DataError) as found:
        followed(("failed", DataError("row 3 is empty", where="rows.jsonl", allowed="text", next_step="fill it")))
    assert (found.value.where, found.value.allowed, found.value.next_step) == ("rows.jsonl", "text", "fill it")
    assert str(found.value) == "rows.jsonl: row 3 is empty. Allowed: text. Next: fill it"


def test_an_output_that_exists_is_refused_before_anything_starts(order):
    made = order()
    made.output.mkdir(parents=True)
    with pytest.raises(InputError, match="exists already"):
        train_on_cards(made, 2, lambda _: None)


def test_cards_are_counted_and_more_than_there_are_refused(order, monkeypatch):
    made = order()
    assert (count_cards(made, 3), count_cards(made, "all")) == (3, 1)
    with pytest.raises(InputError, match="0 cards"):
        count_cards(made, 0)
    monkeypatch.setattr(several, "choose_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert several._visible() == ["5", "3"] and count_cards(made, "all") == 2
    with pytest.raises(InputError, match="has 2 cards"):
        count_cards(made, 3)


def test_a_machine_without_cards_is_told_so(order, monkeypatch):
    monkeypatch.setattr(several, "choose_device", lambda _: torch.device("cpu"))
    with pytest.raises(InputError, match="has no card"):
        count_cards(order(device="auto"), 2)


def test_one_card_starts_no_process(order, monkeypatch):
    monkeypatch.setattr(several, "train_adapter", lambda order, progress: "trained here")
    assert train_on_cards(order(), 1, lambda _: None) == "trained here"


def test_what_a_card_cannot_explain_names_it_and_the_place():
    try:
        Path("/nowhere/at/all").read_text()
    except OSError as error:
        told = several._tellable(error, 1)
    assert "card 1 failed: FileNotFoundError" in told.problem and told.where
