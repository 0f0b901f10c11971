"""Several processes that share a run: the same run as one, the same weights in each, and nobody left waiting."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from onecard.training import ranks
from onecard.training.ranks import ALONE, RanOutElsewhere, flattened, put_back

PROGRAM = Path(__file__).parent / "shared_scenes.py"


@pytest.fixture(scope="module")
def played(embedded, tmp_path_factory):
    """Every scene, played by two processes together and by this one alone: what scene and rank came to."""
    spec = importlib.util.spec_from_file_location("shared_scenes", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    folder = tmp_path_factory.mktemp("scenes")
    base = program.Scenes.base_of(embedded, folder / "base")
    started = [
        subprocess.Popen([sys.executable, str(PROGRAM), str(rank), "2", str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        program.Scenes(folder, base, 0, 1).all()
        said = [process.communicate(timeout=120)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)

    def result(scene, rank=0, count=2):
        place = folder / f"{scene}-{rank}-of-{count}"
        facts = json.loads(Path(f"{place}.json").read_text())
        return SimpleNamespace(**facts, weights=load_file(f"{place}.safetensors"))

    result.folder, result.program, result.alone = folder, program, program.Scenes(folder, base, 0, 1)
    return result


def assert_near(found, expected, atol):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("scene", ["answers", "pairs"])
def test_a_shared_run_is_the_run_of_one(played, scene):
    together, alone = played(scene), played(scene, 0, 1)
    assert together.curve == pytest.approx(alone.curve, rel=1e-5)
    assert [loss for _, loss in together.validation] == pytest.approx([loss for _, loss in alone.validation], rel=1e-5)
    assert together.tokens == alone.tokens
    assert_near(together.weights, alone.weights, 1e-4)


def test_padded_rows_are_shared_alike(played):
    assert played("padded").curve == pytest.approx(played("padded", 0, 1).curve, rel=1e-3)


@pytest.mark.parametrize("scene", ["answers", "padded", "pairs", "tight", "late", "resumed"])
def test_the_ranks_hold_the_same_weights_to_the_last_bit(played, scene):
    assert_near(played(scene, 0).weights, played(scene, 1).weights, 0)
    assert played(scene, 0).curve == played(scene, 1).curve


@pytest.mark.parametrize("scene", ["answers", "padded", "pairs"])
def test_every_row_is_learned_by_one_rank_once_an_epoch(played, scene):
    first, second = played(scene, 0).learned, played(scene, 1).learned
    assert first and second and sorted(first + second) == sorted(played(scene, 0, 1).learned)


def test_memory_that_runs_out_on_one_rank_makes_passes_smaller_on_all(played):
    for rank in (0, 1):
        result = played("tight", rank)
        assert result.recomputed_layers == 2 and result.forward_tokens < 4096
        assert any("passes of at most" in note for note in result.notes)


def test_memory_that_runs_out_while_the_weights_move_is_noticed_by_all(played):
    for rank in (0, 1):
        assert "memory ran out: every layer is recomputed" in played("late", rank).notes


def test_a_shared_run_that_goes_on_ends_bit_for_bit_as_one_that_was_never_stopped(played):
    """With dropout, whose draw each rank makes from seed, step and its number."""
    whole, resumed = played("whole"), played("resumed")
    assert whole.curve == resumed.curve and "went on from step 3" in resumed.notes
    assert_near(resumed.weights, whole.weights, 0)


def test_a_run_goes_on_on_another_number_of_cards_and_says_so(played):
    shutil.copytree(played.folder / "whole", played.folder / "moved")
    played.alone.scene("moved", played.program.ROWS, played.program.GOING, run_folder="moved", resume=True)
    result = played("moved", 0, 1)
    assert result.curve[:7] == played("whole").curve[:7] and result.told == [8]
    assert "went on from step 7 on 1 card instead of 2: the same but for rounding and dropout" in result.notes


def test_only_the_first_writes(played):
    lines = [json.loads(line) for line in (played.folder / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["loss"] for line in lines] == played("whole").curve
    assert sorted(place.name for place in (played.folder / "whole").iterdir()) == ["checkpoint-7", "metrics.jsonl"]


# -- without others --------------------------------------------------------------------------------------------------------------


def test_alone_nothing_is_asked():
    assert ranks.here() == ALONE and ALONE.first
    tensor = torch.ones(2)
    ALONE.sum(tensor)
    ALONE.start_alike([tensor])
    ALONE.demand_alike([tensor])
    assert tensor.tolist() == [1, 1] and ALONE.most(3.5, tensor.device) == 3.5
    assert ALONE.together(lambda: 7, tensor.device) == 7


def test_full_memory_alone_is_the_error_itself():
    def work():
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        ALONE.together(work, torch.device("cpu"))


def test_full_memory_elsewhere_counts_as_full_memory():
    from onecard.training.memory import ran_out

    assert ran_out(RanOutElsewhere())


def test_gradients_travel_in_one_vector_and_come_back():
    weights = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4))]
    weights[0].grad = torch.arange(6.0).reshape(2, 3)
    flat = flattened(weights, torch.tensor([8.0, 9.0]))
    assert flat.tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 0, 0, 8, 9]
    assert put_back(weights, flat * 2).tolist() == [16, 18]
    assert weights[0].grad.tolist() == [[0, 2, 4], [6, 8, 10]] and weights[1].grad.tolist() == [0, 0, 0, 0]
