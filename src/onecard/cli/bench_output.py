"""What the verbs of `onecard bench` say at the end: parts with their intervals, files, the next command, the exit code."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from onecard.benchmark.breakdown import Part
    from onecard.benchmark.intervals import Interval
    from onecard.cli.bench_files import Kept
    from onecard.evidence.results import Step


def conclude(kept: Kept, code: int = 0) -> int:
    """The exit code: 130 after Ctrl-C; EngineFailed when the server stopped answering."""
    from onecard.errors import EngineFailed

    result = kept.result
    if result.complete:
        return code
    if result.stopped_because == "interrupted":
        return 130
    problem = result.stopped_because or "the measurement did not finish"
    raise EngineFailed(problem, where=result.what.url, next_step=f"what was measured is in {kept.file}")


def show_files(kept: Kept) -> None:
    """Where the result stands, whether it is partial, and what to do with it."""
    from rich.text import Text

    from onecard.cli.bench_table import console_of

    console, result = console_of(), kept.result
    if not result.complete:
        done = sum(len(step.requests) for step in result.steps)
        console.print(Text(f"partial: {result.stopped_because}; {done} requests were kept", style="yellow"))
        again = f"{result.how.command} --resume {shlex.quote(str(kept.file))}" if result.how.command else None
    else:
        again = None
    following = f"onecard report {shlex.quote(str(kept.file))}"
    for label, text in (("result", kept.file), ("table", kept.table), ("next", following), ("resume", again)):
        if text:
            console.print(Text(f"{label:>6}  ", style="dim") + Text(str(text)), soft_wrap=True)


def interval_cell(seen: Interval | None) -> str:
    """The figure with its bounds, "812 (790-850)"; "needs 368" independent requests where there are too few; "-" for nothing."""
    from onecard.benchmark.figures import readable

    if seen is None:
        return "-"
    if seen.low is not None and seen.high is not None:
        return f"{readable(seen.value)} ({readable(seen.low)}-{readable(seen.high)})"
    return f"needs {seen.needed}"


def parts_table(parts: Sequence[Part], first: str) -> Table:
    """One row a part: percentiles with their 95% intervals, milliseconds from the intended start."""
    from rich import box
    from rich.table import Table

    from onecard.benchmark.figures import readable

    timed = any(part.goodput for part in parts)
    caption = "milliseconds from the intended start, 95% intervals from order statistics; needs N: too few independent requests"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    heads = [first, "requests", "failed", "p50", "p95", "p99", "TTFT p50", "req/s", *(["in time"] if timed else [])]
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", overflow="fold")
    for part in parts:
        cells = [interval_cell(part.latency[percent]) for percent in (50.0, 95.0, 99.0)]
        ttft = (readable(part.ttft.value) or "-") if part.ttft else "-"
        row = [
            part.name,
            f"{part.requests:,}",
            str(part.failed),
            *cells,
            ttft,
            readable(part.rps) or "-",
        ]
        if timed:
            good = part.goodput
            row.append(f"{good.share:.1%} ({good.low:.0%}-{good.high:.0%})" if good else "-")
        table.add_row(*row)
    return table


def part_record(part: Part) -> dict[str, Any]:
    """A part for scripts; an interval says `enough: false` where requests do not carry it."""
    record = asdict(part)
    record["latency_ms"] = {f"p{percent:g}": interval_record(seen) for percent, seen in part.latency.items()}
    record["ttft_p50_ms"] = interval_record(part.ttft)
    if part.goodput:
        record["goodput"]["share"] = part.goodput.share
    del record["latency"], record["ttft"]
    return record


def interval_record(seen: Interval | None) -> dict[str, Any] | None:
    return None if seen is None else {**asdict(seen), "enough": seen.enough}


def kept_record(kept: Kept) -> dict[str, Any]:
    """What every verb's JSON begins with."""
    from onecard.benchmark.breakdown import generator_verdict

    result = kept.result
    return {
        "result": str(kept.file),
        "csv": str(kept.table),
        "complete": result.complete,
        "stopped_because": result.stopped_because,
        "valid": all(generator_verdict(step).valid for step in result.steps),
    }


def show_invalid(steps: Sequence[Step]) -> None:
    """The worst step's sentence, when the generator itself was late."""
    from rich.text import Text

    from onecard.benchmark.breakdown import generator_verdict
    from onecard.cli.bench_table import console_of

    said = [found.sentence for step in steps if not (found := generator_verdict(step)).valid]
    if said and said[0]:
        console_of().print(Text(said[0], style="bold red"))
