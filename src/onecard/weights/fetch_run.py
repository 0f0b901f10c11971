"""Carries a fetch out: several files at once, one place that is told how far they are, and snapshots only of what is whole.

Ctrl-C ends every transfer within a piece; what has come lies beside its blob and the next run resumes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from onecard.weights.fetch import FileState, RepoPlan, order_of_work
from onecard.weights.fetch_cache import RepoPlace, link_snapshot
from onecard.weights.fetch_faults import disk_fault
from onecard.weights.fetch_library import opened_hub
from onecard.weights.fetch_transfer import Courier, Stopped, Track
from onecard.weights.hashes import remember_digests
from onecard.weights.hub_access import Access

AT_ONCE = 4
TICK_S = 0.1
_FAREWELL_S = 5.0  # longer than a piece takes; a transfer that hangs in the network is left behind

Tick = Callable[[Sequence[Track]], None]
"""Called about ten times a second, and once at the end, in the caller's own thread."""


def carry_out(
    plans: Sequence[RepoPlan], by: Access, cache: Path, tick: Tick | None = None, at_once: int = AT_ONCE
) -> list[Path]:
    """Fetches what is not whole, checks it, and links the snapshots; returns their folders in the order of `plans`.

    The first file that fails ends the rest, and its error is raised: MachineError, DiskFull, InputError or MissingPart. A repository
    whose files are all whole by then keeps its snapshot all the same.
    """
    work = [(one, Track(plan.listing, one.file, one.held_bytes)) for plan, one in order_of_work(plans)]
    failure = None
    if work:
        with opened_hub(by.timeout_s) as hub:
            failure = _work_off(
                work, Courier(by, cache, threading.Event(), hub), tick or (lambda tracks: None), at_once
            )
    brought = {(track.listing.repo, track.file.name) for _, track in work if track.phase == "whole"}
    places = [_finish(plan, cache, brought) for plan in plans]
    if failure is not None:
        raise failure
    return [place for place in places if place is not None]


def _work_off(
    work: Sequence[tuple[FileState, Track]], courier: Courier, tick: Tick, at_once: int
) -> BaseException | None:
    """Lets so many threads carry until all is done, one failed or somebody interrupts; returns the first failure."""
    stop = courier.stop
    waiting: SimpleQueue[tuple[FileState, Track]] = SimpleQueue()
    for item in work:
        waiting.put(item)
    failures: list[BaseException] = []

    def carry() -> None:
        while not stop.is_set():
            try:
                one, track = waiting.get_nowait()
            except Empty:
                return
            try:
                courier.fetch(one, track)
            except Stopped:
                return
            except BaseException as error:
                failures.append(error)
                stop.set()

    # Daemons: a transfer that hangs in the network does not keep the program from ending.
    couriers = [threading.Thread(target=carry, daemon=True, name="fetch") for _ in range(min(at_once, len(work)))]
    tracks = [track for _, track in work]
    try:
        for courier_thread in couriers:
            courier_thread.start()
        while not stop.is_set() and (alive := [thread for thread in couriers if thread.is_alive()]):
            alive[0].join(TICK_S)
            tick(tracks)
    finally:
        stop.set()
        for courier_thread in couriers:
            if courier_thread.ident is not None:
                courier_thread.join(_FAREWELL_S)
    tick(tracks)
    return failures[0] if failures else None


def _finish(plan: RepoPlan, cache: Path, brought: set[tuple[str, str]]) -> Path | None:
    """The snapshot, when every file of it is whole; None otherwise. Hashes are remembered, so that the next run need not read it all."""
    place = RepoPlace(cache, plan.listing.repo)
    came = [one.file for one in plan.files if (plan.listing.repo, one.file.name) in brought]
    if len(came) + len(plan.in_state("whole")) < len(plan.files):
        return None
    try:
        remember_digests({place.blob(file): file.digest for file in came if len(file.digest) == 64})
        return link_snapshot(plan.listing, [one.file for one in plan.files], cache)
    except OSError as error:
        raise disk_fault(error, cache) from None
