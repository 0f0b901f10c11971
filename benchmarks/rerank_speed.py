"""How much the shared prompt saves: N candidates over one prompt, scored together against N separate forward passes, in one run.

    python benchmarks/rerank_speed.py                      the embedded base on this machine
    python benchmarks/rerank_speed.py --model FOLDER --dtype bf16 --device cuda --repeats 20 --out rerank.json

Both ways run on the same loaded model, one after the other, in turns. Separately means what a plain transformers loop does: prompt and
candidate through all layers, once for each candidate. The scores of both are compared. Prints a table, writes a JSON with --out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from onecard.engines.local.loading import load_base
from onecard.engines.local.scoring import mean_log_likelihoods
from onecard.engines.local.shared_model import SharedModel
from onecard.weights.inventory import resolve


def separately(model: SharedModel, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[float]:
    """Nats per token of each continuation, each in a forward pass of its own over prompt and continuation."""
    scores = []
    for one in continuations:
        ids = torch.tensor([[*prompt, *one]], device=model.device)
        logits = model.forward([None], ids, torch.ones_like(ids), keep=len(one) + 1)[0, :-1]
        told = logits.double().log_softmax(-1).gather(1, torch.tensor(one)[:, None])
        scores.append(float(told.mean()))
    return scores


def timed(work: Callable[[], list[float]], cuda: bool) -> tuple[float, list[float]]:
    """Seconds and result."""
    if cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    found = work()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began, found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both ways in turns; medians, their ratio, and the largest difference between the scores."""
    folder = resolve(arguments.model, Path())
    base = load_base(
        folder, arguments.quantization, double_quantization=True, dtype=arguments.dtype, device=arguments.device
    )
    model, random = SharedModel(base), torch.Generator().manual_seed(0)
    vocabulary = model.vocabulary_of(None)
    draw = lambda size: torch.randint(3, vocabulary, (size,), generator=random).tolist()  # noqa: E731
    prompt, continuations = draw(arguments.prompt), [draw(arguments.tokens) for _ in range(arguments.candidates)]
    ways: dict[str, Callable[[], list[float]]] = {
        "together": lambda: mean_log_likelihoods(model, None, prompt, continuations),
        "separately": lambda: separately(model, prompt, continuations),
    }
    cuda = model.device.type == "cuda"
    found = {name: timed(way, cuda)[1] for name, way in ways.items()}  # warm-up
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            taken[name].append(timed(way, cuda)[0])
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return {
        "schema": 1,
        "what": "rerank_speed",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "where": {
            "machine": platform.machine(),
            "processor": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in ("torch", "transformers")},
        },
        "model": arguments.model,
        "dtype": arguments.dtype,
        "quantization": arguments.quantization,
        "prompt_tokens": arguments.prompt,
        "candidates": arguments.candidates,
        "tokens_each": arguments.tokens,
        "seconds": taken,
        "median_s": medians,
        "times_faster": medians["separately"] / medians["together"],
        "largest_difference_nats": max(abs(a - b) for a, b in zip(found["together"], found["separately"], strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:mini")
    parser.add_argument("--quantization", default="none", choices=["none", "int8", "nf4"])
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--prompt", type=int, default=200, help="tokens of the shared prompt")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=20, help="tokens of each candidate")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=None, help="of a CPU")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    result = measure(arguments)
    for name, median in result["median_s"].items():
        print(f"{name:11} {median * 1000:9.2f} ms")
    print(
        f"{result['times_faster']:.2f} times faster; scores differ by at most {result['largest_difference_nats']:.2g} nats"
    )
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
