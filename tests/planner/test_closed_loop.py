"""The computation of events, held against the engine's own worker and against what must be so whatever the times are."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from queue import Queue
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from onecard.engines.engine import Chunk, GenerationRequest
from onecard.engines.local.answer import Answer, Prompt
from onecard.engines.local.worker import Worker
from onecard.errors import OnecardError
from onecard.evidence.summaries import percentile
from onecard.planner.closed_loop import MOST_LINES, MOST_WAITING, drained_s, steady, steady_percentiles
from onecard.planner.course import RETURN_S
from onecard.planner.load import Load, Shape, asked_for


class Clockwork:
    """An engine whose steps and prefills take a fixed time and some for each line."""

    def __init__(self, step_s: float = 0.02, line_s: float = 0.003, prefill_s: float = 0.03, prompt_s: float = 0.01):
        self._step, self._line, self._prefill, self._prompt = step_s, line_s, prefill_s, prompt_s

    def step_s(self, lines: int, tokens_each: int) -> float:
        return self._step + self._line * lines + 1e-7 * lines * tokens_each

    def prefill_s(self, lines: int, tokens_each: int) -> float:
        return self._prefill + self._prompt * lines + 1e-6 * lines * tokens_each


class FixedClockwork(Clockwork):
    """The same without regard to tokens: an engine pads its cache to the longest line, the computation takes the mean."""

    def step_s(self, lines: int, tokens_each: int) -> float:
        return super().step_s(lines, 0)


WRITER = Shape("writer", prompt_tokens=60, new_tokens=40, longest=80)
SCORER = Shape("scorer", prompt_tokens=200, new_tokens=1, longest=1)


def load(callers: int, lines: int | None = None, *shapes: Shape, **keys: Any) -> Load:
    return Load(shapes or (WRITER,), callers, lines or callers, **keys)


class RealWorker:
    """The local engine's own worker, with callers and a model that live in made-up time: its own clock, moved by every forward pass."""

    def __init__(self, asked: Load, timed: Clockwork) -> None:
        self.device = torch.device("cpu")
        self.residents: list[Any] = []
        self.now = 0.0
        self.ended: Queue[tuple[str, float]] = Queue()
        self._timed, self._coming, self._open = timed, asked_for(asked), 0
        self._arriving: list[tuple[float, int, float]] = []
        self._order, self._back, self._last_end = 0, 0, -1.0
        self._worker = Worker(self, asked.lines)  # type: ignore[arg-type]
        self._busy = True  # nothing is sent before everybody stands ready
        for caller in range(asked.callers):
            self._arrive(0.0, caller * RETURN_S)
        self._busy = False
        self._send_first()

    def forward(
        self, adapters: Sequence[Any], ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache, keep: int = 1
    ) -> torch.Tensor:
        lines, tokens = mask.shape
        if mask.shape == ids.shape:
            self.now += self._timed.prefill_s(lines, tokens)
        else:
            self.now += self._timed.step_s(lines, tokens)
        while self._arriving and self._arriving[0][0] <= self.now:
            self._send_first()
        positions = torch.zeros(lines, 1, ids.shape[1], 1)
        cache.update(positions, positions.clone(), 0)
        return torch.zeros(lines, keep, 4)

    def vocabulary_of(self, adapter: Any) -> int:
        return 4

    def times(self, count: int) -> list[tuple[str, float]]:
        """The first so many answers: whose, and seconds."""
        try:
            return [self.ended.get(timeout=20) for _ in range(count)]
        finally:
            self._worker.close()

    def _arrive(self, free_s: float, arrives_s: float) -> None:
        heapq.heappush(self._arriving, (arrives_s, self._order, free_s))
        self._order += 1

    def _send_first(self) -> None:
        arrives_s, _, free_s = heapq.heappop(self._arriving)
        self.now = max(self.now, arrives_s)
        shape, new_tokens = next(self._coming)
        self._open += 1

        def hear(item: Chunk | OnecardError) -> None:
            if not isinstance(item, Chunk) or item.finish_reason is None:
                return
            self._open -= 1
            self.ended.put((shape.agent, self.now - free_s))
            self._back = self._back + 1 if self._last_end == self.now else 1
            self._last_end = self.now
            self._arrive(self.now, self.now + self._back * RETURN_S)
            if self._open == 0:
                self._send_first()

        request = GenerationRequest(text="?", max_new_tokens=new_tokens)
        prompt = Prompt((1,) * shape.prompt_tokens, (), False)
        self._worker.submit(Answer(request, prompt, None, lambda ids: "", hear))


