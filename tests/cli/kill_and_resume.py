"""Starts `onecard fetch`, kills it with SIGKILL at a random moment, looks at what is left, and does so again; then lets it finish.

A program of its own: it imports once and forks, so that a round costs the download and not the start. HF_ENDPOINT and HF_HUB_CACHE
say from where to where. Prints a JSON of what it saw; exits 1 with the reason when something half-written was taken for whole.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import huggingface_hub.file_download  # noqa: F401  (loaded before the forks)

import onecard.cli.fetch
import onecard.cli.fetch_output
import onecard.weights.fetch_run  # noqa: F401
from onecard.cli.main import main
from onecard.errors import MissingPart
from onecard.weights.fetch_cache import digest_of
from onecard.weights.inventory import resolve

REPO, ROUNDS, SEED, LONGEST_S = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
CACHE = Path(os.environ["HF_HUB_CACHE"])


def start() -> int:
    child = os.fork()
    if child == 0:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os._exit(main(["fetch", REPO, "--yes"]))
    return child


def look() -> tuple[int, bool]:
    """Bytes of unfinished files, and whether the model is there. Ends the program when a name promises what its content is not."""
    for blob in CACHE.glob("models--*/blobs/*"):
        if blob.suffix != ".incomplete" and digest_of(blob, blob.name) != blob.name:
            sys.exit(f"{blob} is not what its name says")
    for link in CACHE.glob("models--*/snapshots/*/*"):
        if not link.name.startswith(".") and not link.is_file():
            sys.exit(f"{link} points at nothing")
    begun = sum(part.stat().st_size for part in CACHE.glob("models--*/blobs/*.incomplete"))
    try:
        resolve(REPO, Path("/nowhere"))
    except MissingPart:
        return begun, False
    if begun:
        sys.exit("the model counts as whole, and parts of it are not")
    return begun, True


def wait_for_bytes(child: int) -> None:
    """Until the download has begun, or has ended."""
    before = sum(part.stat().st_size for part in CACHE.glob("models--*/blobs/*.incomplete"))
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if sum(size_of(part) for part in CACHE.glob("models--*/blobs/*.incomplete")) != before:
            return
        time.sleep(0.005)


def size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # it became whole just now
        return 0


def rounds() -> dict[str, int]:
    chance = random.Random(SEED)
    seen = {"kills": 0, "kills_with_a_beginning": 0, "ended_before": 0, "resumed_bytes": 0}
    while seen["kills"] < ROUNDS:
        child = start()
        if chance.random() < 0.7:  # most strike in the download, however slow the machine is today; the others anywhere
            wait_for_bytes(child)
        time.sleep(chance.uniform(0.01, LONGEST_S))
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            seen["ended_before"] += 1
            if not look()[1]:
                sys.exit("a fetch that ended by itself left no model")
            shutil.rmtree(CACHE)
            continue
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        begun, _ = look()
        seen["kills"] += 1
        seen["kills_with_a_beginning"] += begun > 0
        seen["resumed_bytes"] += begun
        if chance.random() < 0.2:  # from the start again now and then, or most rounds would die near the end
            shutil.rmtree(CACHE, ignore_errors=True)
    return seen


if __name__ == "__main__":
    told = rounds()
    child = start()
    told["exit"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    told["whole"] = int(look()[1])
    print(json.dumps(told))
