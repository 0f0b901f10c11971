"""`onecard report`: result files and training runs become one HTML page that needs nothing else, and the same pictures as PNG and SVG."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onecard.benchmark.report_data import Measured, ReportData, Training
    from onecard.evidence.results import ResultFile


@dataclass(frozen=True)
class Written:
    """Where a report went. `note` says why there are no pictures when there are none."""

    page: Path
    pictures: tuple[Path, ...]
    note: str | None = None


@click.command(short_help="One self-contained HTML page from result files.")
@click.argument("results", nargs=-1, required=True, metavar="RESULT.json|METRICS.jsonl|AGENT/NAME@VERSION...")
@click.option("--store", help="Where trained adapters are looked up; default: the store beside the run's folder.")
@click.option(
    "--extras",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="JSON with predictions, training, gates, samples.",
)
@click.option("--title", help="Heading of the page.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="The page.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def report(
    results: tuple[str, ...], store: str | None, extras: tuple[Path, ...], title: str | None, out: Path, as_json: bool
) -> None:
    """Write one HTML page from result files and training runs, readable without a network, on a phone and on paper.

    A training run is given by its metrics.jsonl, by the folder that `onecard train` kept it in, or, with --store, by the
    address of the adapter. The pictures are also written as PNG and SVG into <page>-plots/ beside the page; they need
    `onecard[plots]`.

    \b
    Example:
      onecard report results/sweep-explainer-20261121-130218.json
      onecard report monday.json tuesday.json --title "Before and after" --out compare.html
      onecard report modelstore-runs/explainer-style-v0001/metrics.jsonl
      onecard report explainer/style@production explainer/style@candidate --store modelstore
    """
    from onecard.benchmark.report_data import Extras, assemble, read_extras
    from onecard.cli.report_trainings import is_training, named_trainings
    from onecard.evidence.results import read_results

    read = [(Path(named), read_results(Path(named))) for named in results if not is_training(named)]
    trainings = named_trainings([named for named in results if is_training(named)], store)
    beside = [read_extras(file) for file in extras]
    default = Extras(title=_title([result for _, result in read], trainings), trainings=trainings)
    data = assemble(_named(read), [default, *beside, Extras(title=title)])
    written = write_report(data, out)
    if as_json:
        record = {"page": str(written.page), "pictures": [str(path) for path in written.pictures], "note": written.note}
        click.echo(json.dumps(record, indent=2))
        return
    click.echo(f"page      {written.page}")
    if written.pictures:
        click.echo(f"pictures  {written.pictures[0].parent}/ ({len(written.pictures)} files, PNG and SVG)")
    else:
        click.echo(f"no pictures: {written.note or 'there is nothing to draw'}")


def _title(results: Sequence[ResultFile], trainings: Sequence[Training]) -> str:
    if not results:
        return f"{', '.join(training.label for training in trainings[:3])}: trained"
    return ", ".join(dict.fromkeys(result.what.fleet or "Load test" for result in results)) + ": measured"


def write_report(data: ReportData, out: Path) -> Written:
    """Writes the page and its pictures; without matplotlib the page has tables only and says how to get the pictures."""
    from onecard.benchmark.plots import pictures
    from onecard.benchmark.report import render
    from onecard.errors import MissingPart
    from onecard.evidence.results import write_atomically

    note = None
    try:
        drawn = pictures(data)
    except MissingPart as missing:
        drawn, note = [], f"{missing.problem}: {missing.next_step}"
    folder = out.with_name(f"{out.stem}-plots")
    paths = []
    for picture in drawn:
        for suffix, content in ((".png", picture.png), (".svg", picture.svg)):
            path = folder / (picture.name + suffix)
            write_atomically(path, content)
            paths.append(path)
    write_atomically(out, render(data, drawn, note))
    return Written(out, tuple(paths), note)


def _named(read: Sequence[tuple[Path, ResultFile]]) -> list[Measured]:
    """Results by file name; by their whole path where two files share a name."""
    from onecard.benchmark.report_data import Measured

    names = [file.name for file, _ in read]
    return [
        Measured(name=file.name if names.count(file.name) == 1 else str(file), result=result) for file, result in read
    ]
