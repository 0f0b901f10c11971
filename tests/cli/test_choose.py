"""`onecard choose` as a person or a script sees it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from onecard.cli.choose import choose
from onecard.errors import CatalogError, FleetError, InputError, OnecardError, ResultError
from onecard.fleet.loader import load_fleet
from onecard.planner.plan import Evidence, plan

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
QA, LOCAL, NEWS = (str(EXAMPLES / f"{name}.yaml") for name in ("qa-mi300x", "local-rtx3070", "newsreader-rtx3090"))
THREE = ("--candidates", "microsoft/phi-4,Qwen/Qwen3-8B", "--candidates", "mistralai/Mistral-Nemo-Instruct-2407")
ANSWERER = (QA, "--agent", "question-answerer", "--offline")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(choose, list(arguments))


def record(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").output)


def test_the_matrix_names_the_chosen_and_why_it_beat_the_next():
    done = run(*ANSWERER, *THREE)
    assert done.exit_code == 0
    said = " ".join(done.output.split())
    assert "qa on MI300X: a model for question-answerer" in said
    assert "chosen: microsoft/phi-4 in 16 bits. It beat itself in fp8 by quality (assumed from size)" in said
    assert "against 12.25B" in said and "ranked by quality, then memory, then speed" in said
    assert "with a chance of 50% or more (expected to be in time)" in said


@pytest.mark.parametrize(("fleet", "agent"), [(QA, "question-answerer"), (LOCAL, "assistant"), (NEWS, "newsreader")])
def test_no_line_is_wider_than_100_columns(fleet: str, agent: str):
    done = run(fleet, "--agent", agent, "--offline")
    assert done.exit_code == 0
    assert max(len(line.rstrip()) for line in done.output.splitlines()) <= 100


def test_claimed_figures_stand_under_the_predicted_with_their_verdict():
    lines = run(*ANSWERER, *THREE, "--forms", "nf4").output.splitlines()
    row = next(number for number, line in enumerate(lines) if line.split()[:3] == ["1", "phi-4", "nf4+DQ"])
    claimed, verdict = lines[row + 1], lines[row + 2]
    end = claimed.index("<= 6 s alone") + len("<= 6 s alone")  # the claim is of one caller, the figure of four
    assert claimed.split()[0] == "claimed" and lines[row][:end].endswith(" s")
    assert verdict[:end].endswith("confirmed")
    assert any("c2-answer-phi4" in line and "confirmed" in line for line in lines)


def test_a_claim_of_another_shape_of_requests_stands_nowhere():
    assert "c2-question-phi4" not in run(*ANSWERER, *THREE).output


def test_json_holds_every_cell_with_its_source():
    found = record(*ANSWERER, *THREE)
    first = found["ranked"][0]
    assert found["chosen"] == {"model": "microsoft/phi-4", "quantization": "none"} and first["rank"] == 1
    assert first["memory"]["own_bytes"] < first["memory"]["need_bytes"] and first["memory"]["ledger"]
    assert all(first[part]["source"] for part in ("licence", "download", "gated"))
    assert first["speeds"][0]["source"] and first["trainings"][0]["usd_at_median_quote"]["quote"]["source"]
    nf4 = next(row for row in found["ranked"] if (row["model"], row["quantization"]) == ("microsoft/phi-4", "nf4"))
    assert {"c2-answer-phi4"} <= {claim["claim"]["id"] for claim in nf4["claims"]}
    assert found["quality"].startswith("assumed") and found["prefer"] == ["quality", "memory", "speed"]


def test_other_agents_of_the_model_must_keep_their_deadlines_too():
    found = record(str(EXAMPLES / "justnews-rtx3090.yaml"), "--agent", "critic", "--candidates", "Qwen/Qwen3-8B")
    assert found["moves_with_it"] == ["synthesizer", "reranker"]
    broken = {failure["what"].partition(":")[0] for row in found["out"] for failure in row["failures"]}
    assert "synthesizer" in broken


def test_images_need_a_model_that_takes_them():
    found = record(NEWS, "--agent", "newsreader", "--candidates", "Qwen/Qwen3-8B,llava-hf/llava-1.5-7b-hf")
    limits = {row["failures"][0]["limit"] for row in found["out"] if row["model"] == "Qwen/Qwen3-8B"}
    assert limits == {"modality"} and found["chosen"]["model"] == "llava-hf/llava-1.5-7b-hf"


def test_a_wrong_id_is_out_and_says_what_was_meant():
    done = run(*ANSWERER, "--candidates", "Qwen/Qwen3-8B-Instruct,Qwen/Qwen3-8B")
    assert done.exit_code == 0 and "is no repository: take Qwen/Qwen3-8B" in done.output
    alone = run(*ANSWERER, "--candidates", "Qwen/Qwen3-8B-Instruct")
    assert alone.exit_code == 1 and "nothing passes" in alone.output


def test_nothing_passes_says_the_nearest_miss_and_what_would_have_to_give():
    arguments = (LOCAL, "--agent", "assistant", "--offline", "--context", "32k")
    arguments += ("--candidates", "microsoft/phi-4,Qwen/Qwen3-8B")
    done = run(*arguments)
    said = " ".join(done.output.split())
    assert done.exit_code == 1
    assert "nothing passes. Nearest: Qwen/Qwen3-8B in awq:" in said and "what would have to give:" in said
    assert "it fits with: models.base.context: 32768 ->" in said
    found = record(*arguments)
    assert found["chosen"] is None and found["nearest_miss"]["model"] == "Qwen/Qwen3-8B"


def test_context_is_planned_with_and_limits():
    short = record(LOCAL, "--agent", "assistant", "--offline", "--context", "2k", "--candidates", "Qwen/Qwen3-8B")
    assert short["chosen"] == {"model": "Qwen/Qwen3-8B", "quantization": "awq"}
    long = record(*ANSWERER, "--context", "32k", "--candidates", "microsoft/phi-4")
    assert {row["failures"][0]["what"] for row in long["out"]} == {"reaches 16,384 of 32,768 tokens"}


def test_disk_licence_and_access_are_limits():
    arguments = ("--licence", "open", "--no-gated", "--disk", "20GB")
    found = record(LOCAL, "--agent", "assistant", "--offline", *arguments)
    assert found["ranked"] and all(row["licence"]["fully_open"] for row in found["ranked"])
    assert all(row["gated"]["gated"] is False for row in found["ranked"])
    assert all(row["download"]["bytes"] <= 20 * 10**9 for row in found["ranked"])
    assert {row["failures"][0]["limit"] for row in found["out"]} >= {"licence", "access", "disk"}


def test_preferences_change_who_is_first():
    by_speed = record(*ANSWERER, *THREE, "--prefer", "speed,cost")
    assert by_speed["prefer"] == ["speed", "cost", "quality", "memory"]
    times = [row["speeds"][0]["busy"]["expected"] for row in by_speed["ranked"]]
    assert times == sorted(times) and by_speed["chosen"]["model"] != "microsoft/phi-4"


def test_what_a_person_agrees_to_is_told_of_the_chosen():
    llama = ("--candidates", "meta-llama/Llama-3.1-8B-Instruct", "--card", "h200-sxm")
    said = " ".join(run(LOCAL, "--agent", "assistant", *llama).output.split())
    assert "note: licence llama-3.1-community" in said and "note: gated: its owner must let you in first" in said


def test_a_card_without_a_compute_rate_says_that_the_deadline_was_not_judged(tmp_path: Path):
    fleet = tmp_path / "fleet.yaml"
    agent = "{model: m, deadline: {seconds: 5, prompt_tokens: 100, new_tokens: 50}}"
    card, model = "{vram_gib: 40, bandwidth_gbs: 500}", "{id: Qwen/Qwen3-8B, quantization: nf4, context: 2048}"
    fleet.write_text(f"name: t\ncard: {card}\nmodels: {{m: {model}}}\nagents: {{a: {agent}}}\n")
    done = run(str(fleet), "--agent", "a", "--candidates", "Qwen/Qwen3-8B")
    assert done.exit_code == 0 and "The deadline was not judged" in done.output


def test_write_puts_the_chosen_model_into_the_text(tmp_path: Path):
    fleet, target = tmp_path / "fleet.yaml", tmp_path / "new.yaml"
    shutil.copy(QA, fleet)
    arguments = (str(fleet), "--agent", "question-answerer", "--offline", "--candidates", "microsoft/phi-4")
    done = run(*arguments, "--forms", "fp8", "--write", str(target))
    assert done.exit_code == 0 and "written: " in done.output
    before, after = fleet.read_text().splitlines(), target.read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [
        (
            "  qwen: {id: Qwen/Qwen3-8B, quantization: nf4, context: 4096, concurrency: 4}",
            "  qwen: {id: microsoft/phi-4, quantization: fp8, context: 4096, concurrency: 4}",
        )
    ]
    again = run(*arguments, "--write", str(target))
    assert isinstance(again.exception, InputError) and "a file already" in str(again.exception)
    assert run(*arguments, "--write", str(target), "--force").exit_code == 0


def test_nothing_is_written_when_nothing_passes(tmp_path: Path):
    target = tmp_path / "new.yaml"
    done = run(LOCAL, "--agent", "assistant", "--offline", "--candidates", "microsoft/phi-4", "--write", str(target))
    assert done.exit_code == 1 and not target.exists()


def test_the_written_fleet_plans_to_what_was_told(tmp_path: Path):
    from onecard.cli.plan import card_of, shapes_of

    target = tmp_path / "new.yaml"
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    fleet = str(tmp_path / "examples" / "local-rtx3070.yaml")
    found = record(fleet, "--agent", "assistant", "--offline", "--prefer", "memory", "--write", str(target))
    loaded = load_fleet(target)
    made = plan(loaded.fleet, card_of(loaded.fleet), shapes_of(loaded, offline=True), Evidence())
    assert made.fits and made.headroom_bytes == found["ranked"][0]["memory"]["headroom_bytes"]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("--candidates", ","), InputError, "no candidate is named"),
        (("--candidates", "microsoft/phi4"), CatalogError, "did you mean 'microsoft/phi-4'"),
        (("--prefer", "qualty"), InputError, "did you mean 'quality'"),
        (("--prefer", ""), InputError, "no preference ''"),
        (("--forms", "awk"), InputError, "did you mean 'awq'"),
        (("--disk", "-3GiB"), InputError, "--disk"),
        (("--disk", "0GiB"), InputError, "--disk"),
        (("--disk", "50"), InputError, "write it like"),
        (("--context", "-5"), InputError, "--context"),
        (("--context", "3"), InputError, "16 to 10,000,000"),
        (("--results", "nowhere.json"), ResultError, "no such file"),
        (("--write", "nowhere/new.yaml"), InputError, "no such folder"),
        (("--card", "rtx-3071"), CatalogError, "did you mean 'rtx-3070'"),
        (("--agent", "question-writr"), FleetError, "did you mean 'question-writer'"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], error: type[OnecardError], said: str):
    done = run(*ANSWERER, *arguments)
    assert isinstance(done.exception, error) and said in str(done.exception)
    assert done.exception.exit_code == 2


@pytest.mark.parametrize("chance", ["-0.1", "1", "1.5", "likely"])
def test_a_chance_is_a_probability(chance: str):
    done = run(*ANSWERER, "--least-chance", chance)
    assert done.exit_code == 2 and "--least-chance" in done.output


def test_a_remote_model_is_not_chosen(tmp_path: Path):
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        "name: t\ncard: rtx-3090\nmodels: {m: {id: x, engine: remote, url: 'http://localhost:1'}}\nagents: {a: {model: m}}\n"
    )
    done = run(str(fleet), "--agent", "a")
    assert isinstance(done.exception, FleetError) and "remote" in str(done.exception)
