"""Measures a card and the machine around it, part by part, within a budget of seconds.

A part that fails is named with its reason and the others go on. Nothing is written here: what was seen is given back as it is, and
whoever asked keeps it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import bitsandbytes
import peft
import torch
import transformers

from onecard.engines.local.calibration_card import (
    CARD_SIZES,
    CPU_SIZES,
    CardFacts,
    Gemm,
    Sizes,
    bandwidths,
    card_facts,
    launches,
    products,
)
from onecard.engines.local.calibration_clock import TOO_FEW, Budget, Figure
from onecard.engines.local.calibration_context import Context, context_of
from onecard.engines.local.calibration_decoding import PickTime, StepTime, decode_steps, pick_times
from onecard.engines.local.calibration_linears import FORMS, LinearTime, linear_times
from onecard.engines.local.calibration_models import ON_A_CARD, ON_A_CPU, RANK, Small
from onecard.engines.local.calibration_training import TrainingStep, training_steps
from onecard.engines.local.loading import Device, Quantization, choose_device, quiet

OnProgress = Callable[[str, float], None]
"""Called with what is measured now and the share of the budget that is gone, 0 to 1."""

CONTEXT_LEAST_S = 30.0  # a budget below this leaves no time to start a second process
CONTEXT_SHARE = 0.6  # of the budget, at most: the second process imports every library again
TRAINED_FORMS: tuple[Quantization, ...] = ("none", "nf4")
DOUBTFUL_BYTES = 256 << 20  # memory of others on the card that is worth a word
GIB = 1 << 30
_LINEARS_WEIGHT: dict[Quantization, float] = {
    "none": 5.0,
    "nf4": 5.0,
    "int8": 10.0,
}  # int8 by the profiler, which is slow


@dataclass(frozen=True)
class Absent:
    """A part that could not be measured, or only half of it."""

    part: str
    reason: str


@dataclass
class Measured:
    """Everything that was seen. `threads` is what torch used for large operators on the CPU; `versions` are those that ran."""

    card: CardFacts
    small: Small
    threads: int
    versions: dict[str, str]
    others_bytes: int | None = None
    context: Context | None = None
    copy_gbs: Figure | None = None
    read_gbs: Figure | None = None
    launch_us: Figure | None = None
    round_trip_us: Figure | None = None
    gemm: list[Gemm] = field(default_factory=list)
    linears: list[LinearTime] = field(default_factory=list)
    picks: list[PickTime] = field(default_factory=list)
    steps: list[StepTime] = field(default_factory=list)
    training_steps: list[TrainingStep] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    rank: int = RANK

    @property
    def empty(self) -> bool:
        """Whether nothing at all could be measured."""
        return not (self.copy_gbs or self.launch_us or self.gemm or self.linears or self.steps)


def measure(device: Device, seconds: float, on_progress: OnProgress = lambda what, share: None) -> Measured:
    """Measures the first CUDA card, or the CPU. Takes about `seconds`, a quarter more at most but for the part that is then under way.

    MissingPart for a card that is not there. Ctrl-C and whatever `on_progress` raises end it at once.
    """
    place = choose_device(device)
    on_card = place.type == "cuda"
    session = _Session(place, CARD_SIZES if on_card else CPU_SIZES, ON_A_CARD if on_card else ON_A_CPU, seconds)
    with quiet():
        session.run(on_progress)
    return session.seen


class _Session:
    """The parts in their order; each takes its share of the seconds that are left."""

    def __init__(self, place: torch.device, sizes: Sizes, small: Small, seconds: float) -> None:
        self._place, self._sizes, self._small = place, sizes, small
        self._seconds, self._budget = seconds, Budget(seconds)
        self.seen = Measured(card_facts(place), small, torch.get_num_threads(), versions())

    def run(self, on_progress: OnProgress) -> None:
        """Every part. Names are those of the record's keys."""
        if self._place.type == "cuda":
            self.seen.others_bytes = self._others()
        on_progress("what a process takes of the card", 0.0)
        self._try("context", self._context, self._seconds * CONTEXT_SHARE)
        if self.seen.others_bytes is not None:
            self._judge_others(self.seen.others_bytes)
        parts = self._parts()
        for (name, what, _, part), seconds in zip(parts, self._budget.shares([p[2] for p in parts]), strict=True):
            on_progress(what, self._budget.spent)
            if self._budget.overdrawn:
                self.seen.absent.append(Absent(name, TOO_FEW))
            else:
                self._try(name, part, seconds)
        on_progress("done", 1.0)

    def _try(self, name: str, part: Callable[[float, list[str]], None], seconds: float) -> None:
        """Runs a part. When a library below fails, the part is absent and the next may do."""
        missing: list[str] = []
        try:
            part(seconds, missing)
        except Exception as error:
            missing.append(_reason(error))
        self.seen.absent += [Absent(name, reason) for reason in missing]
        if self._place.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def _parts(self) -> list[tuple[str, str, float, Callable[[float, list[str]], None]]]:
        """(key, words, weight, what measures it)."""
        return [
            ("copy_gbs", "copying and reading memory", 5, self._bandwidths),
            ("launch_us", "starting an operator", 1, self._launches),
            *((f"steps.{form}", f"decode steps, {_named(form)}", 12.0, self._of(form, self._steps)) for form in FORMS),
            *(
                (f"training_steps.{form}", f"training steps, {_named(form)}", 8.0, self._of(form, self._training))
                for form in TRAINED_FORMS
            ),
            ("picks", "choosing a token", 1, self._picks),
            ("gemm", "bf16 products of 1 to 4096 tokens", 15, self._products),
            *(
                (f"linears.{form}", f"one Linear, {_named(form)}", _LINEARS_WEIGHT[form], self._of(form, self._linears))
                for form in FORMS
            ),
        ]

    def _of(
        self, form: Quantization, part: Callable[[Quantization, float, list[str]], None]
    ) -> Callable[[float, list[str]], None]:
        return lambda seconds, missing: part(form, seconds, missing)

    def _context(self, seconds: float, missing: list[str]) -> None:
        if self._seconds < CONTEXT_LEAST_S:
            missing.append(f"a budget under {CONTEXT_LEAST_S:.0f} s leaves no time for a process of its own")
            return
        self.seen.context = context_of(self._place, missing, seconds)

    def _bandwidths(self, seconds: float, missing: list[str]) -> None:
        self.seen.copy_gbs, self.seen.read_gbs = bandwidths(self._place, self._sizes, seconds)

    def _launches(self, seconds: float, missing: list[str]) -> None:
        self.seen.launch_us, self.seen.round_trip_us = launches(self._place, seconds)

    def _products(self, seconds: float, missing: list[str]) -> None:
        self.seen.gemm = products(self._place, self._sizes, seconds, missing)

    def _linears(self, form: Quantization, seconds: float, missing: list[str]) -> None:
        self.seen.linears += linear_times(self._place, self._sizes, form, seconds, missing)

    def _picks(self, seconds: float, missing: list[str]) -> None:
        with self._one_thread():
            self.seen.picks = pick_times(self._place, seconds)

    def _steps(self, form: Quantization, seconds: float, missing: list[str]) -> None:
        with self._one_thread():
            self.seen.steps += decode_steps(self._place, form, self._small, seconds)

    def _training(self, form: Quantization, seconds: float, missing: list[str]) -> None:
        with self._one_thread():
            self.seen.training_steps += training_steps(self._place, form, self._small, seconds)

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        """On a CPU the engine decodes small models on one core: waking others costs more than it gives."""
        before = torch.get_num_threads()
        if self._place.type == "cpu":
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _others(self) -> int:
        """Bytes of the card that neither torch's allocations nor, taken off later, this process' context account for."""
        free, total = torch.cuda.mem_get_info(self._place)
        return int(total - free - torch.cuda.memory_reserved(self._place))

    def _judge_others(self, held: int) -> None:
        """Takes this process' own bare context off what was held, and says it when others hold much. Not known without the former."""
        others = None if self.seen.context is None else max(held - self.seen.context.bare_bytes, 0)
        self.seen.others_bytes = others
        if others is None:
            return
        if others > DOUBTFUL_BYTES:
            self.seen.warnings.append(
                f"others hold {others / GIB:.1f} GiB of the card: if they compute too, the figures are too low"
            )


def _named(form: Quantization) -> str:
    return "16 bit" if form == "none" else form


def _reason(error: Exception) -> str:
    """A library's exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def versions() -> dict[str, str]:
    """Of the libraries that were measured, as they call themselves, and of CUDA or ROCm where torch was built for it."""
    found = {module.__name__: str(module.__version__) for module in (torch, transformers, peft, bitsandbytes)}
    runtimes = {"cuda": torch.version.cuda, "rocm": torch.version.hip}
    return found | {name: version for name, version in runtimes.items() if version}
