"""One run on several cards: a process for each, the same story in all of them, and one answer or one error.

Each process sees one card alone, loads the base there and runs `train_adapter`; only the first one's files count. All of them write into
one hidden folder, so that however they end, this process removes what is left.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import torch

from onecard.adapters.durable import disk_errors
from onecard.adapters.manifest import Manifest
from onecard.engines.local.loading import choose_device
from onecard.errors import EngineFailed, InputError, OnecardError
from onecard.training import checkpoints, loop, ranks
from onecard.training.order import OnProgress, Progress, TrainedAdapter, TrainingOrder
from onecard.training.training import train_adapter

GRACE_S = 2.0  # one that dies takes the others with it; who was first is known when all have spoken
ENDING_S = 10.0


def train_on_cards(order: TrainingOrder, cards: int | Literal["all"], progress: OnProgress) -> TrainedAdapter:
    """`train_adapter` on so many cards of this machine, or all of them; on a CPU, on so many processes.

    Every card computes its share of each step's rows and all move by the same sum: the run is that of one card but for rounding and for
    the draw of dropout. A run may go on on another number of cards. InputError for more cards than there are, EngineFailed when a process
    dies, and what `train_adapter` raises; whatever ends the run ends all processes and leaves nothing of them.
    """
    count = count_cards(order, cards)
    if count == 1:
        return train_adapter(order, progress)
    if order.output.exists():
        raise InputError(
            "the output folder exists already", where=str(order.output), next_step="name another, or remove it"
        )
    with _scratch(order) as scratch, _processes(order, count, scratch) as members:
        manifest = _followed(members, progress)
        made = scratch / "0"
        made.rename(order.output)
    progress(Progress("done", f"{manifest.run.steps} steps in {manifest.run.seconds:.0f} s on {count} cards"))
    return TrainedAdapter(order.output, manifest)


def count_cards(order: TrainingOrder, cards: int | Literal["all"]) -> int:
    """How many processes that is. InputError for more cards than the machine has; a CPU stands for as many as are asked for."""
    on_card = choose_device(order.device).type == "cuda"
    there = len(_visible()) if on_card else 1
    asked = there if cards == "all" else cards
    if asked < 1 or (asked > there and (on_card or order.device == "auto")):
        what = f"{there} card{'s' if there > 1 else ''}" if on_card else "no card"
        raise InputError(f"{asked} cards are asked for and this machine has {what}", allowed=f"1 to {there}, or all")
    return asked


# -- the process that was started ----------------------------------------------------------------------------------------------------


@dataclass
class _Member:
    rank: int
    process: Any
    heard: Connection


@contextmanager
def _scratch(order: TrainingOrder) -> Iterator[Path]:
    with disk_errors(order.output.parent, 0):
        order.output.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{order.output.name}.", suffix=".partial", dir=order.output.parent))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if order.run_folder is not None:
            checkpoints.sweep(order.run_folder)
            shutil.rmtree(order.run_folder / loop.REHEARSAL, ignore_errors=True)


@contextmanager
def _processes(order: TrainingOrder, count: int, scratch: Path) -> Iterator[list[_Member]]:
    """The processes of a run; all have ended when this has."""
    context = multiprocessing.get_context("spawn")
    seen = _visible() if choose_device(order.device).type == "cuda" else [""] * count
    members: list[_Member] = []
    try:
        for rank in range(count):
            heard, told = context.Pipe(duplex=False)
            process = context.Process(
                target=_work, args=(order, rank, count, scratch, told), name=f"card-{rank}", daemon=True
            )
            resource_tracker.ensure_running()  # its start would let interrupts through again
            with _environment(CUDA_VISIBLE_DEVICES=seen[rank]), _without_interrupts():
                process.start()
            told.close()
            members.append(_Member(rank, process, heard))
        yield members
    finally:
        for member in members:
            member.process.kill()
        for member in members:
            member.process.join(ENDING_S)
            member.heard.close()


def _followed(members: list[_Member], progress: OnProgress) -> Manifest:
    """Hands on what the first tells until all are done; raises what ended the run first."""
    manifest: Manifest | None = None
    open_ones = {member.heard: member for member in members}
    problems: list[tuple[int, BaseException]] = []
    until: float | None = None
    while open_ones and (until is None or time.monotonic() < until):
        for heard in wait(list(open_ones), timeout=0.2):
            member = open_ones[heard]  # type: ignore[index]
            try:
                kind, said = member.heard.recv()
            except (EOFError, OSError):
                kind, said = "died", _died(member)
            except (pickle.UnpicklingError, TypeError, AttributeError) as error:
                kind, said = "failed", EngineFailed(f"card {member.rank} cannot say what happened: {error}")
            if kind == "progress":
                if not problems:
                    progress(said)
                continue
            del open_ones[heard]  # type: ignore[arg-type]
            if kind == "made":
                manifest = said or manifest
            else:
                problems.append((_rank_of_cause(kind, said), said))
                until = until or time.monotonic() + GRACE_S
    if problems:
        raise min(problems, key=lambda problem: problem[0])[1]
    if manifest is None:
        raise EngineFailed("no card has made an adapter")
    return manifest


def _rank_of_cause(kind: str, said: BaseException) -> int:
    """What is told first when several things went wrong: a reason before a death, a death before being left alone."""
    if isinstance(said, ranks.OthersAreGone):
        return 3
    return 2 if kind == "died" else 0 if isinstance(said, OnecardError) else 1


def _died(member: _Member) -> EngineFailed:
    member.process.join(1)
    code = member.process.exitcode
    how = f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with code {code}"
    return EngineFailed(
        f"the process of card {member.rank} {how}",
        next_step="look for memory running out on the machine (dmesg), and go on with --resume",
    )


@contextmanager
def _environment(**changes: str) -> Iterator[None]:
    """What a process inherits is set while it starts: a card is chosen before anything asks for one."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update({name: value for name, value in changes.items() if value})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; those started here leave it to this one, which ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _visible() -> list[str]:
    """The names of the cards this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


# -- a process of one card -----------------------------------------------------------------------------------------------------------


class _Finished(Exception):
    """A rank other than the first has done its part: the first one checks and saves."""


def _work(order: TrainingOrder, rank: int, count: int, scratch: Path, told: Connection) -> None:
    """One rank's run. Tells ("progress", Progress), then ("made", Manifest or None) or ("failed", error), and ends at once."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        made = _run(order, rank, count, scratch, told)
        told.send(("made", made))
    except BaseException as error:
        with suppress(OSError, ValueError):
            told.send(("failed", _tellable(error, rank)))
    told.close()
    os._exit(0)  # without taking leave of the others


def _run(order: TrainingOrder, rank: int, count: int, scratch: Path, told: Connection) -> Manifest | None:
    device = choose_device(order.device)
    if device.type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // count))

    def tell(progress: Progress) -> None:
        if rank:
            if progress.stage == "checking":
                raise _Finished
        elif progress.stage != "done":
            told.send(("progress", progress))

    ranks.join(rank, count, scratch / "meeting", device)
    try:
        return train_adapter(replace(order, output=scratch / str(rank)), tell).manifest
    except _Finished:
        return None


def _tellable(error: BaseException, rank: int) -> OnecardError:
    """The error itself if a person may have caused it; another one with the place it happened at."""
    if isinstance(error, OnecardError):
        return error
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = f"{Path(place[0].filename).name}:{place[0].lineno}" if place else None
    text = str(error).splitlines()[0][:300] if str(error) else "no reason given"
    return EngineFailed(f"card {rank} failed: {type(error).__name__}: {text}", where=where)


def _end_with_parent() -> None:
    """Whoever kills the parent means its children too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
