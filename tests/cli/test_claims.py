"""`onecard claims` as a person or a script sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from onecard.cli.claims import claims
from onecard.errors import FleetError, InputError, Refusal, ResultError, UnknownName
from onecard.evidence.claims_file import read_claims, shipped_claims

ADD = ("add", "--model", "microsoft/phi-4", "--quantization", "nf4", "--quantity", "weights_gib", "--who", "a blog")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(claims, list(arguments))

    return invoke


def test_the_list_names_every_claim_with_its_verdict_in_100_columns(run):
    done = run("list")
    assert done.exit_code == 0
    assert all(claim.id in done.output for claim in shipped_claims().claims)
    assert max(len(line.rstrip()) for line in done.output.splitlines()) <= 100
    line = next(line for line in done.output.splitlines() if line.startswith("c3-qwen3-instruct"))
    assert line.split()[1] == "refuted" and line.endswith("Qwen3-8B-Instruct is a repository.")
    assert f"{len(shipped_claims().claims)} claims: " in done.output


def test_filters_narrow_the_list(run):
    shown = json.loads(run("list", "--document", "d", "--model", "llava", "--verdict", "refuted", "--json").output)
    assert [row["claim"]["id"] for row in shown] == ["d2-llava-expected", "d2-llava-seen", "d2-llava16-seen"]


def test_check_shows_claimed_predicted_and_measured_side_by_side(run):
    lines = run("check", "d2", "a7-growth").output.splitlines()
    assert lines[0].split() == ["claim", "claimed", "predicted", "measured", "verdict"]
    seen = next(line for line in lines if line.startswith("d2-llava-seen"))
    assert "about 15 GB" in seen and "GiB" in seen and seen.endswith("refuted")
    growth = next(line for line in lines if line.startswith("a7-growth"))
    assert "10.1 x*" in growth
    assert lines[-1].startswith("* measured of something else")
    assert max(len(line.rstrip()) for line in lines) <= 100


def test_the_whole_table_keeps_to_its_columns(run):
    lines = run("check").output.splitlines()
    place = lines[0].index("verdict")
    for claim in shipped_claims().claims:
        line = next(line for line in lines if line.startswith(f"{claim.id} "))
        assert line[place:].strip() in ("confirmed", "refuted", "unknown")


def test_one_claim_is_shown_with_everything(run):
    shown = " ".join(run("check", "d2-llava-seen").output.split())
    for part in (
        "said by document D (D2)",
        "claimed about 15 GB",
        "predicted",
        "verdict refuted by prediction",
        "16 bits",
        "skip lists",
    ):
        assert part.lower() in shown.lower()


def test_json_has_claim_prediction_verdict_and_reason(run):
    [row] = json.loads(run("check", "a7-growth", "--json").output)
    assert row["verdict"] == "unknown" and row["decided_by"] == "nothing"
    assert row["measured"]["value"] == 10.1 and row["measured"]["decides"] is False
    assert row["predicted"] is None and "one after the other" in row["not_predicted_because"]
    [llava] = json.loads(run("check", "d2-llava-seen", "--json").output)
    assert llava["predicted"]["low"] < llava["predicted"]["high"] and llava["predicted"]["unit"] == "GiB"


@pytest.mark.parametrize(("arguments", "code"), [(("d2",), 0), (("d2", "--strict"), 1), (("a3", "--strict"), 0)])
def test_strict_says_no_when_something_is_refuted(run, arguments, code):
    assert run("check", *arguments).exit_code == code


def test_an_added_claim_is_written_judged_and_listed(run, tmp_path):
    done = run(*ADD, "--at-most", "9 GB", "--source", "https://example.org")
    assert done.exit_code == 0
    assert "phi-4-nf4-weights-gib" in done.output and "added to claims.yaml" in done.output
    [claim] = read_claims(tmp_path / "claims.yaml").claims
    assert (claim.value, claim.unit, claim.comparison, claim.where.source) == (
        9.0,
        "GB",
        "at_most",
        "https://example.org",
    )
    assert "Claims of your own" in run("list").output
    assert "phi-4-nf4-weights-gib" in run("check", "phi-4-nf4").output


def test_claims_stand_beside_their_fleet(run, tmp_path):
    fleet = tmp_path / "team" / "fleet.yaml"
    fleet.parent.mkdir()
    fleet.write_text("name: team\n")
    assert run(*ADD, "--is", "8.5 GiB", "--fleet", str(fleet)).exit_code == 0
    assert (fleet.parent / "claims.yaml").is_file()
    assert "phi-4-nf4-weights-gib" in run("list", "--fleet", str(fleet), "--model", "phi-4").output
    assert "phi-4-nf4-weights-gib" not in run("list", "--model", "phi-4").output


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (("--range", "8-9 GiB"), ((8.0, 9.0), "GiB")),
        (("--range", "8 to 9 gb"), ((8.0, 9.0), "GB")),
        (("--about", "8,192 MiB"), (8192.0, "MiB")),
        (("--is", "8"), (8.0, "GiB")),
    ],
)
def test_figures_are_read_as_people_write_them(run, tmp_path, value, read):
    assert run(*ADD, *value).exit_code == 0
    [claim] = read_claims(tmp_path / "claims.yaml").claims
    assert (claim.value, claim.unit) == read


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("check", "a8-memory-mistral"), UnknownName, "did you mean 'a7-memory-mistral'"),
        (("list", "--document", "F"), InputError, "no document 'F'"),
        (("list", "--model", "nothing"), Refusal, "no claim passes"),
        (("list", "--document", "A", "--model", "pythia", "--verdict", "refuted"), Refusal, "no claim is refuted"),
        (("list", "--fleet", "nowhere.yaml"), FleetError, "no such file"),
        (("check", "--results", "nowhere.json"), ResultError, "no such file"),
        ((*ADD, "--is", "lots"), InputError, "'lots' is no figure"),
        ((*ADD, "--is", "9 Gb/s"), InputError, "did you mean 'GB'"),
        ((*ADD, "--is", "9", "--about", "9"), InputError, "a claim has one value"),
        (ADD, InputError, "the claimed value is missing"),
        ((*ADD, "--range", "9"), InputError, "a range has two numbers"),
        ((*ADD, "--is", "9", "--card", "rtx-3091"), InputError, "did you mean 'rtx-3090'"),
        ((*ADD, "--is", "9", "--quantization", "nf5"), InputError, "did you mean 'nf4'"),
        ((*ADD, "--is", "9", "--quantity", "memory_gb"), InputError, "did you mean 'memory_gib'"),
        ((*ADD, "--is", "9", "--engine", "vlm"), InputError, "did you mean 'vllm'"),
        ((*ADD, "--is", "9", "--context", "3"), InputError, "greater than or equal to 16"),
        ((*ADD, "--is", "9", "--id", "Bad id"), InputError, "pattern"),
        ((*ADD, "--is", "9", "--id", "a5-qlora"), ResultError, "ships with onecard"),
        ((*ADD, "--is", "maybe", "--quantity", "fits"), InputError, "neither yes nor no"),
    ],
)
def test_wrong_words_are_wrong_use(run, tmp_path, arguments, error, said):
    done = run(*arguments)
    assert isinstance(done.exception, error), done.output
    assert said in str(done.exception)
    assert not (tmp_path / "claims.yaml").exists()


def test_a_claim_of_ones_own_cannot_hide_a_shipped_one(run, tmp_path):
    (tmp_path / "claims.yaml").write_text(
        "claims:\n  - {id: a5-qlora, statement: s, quantity: fits, value: true, who: me}\n"
    )
    assert "ships with onecard" in str(run("list").exception)


def test_help_has_examples(run):
    for verb in ("list", "check", "add"):
        assert "Example:" in run(verb, "--help").output
