"""The program that quantizes: `python -m onecard.weights.quantize_runner ORDER`, in the interpreter that has the libraries.

It measures the source, makes the form, writes it, reads it back and measures that; every event is one line of JSON on standard output.
It ends when its standard input ends, so that it never outlives the command that started it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import os
import platform
import resource
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from onecard.weights.quantize_order import Order, from_json

LIBRARIES = ("torch", "transformers", "bitsandbytes", "llmcompressor", "compressed-tensors")
POSITIONS = 512  # tokens whose logits are kept to compare; `quantize_plan.LOGIT_POSITIONS` counts them


def main(arguments: list[str]) -> int:
    """Exit code 0 with a `result` event, 3 with an `error` event."""
    events = _events_only_on_stdout()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        result = probe() if arguments == ["--probe"] else run(from_json(Path(arguments[0]).read_text()), events)
    except Exception as error:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        _tell(events, error={"kind": _kind(error), "type": type(error).__name__, "problem": text})
        if not isinstance(error, MemoryError):
            import traceback

            traceback.print_exc()
        return 3
    _tell(events, result=result)
    return 0


def probe() -> dict[str, Any]:
    """Versions of the libraries of this interpreter, and the memory of its card, None without one."""
    import torch

    card = None
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info(0)
        card = {"name": torch.cuda.get_device_name(0), "free_bytes": free, "total_bytes": total}
    return {"versions": versions(), "card": card}


def versions() -> dict[str, str]:
    """Of Python and of each library that is installed here."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        if importlib.util.find_spec(name.replace("-", "_")) is not None:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = "unknown"
    return found


def run(order: Order, events: TextIO) -> dict[str, Any]:
    """Everything; what it returns goes into the record beside the weights."""
    import torch
    import transformers

    from onecard.weights.quantize_makers import load, make
    from onecard.weights.quantize_measure import answers, compare, largest_difference, look

    transformers.logging.disable_progress_bar()
    device = "cuda" if order.device != "cpu" and torch.cuda.is_available() else "cpu"
    clock = _Clock(events)
    tokenizer = transformers.AutoTokenizer.from_pretrained(order.source, local_files_only=True, trust_remote_code=False)
    calibration, held_out = (
        [_ids(tokenizer, text, order) for text in texts] for texts in (order.texts.calibration, order.texts.held_out)
    )
    clock.begin("measuring the source", 0.05)
    source_model = load(order.source, device)
    source = look(source_model, held_out, POSITIONS, clock.share(0.05, 0.15))
    ask = partial(answers, tokenizer=tokenizer, asked=order.questions, special_tokens=order.texts.special_tokens)
    if order.questions:
        clock.begin("asking the source", 0.15)
    said_before = ask(source_model, told=clock.share(0.15, 0.2))
    clock.begin(f"making {order.to} with {order.maker}", 0.2)
    if order.maker == "bitsandbytes":
        source_model = None
        _free()
    model = make(order, source_model, calibration, device)
    source_model = None
    clock.begin("measuring what was made", 0.7)
    made = look(model, held_out, POSITIONS, clock.share(0.7, 0.8))
    clock.begin("writing", 0.8)
    order.output.mkdir(parents=True)
    model.save_pretrained(order.output)
    model = None
    _free()
    clock.begin("reading it back", 0.85)
    model = load(order.output, device)
    again = look(model, held_out, POSITIONS, clock.share(0.9, 0.95))
    if order.questions:
        clock.begin("asking what was made", 0.95)
    said_after = ask(model, told=clock.share(0.95, 1.0))
    clock.begin("", 1.0)
    return {
        "source": {"perplexity": source.perplexity},
        "made": {"perplexity": again.perplexity, **compare(source, again)},
        "reload_difference": largest_difference(made, again),
        "answers": {"source": [asdict(one) for one in said_before], "made": [asdict(one) for one in said_after]},
        "held_out_tokens": source.tokens,
        "calibration_tokens": sum(row.shape[1] for row in calibration),
        "device": torch.cuda.get_device_name(0) if device == "cuda" else "cpu",
        "peak_memory_bytes": peak_bytes(),
        "peak_card_bytes": int(torch.cuda.max_memory_reserved()) if device == "cuda" else None,
        "seconds": clock.seconds,
        "versions": versions(),
    }


def peak_bytes() -> int:
    """The most main memory this process held. Linux hands the high-water mark of whoever started a process on to it in `ru_maxrss`, so
    the mark of the address space itself is read there."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(peak) if sys.platform == "darwin" else int(peak) * 1024


class _Clock:
    """Says what is being done and how far it is, and keeps the seconds of each part."""

    def __init__(self, events: TextIO) -> None:
        self.events = events
        self.doing = "loading the libraries"
        self.started = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def begin(self, doing: str, share: float) -> None:
        now = time.perf_counter()
        self.seconds[self.doing] = round(now - self.started, 2)
        self.doing, self.started = doing, now
        _tell(self.events, doing=doing, share=share)

    def share(self, start: float, end: float) -> Any:
        return lambda part: _tell(self.events, doing=self.doing, share=start + (end - start) * part)


def _ids(tokenizer: Any, text: str, order: Order) -> Any:
    encoded = tokenizer(
        text,
        add_special_tokens=order.texts.special_tokens,
        return_tensors="pt",
        truncation=True,
        max_length=order.max_tokens,
    )
    return encoded["input_ids"]


def _free() -> None:
    """Gives back to the system what models just dropped held, before the next is loaded."""
    import torch

    if core := sys.modules.get("llmcompressor.core"):
        core.reset_session()  # its session remembers the model
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed memory for itself
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _kind(error: BaseException) -> str:
    """Which of onecard's errors it is: disk, memory, missing or other."""
    text = f"{type(error).__name__} {error}".lower()
    if "no space left" in text or "os error 28" in text or "disk quota" in text:
        return "disk"
    if isinstance(error, MemoryError) or "outofmemory" in text or "out of memory" in text or "can't allocate" in text:
        return "memory"
    return "missing" if isinstance(error, ImportError) else "other"


def _tell(events: TextIO, **event: Any) -> None:
    events.write(json.dumps(event) + "\n")
    events.flush()


def _events_only_on_stdout() -> TextIO:
    """The real standard output for events; whatever libraries print goes to standard error."""
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return events


def _end_with_parent() -> None:
    """Standard input ends when the parent does, however it ended."""
    while os.read(0, 4096):
        pass
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
