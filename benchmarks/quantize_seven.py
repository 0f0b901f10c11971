"""Quantizes a 7B model for real and puts time, peak and size beside what `onecard quantize` predicted.

`python benchmarks/quantize_seven.py --out DIR` writes a checkpoint of the model's shape with random weights, runs the command once for
each form in a fresh process, and writes one JSON document. A form that fails is written down with what it said, and the next one runs.
Losses are no result here: random weights have nothing to lose.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import venv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "truth"))
FORMS = ("nf4", "int8", "int8:llm-compressor", "w8a8", "fp8", "gptq", "awq")
POLL_S = 0.25
KEPT_LINES = 25


def interpreter(folder: Path) -> Path:
    """An interpreter with the packages of this one, those named in PYTHONPATH too: quantizing runs in a process whose PYTHONPATH is its
    own."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next((folder / "lib").glob("python3*/site-packages"))
    places = [
        str(Path(place).absolute()) for place in sys.path[2:] if Path(place).is_dir()
    ]  # not this file's folder and not truth/
    (packages / "all.pth").write_text("\n".join([str(ROOT / "src"), *places]) + "\n")
    return folder / "bin" / "python"


def command(arguments: argparse.Namespace, source: Path, form: str, output: Path) -> list[str]:
    """The arguments of `onecard quantize` for a form, `int8:llm-compressor` naming a maker."""
    to, _, maker = form.partition(":")
    asked = ["quantize", str(source), "--to", to, "--data", str(arguments.data), "--output", str(output), "--json"]
    asked += ["--samples", str(arguments.samples), "--max-tokens", str(arguments.max_tokens)]
    if arguments.quantize_python:
        asked += ["--python", str(arguments.quantize_python)]
    return [*asked, "--maker", maker] if maker else asked


def one(folder: Path, asked: list[str]) -> int:
    """Runs the command in this process; what the runner printed and measured is kept in `folder`, for it is gone when a form is refused."""
    from onecard.cli.main import main
    from onecard.weights import quantize_process

    start = quantize_process.start

    def watched(python: Path, arguments: list[str], work: Path, told: Any) -> dict[str, Any]:
        try:
            result = start(python, arguments, work, told)
            if arguments != ["--probe"]:
                (folder / "result.json").write_text(json.dumps(result))
            return result
        finally:
            if (work / "log.txt").exists():
                shutil.copy(work / "log.txt", folder / "log.txt")

    quantize_process.start = watched
    return main(asked)


def run(python: Path, folder: Path, asked: list[str], seconds: float) -> dict[str, Any]:
    """One command in a fresh process: what it printed, its exit code, its time, and the most of the card that was in use beyond before."""
    import gauge

    folder.mkdir()
    before, most, started = gauge.driver_used(), 0, time.monotonic()
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [str(python), __file__, "--one", str(folder), *asked], stdout=out, stderr=err, stdin=subprocess.DEVNULL
        )
        timer = threading.Timer(max(seconds, 1), process.kill)
        timer.start()
        while process.poll() is None:
            most = max(most, gauge.driver_used() - before)
            time.sleep(POLL_S)
        timer.cancel()
    return {
        "exit_code": process.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "driver_peak_bytes": most,
        "printed": _json(folder / "out"),
        "result": _json(folder / "result.json"),
        "said": _tail(folder / "err"),
        "log": _tail(folder / "log.txt") if process.returncode else "",
    }


