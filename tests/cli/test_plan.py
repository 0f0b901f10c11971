from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onecard.cli.main import main
from onecard.cli.plan import tokens_of
from onecard.fleet.examples import examples_folder

EXAMPLES = examples_folder()

FLEET = """\
name: small
card: {card}
reserve_gib: 0.5
models:
  base: {{id: {id}, quantization: {quantization}, context: 2048, concurrency: 2}}
agents:
  writer:
    model: base
    adapter: style@production
    recipe: qlora
    data: train.jsonl
    deadline: {{seconds: 30, prompt_tokens: 60, new_tokens: 200}}
"""


FIGURE = {"median": 4.0, "low": 3.9, "high": 4.1, "repeats": 9}
CALIBRATION = {
    "schema": 1,
    "at": "2026-11-21T10:00:00+00:00",
    "seconds": 90,
    "card": {"id": "rtx-3090", "name": "NVIDIA GeForce RTX 3090", "kind": "cuda", "total_bytes": 25_000_000_000},
    "host": {"cpu": "x", "cores": 8, "threads": 8, "ram_bytes": 64_000_000_000, "system": "Linux"},
    "versions": {"torch": "2.13.0"},
    "copy_gbs": {"median": 840.0, "low": 830.0, "high": 845.0, "repeats": 9},
    "launch_us": FIGURE,
    "gemm": [
        {"tokens": 4096, "inputs": 4096, "outputs": 4096, "tflops": FIGURE | {"median": 60, "low": 59, "high": 61}}
    ],
    "steps": [  # 352.4 us a layer, where cold-start values go with 476.1
        {
            "form": "none",
            "layers": n,
            "lines": 1,
            "adapters": 0,
            "us": {"median": us, "low": us, "high": us, "repeats": 9},
        }
        for n, us in ((4, 2409.6), (12, 5228.8))
    ],
    "small_model": {"hidden_size": 64, "vocabulary": 256, "rank": 8},
}


def write(
    folder: Path, card: str = "rtx-3090", model_id: str = "mistralai/Mistral-7B-v0.3", quantization: str = "nf4"
) -> Path:
    file = folder / "fleet.yaml"
    file.write_text(FLEET.format(card=card, id=model_id, quantization=quantization))
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def record(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    code, out, _ = run(capsys, "plan", *arguments, "--json")
    made: dict[str, Any] = json.loads(out)
    assert code == (0 if made["fits"] else 1)
    return made


def test_a_fleet_that_fits_ends_with_0_and_shows_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plan", write(tmp_path))
    assert code == 0
    assert "small on RTX 3090: fits: " in out
    for part in (
        "linear layers (nf4+DQ)",
        "KV cache",
        "adapter style",
        "allocator slack",
        "exact",
        "assumed",
        "meets",
        "no data yet",
    ):
        assert part in out
    assert max(len(line) for line in out.splitlines()) <= 100


def test_limits_show_callers_against_context_and_json_has_them_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path)
    _, plain, _ = run(capsys, "plan", file)
    _, out, _ = run(capsys, "plan", file, "--limits")
    assert "most callers" not in plain
    assert "base: context" in out and "largest context" in out
    (frontier,) = record(capsys, file)["frontiers"]
    assert frontier["model"] == "base"
    assert [2048, record(capsys, file)["models"][0]["largest_concurrency"]] in frontier["by_context"]


def test_a_picture_is_drawn_beside_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "pictures" / "card.svg"
    code, out, _ = run(capsys, "plan", write(tmp_path), "--svg", picture)
    assert code == 0
    assert f"drawn: {picture}" in " ".join(out.split())
    assert picture.read_text().startswith("<svg")
    code, _, err = run(capsys, "plan", write(tmp_path), "--svg", tmp_path)
    assert code == 2
    assert "cannot be written" in err
    assert "Traceback" not in err


def test_training_that_must_be_done_in_time_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path)
    row = {"prompt": "p" * 100, "completion": "c" * 300}
    (tmp_path / "train.jsonl").write_text("\n".join([json.dumps(row)] * 500))
    code, out, _ = run(capsys, "plan", file, "--finish-in", "100")
    assert (code, "in 100 h" in out, ">99%" in out) == (0, True, True)
    code, out, _ = run(capsys, "plan", file, "--finish-in", "0.001", "--json")
    told = json.loads(out)["finish_in"]
    assert (code, told["late"]) == (1, True)
    assert told["probability"]["writer"] < 0.05
    assert run(capsys, "plan", file, "--finish-in", "0")[0] == 2
    assert run(capsys, "plan", file, "--finish-in", "nan")[0] == 2


def test_a_calibration_that_is_broken_or_of_another_card_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, measured = write(tmp_path), tmp_path / "card.json"
    code, _, err = run(capsys, "plan", file, "--calibration", measured)
    assert (code, "no such file" in err) == (2, True)
    measured.write_text('{"schema": 1')
    code, _, err = run(capsys, "plan", file, "--calibration", measured)
    assert (code, "card.json" in err) == (2, True)
    measured.write_text(json.dumps(CALIBRATION))
    code, _, err = run(capsys, "plan", file, "--calibration", measured, "--card", "l4")
    assert code == 2
    assert "measured on NVIDIA GeForce RTX 3090" in " ".join(err.split())


