"""What the service counts, in Prometheus' text format: who asked for what, how long it took, why it was refused, what is resident.

Labels come from the fleet, never from requests, so that nobody outside decides how many series there are. Written here and not with
prometheus_client: three kinds of series in one process need no registry of collectors, no multiprocess files and no dependency.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

from onecard.serving.answerers import Answerer
from onecard.wire.health import Health

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
Labels = tuple[str, ...]


class Counter:
    """Only goes up."""

    kind = "counter"

    def __init__(self, name: str, says: str, *labels: str) -> None:
        self.name, self.says, self.labels = name, says, labels
        self._values: dict[Labels, float] = {}

    def add(self, labels: Labels, amount: float = 1) -> None:
        self._values[labels] = self._values.get(labels, 0) + amount

    def samples(self) -> Iterable[str]:
        return [sample(self.name, self.labels, labels, value) for labels, value in self._values.items()]


class Histogram:
    """How often something took up to so many seconds."""

    kind = "histogram"

    def __init__(self, name: str, says: str, *labels: str) -> None:
        self.name, self.says, self.labels = name, says, labels
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def add(self, labels: Labels, seconds: float, times: int = 1) -> None:
        counts = self._counts.setdefault(labels, [0] * (len(SECONDS) + 1))
        counts[bisect_left(SECONDS, seconds)] += times
        self._sums[labels] = self._sums.get(labels, 0.0) + seconds * times

    def samples(self) -> Iterable[str]:
        for labels, counts in self._counts.items():
            seen = 0
            for limit, count in zip((*SECONDS, math.inf), counts, strict=True):
                seen += count
                yield sample(f"{self.name}_bucket", (*self.labels, "le"), (*labels, _number(limit)), seen)
            yield sample(f"{self.name}_sum", self.labels, labels, self._sums[labels])
            yield sample(f"{self.name}_count", self.labels, labels, seen)


class Metrics:
    """The service's own counts. Safe from any thread."""

    def __init__(self) -> None:
        who = ("agent", "adapter")
        self._lock = threading.Lock()
        self._requests = Counter(
            "onecard_requests_total", "Requests answered, by route and status.", *who, "route", "status"
        )
        self._refusals = Counter(
            "onecard_refusals_total", "Requests answered with an error, by its code.", *who, "reason"
        )
        self._prompt_tokens = Counter("onecard_prompt_tokens_total", "Tokens of prompts that were computed.", *who)
        self._tokens = Counter("onecard_generated_tokens_total", "Tokens that were generated.", *who)
        self._request_s = Histogram("onecard_request_seconds", "From a request's arrival to its last byte.", *who)
        self._queue_s = Histogram("onecard_queue_seconds", "From the engine's queue to the start of the prefill.", *who)
        self._first_s = Histogram(
            "onecard_time_to_first_token_seconds", "From a request's arrival to its first token.", *who
        )
        self._gap_s = Histogram("onecard_inter_token_seconds", "Between one token and the next.", *who)

    def began(self, who: Answerer, queue_s: float, first_s: float) -> None:
        """An answer has its first token."""
        with self._lock:
            self._queue_s.add(labels_of(who), queue_s)
            self._first_s.add(labels_of(who), first_s)

    def went_on(self, who: Answerer, gap_s: float, tokens: int) -> None:
        """So many tokens came together, so long after those before them."""
        if tokens:
            with self._lock:
                self._gap_s.add(labels_of(who), gap_s / tokens, tokens)

    def ended(self, who: Answerer, prompt_tokens: int, tokens: int) -> None:
        """An answer is over, finished or not."""
        with self._lock:
            self._prompt_tokens.add(labels_of(who), prompt_tokens)
            self._tokens.add(labels_of(who), tokens)

    def answered(self, who: Answerer | None, route: str, status: int, reason: str | None, seconds: float) -> None:
        """A request has its whole response."""
        with self._lock:
            self._requests.add((*labels_of(who), route, str(status)))
            if reason is not None:
                self._refusals.add((*labels_of(who), reason))
            if who is not None:
                self._request_s.add(labels_of(who), seconds)

    def text(self, health: Health) -> str:
        """Everything in the text format; `health` has what is held at this moment."""
        with self._lock:
            counted: list[Counter | Histogram] = [
                self._requests, self._refusals, self._prompt_tokens, self._tokens,
                self._request_s, self._queue_s, self._first_s, self._gap_s,
            ]  # fmt: skip
            blocks = [_block(family.name, family.kind, family.says, family.samples()) for family in counted]
        return "".join([*blocks, *_gauges(health)])


def labels_of(who: Answerer | None) -> Labels:
    """Agent and name@version; empty for a request that nobody was found for."""
    return ("", "") if who is None else (who.agent, who.adapter or "none")


def sample(name: str, labels: Sequence[str], values: Sequence[str], value: float) -> str:
    """One line. Backslashes, quotes and line breaks in a value are escaped, as the format wants them."""
    told = ",".join(f'{label}="{_escaped(text)}"' for label, text in zip(labels, values, strict=True))
    return f"{name}{{{told}}} {_number(value)}\n" if told else f"{name} {_number(value)}\n"


def _gauges(health: Health) -> list[str]:
    memory = health.memory
    parts = [sample("onecard_memory_bytes", ("model", "part"), (p.model, p.name), p.bytes) for p in memory.parts]
    whole = {"process": memory.process_bytes, "gpu": memory.gpu_bytes}
    held = [
        sample("onecard_memory_taken_bytes", ("of",), (of,), size) for of, size in whole.items() if size is not None
    ]
    resident = [
        sample("onecard_adapter_resident", ("agent", "adapter", "digest"), (a.agent, a.adapter, a.digest or ""), 1)
        for a in health.adapters
        if a.adapter is not None
    ]
    plain: Mapping[str, tuple[str, float]] = {
        "onecard_up": ("1 when every engine answers.", float(health.status == "ok")),
        "onecard_requests_in_flight": ("Answers that are generated or waiting.", health.in_flight),
        "onecard_uptime_seconds": ("Since the service was loaded.", health.uptime_s),
    }
    blocks = [_block(name, "gauge", says, [sample(name, (), (), value)]) for name, (says, value) in plain.items()]
    return [
        *blocks,
        _block("onecard_memory_bytes", "gauge", "Bytes an engine holds, by part.", parts),
        _block("onecard_memory_taken_bytes", "gauge", "Resident set of the process, peak of the card.", held),
        _block("onecard_adapter_resident", "gauge", "1 for every adapter version that answers for an agent.", resident),
    ]


def _block(name: str, kind: str, says: str, samples: Iterable[str]) -> str:
    return f"# HELP {name} {says}\n# TYPE {name} {kind}\n" + "".join(samples)


def _number(value: float) -> str:
    if value == math.inf:
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
