"""The processes of one run, one a card, and the few things they say to each other: sums, the worst of them, the same start.

A process that is alone is rank 0 of 1 and says nothing; `here` tells which one this is. torch.distributed carries it: accelerate's
PartialState would wrap the same calls in a state that outlives the run.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from onecard.errors import EngineFailed
from onecard.training.memory import ran_out

PATIENCE = timedelta(hours=1)  # the others load and check; who has died is seen by the process that started them all


class OthersAreGone(EngineFailed):
    """A rank that was told nothing any more; why, another one knows."""


class RanOutElsewhere(MemoryError):
    """Memory ran out on another card: all of them go back together."""


@dataclass(frozen=True)
class Ranks:
    """This process is `rank` of `count`. Everything below is called by all of them in the same order, or by none."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes checkpoints and metrics and tells how far the run is."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> None:
        """Puts the sum over all ranks, the same bits on each, in the tensor's place."""
        if self.count > 1:
            self._ask(functools.partial(dist.all_reduce, tensor))

    def most(self, value: float, device: torch.device) -> float:
        """The largest over all ranks."""
        if self.count == 1:
            return value
        found = torch.tensor([value], dtype=torch.float64, device=device)
        self._ask(functools.partial(dist.all_reduce, found, dist.ReduceOp.MAX))
        return float(found)

    def start_alike(self, weights: Iterable[torch.Tensor]) -> None:
        """Every rank takes the first one's weights."""
        if self.count > 1:
            for weight in weights:
                self._ask(functools.partial(dist.broadcast, weight.data, src=0))

    def demand_alike(self, weights: Iterable[torch.Tensor]) -> None:
        """EngineFailed when the ranks' weights are not the same to the last bit, as equal sums and equal steps make them."""
        for weight in weights if self.count > 1 else ():
            theirs = weight.detach().clone()
            self._ask(functools.partial(dist.broadcast, theirs, src=0))
            if self.most(not torch.equal(theirs, weight), weight.device):
                raise EngineFailed("the cards hold different weights", next_step="train on cards of one kind")

    def together(self, work: Callable[[], Any], device: torch.device) -> Any:
        """What `work` answers here; an error that says memory ran out when it did so on any rank."""
        found, problem = None, None
        try:
            found = work()
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            if self.count == 1:
                raise
            problem = error.with_traceback(None)  # frames would hold on to what filled the memory
        if self.most(problem is not None, device):
            raise problem or RanOutElsewhere("memory ran out on another card")
        return found

    def _ask(self, work: Callable[[], Any]) -> None:
        try:
            work()
            if torch.cuda.is_available():
                torch.cuda.current_stream().synchronize()
        except RuntimeError as error:
            raise OthersAreGone(
                f"the other cards do not answer: {str(error).splitlines()[0][:200] if str(error) else 'no reason given'}",
                next_step="start again with --resume",
            ) from error


ALONE = Ranks()


def here() -> Ranks:
    """Which process of a run this is: the only one, unless it has joined others."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return ALONE


def join(rank: int, count: int, meeting: Path, device: torch.device) -> Ranks:
    """Makes this process rank `rank` of `count`, for good; they meet at a file that nobody used before, on one machine.

    Nobody takes leave: taking leave of a rank that died, or still saves, would wait for it. Such a process ends by `os._exit`.
    """
    loops = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if loops:  # gloo looks up the machine's own name otherwise, and not every machine knows it
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loops[0])
    on_card = device.type == "cuda"
    dist.init_process_group(
        "nccl" if on_card else "gloo",
        init_method=meeting.resolve().as_uri(),
        rank=rank,
        world_size=count,
        timeout=PATIENCE,
        device_id=device if on_card else None,
    )
    return Ranks(rank, count)


def flattened(weights: Sequence[torch.Tensor], figures: torch.Tensor) -> torch.Tensor:
    """All gradients of the weights, zeros where there is none, then the figures, in one fp32 vector."""
    parts = [
        (torch.zeros_like(weight) if weight.grad is None else weight.grad).reshape(-1).float() for weight in weights
    ]
    return torch.cat([*parts, figures.float()])


def put_back(weights: Sequence[torch.Tensor], flat: torch.Tensor) -> torch.Tensor:
    """The vector's gradients become the weights' own; answers the figures behind them."""
    start = 0
    for weight in weights:
        part = flat[start : start + weight.numel()].view(weight.shape)
        weight.grad = part.to(weight.dtype)
        start += weight.numel()
    return flat[start:]
