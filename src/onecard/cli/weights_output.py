"""How `onecard weights` shows what is on the disk: two lines a model, what would go, and what was found damaged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from onecard.weights.storage import Held, Pruning, Storage
    from onecard.weights.storage_verify import Verified

WIDTH = 100
_COLUMNS = (("on disk", 11), ("form", 15), ("last used", 22))
_SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_SAID_AT_MOST = 3
_YEAR_S = 365 * 86400


def show_list(storage: Storage, gone: Sequence[Path], leftovers: list[Path], free: int, as_json: bool) -> None:
    """Every model, then sums, fleets that vanished, and what interrupted removals left."""
    from onecard.catalog.units import format_bytes
    from onecard.weights.places import hub_cache
    from onecard.weights.storage_removal import leftover_bytes

    left = leftover_bytes(leftovers)
    if as_json:
        print_json(
            {
                "models": [record_of(model) for model in storage.models],
                "bytes": storage.bytes,
                "free_bytes": free,
                "hub_cache": str(hub_cache()),
                "leftover_bytes": left,
                "gone_fleets": [str(file) for file in gone],
            }
        )
        return
    _print_models(storage.models)
    count = len(storage.models)
    click.echo(
        f"\n{count} model{'s' if count != 1 else ''}, {format_bytes(storage.bytes)} on disk; "
        f"{format_bytes(free)} free on the disk of {short(hub_cache())}"
    )
    if leftovers:
        click.echo(f"{format_bytes(left)} left by an interrupted removal; the next remove or prune deletes it")
    _say_gone(gone)


def show_pruning(pruning: Pruning, until: int, free: int, left: int, gone: Sequence[Path]) -> None:
    """What is free, what is wanted, and what stays although it is in the way."""
    from onecard.catalog.units import format_bytes

    swept = f", {format_bytes(left)} left by an interrupted removal" if left else ""
    if free >= until:
        click.echo(f"{format_bytes(free)} are free already, {format_bytes(until)} are wanted: nothing goes")
        return
    click.echo(f"{format_bytes(free)} free{swept}, {format_bytes(until)} wanted: {format_bytes(until - free)} to go")
    if pruning.short_bytes:
        click.echo(f"too little may go: {format_bytes(pruning.short_bytes)} stay missing. What stays, and why:")
        for id, why in pruning.kept.items():
            click.echo(f"  {short(id)}: {why}")
    _say_gone(gone)


def show_going(chosen: Sequence[Held], freed: int) -> None:
    """The models that would go."""
    from onecard.catalog.units import format_bytes

    if chosen:
        _print_models(chosen)
        shared = sum(model.bytes for model in chosen) - freed
        but = f"; {format_bytes(shared)} of them are shared and stay or count once" if shared else ""
        click.echo(f"\nto go: {_models(len(chosen))}, which frees {format_bytes(freed)}{but}")


def say_outcome(went: bool, dry_run: bool, chosen: Sequence[Held], free: int) -> None:
    from onecard.catalog.units import format_bytes

    if went:
        click.echo(f"deleted {_models(len(chosen))}; {format_bytes(free)} are free now")
    elif dry_run:
        click.echo("nothing was removed: a dry run")
    else:
        click.echo("nothing was removed: add --yes to remove without asking", err=True)


def show_verified(results: Sequence[tuple[Held, Verified]], as_json: bool) -> None:
    """One line a model that is whole; every bad file of the others, and what mends them."""
    if as_json:
        print_json([_verified_record(model, result) for model, result in results])
        return
    for model, result in results:
        states = [file.state for file in result.files]
        hub = sum(file.by == "hub" for file in result.files)
        seen = sum(file.by == "first sight" and file.state == "good" for file in result.files)
        parts = [f"{hub} as the hub said"] if hub else []
        parts += [f"{seen} as first seen"] if seen else []
        parts += [f"{states.count('new')} seen for the first time"] if "new" in states else []
        if result.good:
            click.echo(f"{short(model.id)}: good; {len(states)} files: {', '.join(parts) or 'none'}")
            continue
        click.echo(f"{short(model.id)}: {len(result.bad)} of {len(states)} files are not as they should be")
        for file in result.bad:
            click.echo(f"  {file.state}: {file.name}" + (f" ({file.detail})" if file.detail else ""))
        click.echo(f"  next: {mend(model)}")


def mend(model: Held) -> str:
    """What puts a damaged model right."""
    if model.place == "hub":
        return f"onecard fetch {model.id}"
    if model.place == "embedded":
        return "pip install --force-reinstall --no-deps onecard"
    return f"copy it again, or `onecard weights verify {short(model.id)} --accept` if you changed it yourself"


def record_of(model: Held) -> dict[str, Any]:
    """A model as plain data, for --json."""
    return {
        "id": model.id,
        "place": model.place,
        "folder": str(model.folder),
        "revision": model.revision,
        "revisions": model.revisions,
        "bytes": model.bytes,
        "quantization": model.quantization,
        "dtype": model.dtype,
        "whole": model.whole,
        "missing": list(model.missing),
        "used_at": model.used_at,
        "used_sign": model.used_sign,
        "needed_by": list(model.needed_by),
        "removable": model.fixed is None,
    }


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def short(place: Path | str) -> str:
    """A path with ~ for the home folder; other text as it stands."""
    text, home = str(place), str(Path.home())
    return f"~{text.removeprefix(home)}" if text.startswith(f"{home}/") else text


@dataclass
class Hashing:
    """A bar over the bytes of all models, or a line a model."""

    begin: Callable[[str], None] = lambda id: None
    read: Callable[[int], None] = field(default=lambda count: None)


@contextmanager
def hashing(total: int, quiet: bool) -> Iterator[Hashing]:
    console = _console(stderr=True)
    if quiet:
        yield Hashing()
    elif not console.is_terminal:
        yield Hashing(begin=lambda id: console.print(f"hashing {short(id)}", soft_wrap=True))
    else:
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(20), DownloadColumn(binary_units=True))
        with _bar(console, *columns, TransferSpeedColumn(), TimeRemainingColumn()) as progress:
            task = progress.add_task("hashing", total=total or None)
            yield Hashing(
                begin=lambda id: progress.update(task, description=f"hashing {short(id)[-30:]}"),
                read=lambda count: progress.advance(task, count),
            )


@contextmanager
def deleting(count: int, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A bar over the models on a terminal; called with the id of each that is gone."""
    console = _console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda id: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    with _bar(console, TextColumn("deleting"), BarColumn(30), MofNCompleteColumn()) as progress:
        task = progress.add_task("deleting", total=count)
        yield lambda id: progress.advance(task)


