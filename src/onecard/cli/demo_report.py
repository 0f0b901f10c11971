"""What the demo knows, as the extras of a report: predictions beside measurements, training, gates, sample answers."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from onecard import __version__
from onecard.benchmark.report_data import Comparison, Extras, GateLine
from onecard.cli.train_curve import training_of
from onecard.evidence.summaries import itls_ms, ttfts_ms

if TYPE_CHECKING:
    from onecard.cli.demo import Told
    from onecard.fleet.loader import LoadedFleet
    from onecard.planner.speed import Seconds

MIB = 1 << 20


def extras_of(loaded: LoadedFleet, told: Told) -> Extras:
    """Everything the load test could not know by itself."""
    return Extras(
        title="onecard demo: predicted and measured",
        intro=(
            f"One base of 7.7 million parameters in 4 bits, two adapters, one service, on this machine ({platform.machine()}). "
            "Questions are about terms that no training row mentions."
        ),
        comparisons=tuple(compare(told)),
        trainings=tuple(training_of(done.folder, done.stored) for done in told.trained.values()),
        gates=tuple(
            GateLine(agent=agent, check=check.sentence, observed=f"{check.observed:.3g}", passed=check.passed)
            for agent, done in told.judged.items()
            for check in done.report.gate.checks
        ),
        samples=tuple(told.samples),
        environment={"onecard": __version__, "python": platform.python_version()},
        commands=("onecard demo", f"onecard serve {loaded.file.name}"),
    )


def compare(told: Told) -> Iterator[Comparison]:
    """Each prediction of the plan that the demo measured, in the plan's order: memory, training, speed."""
    yield from _memory(told)
    yield from _training(told)
    yield from _speed(told)


def _memory(told: Told) -> Iterator[Comparison]:
    held = told.health.memory if told.health else None
    if held is None:
        return
    for what, kind, prefix in (("base weights", "weights", "base"), ("adapters resident", "adapters", "adapter")):
        measured = sum(part.bytes for part in held.parts if part.name.startswith(prefix))
        lines = [line for line in told.plan.serving.lines if line.kind == kind]
        if measured and lines:
            yield Comparison(
                what=what,
                unit="MiB",
                predicted=sum(line.bytes for line in lines) / MIB,
                measured=measured / MIB,
                tag="exact" if all(line.tag == "exact" for line in lines) else lines[0].tag,
            )


def _training(told: Told) -> Iterator[Comparison]:
    for planned in told.plan.trainings:
        done = told.trained.get(planned.agent)
        if done is None:
            continue
        record = done.stored.manifest.run
        yield Comparison(
            what=f"training peak, {planned.agent}",
            unit="MiB",
            predicted=(record.planned_peak_bytes or planned.peak_bytes)
            / MIB,  # with the rows counted, and what was held before
            measured=record.peak_memory_bytes / MIB,
            tag="assumed",
            note=record.memory_kind,
        )
        if planned.time:
            yield _ranged(f"training time, {planned.agent}", "s", planned.time.seconds, record.seconds, 1.0)


def _speed(told: Told) -> Iterator[Comparison]:
    """First token and inter-token time of one caller alone, against the median of its requests."""
    alone = [r for step in (told.load.steps if told.load else ()) if step.callers == 1 for r in step.requests]
    answered = [request for request in alone if request.outcome == "ok"]
    for agent in told.plan.agents:
        mine = [request for request in answered if request.agent == agent.agent]
        if not mine:
            continue
        first, between = ttfts_ms(mine), itls_ms(mine)
        if agent.ttft and first:
            yield _ranged(f"first token, {agent.agent}, one caller", "ms", agent.ttft, median(first), 1000.0)
        if agent.itl and between:
            yield _ranged(f"time per token, {agent.agent}, one caller", "ms", agent.itl, median(between), 1000.0)


def _ranged(what: str, unit: str, predicted: Seconds, measured: float, scale: float) -> Comparison:
    return Comparison(
        what=what,
        unit=unit,
        predicted=predicted.expected * scale,
        low=predicted.low * scale,
        high=predicted.high * scale,
        measured=measured,
        tag="assumed",
    )
