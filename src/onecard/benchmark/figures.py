"""Figures as people read them: a number with as many digits as it deserves, and the few that stand at the top of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onecard.benchmark.statistics import CallerPoint, Spread, outcome_counts
from onecard.evidence.results import ResultFile


def readable(value: float | None) -> str | None:
    """Three significant digits at least, thousands separated: 0.0123, 9.87, 41.2, 560, 5,661."""
    if value is None:
        return None
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def plain(value: float) -> str:
    """The same without zeros at its end, for prose: 1.1, not 1.10."""
    text = readable(value) or ""
    return text.rstrip("0").rstrip(".") if "." in text else text


def of_unit(value: float, unit: str) -> str:
    return f"{plain(value)} {unit}"


def moment(iso: str) -> str:
    """2026-11-21T13:05:10+00:00 as 2026-11-21 13:05 UTC; anything else as it is."""
    return f"{iso[:10]} {iso[11:16]} UTC" if iso.endswith("+00:00") and len(iso) == 25 else iso


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def milliseconds(value: float) -> str:
    """Milliseconds below ten seconds, seconds from there."""
    return of_unit(value, "ms") if value < 10_000 else of_unit(value / 1000, "s")


def spread_cell(spread: Spread | None) -> tuple[str | None, str | None]:
    """The median, and "low - high" when the repeats differ."""
    if spread is None:
        return None, None
    low, high = readable(spread.low), readable(spread.high)
    return readable(spread.median), f"{low} - {high}" if low != high else None


@dataclass(frozen=True)
class Headline:
    """What a reader takes away from one result, as (figure, meaning) pairs."""

    result: ResultFile
    points: Sequence[CallerPoint]

    def boxes(self) -> list[tuple[str, str]]:
        return [
            box for box in (*self._latency(), *self._throughput(), self._memory(), self._answers()) if box is not None
        ]

    def _latency(self) -> list[tuple[str, str] | None]:
        known = [(point.callers, point.p50_ms.median) for point in self.points if point.p50_ms is not None]
        if not known:
            return []
        (fewest, fast), (most, slow) = known[0], known[-1]
        boxes: list[tuple[str, str] | None] = [(milliseconds(fast), f"p50 with {counted(fewest, 'caller')}")]
        if most > fewest:
            meaning = f"{slow / fast:.2f} times as long (unbatched: {most / fewest:.3g} times)"
            boxes.append((milliseconds(slow), f"p50 with {counted(most, 'caller')}: {meaning}"))
        tail = next((point for point in reversed(self.points) if point.p95_ms), None)
        if tail and tail.p95_ms:
            boxes.append((milliseconds(tail.p95_ms.median), f"p95 with {counted(tail.callers, 'caller')}"))
        return boxes

    def _throughput(self) -> list[tuple[str, str] | None]:
        boxes: list[tuple[str, str] | None] = []
        for field, unit in (("rps", "requests/s"), ("tokens_s", "tokens/s")):
            known = [(getattr(p, field).median, p.callers) for p in self.points if getattr(p, field) is not None]
            if known:
                most, callers = max(known)
                boxes.append((readable(most) or "0", f"{unit} at most, with {counted(callers, 'caller')}"))
        return boxes

    def _memory(self) -> tuple[str, str] | None:
        most = max((p.gpu_mem_gib.high for p in self.points if p.gpu_mem_gib), default=None)
        kinds = {sample.kind for step in self.result.steps for sample in step.memory}
        if most is None:
            return None
        return f"{most:.2f} GiB", "GPU memory at most" if "gpu" in kinds else "memory of the service's process at most"

    def _answers(self) -> tuple[str, str] | None:
        counts = outcome_counts(self.result)
        total = sum(counts.values())
        return (f"{counts.get('ok', 0):,} of {total:,}", "requests answered") if total else None
