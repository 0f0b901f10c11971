"""`onecard bench compare`: several result files side by side, as a matrix to choose from and one CSV."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onecard.cli.bench_options import options

if TYPE_CHECKING:
    from rich.table import Table

    from onecard.benchmark.comparison import Candidate, MatrixRow

SHOWN = {
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "ttft_p50_ms": "TTFT ms",
    "itl_p50_ms": "ITL ms",
    "rps": "req/s",
    "tokens_s": "tok/s",
    "gpu_mem_gib": "GiB",
}
BY = ("p50_ms", "p95_ms", "p99_ms", "avg_ms", "ttft_p50_ms", "itl_p50_ms", "rps", "tokens_s", "gpu_mem_gib")


@click.command(short_help="Several result files: medians over repeats, one CSV, a matrix to choose from.")
@options(
    click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts."),
    click.option(
        "--csv", "table", type=click.Path(path_type=Path, dir_okay=False), help="Write the combined CSV here."
    ),
    click.option(
        "--deadline", type=click.FloatRange(0, min_open=True), help="Seconds: who keeps p95 within it goes first."
    ),
    click.option("--by", type=click.Choice(BY), default="p95_ms", show_default=True, help="The figure that decides."),
    click.option("--callers", type=click.IntRange(1), help="For the matrix.  [default: the most that all files have]"),
    click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False)),
)
def compare(
    files: tuple[Path, ...], callers: int | None, by: str, deadline: float | None, table: Path | None, as_json: bool
) -> int:
    """Models, quantizations, engines or days: the same sweep over several, as document A8 has it.

    A figure is marked (*) when its repeats overlap with the best one's: the data do not tell them apart. Exit code 1
    when a deadline is given and nobody keeps it.

    \b
    Example:
      onecard bench compare results/mistral.json results/falcon.json --callers 3 --deadline 2 --csv all.csv
    """
    from onecard.benchmark.comparison import candidates, combined_csv, differing_load, matrix
    from onecard.evidence.results import read_results, write_atomically

    found = candidates([(str(file), read_results(file)) for file in files])
    at = callers or _most_common(found)
    rows = matrix(found, at, by, deadline * 1000 if deadline else None)
    if table is not None:
        write_atomically(table, combined_csv(found))
    differing = differing_load(found)
    if as_json:
        click.echo(json.dumps(_record(rows, at, by, differing, table), indent=2))
    else:
        _show(found, rows, at, by, differing, table)
    return int(deadline is not None and not any(row.in_time for row in rows))


def _most_common(found: list[Candidate]) -> int:
    from onecard.benchmark.comparison import common_callers
    from onecard.errors import InputError

    common = common_callers(found)
    if not common:
        has = "; ".join(f"{one.file}: {', '.join(str(point.callers) for point in one.points)}" for one in found)
        raise InputError("the files have no number of callers in common", where="--callers", allowed=has)
    return common[-1]


def _record(rows: list[MatrixRow], callers: int, by: str, differing: list[str], table: Path | None) -> dict[str, Any]:
    return {
        "callers": callers,
        "by": by,
        "csv": str(table) if table else None,
        "different_load": differing,
        "candidates": [
            {
                "name": row.candidate.name, "file": row.candidate.file, "complete": row.candidate.result.complete,
                "in_time": row.in_time, "errors": row.point.errors, "requests": row.point.requests,
                "figures": {name: asdict(cell) for name, cell in row.cells.items()},
                "by_callers": [asdict(point) for point in row.candidate.points],
            }
            for row in rows
        ],
    }  # fmt: skip


def _show(
    found: list[Candidate], rows: list[MatrixRow], callers: int, by: str, differing: list[str], table: Path | None
) -> None:
    from rich.text import Text

    from onecard.benchmark.figures import counted
    from onecard.cli.bench_table import console_of

    console = console_of()
    if len({point.callers for one in found for point in one.points}) > 1:
        console.print(_by_callers(found))
    console.print(_matrix(rows, callers, by))
    missing = [one.name for one in found if one.at(callers) is None]
    if missing:
        console.print(Text(f"without a step of {counted(callers, 'caller')}: {', '.join(missing)}", style="yellow"))
    partial = [one.name for one in found if not one.result.complete]
    if partial:
        console.print(Text(f"partial: {', '.join(partial)}", style="yellow"))
    if differing:
        console.print(
            Text(f"not the same load: {', '.join(differing)} differ; the ranking is not fair", style="yellow")
        )
    if table is not None:
        console.print(Text("   csv  ", style="dim") + Text(str(table)), soft_wrap=True)


def _by_callers(found: list[Candidate]) -> Table:
    """p50 against callers, medians over the repeats."""
    from rich import box
    from rich.table import Table

    from onecard.benchmark.figures import readable

    numbers = sorted({point.callers for one in found for point in one.points})
    caption = "p50 in milliseconds by callers, median over the repeats"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("candidate", overflow="fold")
    for number in numbers:
        table.add_column(str(number), justify="right")
    for one in found:
        points = [one.at(number) for number in numbers]
        table.add_row(one.name, *((readable(p.p50_ms.median) or "-") if p and p.p50_ms else "-" for p in points))
    return table


def _matrix(rows: list[MatrixRow], callers: int, by: str) -> Table:
    from rich import box
    from rich.table import Table

    from onecard.benchmark.figures import counted, readable

    shown = [name for name in (*SHOWN, by) if any(row.cells[name].spread for row in rows)]
    shown = list(dict.fromkeys(shown))
    caption = (
        f"with {counted(callers, 'caller')}, best {SHOWN.get(by, by)} first; * not told from the best by the repeats"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("candidate", overflow="fold")
    for name in shown:
        table.add_column(SHOWN.get(name, name), justify="right")
    for head in ("errors", "in time") if any(row.in_time is not None for row in rows) else ("errors",):
        table.add_column(head, justify="right")
    for row in rows:
        cells = []
        for name in shown:
            cell = row.cells[name]
            mark = "*" if cell.best else f" {cell.ratio:.2f}x" if cell.ratio else ""
            cells.append(f"{readable(cell.spread.median)}{mark}" if cell.spread else "-")
        tail = [str(row.point.errors)] + ([] if row.in_time is None else ["yes" if row.in_time else "no"])
        table.add_row(row.candidate.name, *cells, *tail)
    return table
