"""What a process takes of the card beyond torch's allocations, seen from outside: a child process loads, decodes and trains in stages.

Others may hold memory of the same card, so only differences count: free before the child, free while it waits at the end of a stage,
less what torch reserved in it. On a CPU it is the child's own resident set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

import psutil
import torch

from onecard.engines.local.loading import choose_device

STAGES = ("bare", "serving", "training")
CHILD = (sys.executable, "-m", "onecard.engines.local.calibration_context")
LONGEST_S = 60.0  # the child is ended after so long, however much more time there is
STEADY_BYTES = 32 << 20  # what others may take or give back meanwhile without making the difference doubtful


@dataclass(frozen=True)
class Context:
    """Bytes at the end of each stage that was reached; see the evidence record of the same name."""

    bare_bytes: int
    serving_bytes: int | None
    training_bytes: int | None


def context_of(device: torch.device, missing: list[str], seconds: float = LONGEST_S) -> Context:
    """Runs the child for at most so many seconds. What went wrong after its first stage, and others' coming and going, go to `missing`.

    RuntimeError when the child did not reach the end of its first stage.
    """
    free = _free_bytes(device)
    seen: dict[str, int] = {}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [*CHILD, device.type],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(),
        ) as child,
    ):
        longest_s = min(seconds, LONGEST_S)
        clock = threading.Timer(longest_s, child.kill)
        clock.start()
        try:
            _listen(child, lambda told: _taken(device, free, told), seen)
        finally:
            clock.cancel()
            child.kill()
        said = _last_line(errors)
    if "bare" not in seen:
        raise RuntimeError(said or f"its process ended without a word, or did not answer for {longest_s:.0f} s")
    if len(seen) < len(STAGES):
        missing.append(f"after {STAGES[len(seen) - 1]}: {said or 'its process ended early'}")
    if abs(_free_bytes(device) - free) > STEADY_BYTES and device.type == "cuda":
        missing.append("other processes took or freed memory of the card meanwhile: the bytes may be off by as much")
    return Context(seen["bare"], seen.get("serving"), seen.get("training"))


def _listen(child: subprocess.Popen[str], taken: Callable[[dict[str, Any]], int], seen: dict[str, int]) -> None:
    """Notes what is taken at the end of every stage and lets the child go on, until it ends."""
    if child.stdin is None or child.stdout is None:
        return
    for line in child.stdout:
        if line.startswith("{"):
            told = json.loads(line)
            seen[told["stage"]] = taken(told)
            with suppress(OSError):  # it may have been ended meanwhile
                child.stdin.write("\n")
                child.stdin.flush()


def _last_line(errors: IO[str]) -> str:
    """The child's last words, such as the exception it ended with."""
    errors.seek(0)
    return ([line.strip() for line in errors if line.strip()] or [""])[-1]


def _taken(device: torch.device, free_before: int, told: dict[str, Any]) -> int:
    """Bytes the child holds beside its tensors."""
    if device.type == "cpu":
        return int(told["resident"])
    return max(free_before - _free_bytes(device) - int(told["reserved"]), 1)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cpu":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info(device)[0])


def _environment() -> dict[str, str]:
    """The child finds the package where this process found it, whatever its folder."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in sys.path if place)}


def stages(device: torch.device) -> Iterator[str]:
    """The life of the child: a context; decoding in every form with adapters; a step of training with an 8-bit optimizer."""
    # A serving process has these libraries whatever it does with them; they take memory too.
    from onecard.engines.local.calibration_decoding import decode_steps
    from onecard.engines.local.calibration_linears import FORMS
    from onecard.engines.local.calibration_models import ON_A_CARD, ON_A_CPU
    from onecard.engines.local.calibration_training import train_once

    torch.ones(1, device=device)
    yield "bare"
    small = ON_A_CARD if device.type == "cuda" else ON_A_CPU
    for form in FORMS:
        decode_steps(device, form, small, seconds=0.0, layers=(1, 2))
    yield "serving"
    train_once(device, small)
    yield "training"


def main(kind: str) -> None:
    """The child's side: a line of JSON at the end of every stage, and then it waits to be let on."""
    device = choose_device("cuda" if kind == "cuda" else "cpu")
    for stage in stages(device):
        reserved = torch.cuda.memory_reserved(device) if device.type == "cuda" else 0
        resident = psutil.Process().memory_info().rss
        print(json.dumps({"stage": stage, "reserved": reserved, "resident": resident}), flush=True)
        if not sys.stdin.readline():
            return


if __name__ == "__main__":
    main(sys.argv[1])