@pytest.mark.parametrize(
    ("callers", "lines", "shapes"),
    [(1, 1, (WRITER,)), (4, 4, (WRITER,)), (6, 2, (WRITER,)), (5, 5, (WRITER, SCORER)), (7, 3, (SCORER, WRITER))],
)
def test_it_gives_what_the_engines_own_worker_does(callers: int, lines: int, shapes: tuple[Shape, ...]) -> None:
    asked, timed = load(callers, lines, *shapes, machine_spread=0.0), FixedClockwork()
    predicted, _ = steady(asked, timed, shapes[0].agent)
    settled = 2 * callers
    real = RealWorker(asked, timed).times(settled + 150)[settled:]
    own = [seconds for agent, seconds in real if agent == shapes[0].agent]
    both = min(len(own), len(predicted))
    assert both > 50
    assert predicted[:both] == pytest.approx(own[:both], rel=1e-9)


def test_it_does_so_where_passes_are_shorter_than_the_way_back() -> None:
    asked, timed = (
        load(4, 4, machine_spread=0.0),
        FixedClockwork(step_s=1e-4, line_s=1e-5, prefill_s=2e-4, prompt_s=1e-5),
    )
    predicted, _ = steady(asked, timed, "writer")
    real = [seconds for _, seconds in RealWorker(asked, timed).times(8 + 150)[8:]]
    assert predicted[:150] == pytest.approx(real, rel=1e-9)


@pytest.mark.parametrize("step_s", [0.02, 1e-5])
def test_percentiles_are_those_of_the_requests_however_often_they_are_asked_for(step_s: float) -> None:
    asked, timed = load(5, 3), Clockwork(step_s=step_s, line_s=step_s / 10)
    own, rate = steady(asked, timed, "writer")
    for _ in range(2):
        found, same = steady_percentiles(asked, timed, "writer", (50, 95))
        assert found == [percentile(own, 50), percentile(own, 95)]
        assert same == rate
    slower, _ = steady_percentiles(asked, Clockwork(step_s=2 * step_s, line_s=step_s / 10), "writer", (50, 95))
    assert slower[0] > found[0]


def p95(asked: Load, timed: Clockwork | None = None) -> float:
    return percentile(steady(asked, timed or Clockwork(), asked.shapes[0].agent)[0], 95)


def test_a_lone_caller_takes_its_prefill_and_its_steps() -> None:
    own, rate = steady(load(1, length_spread=0.0, machine_spread=0.0), FixedClockwork(), "writer")
    assert own == pytest.approx([0.04 + 39 * 0.023] * len(own), rel=0.001)
    assert rate == pytest.approx(1 / own[0], rel=0.001)


def test_requests_that_differ_spread_around_the_typical_one() -> None:
    even, _ = steady(load(4, length_spread=0.0, machine_spread=0.0), Clockwork(), "writer")
    spread, _ = steady(load(4), Clockwork(), "writer")
    assert percentile(even, 95) / percentile(even, 50) < 1.05
    assert percentile(spread, 95) / percentile(spread, 50) == pytest.approx(1.39, abs=0.06)
    cut, _ = steady(load(4, 4, Shape("writer", 60, 40, longest=40)), Clockwork(), "writer")
    assert percentile(cut, 95) < percentile(spread, 95)


@pytest.mark.parametrize(("callers", "lines"), [(1, 1), (3, 3), (6, 6), (24, 24), (9, 3), (2000, 40), (3000, 3000)])
def test_callers_are_those_who_wait_or_are_answered(callers: int, lines: int) -> None:
    """Little's law: callers = answers a second x seconds each, whatever is reckoned together."""
    own, rate = steady(load(callers, lines, machine_spread=0.0), Clockwork(), "writer")
    assert rate * sum(own) / len(own) == pytest.approx(callers, rel=0.03)


def test_a_free_line_is_not_waited_for_and_a_full_engine_is() -> None:
    assert p95(load(8, 8)) < p95(load(8, 4)) < p95(load(8, 2)) < p95(load(8, 1))