def test_a_calibration_takes_the_place_of_data_sheets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, measured = write(tmp_path), tmp_path / "card.json"
    measured.write_text(json.dumps(CALIBRATION))
    told = record(capsys, file, "--calibration", measured)
    assert told["speed_facts"]["tag"] == "measured"
    assert told["speed_facts"]["overhead_us"] == pytest.approx(7.6 * 352.4 / 476.1)
    assert "calibrated on 2026-11-21" in told["speed_facts"]["source"]
    before, after = record(capsys, file)["agents"][0]["busy"], told["agents"][0]["busy"]
    assert after["high"] / after["low"] < before["high"] / before["low"]


def test_offline_refuses_what_only_the_hub_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "plan", write(tmp_path, model_id="somebody/unheard-of-7b"), "--offline")
    assert code == 2
    assert "somebody/unheard-of-7b" in err
    assert "--offline" in err


def test_the_bar_can_be_read_without_colour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "plan", write(tmp_path))
    bar = next(line for line in out.splitlines() if line.startswith("["))
    assert len(bar) == 100
    assert "\x1b" not in out
    assert bar.count("A-") == 1
    assert " A  base weights 3.85 GiB" in out


def test_a_fleet_that_does_not_fit_ends_with_1_and_says_what_to_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "plan", write(tmp_path, card="rtx-3070", quantization="int8"))
    assert code == 1
    assert "does not fit" in out
    assert "the card ends here" in out
    assert "what to change, any one of these:" in out
    assert "models.base.quantization: int8 -> nf4" in out


def test_what_nothing_helps_says_so_and_by_how_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plan", write(tmp_path, card="rtx-3070", model_id="google/gemma-4-31B-it"))
    assert code == 1
    assert "nothing in fleet.yaml makes it fit" in out
    assert "GiB too much for RTX" in " ".join(out.split())


def test_card_replaces_the_fleets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, card="rtx-3070")
    assert record(capsys, file, "--card", "mi300x")["card"]["id"] == "mi300x"
    assert record(capsys, file)["card"]["id"] == "rtx-3070"


def test_a_card_by_its_figures_and_this_machine_can_be_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, card="{vram_gib: 20, bandwidth_gbs: 900, bf16_tflops: 60, usd_per_hour: 1, name: mine}")
    made = record(capsys, file)
    assert (made["card"]["name"], made["card"]["total_bytes"]) == ("mine", 20 * 2**30)
    assert record(capsys, file, "--card", "auto")["card"]["total_bytes"] > 0


def test_training_rows_are_counted_when_they_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path)
    assert record(capsys, file)["trainings"][0]["time"] is None
    row = {"prompt": "p" * 100, "completion": "c" * 300}
    (tmp_path / "train.jsonl").write_text("\n".join([json.dumps(row)] * 50 + ["not json"]))
    training = record(capsys, file)["trainings"][0]
    assert training["data"]["rows"] == 50
    assert training["data"]["tag"] == "assumed"
    assert training["row_tokens"] == tokens_of("p" * 100, "c" * 300) == 112
    assert training["time"]["steps"] == 12  # 50 rows, three epochs, sixteen a step; the shipped recipe says so
    assert training["time"]["usd"]


def test_a_local_folder_can_be_planned_from_its_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from onecard.catalog.models import find_model

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(find_model("Qwen/Qwen3-8B").config))
    by_folder = record(capsys, write(tmp_path, model_id="./mine"))
    by_id = record(capsys, write(tmp_path, model_id="Qwen/Qwen3-8B"))
    assert by_folder["need_bytes"] == by_id["need_bytes"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("card: rtx-3090", "card: rtx-3099"), ["no card 'rtx-3099'", "rtx-3090"]),
        (("concurrency: 2", "concurency: 2"), ["concurency", "concurrency", "fleet.yaml:5"]),
        (("mistralai/Mistral-7B-v0.3", "mistralai/Mistral-7B"), ["is not a repository", "Mistral-7B-v0.3"]),
        (("mistralai/Mistral-7B-v0.3", "./nowhere"), ["no folder './nowhere'"]),
        (("context: 2048", "context: 99999"), ["reaches 32768 tokens", "models.base.context"]),
        (("reserve_gib: 0.5", "reserve_gib: 50"), ["leaves nothing", "reserve_gib"]),
        (("recipe: qlora", "recipe: {lora: {targets: [q_prj]}}"), ["no linear layer 'q_prj'", "q_proj"]),
    ],
    ids=lambda value: value[1][:24] if isinstance(value, tuple) else "",
)
def test_bad_input_ends_with_2_and_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], words: list[str]
) -> None:
    file = write(tmp_path)
    text = file.read_text()
    assert change[0] in text
    file.write_text(text.replace(*change))
    code, out, err = run(capsys, "plan", file)
    assert code == 2
    assert out == ""
    for word in words:
        assert word in err
    assert "Traceback" not in err


def test_a_config_that_lacks_a_size_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text('{"model_type": "mistral", "hidden_size": 64}')
    code, _, err = run(capsys, "plan", write(tmp_path, model_id="./mine"))
    assert code == 2
    assert "intermediate_size" in err


def test_a_missing_file_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "plan", tmp_path / "none.yaml")
    assert code == 2
    assert "no such file" in err
    assert "onecard init" in err


def test_nothing_heavy_is_imported_by_a_whole_run() -> None:
    code = "import sys; from onecard.cli.main import main; main(sys.argv[1:]); print('imported', *sys.modules)"
    arguments = [sys.executable, "-c", code, "plan", str(EXAMPLES / "style-a10g.yaml")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.rpartition("imported")[2].split()}
    assert not loaded & {"torch", "transformers", "peft", "trl", "bitsandbytes", "numpy", "fastapi", "matplotlib"}