def row(form: str, predicted: dict[str, Any], made: dict[str, Any], output: Path) -> dict[str, Any]:
    """Predicted beside measured. `peak_measured_bytes` is the driver's on a card, the process's own mark of main memory elsewhere."""
    record, result = made["printed"], made["result"] or {}
    expected = predicted["printed"] or {}
    peak = made["driver_peak_bytes"] or result.get("peak_memory_bytes")
    found: dict[str, Any] = {
        "form": form,
        "outcome": "made" if record else f"exit code {made['exit_code']}: {made['said'] or predicted['said']}",
        "seconds": made["seconds"],
        "parts_s": (record or result).get("seconds"),
        "peak_predicted_bytes": expected.get("peak_bytes"),
        "peak_predicted": expected.get("peak"),
        "peak_measured_bytes": peak,
        "peak_reserved_bytes": result.get("peak_card_bytes"),
        "peak_main_memory_bytes": result.get("peak_memory_bytes"),
        "files_predicted_bytes": expected.get("file_bytes"),
        "files_bytes": sum(file.stat().st_size for file in output.glob("*")) if output.is_dir() else None,
        "record": record,
        "result": result or None,
        "log": made["log"],
    }
    if peak and expected.get("peak_bytes"):
        found["peak_predicted_over_measured"] = round(expected["peak_bytes"] / peak, 4)
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The document; it is written anew after every form, so that what was measured is there whatever comes after."""
    from checkpoints import EMBEDDED, config_of, write_checkpoint
    from gauge import machine

    from onecard.weights.inventory import resolve

    arguments.out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="quantize-seven-", dir=arguments.scratch))
    started = time.monotonic()
    document: dict[str, Any] = {
        "schema": 1, "what": f"onecard quantize on the shape of {arguments.model}, random weights", "layers": arguments.layers,
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), "samples": arguments.samples,
        "max_tokens": arguments.max_tokens, "forms": [],
    }  # fmt: skip
    try:
        source = scratch / "model"
        config = config_of(arguments.model, arguments.layers)
        document["source_bytes"] = write_checkpoint(config, resolve(EMBEDDED, HERE), source, str(scratch / "lock"))
        document["wrote_source_s"] = round(time.monotonic() - started, 1)
        python = interpreter(scratch / "python")
        for number, form in enumerate(arguments.forms):
            output = scratch / "made"
            asked = command(arguments, source, form, output)
            predicted = run(python, scratch / f"predict{number}", [*asked, "--dry-run"], 120)
            left = arguments.minutes * 60 - (time.monotonic() - started)
            made = run(python, scratch / f"make{number}", asked, left)
            document["forms"].append(row(form, predicted, made, output))
            _write(document, arguments.out / "quantize-seven.json")
            print(line(document["forms"][-1]), flush=True)
            for place in (output, scratch / ".made.partial"):
                shutil.rmtree(place, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return document


def line(found: dict[str, Any]) -> str:
    """One form in one line."""

    def gib(key: str) -> str:
        return f"{found[key] / 2**30:.2f}" if found[key] else "?"

    peaks = f"peak {gib('peak_predicted_bytes')} GiB predicted, {gib('peak_measured_bytes')} measured"
    files = f"files {gib('files_predicted_bytes')} predicted, {gib('files_bytes')} measured"
    return f"{found['form']}: {found['outcome'][-400:]}; {found['seconds']} s; {peaks}; {files}"


def _write(document: dict[str, Any], place: Path) -> None:
    partial = place.with_name(place.name + ".part")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    partial.rename(place)


def _json(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _tail(file: Path) -> str:
    try:
        return "\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-KEPT_LINES:])
    except OSError:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", default=list(FORMS[:2]), choices=FORMS)
    parser.add_argument("--model", default="mistralai/Mistral-7B-v0.3", help="of the catalog")
    parser.add_argument("--layers", type=int, help="so few layers instead of the whole model")
    parser.add_argument("--data", type=Path, default=ROOT / "examples" / "data" / "style-train.jsonl")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--quantize-python", type=Path, help="interpreter with llm-compressor, when it is not this one")
    parser.add_argument("--minutes", type=float, default=9, help="for everything; what is left then is killed")
    parser.add_argument("--scratch", type=Path, help="room for the model and two copies  [default: /dev/shm, or /tmp]")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "quantize")
    arguments = parser.parse_args()
    if arguments.scratch is None and os.access("/dev/shm", os.W_OK):
        arguments.scratch = Path("/dev/shm")
    measure(arguments)
    print(f"wrote {arguments.out / 'quantize-seven.json'}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sys.exit(one(Path(sys.argv[2]), sys.argv[3:]))
    main()