def test_prompts_in_pieces_hold_the_others_up_less() -> None:
    chat = Shape("chat", prompt_tokens=4000, new_tokens=40, longest=80)
    assert p95(load(16, 16, chat, piece_tokens=512)) < p95(load(16, 16, chat))


def test_agents_get_their_part_of_the_answers() -> None:
    asked = load(4, 4, WRITER, Shape("scorer", 200, 1, 1, part=3.0))
    writer, scorer = (steady(asked, Clockwork(), agent)[1] for agent in ("writer", "scorer"))
    assert scorer / writer == pytest.approx(3, rel=0.01)
    rare = load(4, 4, WRITER, Shape("scorer", 200, 1, 1, part=1e-9))
    assert steady(rare, Clockwork(), "scorer")[0]


def test_many_requests_take_as_long_as_the_rate_says_and_few_as_long_as_the_longest() -> None:
    asked = load(6, machine_spread=0.0)
    own, rate = steady(asked, Clockwork(), "writer")
    assert drained_s(asked, Clockwork(), 1_000_000) == pytest.approx(1_000_000 / rate, rel=0.02)
    assert drained_s(asked, Clockwork(), 600) == pytest.approx(600 / rate, rel=0.05)
    assert max(own) / 3 < drained_s(asked, Clockwork(), 6) < 2 * max(own)
    together = load(4000, 3000)
    assert drained_s(together, Clockwork(), 3000) > percentile(steady(together, Clockwork(), "writer")[0], 50) / 3


shapes = st.builds(
    lambda prompt, new, more: Shape("writer", prompt, new, new + more),
    st.integers(1, 5000),
    st.integers(1, 2000),
    st.integers(0, 2000),
)
clocks = st.builds(Clockwork, st.floats(1e-4, 0.1), st.floats(0, 0.01), st.floats(1e-4, 0.1), st.floats(0, 0.05))


@given(shapes, clocks, st.integers(1, 40))
def test_twice_the_callers_never_wait_less(shape: Shape, clock: Clockwork, callers: int) -> None:
    """Within 3%: who meets whom in a batch differs between two numbers of callers, and that moves a percentile a little."""
    assert p95(load(2 * callers, None, shape), clock) >= 0.97 * p95(load(callers, None, shape), clock)
    assert p95(load(2 * callers, callers, shape), clock) >= 0.97 * p95(load(callers, callers, shape), clock)


@given(shapes, clocks, st.integers(1, 60), st.integers(1, 60))
def test_the_same_load_always_takes_the_same_and_no_time_is_negative(
    shape: Shape, clock: Clockwork, callers: int, lines: int
) -> None:
    first, rate = steady(load(callers, lines, shape), clock, "writer")
    assert (first, rate) == steady(load(callers, lines, shape), clock, "writer")
    assert rate > 0
    assert min(first) >= clock.prefill_s(1, 1) * 0.8


@given(shapes, clocks, st.integers(1, 30), st.integers(1, 3000))
def test_one_more_request_never_ends_sooner(shape: Shape, clock: Clockwork, callers: int, requests: int) -> None:
    asked = load(callers, None, shape)
    assert drained_s(asked, clock, requests + 1) >= 0.97 * drained_s(asked, clock, requests)


@pytest.mark.parametrize(
    "asked",
    [
        load(10**9),
        load(10**9, 10**6),
        load(MOST_LINES + 1),
        load(MOST_LINES + MOST_WAITING + 1, MOST_LINES),
        load(3, 3, Shape("writer", 10**9, 10**9, 10**12)),
        load(300, 300, Shape("writer", 10**9, 1, 1), piece_tokens=1),
        load(5, 5, *(Shape("writer" if not k else f"other{k}", 10 + k, 1 + k, 2 + k) for k in range(200))),
    ],
)
@pytest.mark.parametrize("timed", [Clockwork(), Clockwork(0, 0, 0, 0), Clockwork(1e9, 1e9, 1e9, 1e9)])
def test_absurd_loads_are_reckoned_all_the_same(asked: Load, timed: Clockwork) -> None:
    own, rate = steady(asked, timed, "writer")
    assert own
    assert all(seconds >= 0 for seconds in own)
    assert rate > 0
    assert drained_s(asked, timed, 10**12) > 0
