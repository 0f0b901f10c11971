"""Several results side by side: medians per callers, names that differ, a best that the data carry, and unfair loads said."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest

from onecard.benchmark.comparison import candidates, combined_csv, common_callers, differing_load, matrix
from onecard.errors import ResultError
from onecard.evidence.results import ResultFile

Make = Callable[..., ResultFile]


def slower(result: ResultFile, factor: float) -> ResultFile:
    """The same answers, each so many times as long."""
    document = result.model_dump(mode="json", by_alias=True)
    for step in document["steps"]:
        for request in step["requests"]:
            for key in ("intended_s", "sent_s", "first_token_s", "end_s"):
                request[key] *= factor
            request["pieces_s"] = [at_s * factor for at_s in request["pieces_s"]]
    return ResultFile.model_validate(document)


def named(result: ResultFile, **what: Any) -> ResultFile:
    return result.model_copy(update={"what": result.what.model_copy(update=what)})


def test_medians_of_all_files_stand_in_one_table(make_result: Make) -> None:
    fast, slow = named(make_result(), model="falcon"), named(slower(make_result(callers=(1, 2, 3)), 2), model="mpt")
    found = candidates([("a.json", fast), ("b.json", slow)])
    assert [one.name for one in found] == ["falcon", "mpt"]
    assert common_callers(found) == [1, 2]
    rows = list(csv.DictReader(io.StringIO(combined_csv(found))))
    assert [(row["candidate"], row["callers"], row["repeats"]) for row in rows] == [
        *(("falcon", "1", "3"), ("falcon", "2", "3"), ("mpt", "1", "3"), ("mpt", "2", "3"), ("mpt", "3", "3")),
    ]
    assert float(rows[2]["p50_ms"]) == pytest.approx(2 * float(rows[0]["p50_ms"]), rel=1e-3)


def test_the_matrix_puts_the_best_first_and_says_by_how_much(make_result: Make) -> None:
    fast, slow = named(make_result(), model="falcon"), named(slower(make_result(), 3), model="mpt")
    first, second = matrix(candidates([("b", slow), ("a", fast)]), 2, "p95_ms")
    assert (first.candidate.name, second.candidate.name) == ("falcon", "mpt")
    assert first.cells["p95_ms"].best and not second.cells["p95_ms"].best
    assert second.cells["p95_ms"].ratio == pytest.approx(3, rel=1e-6)
    assert first.cells["rps"].best and second.cells["rps"].ratio == pytest.approx(1 / 3, rel=1e-6)


def test_what_the_repeats_do_not_tell_apart_is_both_best(make_result: Make) -> None:
    one, other = named(make_result(), model="x"), named(slower(make_result(), 1.01), model="y")
    rows = matrix(candidates([("a", one), ("b", other)]), 1, "p50_ms")
    assert all(row.cells["p50_ms"].best for row in rows)


def test_who_keeps_the_deadline_goes_first(make_result: Make) -> None:
    fast, slow = named(make_result(), model="falcon"), named(slower(make_result(), 3), model="mpt")
    found = candidates([("a", fast), ("b", slow)])
    p95 = matrix(found, 2, "p95_ms")[0].cells["p95_ms"].spread
    assert p95 is not None
    rows = matrix(found, 2, "gpu_mem_gib", deadline_ms=p95.high)
    assert [(row.candidate.name, row.in_time) for row in rows] == [("falcon", True), ("mpt", False)]


def test_names_grow_until_they_differ(make_result: Make) -> None:
    today, later = make_result(), make_result(started_at="2026-11-22T12:00:00+00:00")
    engines = [named(today, engine="local"), named(today, engine="vllm")]
    assert [one.name for one in candidates([("a", engines[0]), ("b", engines[1])])] == [
        "embedded:mini, local",
        "embedded:mini, vllm",
    ]
    assert [one.name for one in candidates([("a", today), ("b", later)])] == [
        "embedded:mini, 2026-11-21 12:00",
        "embedded:mini, 2026-11-22 12:00",
    ]
    assert len({one.name for one in candidates([("a", today), ("a", today)])}) == 2


def test_different_work_is_said(make_result: Make) -> None:
    one = make_result()
    other = one.model_copy(update={"how": one.how.model_copy(update={"max_new_tokens": 9})})
    assert differing_load(candidates([("a", one), ("b", other)])) == ["max_new_tokens"]
    assert differing_load(candidates([("a", one), ("b", one)])) == []


def test_files_without_callers_are_refused(make_result: Make) -> None:
    empty = make_result().model_copy(update={"steps": ()})
    with pytest.raises(ResultError, match="nothing was measured"):
        candidates([("a.json", empty)])
    curve = make_result().model_copy(update={"kind": "context"})
    with pytest.raises(ResultError, match="context"):
        candidates([("a.json", curve)])
