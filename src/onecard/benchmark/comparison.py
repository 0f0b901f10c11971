"""Several result files side by side: models, quantizations, engines or days (document A8).

For every number of callers the median over the repeats; one table of all of them as CSV; and a selection matrix at one number of callers
in which a difference counts only when the repeats of the two do not overlap. Files of different loads are compared, and it is said.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from onecard.benchmark.statistics import CallerPoint, Spread, caller_points
from onecard.errors import ResultError
from onecard.evidence.results import ResultFile

FIGURES = ("p50_ms", "p95_ms", "p99_ms", "avg_ms", "ttft_p50_ms", "itl_p50_ms", "rps", "tokens_s", "gpu_mem_gib")
MORE_IS_BETTER = ("rps", "tokens_s")
ABOUT = ("candidate", "model", "quantization", "engine", "engine_version", "adapters", "card", "started_at", "file")
COLUMNS = (*ABOUT, "callers", "repeats", "requests", *FIGURES, "errors")
# What must be the same for two latencies to be of the same work.
LOAD = ("load", "prompts_sha256", "max_new_tokens", "lengths")


@dataclass(frozen=True)
class Candidate:
    """One result file. `name` tells it from the others."""

    name: str
    file: str
    result: ResultFile
    points: tuple[CallerPoint, ...]

    def at(self, callers: int) -> CallerPoint | None:
        return next((point for point in self.points if point.callers == callers), None)


@dataclass(frozen=True)
class Cell:
    """One figure of one candidate: the median over repeats with its range, and how it stands to the column's best.

    `best` holds for the best and for every other one whose repeats overlap with the best's: the data do not tell them apart.
    """

    spread: Spread | None
    ratio: float | None
    best: bool


@dataclass(frozen=True)
class MatrixRow:
    candidate: Candidate
    point: CallerPoint
    cells: dict[str, Cell]
    in_time: bool | None


def candidates(files: Sequence[tuple[str, ResultFile]]) -> list[Candidate]:
    """The files with names that differ. ResultError for a file without steps of callers."""
    for file, result in files:
        if not result.steps:
            raise ResultError("nothing was measured in it", where=file)
        if result.kind not in ("sweep", "mix", "steady") or result.how.load != "closed":
            problem = f"a {result.kind} of an {result.how.load} loop has no numbers of callers to compare"
            raise ResultError(problem, where=file, allowed="results of `onecard bench sweep`")
    names = _names(files)
    return [
        Candidate(name, file, result, tuple(caller_points(result.steps)))
        for name, (file, result) in zip(names, files, strict=True)
    ]


def _names(files: Sequence[tuple[str, ResultFile]]) -> list[str]:
    """The shortest of: model and quantization; with the engine; with the day; with the file, that no two files share."""
    parts = [
        (
            " ".join(filter(None, (result.what.model or "+".join(result.what.agents), result.what.quantization))),
            " ".join(filter(None, (result.what.engine, result.what.engine_version))),
            result.started_at[:16].replace("T", " "),
            file,
        )
        for file, result in files
    ]
    for length in range(1, 5):
        names = [", ".join(part for part in own[:length] if part) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{own[3]} ({number})" for number, own in enumerate(parts, 1)]


def differing_load(found: Sequence[Candidate]) -> list[str]:
    """What the files do not share of the load, by its key in `how`; latencies of different work cannot be ranked fairly."""
    hows = [one.result.how.model_dump() for one in found]
    return [key for key in LOAD if any(how[key] != hows[0][key] for how in hows)]


def common_callers(found: Sequence[Candidate]) -> list[int]:
    """Numbers of callers that every file has."""
    return sorted(set.intersection(*({point.callers for point in one.points} for one in found)))


def combined_csv(found: Sequence[Candidate]) -> str:
    """One row for each candidate and number of callers: medians over the repeats."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for one in found:
        what, where = one.result.what, one.result.where
        about = (
            one.name, what.model, what.quantization, what.engine, what.engine_version, ";".join(what.adapters), where.card,
            one.result.started_at, one.file,
        )  # fmt: skip
        for point in one.points:
            figures = {figure: _rounded(getattr(point, figure)) for figure in FIGURES}
            row = dict(zip(ABOUT, about, strict=True)) | figures
            row |= {name: getattr(point, name) for name in ("callers", "repeats", "requests", "errors")}
            writer.writerow({key: "" if value is None else value for key, value in row.items()})
    return text.getvalue()


def _rounded(spread: Spread | None) -> float | None:
    return round(spread.median, 3) if spread else None


def matrix(found: Sequence[Candidate], callers: int, by: str, deadline_ms: float | None = None) -> list[MatrixRow]:
    """The candidates at one number of callers: those within the deadline first (by p95), then by the figure `by`, best first."""
    there = [(one, point) for one in found if (point := one.at(callers)) is not None]
    columns = {figure: [getattr(point, figure) for _, point in there] for figure in FIGURES}
    cells = {figure: _cells(spreads, figure in MORE_IS_BETTER) for figure, spreads in columns.items()}
    rows = []
    for place, (one, point) in enumerate(there):
        in_time = None
        if deadline_ms is not None:
            # Failures are not in the percentile; a candidate that fails a twentieth of its requests keeps no p95.
            in_time = bool(point.p95_ms and point.p95_ms.high <= deadline_ms and point.errors <= point.requests * 0.05)
        rows.append(MatrixRow(one, point, {figure: cells[figure][place] for figure in FIGURES}, in_time))

    def order(row: MatrixRow) -> tuple[bool, bool, float]:
        spread = row.cells[by].spread
        value = spread.median if spread else 0.0
        return row.in_time is False, spread is None, -value if by in MORE_IS_BETTER else value

    return sorted(rows, key=order)


def _cells(spreads: Sequence[Spread | None], more: bool) -> list[Cell]:
    known = [spread for spread in spreads if spread is not None]
    best = (max if more else min)(known, key=lambda spread: spread.median) if known else None

    def cell(spread: Spread | None) -> Cell:
        if spread is None or best is None:
            return Cell(spread, None, False)
        overlaps = spread.low <= best.high and best.low <= spread.high
        ratio = spread.median / best.median if best.median else None
        return Cell(spread, ratio, overlaps)

    return [cell(spread) for spread in spreads]
