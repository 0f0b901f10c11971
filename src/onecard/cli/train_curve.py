"""The loss curve of a run: a picture in its folder, and a line of blocks on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onecard.adapters.store import StoredVersion
    from onecard.benchmark.report_data import Training

BLOCKS = "".join(chr(0x2581 + height) for height in range(8))
SPARKS = 40  # columns


def draw_curve(folder: Path, stored: StoredVersion) -> str | None:
    """Draws loss.png into a run's folder; what kept it from being drawn otherwise, for the adapter is published by then."""
    from onecard.benchmark.plots_training import loss_plot
    from onecard.cli.train_runs import CURVE
    from onecard.errors import OnecardError
    from onecard.evidence.results import write_atomically

    try:
        picture = loss_plot([training_of(folder, stored)])
        if picture is None:
            return "one step makes no curve"
        write_atomically(folder / CURVE, picture.png)
    except OnecardError as error:
        return f"{error.problem}: {error.next_step}" if error.next_step else error.problem
    return None


def training_of(folder: Path, stored: StoredVersion) -> Training:
    """A published run as a report shows it: the manifest's record, and each step's figures from the run's folder."""
    from onecard.benchmark.report_data import Training
    from onecard.benchmark.report_training import read_metrics
    from onecard.cli.train_runs import METRICS

    file = folder / METRICS
    points = read_metrics(file) if file.is_file() else ()
    return Training(label=f"{stored.agent} {stored.name}@{stored.version}", record=stored.manifest.run, points=points)


def sparkline(losses: Sequence[float], columns: int = SPARKS) -> str:
    """The curve in one line of blocks from its lowest to its highest value; empty where the terminal has no such letters.

    More steps than columns are averaged, neighbours together.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        BLOCKS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ""
    if len(losses) < 2:
        return ""
    columns = min(columns, len(losses))
    edges = [len(losses) * column // columns for column in range(columns + 1)]
    means = [sum(losses[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((mean - low) * scale)] for mean in means)
