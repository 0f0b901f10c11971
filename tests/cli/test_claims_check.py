"""Claims beside measurements from result files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onecard.cli.claims_check import check, measurements
from onecard.evidence.claims import Claim
from onecard.evidence.results import How, MemorySample, RequestRecord, ResultFile, Step, What, Where


def claim(**changes: Any) -> Claim:
    record: dict[str, Any] = {
        "id": "test", "statement": "A sentence.", "quantity": "p50_ms", "value": 500, "unit": "ms", "who": "me",
        "subject": {
            "model": "org/model", "quantization": "int8", "card": "rtx-3090", "callers": 2, "prompt_tokens": 16, "new_tokens": 8
        },
    }  # fmt: skip
    return Claim.model_validate(record | changes)


def result(card: str | None = "NVIDIA GeForce RTX 3090", seconds: float = 0.5, new_tokens: int = 8) -> ResultFile:
    requests = tuple(
        RequestRecord(
            caller=n % 2, prompt=n, agent="a", intended_s=n, sent_s=n, end_s=n + seconds, outcome="ok", new_tokens=new_tokens
        )
        for n in range(20)
    )  # fmt: skip
    memory = (MemorySample(moment="after", kind="gpu", bytes=2**33),)
    return ResultFile(
        started_at="2026-11-21T10:00:00+00:00",
        ended_at="2026-11-21T10:01:00+00:00",
        what=What(url="http://x", agents=("a",), model="org/model", quantization="int8"),
        where=Where(server="this machine", card=card, cpu="EPYC", cores=2, ram_gib=8, system="Linux", versions={}),
        how=How(
            callers=(2,), requests=10, repeats=1, warmup_requests=0, max_new_tokens=new_tokens, seed=1, timeout_s=9,
            prompts="p", prompts_sha256="0", prompts_rows=20,
        ),
        steps=(Step(callers=2, repeat=1, started_at="2026-11-21T10:00:00+00:00", requests=requests, memory=memory),),
    )  # fmt: skip


def test_a_time_measured_on_the_same_card_decides() -> None:
    row = check(claim(), Path(), [("sweep.json", result())])
    assert (row.judgement.verdict, row.judgement.by) == ("confirmed", "measured")
    assert row.measured is not None
    assert (row.measured.value, row.measured.record, row.measured.date) == (500, "sweep.json", "2026-11-21")
    late = check(claim(), Path(), [("sweep.json", result(seconds=0.9))])
    assert late.judgement.verdict == "refuted"


@pytest.mark.parametrize("other", [result(card="NVIDIA H200"), result(card=None), result(new_tokens=64)])
def test_another_card_or_another_length_is_shown_and_decides_nothing(other: ResultFile) -> None:
    row = check(claim(), Path(), [("sweep.json", other)])
    assert row.judgement.verdict == "unknown"
    assert row.measured is not None and not row.measured.decides


def test_other_models_forms_and_numbers_of_callers_are_no_evidence() -> None:
    for changes in ({"model": "org/other"}, {"quantization": "nf4"}, {"callers": 3}):
        subject = claim().subject.model_dump() | changes
        assert measurements(claim(subject=subject), [("sweep.json", result())]) == []


def test_memory_is_shown_but_does_not_decide() -> None:
    [found] = measurements(claim(quantity="memory_gib", value=8, unit="GiB"), [("sweep.json", result())])
    assert found.value == 8 and not found.decides
