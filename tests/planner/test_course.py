"""One course for all engines: it is what a loop with the engine's own times would do, as long as it says it holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.planner.course import RETURN_S, Joining, own_course, usual_course
from onecard.planner.load import Load, Shape

WRITER = Shape("writer", prompt_tokens=60, new_tokens=40, longest=80)
SCORER = Shape("scorer", prompt_tokens=200, new_tokens=1, longest=1)
ANSWERS = 120


class Engine:
    """Passes of given times that grow with lines, prompts and tokens."""

    def __init__(self, prefill_s: float, step_s: float, line_s: float = 0.0, token_s: float = 0.0) -> None:
        self._prefill_s, self._step_s, self._line_s, self._token_s = prefill_s, step_s, line_s, token_s

    def prefill_s(self, joining: Joining) -> float:
        return self._prefill_s * joining[0] + self._token_s * joining[0] * joining[1]

    def step_s(self, lines: int) -> tuple[float, float]:
        return self._step_s + self._line_s * lines, self._token_s * lines


engines = st.builds(Engine, st.floats(1e-5, 0.1), st.floats(1e-5, 0.1), st.floats(0, 0.01), st.floats(0, 1e-6))
loads = st.builds(
    lambda shapes, callers, lines, piece: Load(tuple(shapes), callers, lines, piece),
    st.lists(st.sampled_from([WRITER, SCORER, Shape("chat", 5000, 7, 20)]), min_size=1, max_size=3, unique=True),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([None, 512]),
)


@given(loads, engines)
def test_where_the_usual_course_holds_it_is_the_engines_own(load: Load, engine: Engine) -> None:
    usual = usual_course(load, load.callers, 1, ANSWERS)
    own = own_course(load, engine, load.callers, 1, ANSWERS)
    if not usual.holds(usual.times(engine)):
        return
    assert own.answers == usual.answers
    assert own.moments_s(own.times(engine)) == pytest.approx(usual.moments_s(usual.times(engine)), rel=1e-9)


@pytest.mark.parametrize("load", [Load((WRITER,), 1, 1), Load((WRITER,), 6, 6), Load((WRITER, SCORER), 9, 3)])
def test_it_holds_for_slow_passes_and_not_for_those_shorter_than_the_way_back(load: Load) -> None:
    course = usual_course(load, load.callers, 1, ANSWERS)
    slow, fast = Engine(0.05, 0.02), Engine(1e-5, 1e-5)
    assert course.holds(course.times(slow))
    assert course.holds(course.times(fast)) == (load.callers == 1)  # a lone caller meets nobody
    if load.callers > 1:
        own = own_course(load, fast, load.callers, 1, ANSWERS)
        ends = [moments[-1] for moments in (own.moments_s(own.times(fast)), course.moments_s(course.times(fast)))]
        assert ends[0] != pytest.approx(ends[1], rel=0.01)


def test_nobody_is_answered_before_asking_and_answers_end_in_order() -> None:
    load = Load((WRITER, SCORER), 7, 4)
    course = usual_course(load, 7, 1, ANSWERS)
    assert len(course.answers) == ANSWERS
    assert all(free < end for _, free, end in course.answers)
    ends = [end for _, _, end in course.answers]
    assert ends == sorted(ends)
    assert {agent for agent, _, _ in course.answers} == {"writer", "scorer"}


def test_a_job_ends_when_nobody_asks_any_more() -> None:
    course = usual_course(Load((WRITER,), 4, 4), 4, 1, 10, most=10)
    assert len(course.answers) == 10
    assert course.answers[-1][2] == len(course.stretches)


def test_an_idle_engine_waits_for_the_way_back() -> None:
    course = usual_course(Load((WRITER,), 1, 1, length_spread=0.0), 1, 1, 3)
    engine = Engine(0.05, 0.02)
    moments = course.moments_s(course.times(engine))
    seconds = [moments[end] - moments[free] for _, free, end in course.answers]
    assert seconds == pytest.approx([0.05 + 39 * 0.02] + 2 * [RETURN_S + 0.05 + 39 * 0.02])


def test_steps_get_longer_with_the_tokens_in_the_cache() -> None:
    course = usual_course(Load((WRITER,), 1, 1, length_spread=0.0), 1, 1, 1)
    moments = course.moments_s(course.times(Engine(0.05, 0.02, token_s=1e-4)))
    assert moments[-1] == pytest.approx(0.05 + 60e-4 + sum(0.02 + 1e-4 * (60 + step) for step in range(1, 40)))
