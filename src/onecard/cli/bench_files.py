"""The files of a measurement: named before it begins, written after every step, and never lost at the end."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onecard.benchmark.campaign import Keep, Kind, Target
    from onecard.evidence.results import How, ResultFile


@dataclass(frozen=True)
class Kept:
    """A result and the two files it stands in."""

    result: ResultFile
    file: Path
    table: Path


def check_folder(folder: Path) -> None:
    """Writes and removes a file, so that a wrong folder is said before the measurement and not after it."""
    from onecard.evidence.results import write_atomically

    probe = folder / ".onecard-can-write"
    write_atomically(probe, "")
    probe.unlink(missing_ok=True)


def run_kept(
    run: Callable[[Keep, ResultFile | None], ResultFile],
    kind: Kind,
    target: Target,
    how: How,
    out: Path,
    resume: Path | None = None,
) -> Kept:
    """Runs a measurement that writes its file as it goes; a resumed one goes on in its own file."""
    from onecard.benchmark.campaign import resumable
    from onecard.errors import OnecardError
    from onecard.evidence.results import read_results, write_results

    done = resumable(read_results(resume), kind, target, how, str(resume)) if resume else None
    file = resume or free_name(out, kind, list(target.prompts))

    def keep(result: ResultFile) -> None:
        try:
            write_results(file, result)
        except OnecardError:
            return  # a full disk may be mended while we measure; at the end it is said

    return _written(file, run(keep, done))


def free_name(folder: Path, kind: str, agents: Sequence[str]) -> Path:
    """<folder>/<kind>-<agents>-<UTC>.json, one that does not exist yet."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", "+".join(agents))[:80]
    stem = f"{kind}-{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    number, file = 1, folder / f"{stem}.json"
    while file.exists():
        number += 1
        file = folder / f"{stem}-{number}.json"
    return file


def _written(file: Path, result: ResultFile) -> Kept:
    """Writes the result; when its folder fails now, it goes to the system's temporary folder rather than away."""
    from onecard.errors import OnecardError
    from onecard.evidence.results import write_results

    try:
        return Kept(result, file, write_results(file, result))
    except OnecardError as error:
        kept = Path(tempfile.gettempdir()) / file.name
        write_results(kept, result)
        raise type(error)(error.problem, where=error.where, next_step=f"the result was kept in {kept}") from None
