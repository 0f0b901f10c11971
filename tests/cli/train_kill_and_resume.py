"""Starts `onecard train --resume`, kills it with SIGKILL at a named moment, and does so again until every moment was met; then lets it end.

A program of its own: it imports once and forks, so that a round costs the training and not the start. Arguments: fleet file, store,
the moments; a run that nobody disturbs goes to <store>-reference. Prints a JSON of what it saw; exits 1 with the reason when something
half-written was taken for whole.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import peft  # noqa: F401  (loaded before the forks)
import torch
import transformers  # noqa: F401

import onecard.benchmark.plots_training
import onecard.cli.train
import onecard.cli.train_dry_run
import onecard.training.training  # noqa: F401
from onecard.adapters.store import Store
from onecard.cli.main import main

FLEET, STORE, MOMENTS = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
RUNS = STORE.with_name(f"{STORE.name}-runs")
LOG = Path(FLEET).with_name("log")


def any_of(pattern: str) -> Callable[[], bool]:
    return lambda: any(True for _ in RUNS.glob(pattern))


REACHED = {
    "begun": any_of("writer-style-*/run.json"),
    "rehearsing": any_of("writer-style-*/rehearsal"),
    "first checkpoint": any_of("writer-style-*/checkpoint-1"),
    "writing a checkpoint": any_of("writer-style-*/.checkpoint-*.partial/weights.safetensors"),
    "between": any_of("writer-style-*/checkpoint-5"),
    "saving": any_of("writer-style-*/.adapter.*.partial/adapter_model.safetensors"),
    "saved": any_of("writer-style-*/adapter"),
    "published": lambda: any(True for _ in STORE.glob("agents/writer/adapters/style/v*/manifest.json")),
}


def start(store: Path = STORE) -> int:
    child = os.fork()
    if child == 0:
        log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        torch.set_num_threads(1)
        os._exit(main(["train", FLEET, "--agent", "writer", "--store", str(store), "--resume", "--json"]))
    return child


def ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_at(child: int, moment: str) -> bool:
    """Whether the moment was met; a run that ends before is left in peace."""
    while not REACHED[moment]():
        if ended(child):
            return False
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def look() -> None:
    """Ends the program when the store has anything but whole versions."""
    store = Store(STORE)
    for listing in store.list():
        for version in listing.versions:
            if differs := store.verify(listing.agent, listing.name, version):
                sys.exit(f"{version} is not what was published: {differs}")


if __name__ == "__main__":
    met = []
    reference = start(STORE.with_name(f"{STORE.name}-reference"))
    os.waitpid(reference, 0)
    for moment in MOMENTS:
        running = start()
        if not kill_at(running, moment):
            sys.exit(f"{moment}: not met; {LOG.read_text()[-2000:]}")
        met.append(moment)
        look()
    last = start()
    code = os.waitstatus_to_exitcode(os.waitpid(last, 0)[1])
    if code:
        sys.exit(LOG.read_text()[-2000:])
    look()
    print(json.dumps({"met": met, "record": json.loads("{" + LOG.read_text().rpartition("\n{")[2])}))
