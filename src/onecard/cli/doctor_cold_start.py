"""A cold start taken apart: a fresh process imports the libraries, reads and opens the model and answers once, each part timed.

The last measurement is kept, so that a later `onecard doctor` tells of it without measuring again.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from onecard.cli.doctor_records import ColdStart
from onecard.errors import OnecardError
from onecard.weights.start_times import Start, keep_start, read_start

TIMEOUT_S = 600
LIBRARIES = (
    ("import torch", ("torch",)),
    ("import transformers", ("transformers",)),
    ("import peft, bitsandbytes", ("peft", "bitsandbytes")),
)
READ, CHECKED, OPENED, ANSWERED = "read the weights", "hash the weights", "open the model", "first token"


@dataclass(frozen=True)
class Opened:
    """The model that is opened, as `onecard serve` would."""

    id: str
    folder: str
    quantization: str
    double_quantization: bool = True
    context: int = 128


def read_kept() -> ColdStart | None:
    """The last start that was timed, by this or by `onecard serve`; None without one, or for a file that is none."""
    kept = read_start()
    return None if kept is None else ColdStart(kept.at, kept.model, kept.parts, until=kept.until)


def measure(opened: Opened, timeout_s: float = TIMEOUT_S) -> ColdStart:
    """Measures in a process of its own, and keeps the result when it is whole. What failed is in `fault`, with the parts before it."""
    at, asked = datetime.now(UTC).isoformat(timespec="seconds"), json.dumps(asdict(opened))
    command = [sys.executable, "-m", "onecard.cli.doctor_cold_start", asked, str(time.time())]
    said, fault = "", None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        said = done.stdout
        if done.returncode:
            fault = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        fault = f"it was not done within {timeout_s:g} s"
    cold = ColdStart(at, opened.id, parse_parts(said), fault)
    if fault is None:
        keep_start(Start(at, cold.model, cold.parts))  # a place that cannot be written is a finding of its own
    return cold


def parse_parts(text: str) -> tuple[tuple[str, float], ...]:
    """The parts a measuring process printed, one JSON line each; a line that was cut off, or a library's own, is left out."""
    parts = []
    for line in text.splitlines():
        try:
            said = json.loads(line)
            parts.append((str(said["part"]), float(said["seconds"])))
        except (ValueError, KeyError, TypeError):
            continue
    return tuple(parts)


def main(opened: Opened, spawned_at: float) -> None:
    """Runs in the measuring process: every part is printed as it ends."""
    _say("start python", time.time() - spawned_at)
    for name, modules in LIBRARIES:
        _timed(name, partial(_import, modules))
    torch: Any = sys.modules["torch"]
    if torch.cuda.is_available():
        _timed("open the card", lambda: torch.zeros(1, device="cuda"))
    folder = Path(opened.folder)
    _timed(READ, lambda: read_through(folder))
    digest = _timed(CHECKED, lambda: importlib.import_module("onecard.weights.inventory").fingerprint(folder))
    engine = _timed(OPENED, lambda: _open(opened, digest))
    _timed(ANSWERED, lambda: asyncio.run(_first_token(engine)))
    engine.close()


def _import(modules: tuple[str, ...]) -> None:
    for module in modules:
        importlib.import_module(module)


def read_through(folder: Path) -> int:
    """Bytes of the weights, read once from start to end."""
    size, block = 0, bytearray(8 * 2**20)
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb", buffering=0) as opened:
            while count := opened.readinto(block):
                size += count
    return size


def _open(opened: Opened, digest: str) -> Any:
    engine = importlib.import_module("onecard.engines.local.engine")
    return engine.LocalEngine.open(
        Path(opened.folder),
        model_id=opened.id,
        fingerprint=digest,
        quantization=opened.quantization,
        double_quantization=opened.double_quantization,
        context=opened.context,
        concurrency=1,
    )


async def _first_token(engine: Any) -> None:
    asked = importlib.import_module("onecard.engines.engine").GenerationRequest(text="A", max_new_tokens=1)
    async for _ in engine.generate(asked):
        pass


def _timed(name: str, part: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = part()
    _say(name, time.perf_counter() - start)
    return result


def _say(name: str, seconds: float) -> None:
    print(json.dumps({"part": name, "seconds": round(max(seconds, 0.0), 3)}), flush=True)


if __name__ == "__main__":
    try:
        main(Opened(**json.loads(sys.argv[1])), float(sys.argv[2]))
    except (OnecardError, ImportError, RuntimeError) as error:
        sys.exit(str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__)
