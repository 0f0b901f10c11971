"""Measurements and claims beside an option: which are of the same thing, which decide, which are only shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from onecard.cli.choose import choose, known_claims, limits_of, place_of
from onecard.cli.choose_candidates import candidates_of
from onecard.cli.choose_evidence import Evidence, by_column, read_evidence, with_measurements
from onecard.errors import ResultError
from onecard.evaluation.gate import GateReport, RowRecord
from onecard.evaluation.report import EvaluationReport, Judged, to_json
from onecard.evaluation.suite import ScoredAnswer
from onecard.evidence.results import How, MemorySample, RequestRecord, ResultFile, Step, What, Where, write_results
from onecard.fleet.loader import LoadedFleet, load_fleet
from onecard.planner.option import Option, Place
from onecard.planner.tryout import tried, with_speeds

QA = Path(__file__).parent.parent.parent / "examples" / "qa-mi300x.yaml"
AT = "2026-11-21T10:00:00+00:00"


def sweep(
    model: str = "Qwen/Qwen3-8B",
    card: str = "AMD Instinct MI300X",
    seconds: float = 2.0,
    new_tokens: int = 50,
    callers: int = 4,
) -> ResultFile:
    requests = tuple(
        RequestRecord(
            caller=n % 4, prompt=n, agent="a", intended_s=n, sent_s=n, first_token_s=n + 0.1, pieces_s=(n + 0.1,),
            end_s=n + seconds, outcome="ok", new_tokens=new_tokens,
        )
        for n in range(40)
    )  # fmt: skip
    memory = (MemorySample(moment="after", kind="gpu", bytes=2**33),)
    return ResultFile(
        started_at=AT,
        ended_at=AT,
        what=What(url="http://x", agents=("a",), model=model, quantization="nf4", engine="local"),
        where=Where(server="this machine", card=card, cpu="EPYC", cores=2, ram_gib=8, system="Linux", versions={}),
        how=How(
            callers=(callers,), requests=10, repeats=1, warmup_requests=0, max_new_tokens=new_tokens, seed=1, timeout_s=9,
            prompts="p", prompts_sha256="0", prompts_rows=20,
        ),
        steps=(Step(callers=callers, repeat=1, started_at=AT, requests=requests, memory=memory),),
    )  # fmt: skip


def evaluation(
    overlap: float, model: str = "Qwen/Qwen3-8B", agent: str = "question-answerer", suite: str = "a" * 64, at: str = AT
) -> EvaluationReport:
    answer = ScoredAnswer.model_validate({**SCORED, "overlap": overlap})
    row = RowRecord(line=1, preset="default", prompt="p", reference="r", candidate=answer)
    gate = GateReport(passed=True, suite_digest=suite, seed=1, checks=(), rows=(row,))
    judged = Judged(
        fleet="qa", fleet_digest="d", agent=agent, model=model, quantization="nf4", tokens_counted_by="base tokenizer"
    )
    return EvaluationReport(
        started_at=at,
        ended_at=at,
        onecard_version="0",
        judged=judged,
        data="d",
        trial=False,
        leaks_checked=True,
        gate=gate,
    )


SCORED: dict[str, Any] = {
    "text": "t", "finish_reason": "stop", "seconds": 1.0, "tokens": 1, "ended_by_itself": True, "repetition": 0.0
}  # fmt: skip


@pytest.fixture(scope="module")
def loaded() -> LoadedFleet:
    return load_fleet(QA)


@pytest.fixture(scope="module")
def place(loaded: LoadedFleet) -> Place:
    return place_of(loaded, "question-answerer", limits_of(None, "any", None, None, False), None, None, offline=True)


def option(place: Place, model: str = "Qwen/Qwen3-8B", form: Any = "nf4") -> Option:
    [candidate] = candidates_of([model], Path(), "text", offline=True)
    return with_speeds(tried(place, candidate, form), place)


def measured(place: Place, *results: ResultFile) -> Option:
    evidence = Evidence(results=[(f"{number}.json", result) for number, result in enumerate(results)])
    return with_measurements(option(place), place, evidence)


def test_a_time_on_the_same_card_for_the_same_answers_decides(place: Place):
    seen = measured(place, sweep()).measured
    assert (seen["latency"].value, seen["latency"].decides, seen["latency"].record) == (2.0, True, "0.json")
    assert seen["first"].value == pytest.approx(0.1) and seen["memory"].value == 8.0
    assert not seen["memory"].decides


def test_another_card_or_length_is_shown_and_decides_nothing(place: Place):
    for other in (sweep(card="NVIDIA H200"), sweep(new_tokens=64)):
        assert measured(place, other).measured["latency"].decides is False
    assert measured(place, sweep(seconds=2.0), sweep(card="NVIDIA H200", seconds=9.0)).measured["latency"].value == 2.0


def test_other_models_and_numbers_of_callers_are_no_evidence(place: Place):
    assert not measured(place, sweep(model="microsoft/phi-4"), sweep(callers=2)).measured


def test_what_a_result_file_measured_stands_under_the_predicted(tmp_path: Path):
    file = tmp_path / "sweep.json"
    arguments = [str(QA), "--agent", "question-answerer", "--offline", "--forms", "nf4", "--results", str(file)]
    arguments += ["--candidates", "Qwen/Qwen3-8B,microsoft/phi-4"]
    write_results(file, sweep())
    lines = CliRunner().invoke(choose, arguments).output.splitlines()
    assert any(line.split()[:1] == ["measured"] and line.rstrip().endswith("2.0 s") for line in lines)
    write_results(file, sweep(seconds=7.0))
    [out] = json.loads(CliRunner().invoke(choose, [*arguments, "--json"]).output)["out"]
    assert out["failures"][0]["what"] == "question-answerer: measured 7 s of 6 s"


def test_quality_is_the_overlap_of_the_last_suite_the_agent_was_judged_by(place: Place, tmp_path: Path):
    files = []
    for number, report in enumerate(
        [
            evaluation(0.5, at="2026-11-20T10:00:00+00:00"),
            evaluation(0.6),
            evaluation(0.9, agent="conversation"),
            evaluation(0.7, model="microsoft/phi-4"),
        ]
    ):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(to_json(report))
    evidence = read_evidence(files, [], tmp_path)
    seen = with_measurements(option(place), place, evidence).measured["quality"]
    assert seen.value == 0.6 and seen.note is not None and "passed its gate" in seen.note
    later = tmp_path / "later.json"
    later.write_text(to_json(evaluation(0.1, model="microsoft/phi-4", suite="b" * 64, at="2026-11-22T10:00:00+00:00")))
    assert not with_measurements(option(place), place, read_evidence([*files, later], [], tmp_path)).measured


def test_a_measured_quality_ranks_where_all_have_one(tmp_path: Path):
    arguments = [str(QA), "--agent", "question-answerer", "--offline", "--forms", "nf4", "--json"]
    arguments += ["--candidates", "Qwen/Qwen3-8B,microsoft/phi-4"]
    for name, report in (("q", evaluation(0.8)), ("p", evaluation(0.7, model="microsoft/phi-4"))):
        (tmp_path / f"{name}.json").write_text(to_json(report))
        arguments += ["--results", str(tmp_path / f"{name}.json")]
    found = json.loads(CliRunner().invoke(choose, arguments).output)
    assert found["quality"].startswith("measured") and found["chosen"]["model"] == "Qwen/Qwen3-8B"
    half = json.loads(CliRunner().invoke(choose, arguments[:-2]).output)
    assert half["quality"].startswith("assumed") and half["chosen"]["model"] == "microsoft/phi-4"


def test_broken_files_are_bad_input(tmp_path: Path):
    for text in ('{"kind": "evaluation"}', "{}", "nothing", "[]"):
        file = tmp_path / "r.json"
        file.write_text(text)
        with pytest.raises(ResultError):
            read_evidence([file], [], tmp_path)


def test_claims_are_of_the_same_form_requests_and_recipe(place: Place, loaded: LoadedFleet):
    evidence = Evidence(claims=known_claims(loaded), folder=loaded.folder)

    def ids(model: str, form: str) -> set[str]:
        return {row.claim.id for row in evidence.about(option(place, model, form), place, "qa-mi300x")}

    assert ids("microsoft/phi-4", "nf4") == {"c2-answer-phi4", "c3-bnb-phi4"}
    assert not ids("microsoft/phi-4", "fp8")
    assert "c4-hours-qwen3" in ids("Qwen/Qwen3-8B", "none")
    assert "c5-three-models" in ids("Qwen/Qwen3-8B", "nf4") and "c5-three-models" not in ids("Qwen/Qwen3-8B", "fp8")


def test_claims_beside_the_fleet_are_judged_too(place: Place, tmp_path: Path):
    (tmp_path / "claims.yaml").write_text(
        "claims:\n  - {id: mine, statement: s, subject: {model: Qwen/Qwen3-8B, quantization: nf4, card: mi300x, "
        "prompt_tokens: 300, new_tokens: 50}, quantity: latency_s, comparison: at_most, value: 0.1, unit: s, who: me}\n"
    )
    (tmp_path / "qa.yaml").write_text(QA.read_text())
    claims = known_claims(load_fleet(tmp_path / "qa.yaml"))
    rows = by_column(Evidence(claims=claims, folder=tmp_path).about(option(place), place, "qa"))
    assert rows["latency"].claim.id == "mine" and rows["latency"].judgement.verdict == "refuted"
