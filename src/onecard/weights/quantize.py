"""Makes a quantized checkpoint of a 16-bit model, measures what it lost and puts it into place, or leaves nothing.

The libraries run in a process of their own: llm-compressor needs other pins than onecard, a process gives all its memory back, and its
peak is what the system says. No library is imported here.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onecard import __version__
from onecard.errors import EngineFailed, MissingPart
from onecard.weights import quantize_folder, quantize_process
from onecard.weights.headers import read_local
from onecard.weights.inventory import fingerprint, weight_files
from onecard.weights.quantize_order import Maker, Order, Said, to_json
from onecard.weights.quantize_plan import Prediction

SCHEMA = 1
RECORD_NAME = "quantized.json"
PACKAGES: dict[Maker, str] = {"bitsandbytes": "bitsandbytes", "llm-compressor": "llmcompressor"}

OnProgress = Callable[[str, float], None]
Judge = Callable[[list[Said], list[Said]], dict[str, Any]]
"""What the source and what was made answered to the order's questions, in figures."""


def demand_libraries(order_maker: Maker, python: Path, versions: dict[str, str]) -> None:
    """MissingPart when the interpreter (`versions` is what its probe said) lacks what makes this form."""
    needed = ("torch", "transformers", PACKAGES[order_maker])
    missing = [name for name in needed if name not in versions]
    if not missing:
        return
    install = "pip install 'onecard[local]'"
    if order_maker == "llm-compressor":
        install = quantize_process.install_line(python)
    raise MissingPart(f"{', '.join(missing)} is not installed there", where=str(python), next_step=install)


def quantize(
    order: Order, prediction: Prediction, on_progress: OnProgress, judge: Judge | None = None
) -> dict[str, Any]:
    """The record of what was made, which also lies beside the weights as quantized.json; with what `judge` says of the answers.

    Nothing is under `order.output` unless this returns. InputError when it exists or the source is damaged, StoreBusy when another
    process makes it, MissingPart, DoesNotFit, DiskFull, or EngineFailed when what is read back does not answer like what was made.
    """
    started, at = time.perf_counter(), datetime.now(UTC)
    with quantize_folder.making(order.output) as partial:
        weights = partial / quantize_folder.WEIGHTS_NAME
        job = partial / "order.json"
        job.write_text(to_json(order, weights), encoding="utf-8")
        on_progress("hashing the source", 0.0)
        read_local(weight_files(order.source))  # a file that is cut off is seen here, before anything is loaded
        source_fingerprint = fingerprint(order.source)
        result = quantize_process.start(order.python, [str(job)], partial, on_progress)
        _demand_sound(result, order)
        quantize_folder.keep_files(order.source, weights)
        record = _record(order, prediction, result, weights, source_fingerprint, at)
        if judge is not None and order.questions:
            before, after = ([Said(**one) for one in result["answers"][who]] for who in ("source", "made"))
            record["suite"] = judge(before, after)
        record["seconds"] = {**record["seconds"], "all": round(time.perf_counter() - started, 2)}
        (weights / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        quantize_folder.put_in_place(weights, order.output)
    return record


def _demand_sound(result: dict[str, Any], order: Order) -> None:
    """EngineFailed for a checkpoint that is read back differently from what was made, or that answers with no numbers."""
    difference = result["reload_difference"]
    if difference != 0:
        raise EngineFailed(
            f"what was written answers differently from what was made: logits differ by up to {difference:g}",
            where=f"{order.to} with {order.maker}",
            next_step="nothing was kept; check the libraries' versions against the ones onecard was tested with",
        )
    figures = [result["source"]["perplexity"], *result["made"].values()]
    if not all(math.isfinite(figure) for figure in figures):
        raise EngineFailed(
            "the quantized model answers with infinities or no numbers",
            where=f"{order.to} with {order.maker}",
            next_step="nothing was kept; try another form, or more calibration text",
        )


def _record(
    order: Order, prediction: Prediction, result: dict[str, Any], weights: Path, source: str, at: datetime
) -> dict[str, Any]:
    """What, from what, how, what it cost and what was predicted."""
    texts = order.texts
    seen = read_local(weight_files(weights)).weight_bytes
    before, after = result["source"]["perplexity"], result["made"]["perplexity"]
    return {
        "schema": SCHEMA,
        "kind": "quantized",
        "at": at.isoformat(timespec="seconds"),
        "model": order.model,
        "source_fingerprint": source,
        "fingerprint": fingerprint(weights),
        "to": order.to,
        "maker": order.maker,
        "group": order.group or None,
        "texts": {
            "calibration": len(texts.calibration),
            "held_out": len(texts.held_out),
            "calibration_tokens": result["calibration_tokens"],
            "held_out_tokens": result["held_out_tokens"],
            "max_tokens": order.max_tokens,
            "sha256": texts.digest,
        },
        "bytes": {
            "source": prediction.source_bytes,
            "weights": seen,
            "weights_predicted": prediction.weight_bytes,
            "files": quantize_folder.folder_bytes(weights),
            "files_predicted": prediction.file_bytes,
        },
        "perplexity": {"source": before, "quantized": after, "change_percent": 100 * (after / before - 1)},
        "logits": {key: result["made"][key] for key in ("logit_error", "same_top_token", "kl_divergence")},
        "peak_bytes": {
            "memory": result["peak_memory_bytes"],
            "card": result["peak_card_bytes"],
            "predicted": prediction.peak_bytes,
        },
        "device": result["device"],
        "seconds": result["seconds"],
        "versions": {"onecard": __version__, **result["versions"]},
    }
