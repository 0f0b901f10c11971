"""One training run in a fresh process: the project's own loading, adapter and loop, with the peak of every phase written down.

Rows are random ids of an exact length; a few optimizer steps are enough, since memory and time repeat.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

import gauge
import torch
from gauge import alone

from onecard.adapters.manifest import AddedToken
from onecard.engines.local.loading import LoadedBase, load_base, tensor_bytes
from onecard.errors import OnecardError
from onecard.fleet.recipe import Recipe
from onecard.training import adapter, checks, loop
from onecard.training.added_tokens import extend_model
from onecard.training.chat import EncodedRow
from onecard.training.preparation import extend_tokenizer
from onecard.training.rows import Row


def rows_of(count: int, tokens: int, vocabulary: int) -> list[EncodedRow]:
    def ids() -> tuple[int, ...]:
        return tuple(random.randrange(16, vocabulary) for _ in range(tokens))

    learned = tuple(place >= tokens // 4 for place in range(tokens))
    return [EncodedRow(Row("p", "c", None, f"random:{n}"), ids(), learned) for n in range(count)]


class Phases:
    """Peaks by phase, in order."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self._start = time.perf_counter()

    def end(self, name: str) -> None:
        now = time.perf_counter()
        self.found.append(
            {"phase": name, "peak": gauge.peak_and_reset(), "held": gauge.allocated(), "reserved": gauge.reserved(),
             "seconds": now - self._start}
        )  # fmt: skip
        self._start = now


def watch_steps(phases: Phases) -> list[float]:
    """Each optimizer step is a phase, the rehearsed ones too; the seconds of each are collected."""
    step, seconds = loop._Learner._step, []

    def timed(self: Any, *given: Any) -> Any:
        phases.end("between")
        gauge.synchronize()
        start = time.perf_counter()
        said = step(self, *given)
        gauge.synchronize()
        seconds.append(time.perf_counter() - start)
        phases.end("step")
        return said

    loop._Learner._step = timed  # type: ignore[method-assign]
    return seconds


def base_of(spec: dict[str, Any], recipe: Recipe) -> LoadedBase:
    """A checkpoint's, through the project's own loading, or one made where it is used: the same layers without 15 GB of files."""
    if spec.get("folder"):
        return load_base(
            Path(spec["folder"]),
            recipe.base_quantization,
            double_quantization=recipe.double_quantization,
            dtype=recipe.compute_dtype,
            device="auto",
        )
    from random_base import random_base, settings_of, tokenizer

    model = random_base(settings_of(spec["model"], spec.get("layers")), recipe.base_quantization)
    return LoadedBase(model, tokenizer(), model.device, torch.bfloat16, Path("/nowhere"))


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    random.seed(1)
    recipe = Recipe.model_validate({**spec["recipe"], "max_steps": spec.get("steps", 3)})
    phases = Phases()
    with alone(spec["lock"], shared=True):
        base = base_of(spec, recipe)
    result: dict[str, Any] = {"spec": spec, "machine": gauge.machine(), "tensor_bytes": tensor_bytes(base.model)}
    phases.end("load")
    added: tuple[AddedToken, ...] = extend_tokenizer(base.tokenizer, recipe.added_tokens)
    vocabulary = int(base.model.get_input_embeddings().weight.shape[0])
    extend_model(base, base.tokenizer, added)
    model = adapter.attach(base, recipe.lora, added)
    phases.end("attach")
    rows = rows_of(max(recipe.batch.step_rows, 4), spec["row_tokens"], vocabulary)
    if gauge.CARD and spec.get("cap_bytes"):
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, spec["cap_bytes"] / total))
    asked = checks.probe_rows(rows)
    outcome = "ran"
    try:
        checks.probe(model, asked)
        phases.end("probe")
        seconds = watch_steps(phases)
        with alone(spec["lock"]):
            trained = loop.run(model, base.tokenizer, rows, recipe, None, lambda _: None)
        phases.end("after the loop")
        checks.probe(model, asked)
        phases.end("evaluation")
        with tempfile.TemporaryDirectory() as folder:
            adapter.save(model, Path(folder), spec["model"], None)
        phases.end("save")
        steady = sorted(seconds[-len(trained.curve) + 1 :])
        result |= {
            "tokens_s": trained.tokens_s,
            "step_s": steady[len(steady) // 2],
            "step_min_s": steady[0],
            "forward_tokens": trained.forward_tokens,
            "recomputed_layers": trained.recomputed_layers,
            "packed": trained.packed,
            "notes": list(trained.notes),
        }
    except OnecardError as error:
        outcome = str(error).splitlines()[0][:160]
    result |= {"outcome": outcome, "phases": _merged(phases.found), "peak_reserved": gauge.peak_reserved()}
    return result


def _merged(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first round of every phase, and the largest of those that repeat it."""
    first: dict[str, dict[str, Any]] = {}
    later: dict[str, dict[str, Any]] = {}
    for phase in found:
        name = phase["phase"]
        if name not in first:
            first[name] = phase
        elif name not in later or phase["peak"] > later[name]["peak"]:
            later[name] = phase
    return [*({**phase, "round": 1} for phase in first.values()), *({**phase, "round": 2} for phase in later.values())]
