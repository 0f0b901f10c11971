"""The worker's order and its failures, with a model that is made up: what breaks for one request ends that request only."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import Queue

import pytest
import torch
from transformers import DynamicCache

from onecard.engines.engine import Chunk, GenerationRequest
from onecard.engines.local.answer import Answer, Prompt
from onecard.engines.local.shared_model import Resident
from onecard.engines.local.worker import Worker
from onecard.errors import EngineFailed, OnecardError

BREAKS_PREFILL, BREAKS_STEP, GIVES_NAN = 13, 14, 15


class MadeUpModel:
    """Says token 1 for ever; some prompts make it fail. `gate` stops it before a step, `prefills` records who came when."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.residents: list[Resident] = []
        self.prefills: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._breaking = False

    def forward(
        self,
        adapters: Sequence[Resident | None],
        ids: torch.Tensor,
        mask: torch.Tensor,
        cache: DynamicCache,
        keep: int = 1,
    ) -> torch.Tensor:
        self.gate.wait()
        first = ids[:, -1].tolist()
        if mask.shape == ids.shape:
            self.prefills.append(first)
            if BREAKS_PREFILL in first:
                raise MemoryError("no room for this prompt\nsecond line")
            self._breaking = BREAKS_STEP in first
        elif self._breaking:
            self._breaking = False
            raise RuntimeError("the step broke")
        positions = torch.zeros(len(first), 1, ids.shape[1], 1)
        cache.update(positions, positions.clone(), 0)
        logits = torch.zeros(len(first), keep, 20)
        logits[..., 1] = 1.0
        for line, token in enumerate(first):
            if token == GIVES_NAN:
                logits[line] = torch.nan
        return logits

    def vocabulary_of(self, adapter: Resident | None) -> int:
        return 20

    def remove(self, resident: Resident) -> None:
        self.residents.remove(resident)


class Caller:
    """One request and what came back."""

    def __init__(self, worker: Worker, token: int, new_tokens: int = 3, adapter: Resident | None = None) -> None:
        self.heard: Queue[Chunk | OnecardError] = Queue()
        request = GenerationRequest(text="?", max_new_tokens=new_tokens)
        prompt = Prompt((5, token), (), False)
        self.answer = Answer(request, prompt, adapter, lambda ids: "x" * len(ids), self.heard.put)
        worker.submit(self.answer)

    def outcome(self) -> str | OnecardError:
        text = ""
        while True:
            item = self.heard.get(timeout=10)
            if isinstance(item, OnecardError):
                return item
            text += item.text
            if item.finish_reason:
                return text


@pytest.fixture
def model() -> MadeUpModel:
    return MadeUpModel()


@pytest.fixture
def worker(model: MadeUpModel) -> Worker:
    return Worker(model, lines=2)  # type: ignore[arg-type]


def test_a_prompt_that_breaks_the_prefill_ends_alone(model: MadeUpModel, worker: Worker) -> None:
    model.gate.clear()
    blocker = Caller(worker, 2)  # waits at the gate, so that the next two are prefilled together
    bad, good = Caller(worker, BREAKS_PREFILL), Caller(worker, 3)
    model.gate.set()
    outcome = bad.outcome()
    assert isinstance(outcome, EngineFailed) and "MemoryError: no room for this prompt" in str(outcome)
    assert "second line" not in str(outcome)
    assert (good.outcome(), blocker.outcome()) == ("xxx", "xxx")
    worker.close()


def test_a_broken_step_ends_its_lines_and_the_next_start_afresh(model: MadeUpModel, worker: Worker) -> None:
    model.gate.clear()
    lines = [Caller(worker, BREAKS_STEP), Caller(worker, 2)]
    model.gate.set()
    assert [type(line.outcome()) for line in lines] == [EngineFailed, EngineFailed]
    assert Caller(worker, 2).outcome() == "xxx"
    worker.close()


def test_nan_ends_its_own_line(model: MadeUpModel, worker: Worker) -> None:
    model.gate.clear()
    bad, good = Caller(worker, GIVES_NAN), Caller(worker, 3)
    model.gate.set()
    assert "NaN" in str(bad.outcome())
    assert good.outcome() == "xxx"
    worker.close()


def test_nobody_is_overtaken_and_free_lines_are_filled(model: MadeUpModel, worker: Worker) -> None:
    model.gate.clear()
    callers = [Caller(worker, token, new_tokens=tokens) for token, tokens in ((6, 9), (7, 2), (8, 2), (9, 2), (10, 2))]
    model.gate.set()
    assert [caller.outcome() for caller in callers] == ["x" * 9, "xx", "xx", "xx", "xx"]
    assert [token for joined in model.prefills for token in joined] == [6, 7, 8, 9, 10]
    assert all(len(joined) == 1 for joined in model.prefills[-3:]), "each joins as soon as a line is free"
    worker.close()


def test_jobs_run_on_the_thread_and_bring_back_their_errors(worker: Worker) -> None:
    assert worker.run(threading.current_thread).result().name == "onecard-local-engine"
    with pytest.raises(ZeroDivisionError):
        worker.run(lambda: 1 // 0).result()
    worker.close()
    with pytest.raises(EngineFailed):
        worker.run(lambda: None)


def test_an_adapter_is_freed_when_its_last_request_is_done(model: MadeUpModel, worker: Worker) -> None:
    resident = Resident("d" * 64, "adapter1", None, None, (), 1)
    model.residents.append(resident)
    model.gate.clear()
    running, waiting = Caller(worker, 2, 5, resident), Caller(worker, 3, 5, resident)
    retiring = threading.Thread(target=worker.retire, args=(resident,))
    retiring.start()
    model.gate.set()
    retiring.join()
    assert (running.outcome(), waiting.outcome()) == ("xxxxx", "xxxxx")
    worker.close()
    assert model.residents == []
    late = Worker(model, lines=1)  # type: ignore[arg-type]
    assert "removed" in str(Caller(late, 2, adapter=resident).outcome())
    late.close()


def test_a_delivery_that_fails_does_not_stop_the_worker(worker: Worker) -> None:
    broken = Caller(worker, 2, new_tokens=50)
    broken.answer._deliver = lambda item: 1 // 0  # type: ignore[assignment,return-value]
    assert Caller(worker, 3).outcome() == "xxx"
    worker.close()


@pytest.mark.skipif(torch.get_num_threads() < 2, reason="needs two cores to tell")
def test_a_worker_kept_to_one_core_leaves_the_others_theirs(model: MadeUpModel) -> None:
    before = torch.get_num_threads()
    kept = Worker(model, lines=1, threads=1)  # type: ignore[arg-type]
    assert (kept.run(torch.get_num_threads).result(), torch.get_num_threads()) == (1, before)
    kept.close()
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [before]
