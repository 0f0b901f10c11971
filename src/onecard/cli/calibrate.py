"""`onecard calibrate`: measures this machine's card and keeps the figures where the planner finds them.

The measuring is `engines.local.calibration`'s; here its figures meet the machine's name, the time and a file.
"""

from __future__ import annotations

import json
import os
import platform
import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from onecard.catalog.cards import Card
    from onecard.engines.local.calibration import Measured
    from onecard.engines.local.calibration_card import CardFacts
    from onecard.evidence.calibration import Calibration

BUSY_PERCENT = 20.0  # of the processor, used by others: from here on it is said


@click.command(short_help="Measure this machine's card, so that plans rest on it.")
@click.option(
    "--card", type=click.Choice(["auto", "cpu"]), default="auto", show_default=True, help="auto: the first CUDA card, else the CPU."
)  # fmt: skip
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: the card's own, in onecard's cache, where `onecard plan` finds it]",
)
@click.option(
    "--seconds", type=click.FloatRange(1, 900), default=90.0, show_default=True, help="Time to measure; starting takes more."
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def calibrate(card: str, output: Path | None, seconds: float, as_json: bool) -> None:
    """Measure this machine's card: memory, bandwidth, bf16 products, quantized Linears, and what the host needs for each layer.

    Takes about two minutes and no model. The figures go into one file that replaces the planner's cold-start values. Close
    what else uses the card and the processor first. Ctrl-C writes nothing.

    \b
    Example:
      onecard calibrate
      onecard calibrate --output h200.json
      onecard plan examples/style-a10g.yaml --calibration h200.json
    """
    from onecard.cli.calibrate_output import bar, record_of, show
    from onecard.evidence.calibration import calibration_file, calibrations_folder, write_calibration

    _check_writable(output or calibrations_folder() / "any.json")
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # read when torch is loaded; its profiler would write into the bar
    host, start = host_facts(), time.perf_counter()
    with bar(quiet=as_json) as on_progress:
        from onecard.engines.local.calibration import measure

        measured = measure("cpu" if card == "cpu" else "auto", seconds, on_progress)
    calibration = calibration_of(measured, host, at=datetime.now(UTC), seconds=time.perf_counter() - start)
    file = output or calibration_file(calibration.card.id)
    write_calibration(file, calibration)
    if as_json:
        click.echo(json.dumps(record_of(calibration, file), indent=2))
    else:
        show(calibration, file, catalog_card(measured.card), found_by_itself=output is None)


def host_facts() -> dict[str, Any]:
    """The machine around the card and what others do on it now; half a second."""
    import psutil

    from onecard.benchmark.machine import cpu_name

    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "ram_bytes": int(psutil.virtual_memory().total),
        "system": f"{platform.system()} {platform.release()}",
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "busy_percent": psutil.cpu_percent(interval=0.5),
    }


def calibration_of(measured: Measured, host: dict[str, Any], *, at: datetime, seconds: float) -> Calibration:
    """The record of what was measured. EngineFailed when nothing could be."""
    from onecard import __version__
    from onecard.errors import EngineFailed
    from onecard.evidence.calibration import SCHEMA, Calibration

    if measured.empty:
        first = measured.absent[0].reason if measured.absent else "no part of it ran"
        raise EngineFailed(
            f"nothing could be measured: {first}",
            where=measured.card.name,
            next_step="try --card cpu, or more --seconds",
        )
    seen = asdict(measured)
    card, small, rank, threads = (seen.pop(key) for key in ("card", "small", "rank", "threads"))
    others = seen.pop("others_bytes")
    capability = card.pop("capability")
    document = seen | {
        "schema": SCHEMA,
        "at": at.isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "card": card | {"id": card_id(measured.card), "compute_capability": capability, "others_bytes": others},
        "host": host | {"threads": threads},
        "versions": {"onecard": __version__, "python": platform.python_version(), **measured.versions},
        "small_model": {"hidden_size": small["hidden"], "vocabulary": small["vocabulary"], "rank": rank},
        "warnings": [*measured.warnings, *_doubts(measured, host)],
    }
    if measured.card.kind == "cpu":
        document["card"]["name"] = host["cpu"]
    return Calibration.model_validate(document)


def catalog_card(facts: CardFacts) -> Card | None:
    """What the catalog says of the card that was measured; None for one it does not know."""
    from onecard.catalog.cards import DRIVER_ALLOWANCE_GIB
    from onecard.catalog.machine import SeenCard, available_ram_bytes, cpu_card, match_card, measure_copy_gbs
    from onecard.catalog.units import GIB
    from onecard.errors import CatalogError

    if facts.kind == "cpu":
        return cpu_card(available_ram_bytes(), measure_copy_gbs())
    for allowance_gib in (0.0, DRIVER_ALLOWANCE_GIB):  # the catalog may know the driver's figure only
        try:
            return match_card(SeenCard(facts.name, facts.total_bytes + round(allowance_gib * GIB)))
        except CatalogError:
            continue
    return None


def card_id(facts: CardFacts) -> str:
    """The catalog's id of the card, or its name as one."""
    from onecard.catalog.cards import slug

    if facts.kind == "cpu":
        return "cpu"
    known = catalog_card(facts)
    return known.id if known else re.sub(r"[^a-z0-9]+", "-", slug(facts.name)).strip("-") or "unnamed"


def _doubts(measured: Measured, host: dict[str, Any]) -> list[str]:
    """Why the figures may not be this machine's best."""
    doubts = []
    if host["busy_percent"] > BUSY_PERCENT:
        doubts.append(f"others used {host['busy_percent']:.0f}% of the processor just before: times may be too long")
    if measured.card.kind == "cpu" and (unseen := _unseen_card()):
        doubts.append(f"this machine has a {unseen}, which torch does not see: is it a CPU build of torch?")
    return doubts


def _unseen_card() -> str | None:
    """A card whose driver answers although the CPU was measured."""
    from onecard.catalog.machine import detect_card
    from onecard.errors import CatalogError

    try:
        card = detect_card()
    except CatalogError:  # a card that is not in the catalog
        return "card"
    return None if card.id == "cpu" else card.name


def _check_writable(file: Path) -> None:
    """Writes and removes a file beside it, so that a wrong folder is said before the measurement and not after it."""
    from onecard.evidence.results import write_atomically

    probe = file.with_name(f".{file.name}.can-write")
    write_atomically(probe, "")
    probe.unlink(missing_ok=True)
