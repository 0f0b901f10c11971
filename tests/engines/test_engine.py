"""The in-process engine under the contract of every engine (`contract.py`), unquantized and in nf4."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from onecard.engines.engine import Engine
from onecard.engines.local.engine import LocalEngine

pytest.register_assert_rewrite("tests.engines.contract")

from tests.engines.conftest import FINGERPRINT, MadeAdapter, asked, collect  # noqa: E402
from tests.engines.contract import *  # noqa: E402, F403
from tests.engines.contract import CONTEXT, QUESTIONS, Subject, check_closing, subject_of  # noqa: E402


def open_local(mini: Path, quantization: str) -> Engine:
    return LocalEngine.open(
        mini, model_id="embedded:mini", fingerprint=FINGERPRINT, quantization=quantization,  # type: ignore[arg-type]
        double_quantization=True, dtype="fp32", device="cpu", context=CONTEXT, concurrency=4,
    )  # fmt: skip


FORMS = ("none", "nf4")


@pytest.fixture(scope="module", params=FORMS)
def subject(request: pytest.FixtureRequest, mini: Path, adapters: dict[str, MadeAdapter]) -> Iterator[Subject]:
    form = request.param
    made = {name: adapter.trained_on(quantization=form) for name, adapter in adapters.items()}
    opened = subject_of(mini, form, made, lambda: open_local(mini, form), lambda engine: cache_bytes(engine) == 0)
    yield opened
    opened.engine.close()


def test_the_first_chunk_tells_the_waiting(subject: Subject) -> None:
    async def five() -> list[list[float]]:
        chunks = await asyncio.gather(*(collect(subject.engine, asked(QUESTIONS[0])) for _ in range(5)))
        return [[chunk.queue_s for chunk in answer] for answer in chunks]

    waited = asyncio.run(five())
    assert all(later == 0 for answer in waited for later in answer[1:])
    assert waited[4][0] > waited[0][0], "four are answered at once, the fifth waits for a free line"


def test_the_process_holds_more_than_its_parts(subject: Subject) -> None:
    report = subject.engine.memory()
    assert report.process_bytes > report.total_bytes


@pytest.mark.parametrize("form", FORMS)
def test_closing_ends_what_is_in_flight_and_everything_after(form: str, mini: Path) -> None:
    check_closing(open_local(mini, form))


def cache_bytes(engine: Engine) -> int:
    return next(part.bytes for part in engine.memory().parts if part.name == "kv cache")
