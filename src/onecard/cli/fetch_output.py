"""What `onecard fetch` shows: what is to come and why not the rest, bars while it comes, and where it lies; the same as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from onecard.catalog.licences import load_licences
from onecard.catalog.units import format_bytes

if TYPE_CHECKING:
    from onecard.cli.fetch_targets import Skipped, Target
    from onecard.weights.fetch import RepoPlan
    from onecard.weights.fetch_run import Tick
    from onecard.weights.fetch_transfer import Track
    from onecard.weights.hashes import Progress

SHOWN = 3  # names of a kind before "and N more"


def console() -> Console:
    """Standard error: the result goes to standard output."""
    return Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def show_plan(
    plans: Sequence[tuple[Target, RepoPlan]], skipped: Sequence[Skipped], free_bytes: int, cache: Path
) -> None:
    """Each repository with its licence, what is here of it and what comes; then the sum beside the free disk."""
    out = console()
    for one in skipped:
        out.print(Text(f"{one.name}: {one.reason}", style="dim"))
    for target, plan in plans:
        listing = plan.listing
        out.print(Text(listing.repo, style="bold") + Text(f" at {listing.commit[:12]}: {target.why}"))
        out.print(Text(f"  licence: {licence_words(listing.licence)}{'; gated' if listing.gated else ''}"))
        if target.note:
            out.print(Text(f"  note: {target.note}"))
        out.print(Text(f"  {_counts(plan)}"))
        for damaged in plan.in_state("damaged"):
            kept = f"; resumes from {format_bytes(damaged.held_bytes)}" if damaged.held_bytes else ""
            out.print(
                Text(f"  damaged: {damaged.file.name}: {damaged.fault}; it is fetched again{kept}", style="yellow")
            )
        for line in _left_out(plan):
            out.print(Text(f"  left out: {line}", style="dim"))
    needed = sum(plan.needed_bytes for _, plan in plans)
    if needed:
        out.print(Text(f"to fetch: {format_bytes(needed)}; {format_bytes(free_bytes)} free in {cache}"))


def licence_words(said: str | None) -> str:
    """What its owner wrote, and what the catalog knows of it."""
    if said is None:
        return "its owner names none, which allows nothing"
    known = next((one for one in load_licences() if one.key == said.lower()), None)
    if known is None:
        return f"{said}, as its owner wrote it; the catalog does not know it"
    return f"{known.name}, {'fully open' if known.fully_open else 'not fully open'}"


@contextmanager
def bars(plans: Sequence[RepoPlan], quiet: bool) -> Iterator[Tick]:
    """Yields what takes the tracks ten times a second: a bar for each file that moves, and one for all. Plain lines without a terminal."""
    out = console()
    if quiet or not out.is_terminal:
        yield _Lines(out, quiet).tick
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=out) as shown:
        total = sum(plan.total_bytes for plan in plans)
        here = sum(one.file.size for plan in plans for one in plan.files if one.state == "whole")
        begun = sum(one.held_bytes for plan in plans for one in plan.files)  # or the speed would count what was here
        yield _Bars(shown, shown.add_task("in all", total=total, completed=begun, note=""), here).tick


@contextmanager
def checking(repo: str, quiet: bool) -> Iterator[Progress]:
    """Yields what takes (bytes hashed, bytes in all) while what is on the disk is checked."""
    out = console()
    if quiet or not out.is_terminal:
        yield lambda done, total: None
        return
    with out.status(Text(f"checking {repo}")) as shown:
        yield lambda done, total: shown.update(
            Text(f"checking what is here of {repo}: {format_bytes(done)} of {format_bytes(total)}")
        )


def record_of(target: Target, plan: RepoPlan, place: Path | None) -> dict[str, Any]:
    """A repository for scripts. Sizes in bytes; `place` None: not fetched."""
    return {
        "id": plan.listing.repo,
        "revision": plan.listing.revision,
        "commit": plan.listing.commit,
        "licence": plan.listing.licence,
        "gated": plan.listing.gated,
        "why": target.why,
        "path": str(place) if place else None,
        "bytes": plan.total_bytes,
        "fetched_bytes": plan.needed_bytes if place else 0,
        "files": [
            {
                "name": one.file.name,
                "bytes": one.file.size,
                "digest": f"{'sha256' if len(one.file.digest) == 64 else 'git-sha1'}:{one.file.digest}",
                "was": one.state,
                "fault": one.fault,
            }
            for one in plan.files
        ],
        "left_out": {one.name: one.reason for one in plan.left_out},
    }


def _counts(plan: RepoPlan) -> str:
    held = Counter(one.state for one in plan.files)
    parts = [f"{len(plan.files)} files, {format_bytes(plan.total_bytes)}"]
    if plan.whole:
        return f"{parts[0]}: all here and whole, by size and hash"
    for state in ("whole", "partial", "damaged"):
        if held[state]:
            parts.append(f"{held[state]} {state}")
    begun = sum(one.held_bytes for one in plan.in_state("partial"))
    return "; ".join(parts) + (f" ({format_bytes(begun)} of it here, resumed)" if begun else "")


def _left_out(plan: RepoPlan) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for one in plan.left_out:
        by_reason.setdefault(one.reason, []).append(one.name)
    return [
        f"{', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''} ({reason})"
        for reason, names in by_reason.items()
    ]


class _Bars:
    """Bars of the files that move; one that is whole leaves."""

    def __init__(self, shown: Any, in_all: Any, here_bytes: int) -> None:
        self.shown, self.in_all, self.here_bytes = shown, in_all, here_bytes
        self.tasks: dict[int, Any] = {}

    def tick(self, tracks: Sequence[Track]) -> None:
        done = self.here_bytes
        for number, track in enumerate(tracks):
            done += track.file.size if track.phase in ("checking", "whole") else track.done_bytes
            if track.phase in ("fetching", "checking"):
                if number not in self.tasks:
                    self.tasks[number] = self.shown.add_task(
                        track.file.name, total=track.file.size, completed=track.done_bytes, note=""
                    )
                note = track.note or ("checking its hash" if track.phase == "checking" else "")
                self.shown.update(self.tasks[number], completed=track.done_bytes, note=note)
            elif track.phase == "whole" and number in self.tasks:
                self.shown.remove_task(self.tasks.pop(number))
        self.shown.update(self.in_all, completed=done)


class _Lines:
    """A line for each file that is whole and each note, for logs."""

    def __init__(self, out: Console, quiet: bool) -> None:
        self.out, self.quiet = out, quiet
        self.said: set[tuple[int, str]] = set()

    def tick(self, tracks: Sequence[Track]) -> None:
        if self.quiet:
            return
        for number, track in enumerate(tracks):
            text = f"{format_bytes(track.file.size)}, whole" if track.phase == "whole" else track.note
            if text and (number, text) not in self.said:
                self.said.add((number, text))
                self.out.print(Text(f"{track.listing.repo}: {track.file.name}: {text}"))
