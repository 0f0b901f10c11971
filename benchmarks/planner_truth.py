"""How true the plan is: predicted beside measured, on a GPU, for whole models of real shape with random weights.

`python benchmarks/planner_truth.py measure --set fit --out DIR` runs every case in a fresh process and writes one JSON document.
`... keep FILE...` keeps of them what a comparison needs; `... table` plans the same cases with today's planner and writes the page of
errors that the docs show.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MEASURED = HERE.parent / "docs" / "measurements" / "planner-truth"
CALIBRATION = HERE.parent / "docs" / "measurements" / "2026-11-21-calibration-h200.json"
PAGE = HERE.parent / "docs" / "measurements" / "planner-truth.md"
sys.path.insert(0, str(HERE / "truth"))


def edges_of(case: dict[str, Any]) -> list[dict[str, Any]]:
    """For each context and number of callers two cards: one that the plan just fits, one of which it needs 6% more than there is."""
    from table import need_bytes

    found = []
    for context, callers in case["edge_shapes"]:
        need = need_bytes({**case, "context": context, "concurrency": callers})
        for part, fits in ((1.0, True), (0.94, False)):
            found.append({"context": context, "concurrency": callers, "cap_bytes": round(need * part), "fits": fits})
    return found


class Checkpoints:
    """Checkpoints written one ahead of who needs them, and removed after the last who did."""

    def __init__(
        self, folder: Path, models: list[str], uses: dict[str, int], layers: int | None, most: int = 3
    ) -> None:
        self._folder, self._uses, self._layers = folder, uses, layers
        self._ready = {model: threading.Event() for model in models}
        self._room = threading.Semaphore(most)
        self._failed: dict[str, str] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._write, args=(models,), daemon=True).start()

    def _write(self, models: list[str]) -> None:
        from checkpoints import EMBEDDED, config_of, write_checkpoint

        from onecard.weights.inventory import resolve

        tokenizer = resolve(EMBEDDED, HERE)
        for model in models:
            self._room.acquire()
            start = time.perf_counter()
            try:
                size = write_checkpoint(
                    config_of(model, self._layers), tokenizer, self.place(model), str(self._folder / "lock")
                )
                print(f"wrote {model}: {size / 2**30:.1f} GiB in {time.perf_counter() - start:.0f} s", flush=True)
            except Exception as error:
                self._failed[model] = f"{type(error).__name__}: {error}"
            self._ready[model].set()

    def place(self, model: str) -> Path:
        return self._folder / model.replace("/", "--")

    def wait(self, model: str) -> str | None:
        """Blocks until the checkpoint is there; what went wrong, if anything."""
        self._ready[model].wait()
        return self._failed.get(model)

    def done(self, model: str) -> None:
        with self._lock:
            self._uses[model] -= 1
            last = not self._uses[model]
        if last:
            shutil.rmtree(self.place(model), ignore_errors=True)
            self._room.release()


def measure(arguments: argparse.Namespace) -> None:
    from cases import SERVING, TRAINING

    cases: list[dict[str, Any]] = []
    if "serve" in arguments.kinds:
        cases += SERVING[arguments.set]
    if "train" in arguments.kinds:
        cases += TRAINING[arguments.set]
    if arguments.layers:
        cases = [{**case, "kind": f"look-{case['kind']}"} for case in cases]
    if arguments.only:
        cases = [c for c in cases if any(word in f"{c['model']} {c.get('form', '')}" for word in arguments.only)]
    for case in cases:
        if case.get("edge_shapes"):
            case["edges"] = edges_of(case)
    for case in cases:
        case |= {"memory": arguments.what != "times", "timing": arguments.what != "memory"}
        case["context_alone"] = arguments.parallel == 1  # nobody else's memory on the card comes and goes
        if arguments.what == "times":
            case.pop("edges", None)
    order = {model: n for n, model in enumerate(dict.fromkeys(case["model"] for case in cases))}
    cases.sort(key=lambda case: order[case["model"]])
    scratch = Path(arguments.scratch)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    # What touches no card is imported once (bitsandbytes does touch it); every case is a fresh process forked from there.
    os.environ |= {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "TOKENIZERS_PARALLELISM": "false"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["transformers.modeling_utils", "transformers.models.llama.modeling_llama", "datasets"]
    )
    uses = {model: sum(case["model"] == model for case in cases) for model in order}
    checkpoints = Checkpoints(scratch, list(order), uses, arguments.layers)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "schema": 1,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "set": arguments.set,
        "runs": [],
    }
    name = (
        f"{'look' if arguments.layers else 'truth'}-{arguments.set}-{'-'.join(arguments.kinds)}-{arguments.what}.json"
    )
    started, writing = time.monotonic(), threading.Lock()

    def run(numbered: tuple[int, dict[str, Any]]) -> None:
        number, case = numbered
        problem = checkpoints.wait(case["model"])
        left = arguments.minutes * 60 - (time.monotonic() - started)
        if problem is None and left < 25:
            problem = "no time left"
        spec = {**case, "folder": str(checkpoints.place(case["model"])), "lock": str(scratch / "lock")}
        result = (
            {"spec": spec, "problem": problem}
            if problem
            else _worker(context, spec, scratch / f"spec{number}.json", left)
        )
        checkpoints.done(case["model"])
        with writing:
            document["runs"].append(result)
            (out / name).write_text(json.dumps(document))
        said = result.get("problem") or result.get("outcome") or "done"
        print(
            f"{time.monotonic() - started:4.0f} s  {case['kind']} {case['model']} {case.get('form', '')}: {said.strip()[-300:]}",
            flush=True,
        )

    with ThreadPoolExecutor(arguments.parallel) as pool:
        list(pool.map(run, enumerate(cases)))
    shutil.rmtree(scratch, ignore_errors=True)


def _worker(context: Any, spec: dict[str, Any], file: Path, seconds: float) -> dict[str, Any]:
    import worker

    file.write_text(json.dumps(spec))
    out = file.with_suffix(".out.json")
    process = context.Process(target=worker.run, args=(str(file), str(out)))
    process.start()
    process.join(max(seconds, 1))
    if process.is_alive():
        process.kill()
        process.join()
        return {"spec": spec, "problem": "no time left"}
    if not out.exists():
        log = Path(f"{out}.log")
        return {
            "spec": spec,
            "problem": f"exit code {process.exitcode}: " + (log.read_text()[-1500:] if log.exists() else ""),
        }
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def keep(arguments: argparse.Namespace) -> None:
    """Raw measurements become the documents that stay: what a case was, its sizes, peaks and times."""
    from table import compact

    for file in arguments.files:
        document = compact(json.loads(file.read_text()))
        MEASURED.mkdir(parents=True, exist_ok=True)
        place = MEASURED / f"{document['at'][:10]}-{file.stem.removeprefix('truth-')}.json"
        place.write_text(json.dumps(document, indent=1) + "\n")
        print(f"kept: {place}")


def table(arguments: argparse.Namespace) -> None:
    """The page of errors, made of every kept document and today's planner. With `--check` nothing is written: exit code 1 when the page
    is not what it would be."""
    from table import kept_calibration, page, read

    text = page(read(sorted(MEASURED.glob("*.json"))), kept_calibration(CALIBRATION))
    if arguments.check:
        sys.exit(
            0
            if PAGE.exists() and PAGE.read_text() == text
            else f"{PAGE.name} is not fresh: run {Path(__file__).name} table"
        )
    PAGE.write_text(text)
    print(f"written: {PAGE}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("measure")
    verb.add_argument("--set", choices=("fit", "check", "short"), default="check")
    verb.add_argument("--kinds", nargs="+", choices=("serve", "train"), default=["serve", "train"])
    verb.add_argument("--only", nargs="*", help="part of 'model form'")
    verb.add_argument("--out", default="results/truth")
    verb.add_argument("--scratch", default="/dev/shm/onecard-truth", help="needs room for three checkpoints, 75 GB")
    verb.add_argument("--minutes", type=float, default=60)
    verb.add_argument("--parallel", type=int, default=3, help="cases at once; 1 for times to be trusted")
    verb.add_argument("--what", choices=("memory", "times", "both"), default="both", help="of serving cases")
    verb.add_argument("--layers", type=int, help="look at models of so few layers instead of measuring whole ones")
    verb.set_defaults(run=measure)
    verb = verbs.add_parser("keep")
    verb.add_argument("files", nargs="+", type=Path)
    verb.set_defaults(run=keep)
    verb = verbs.add_parser("table")
    verb.add_argument("--check", action="store_true")
    verb.set_defaults(run=table)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