def _bar(console: Console, *columns: Any) -> Progress:
    from rich.progress import Progress

    return Progress(*columns, console=console, transient=True)


def _print_models(models: Sequence[Held]) -> None:
    """A line of figures and one of words for each."""
    from rich.text import Text

    from onecard.catalog.units import format_bytes

    console, now = _console(), time.time()
    names = [short(model.id) for model in models]
    room = max(console.width - sum(width for _, width in _COLUMNS), 20)
    width = min(max(map(len, names), default=0) + 1, room)
    headings = "".join(f"{heading:>{cells}}" for heading, cells in _COLUMNS)
    console.print(Text(f"{'model':<{width}}{headings}", style="bold"), soft_wrap=True)
    for model, name in zip(models, names, strict=True):
        if len(name) >= width:
            console.print(Text(name), soft_wrap=True)
            name = ""
        cells = (format_bytes(model.bytes), _form(model), f"{_ago(now - model.used_at)}, {model.used_sign}")
        figures = "".join(f" {text:>{cells - 1}}" for text, (_, cells) in zip(cells, _COLUMNS, strict=True))
        console.print(Text(f"{name:<{width}}{figures}"), soft_wrap=True)
        console.print(_about(model))


def _about(model: Held) -> Any:
    """Revision, whole or partial, and who needs it: words below the figures, folded within the width."""
    from rich.padding import Padding
    from rich.text import Text

    more = f" and {model.revisions - 1} more" if model.revisions > 1 else ""
    place = {"embedded": "in the package", "folder": "a folder of yours"}.get(model.place, "no revision")
    parts = [(f"revision {model.revision[:12]}{more}" if model.revision else place, "dim")]
    if model.whole:
        parts.append(("whole", "dim"))
    else:
        names = ", ".join(model.missing[:_SAID_AT_MOST])
        rest = f" and {len(model.missing) - _SAID_AT_MOST} more" if len(model.missing) > _SAID_AT_MOST else ""
        parts.append((f"partial, lacks {names}{rest}", "yellow"))
    if model.needed_by:
        fleets = ", ".join(map(short, model.needed_by[:_SAID_AT_MOST]))
        more = f" and {len(model.needed_by) - _SAID_AT_MOST} more" if len(model.needed_by) > _SAID_AT_MOST else ""
        parts.append((f"needed by {fleets}{more}", "dim"))
    text = Text(" | ", style="dim").join(Text(words, style=style) for words, style in parts)
    return Padding(text, (0, 0, 0, 2), expand=False)


def _form(model: Held) -> str:
    dtype = _SHORT.get(model.dtype, model.dtype)
    return dtype if model.quantization == "none" else f"{model.quantization}, {dtype}"


def _ago(seconds: float) -> str:
    """A span for people: "3 min ago", "26 h ago", "12 days ago", "3 years ago"."""
    for length, name in ((_YEAR_S, "years"), (86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length or (length <= 3600 and seconds >= length):
            return f"{seconds // length:.0f} {name} ago"
    return "just now"


def _verified_record(model: Held, result: Verified) -> dict[str, Any]:
    files = [
        {"name": f.name, "state": f.state, "compared_with": f.by, "bytes": f.bytes, "detail": f.detail}
        for f in result.files
    ]
    return {"id": model.id, "good": result.good, "files": files, "mend": None if result.good else mend(model)}


def _models(count: int) -> str:
    return f"{count} model{'s' if count != 1 else ''}"


def _say_gone(gone: Sequence[Path]) -> None:
    """Remembered fleets whose files are not there: what they named is not kept for them."""
    if gone:
        names = ", ".join(short(file) for file in gone[:_SAID_AT_MOST])
        more = f" and {len(gone) - _SAID_AT_MOST} more" if len(gone) > _SAID_AT_MOST else ""
        click.echo(f"not there any more, so nothing is kept for them: {names}{more}")


def _console(stderr: bool = False) -> Console:
    """100 columns wide when it is no terminal and COLUMNS does not say otherwise. Markup is off: paths are shown as they stand."""
    import os

    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH
    return console
