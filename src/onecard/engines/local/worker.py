"""The one thread that owns the model. Others hand it requests and jobs; it decodes whatever is there, together.

Waiting requests join in the order they came, whatever their adapter, as soon as a line is free: nobody is overtaken. Jobs (loading
an adapter, scoring) run between two steps. What goes wrong with one request ends that request only.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

import torch

from onecard.engines.local.answer import Answer
from onecard.engines.local.batch import Batch
from onecard.engines.local.shared_model import Resident, SharedModel
from onecard.errors import EngineFailed, UnknownName

Result = TypeVar("Result")


class Worker:
    """Runs until `close`. `lines` is the most requests decoded together, `threads` the cores of a CPU it may use (None: all)."""

    def __init__(self, model: SharedModel, lines: int, threads: int | None = None) -> None:
        self._threads = threads
        # torch keeps one number for each thread that has asked for it, and one that later threads start with. Asking here keeps
        # the opener's own; the other is put back when the worker ends.
        self._threads_before = torch.get_num_threads()
        self.cache_bytes = 0
        self._model = model
        self._lines = lines
        self._batch = Batch(model)
        self._waiting: deque[Answer] = deque()
        self._retiring: list[Resident] = []
        self._inbox: SimpleQueue[Answer | Callable[[], None] | None] = SimpleQueue()
        self._gate = threading.Lock()  # nothing enters the inbox behind the None that closes it
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="onecard-local-engine", daemon=True)
        self._thread.start()

    def submit(self, answer: Answer) -> None:
        """Queues a request. EngineFailed when closed."""
        self._put(answer)

    def run(self, job: Callable[[], Result]) -> Future[Result]:
        """Runs a job between two steps. EngineFailed when closed."""
        future: Future[Result] = Future()

        def do() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

        self._put(do)
        return future

    def retire(self, resident: Resident) -> None:
        """Frees an adapter as soon as no request that was accepted with it is left."""

        def do() -> None:
            self._retiring.append(resident)
            self._free_retired()

        self.run(do).result()

    def close(self) -> None:
        """Ends the thread after the step it is in. Requests that are not finished fail."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._inbox.put(None)
        self._thread.join()

    def _put(self, item: Answer | Callable[[], None]) -> None:
        with self._gate:
            if self._closed:
                raise closed()
            self._inbox.put(item)

    def _work(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        while self._take_inbox():
            try:
                self._admit()
                self._step()
            except Exception as error:  # a step failed as a whole: its lines end, the next ones start afresh
                self._fail_all(self._batch.answers, error)
                self._batch.clear()
            self._batch.drop_finished()
            self.cache_bytes = self._batch.cache_bytes
            self._free_retired()
        for answer in (*self._batch.answers, *self._waiting):
            answer.fail(closed())
        self._batch.clear()
        self.cache_bytes = 0
        torch.set_num_threads(self._threads_before)

    def _take_inbox(self) -> bool:
        """Takes in what came since the last step, waiting for something when there is nothing to do. False at the end."""
        while True:
            idle = not self._batch.answers and not self._waiting
            if not idle and self._inbox.empty():
                return True
            item = self._inbox.get()
            if item is None:
                return False
            if isinstance(item, Answer):
                self._waiting.append(item)
            else:
                item()

    def _admit(self) -> None:
        """Fills free lines from the queue. When a joint prefill fails, each of its requests is tried alone."""
        joining: list[Answer] = []
        while self._waiting and len(self._batch.answers) + len(joining) < self._lines:
            answer = self._waiting.popleft()
            if answer.adapter is not None and answer.adapter not in self._model.residents:
                answer.fail(UnknownName("the adapter was removed before this request began"))
            elif not answer.finished:
                answer.start()
                joining.append(answer)
        if not joining:
            return
        try:
            self._join(joining)
        except Exception as error:
            if len(joining) == 1:
                self._fail_all(joining, error)
                return
            for answer in joining:
                try:
                    self._join([answer])
                except Exception as own_error:
                    self._fail_all([answer], own_error)

    def _join(self, joining: list[Answer]) -> None:
        running = list(self._batch.answers)
        try:
            logits = self._batch.join(joining)
        except Exception as error:
            if not self._batch.answers:  # the cache was being written anew: nothing of it is left
                self._fail_all(running, error)
            raise
        self._give(joining, logits)

    def _step(self) -> None:
        self._batch.drop_finished()
        if self._batch.answers:
            self._give(self._batch.answers, self._batch.step())

    def _give(self, answers: list[Answer], logits: torch.Tensor) -> None:
        for answer, row in zip(answers, logits, strict=True):
            try:
                answer.take(row[: self._model.vocabulary_of(answer.adapter)])
            except Exception as error:
                self._fail_all([answer], error)

    def _fail_all(self, answers: list[Answer], error: Exception) -> None:
        for answer in answers:
            answer.fail(EngineFailed(f"the request could not be computed: {first_line(error)}"))

    def _free_retired(self) -> None:
        used = {answer.adapter for answer in (*self._batch.answers, *self._waiting)}
        for resident in [resident for resident in self._retiring if resident not in used]:
            self._retiring.remove(resident)
            self._model.remove(resident)


def closed() -> EngineFailed:
    return EngineFailed("the engine is closed")


def first_line(error: BaseException) -> str:
    """An exception of a library below in one line, for a message."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
