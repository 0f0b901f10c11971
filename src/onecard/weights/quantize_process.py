"""Runs the runner in the interpreter that has the libraries, and turns its events into progress, a result or one of our errors.

The runner sees onecard and nothing else of this interpreter: a folder with one link is put before its own packages. Its standard input
is a pipe of ours, so that it ends when we end.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onecard
from onecard.errors import DiskFull, DoesNotFit, EngineFailed, MachineError, MissingPart

OnProgress = Callable[[str, float], None]
"""Called with what is being done and the share of the whole that is done."""

RUNNER = "onecard.weights.quantize_runner"
LOG_TAIL_LINES = 12
GRACE_S = 5.0


def probe(python: Path) -> dict[str, Any]:
    """Versions of the libraries of an interpreter and its card. MissingPart when it is none or lacks torch."""
    with tempfile.TemporaryDirectory() as folder:
        return start(python, ["--probe"], Path(folder), lambda doing, share: None)


def start(python: Path, arguments: list[str], folder: Path, on_progress: OnProgress) -> dict[str, Any]:
    """Runs the runner to its end and returns its result. `folder` is for its own use: what libraries print, and the link.

    MissingPart, DoesNotFit, DiskFull or EngineFailed for what it could not do; an interrupt ends it first.
    """
    log, packages = folder / "log.txt", folder / "packages"
    packages.mkdir()
    (packages / "onecard").symlink_to(Path(onecard.__file__).parent, target_is_directory=True)
    with log.open("wb") as printed, _running([str(python), "-m", RUNNER, *arguments], packages, printed) as process:
        assert process.stdout is not None
        last: dict[str, Any] = {}
        for line in process.stdout:
            last = _event(line) or last
            if "doing" in last:
                on_progress(last["doing"], last["share"])
        code = process.wait()
    if "result" in last:
        return dict(last["result"])
    raise _fault(last.get("error"), code, python, log)


@contextmanager
def _running(command: list[str], packages: Path, printed: Any) -> Iterator[subprocess.Popen[str]]:
    """The process, which has ended when this block is left, whatever happens in it."""
    environment = {**os.environ, "PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # another Python's files have no place in this package
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end it
        )
    except OSError as error:
        raise MissingPart(
            f"cannot be run: {error.strerror or error}", where=command[0], allowed="a Python interpreter"
        ) from None
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(GRACE_S)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _event(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _fault(error: dict[str, str] | None, code: int, python: Path, log: Path) -> MachineError | DoesNotFit:
    """Which of our errors a runner's end is."""
    where = str(python)
    if error is None:
        if code == -9:
            return DoesNotFit(
                "the system killed it while it ran, as it does when memory is short",
                where=where,
                next_step="free some memory, or lower --samples and --max-tokens",
            )
        return EngineFailed(f"it ended with exit code {code}: {_tail(log)}", where=where)
    problem = error["problem"]
    if error["kind"] == "disk":
        return DiskFull(f"no room while writing: {problem}", next_step="free some space and do it again")
    if error["kind"] == "memory":
        return DoesNotFit(
            f"out of memory: {problem}", next_step="lower --samples or --max-tokens, or use a larger machine"
        )
    if error["kind"] == "missing":
        return MissingPart(problem, where=where, next_step=install_line(python))
    return EngineFailed(f"{error['type']}: {problem}", where=where)


def install_line(python: Path) -> str:
    """What makes an interpreter able to run llm-compressor. Its own pins of transformers are older than onecard's."""
    name = shlex.quote(str(python))
    return (
        "python3 -m venv quantizing && quantizing/bin/pip install torch==2.13.0 && quantizing/bin/pip install llmcompressor==0.14.0.1, "
        f"then --python quantizing/bin/python (now it is {name})"
    )


def _tail(log: Path) -> str:
    """The last lines that were printed, in one."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "nothing was printed"
    said = [line.strip() for line in lines if line.strip()][-LOG_TAIL_LINES:]
    return said[-1] if said else "nothing was printed"
