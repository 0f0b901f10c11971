"""How fast an adapter is trained, side by side in one run: TRL as document E writes it, TRL packed, a bare loop with Liger's kernels,
Unsloth where it is installed, and onecard's own loop, on a base of Mistral 7B's shape in nf4 with random weights.

`python benchmarks/train_speed.py measure --out DIR [--minutes 20]` runs each variant in a fresh process and writes DIR/train-speed.json
after each; `... table FILE` writes it as a table; `... same-curve --out DIR` asks on the embedded base whether our loop and TRL's learn
alike. A variant that fails or runs out of time is recorded as that.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "training"), str(HERE / "truth"), str(HERE.parent / "src")]
LOADING_S = 150  # a fresh process: imports, weights, the first step
LEAST_S = 45
OUTPUT = "train-speed.json"
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "WANDB_DISABLED": "true",
    "TOKENIZERS_PARALLELISM": "false",
}
QUIET |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    asked = verbs.add_parser("measure", help="run the variants and write train-speed.json")
    asked.add_argument("--out", type=Path, required=True)
    asked.add_argument("--minutes", type=float, default=20, help="the whole run; variants are in order of importance")
    asked.add_argument("--seconds", type=float, default=20, help="steady steps of each variant")
    asked.add_argument("--only", nargs="+", help="variants whose name contains one of these words")
    asked.add_argument(
        "--without", nargs="+", type=Path, default=[], help="earlier train-speed.json: skip what ran there"
    )
    asked.add_argument(
        "--also", nargs="+", default=[], metavar="NAME=JSON", help="more of ours: keys of a recipe, run first"
    )
    asked.add_argument("--layers", type=int, help="a base of so many layers, for a quick trial")
    asked.add_argument("--tiny", action="store_true", help="everything on a tiny base and 48 rows; runs on a CPU")
    asked.add_argument("--list", action="store_true", help="print the variants and stop")
    asked.set_defaults(run=measure)
    one = verbs.add_parser("one", help="one variant in this process")
    one.add_argument("--spec", type=Path, required=True)
    one.add_argument("--result", type=Path, required=True)
    one.set_defaults(run=run_one)
    shown = verbs.add_parser("table", help="measurements as a table in Markdown")
    shown.add_argument("files", nargs="+", type=Path)
    shown.set_defaults(run=table)
    curve = verbs.add_parser("same-curve", help="our loop's loss curve beside TRL's on the embedded base")
    curve.add_argument("--out", type=Path, required=True)
    curve.add_argument("--seeds", type=int, default=3)
    curve.add_argument("--steps", type=int, default=40)
    curve.add_argument("--data", type=Path, default=HERE.parent / "examples" / "data" / "style-train.jsonl")
    curve.set_defaults(run=same_curve)
    arguments = parser.parse_args()
    arguments.run(arguments)


def measure(arguments: argparse.Namespace) -> None:
    from variants import Variant, chosen

    try:
        also = [given.partition("=") for given in arguments.also]
        variants = [Variant(name, "ours", text, json.loads(text)) for name, _, text in also]
        variants += [] if also and not arguments.only else chosen(arguments.only)
    except ValueError as error:
        sys.exit(str(error))
    ran = {name for file in arguments.without for name in steady(json.loads(file.read_text()))}
    variants = [variant for variant in variants if variant.name not in ran]
    if arguments.list:
        for variant in variants:
            print(f"{variant.name:28} {variant.trainer:8} {variant.about}")
        return
    end = time.monotonic() + 60 * arguments.minutes
    tiny = arguments.tiny
    size = {
        "layers": arguments.layers,
        "tiny": tiny,
        "warm_up": 1 if tiny else 3,
        "seconds": arguments.seconds,
        "most_steps": 3 if tiny else None,
    }
    document: dict[str, Any] = {"program": "train_speed", "at": datetime.now(UTC).isoformat(timespec="seconds")}
    document |= {"size": size, "variants": []}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for variant in variants:
        limit = min(LOADING_S + 2.5 * arguments.seconds, end - time.monotonic())
        record: dict[str, Any] = {**asdict(variant)}
        if limit < (5 if tiny else LEAST_S):
            record |= {"outcome": "no time left"}
        else:
            start = time.monotonic()
            record |= in_fresh_process({"variant": asdict(variant), "size": size}, limit)
            record["process_s"] = round(time.monotonic() - start, 1)
        document["variants"].append(record)
        document.setdefault("machine", record.get("machine"))
        if document["machine"] is None:
            del document["machine"]
        write_whole(arguments.out / OUTPUT, json.dumps(document, indent=1) + "\n")
        print(line(record), flush=True)


def in_fresh_process(spec: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """What `one` wrote, or why it did not: its process is ended, with all it started, when the limit is reached."""
    with tempfile.TemporaryDirectory(prefix="train-speed-", ignore_cleanup_errors=True) as scratch:
        place, found, log = (Path(scratch) / name for name in ("spec.json", "result.json", "log"))
        place.write_text(json.dumps({**spec, "scratch": scratch}))
        command = [sys.executable, str(HERE / "train_speed.py"), "one", "--spec", str(place), "--result", str(found)]
        with log.open("w") as said:
            process = subprocess.Popen(
                command, stdout=said, stderr=subprocess.STDOUT, env={**QUIET, **os.environ}, start_new_session=True
            )
            late = False
            try:
                process.wait(limit_s)
            except subprocess.TimeoutExpired:
                late = True
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if found.exists():
            result: dict[str, Any] = json.loads(found.read_text())
            return result
        tail = log.read_text(errors="replace")[-3000:]
        outcome = f"no result within {limit_s:.0f} s" if late else f"ended with exit code {process.returncode}"
        return {"outcome": outcome, "log": tail}


def run_one(arguments: argparse.Namespace) -> None:
    """One variant; its record is written whatever happens, short of the process being killed."""
    import traceback

    spec = json.loads(arguments.spec.read_text())
    record: dict[str, Any] = {}
    try:
        import gauge
        from trial import Size, measure
        from variants import Variant

        record["machine"] = gauge.machine() | {
            "liger_kernel": installed("liger_kernel"),
            "unsloth": installed("unsloth"),
        }
        record |= measure(Variant(**spec["variant"]), Size(**spec["size"]), spec["scratch"])
        record["outcome"] = "ran"
    except ModuleNotFoundError as error:
        record |= {"outcome": f"not installed: {error.name}", "traceback": traceback.format_exc()[-3000:]}
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        record |= {
            "outcome": f"failed: {type(error).__name__}: {first[:300]}",
            "traceback": traceback.format_exc()[-4000:],
        }
    write_whole(arguments.result, json.dumps(record))


def installed(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def steady(document: dict[str, Any]) -> list[str]:
    """The variants that were measured."""
    return [record["name"] for record in document["variants"] if "steady_tokens_s" in record]


def line(record: dict[str, Any]) -> str:
    """One variant in one line of the terminal."""
    if "steady_tokens_s" not in record:
        return f"{record['name']:28} {record['outcome']}"
    peak = record.get("peak_allocated_mib")
    memory = f", peak {peak / 1024:.1f} GiB" if peak is not None else ""
    return f"{record['name']:28} {record['steady_tokens_s']:,.0f} tokens/s{memory} ({record['steps']} steps)"


def table(arguments: argparse.Namespace) -> None:
    from speed_table import page

    print(page([json.loads(file.read_text()) for file in arguments.files]), end="")


def same_curve(arguments: argparse.Namespace) -> None:
    from curves import compare

    os.environ |= QUIET | dict(os.environ)
    arguments.out.mkdir(parents=True, exist_ok=True)
    compared, rows = compare(arguments.data, list(range(1, arguments.seeds + 1)), arguments.steps)
    write_whole(arguments.out / "same-curve.json", json.dumps(compared, indent=1) + "\n")
    write_whole(arguments.out / "same-curve.csv", "\n".join(rows) + "\n")
    print(compared["said"])


def write_whole(file: Path, text: str) -> None:
    """A reader never sees half of it."""
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)


if __name__ == "__main__":
    main()
