"""One serving run in a fresh process: loads a base as a user would, answers as the service would, and writes down every forward pass.

Requests go through the engine's own queue and worker; only their token ids are drawn at random, so
that lengths are exact and nothing stops early. The time of a pass ends when its logits are on the host.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import gauge
import torch
from gauge import alone

from onecard.engines.engine import GenerationRequest
from onecard.engines.local.acceptance import AcceptedAdapter
from onecard.engines.local.answer import Prompt
from onecard.engines.local.engine import LocalEngine
from onecard.engines.local.loading import tensor_bytes
from onecard.errors import OnecardError

PASS = (
    "start_s",
    "end_s",
    "lines",
    "new",
    "positions",
    "adapters",
    "between_peak",
    "pass_peak",
    "allocated",
    "reserved",
)


class Watched:
    """An engine whose forward passes are written down, and whose requests have the lengths that were asked for."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.passes: list[tuple[Any, ...]] = []
        start = time.perf_counter()
        self.engine = LocalEngine.open(
            Path(spec["folder"]),
            model_id=spec["model"],
            fingerprint="0" * 64,
            quantization=spec["form"],
            double_quantization=spec.get("double", True),
            context=spec["context"],
            concurrency=spec["concurrency"],
            device="auto",
        )
        self.load_s = time.perf_counter() - start
        self.load_peak = gauge.peak_and_reset()
        self.shared = self.engine._model
        self.vocabulary = self.shared._rows.vocabulary
        self._forward = self.shared.forward
        self.shared.forward = self._watched  # type: ignore[method-assign]
        self.digests: list[str | None] = [None]

    def _watched(self, adapters: Sequence[Any], ids: torch.Tensor, mask: torch.Tensor, *rest: Any, **named: Any) -> Any:
        between, held = gauge.peak_and_reset(), gauge.allocated()
        start = time.perf_counter()
        said = self._forward(adapters, ids, mask, *rest, **named)
        end = time.perf_counter()
        names = len({adapter.key if adapter else None for adapter in adapters})
        self.passes.append(
            (start, end, *ids.shape, mask.shape[1], names, between, gauge.peak_and_reset(), held, gauge.reserved())
        )
        return said

    def add_adapters(self, count: int, rank: int) -> list[int]:
        """Random adapters on every Linear of the language model; the bytes each holds."""
        head = self.shared._model.get_output_embeddings()
        facts = dict(self.engine._facts.linears)
        head_name = next((name for name, module in self.shared._model.named_modules() if module is head), "")
        facts.pop(head_name, None)
        held = []
        for number in range(count):
            digest = f"{number + 1:064x}"
            lora = {
                name: (torch.randn(rank, inputs) * 0.01, torch.randn(outputs, rank) * 0.01)
                for name, (inputs, outputs) in facts.items()
            }
            accepted = AcceptedAdapter(digest, rank, 2.0 * rank, lora, None, self.engine._facts.tokenizer, ())
            resident = self.engine._worker.run(lambda accepted=accepted: self.shared.add(accepted)).result()
            self.engine._adapters = {**self.engine._adapters, digest: resident}
            self.digests.append(digest)
            held.append(resident.bytes)
        return held

    def ask(self, waves: Sequence[Sequence[tuple[int, int, str | None]]]) -> list[tuple[float, float]]:
        """Requests of (prompt tokens, new tokens, adapter); a wave joins together, the next one when the last is decoding.

        Gives seconds to the end of each request and what went wrong as OnecardError.
        """
        return asyncio.run(self._ask(waves))

    async def _ask(self, waves: Sequence[Sequence[tuple[int, int, str | None]]]) -> list[tuple[float, float]]:
        tasks: list[asyncio.Task[tuple[float, float]]] = []
        for wave in waves:
            gate = threading.Event()
            holding = self.engine._worker.run(gate.wait)
            seen = len(self.passes)
            tasks += [asyncio.create_task(self._one(*request)) for request in wave]
            await asyncio.sleep(0.02)
            gate.set()
            await asyncio.wrap_future(holding)
            while len(self.passes) < seen + 3 and not all(task.done() for task in tasks):
                await asyncio.sleep(0.002)
        return list(await asyncio.gather(*tasks))

    async def _one(self, prompt: int, new: int, adapter: str | None) -> tuple[float, float]:
        ids = tuple(random.randrange(16, self.vocabulary) for _ in range(prompt))
        self.engine._prompt = lambda *_: Prompt(ids, (), chat=False)  # type: ignore[method-assign]
        start = time.perf_counter()
        async for _ in self.engine.generate(GenerationRequest(text="x", adapter=adapter, max_new_tokens=new)):
            pass
        return start, time.perf_counter()


def timings(watched: Watched, lock: str) -> list[dict[str, Any]]:
    """Prefill and decode times over prompts, lines and adapters: the second of two rounds, whose memory is mapped already."""
    spec, found = watched.spec, []
    context, callers = spec["context"], spec["concurrency"]
    own = watched.digests[1:]
    short = min(512, context - 24)
    cases: list[tuple[str, int, int, list[str | None]]] = [
        (f"alone {prompt}", 1, prompt, [None]) for prompt in spec.get("prompts", (128, 2048)) if prompt + 16 <= context
    ]
    cases.append((f"{callers} lines", callers, short, [None]))
    if own:
        cases.append(("adapter alone", 1, short, [own[0]]))
        cases.append((f"adapter, {callers} lines", callers, short, [own[0]]))
    if len(own) > 1 and callers > 1:
        cases.append((f"{len(own)} adapters, {callers} lines", callers, short, list(own)))
    new = spec.get("steps", 10)
    with alone(lock):
        for name, lines, prompt, digests in cases:
            wave = [(prompt, new, digests[n % len(digests)]) for n in range(lines)]
            watched.ask([wave])
            watched.passes.clear()
            asked = watched.ask([wave])
            prefills = [p for p in watched.passes if p[3] > 1]
            steps = sorted(p[1] - p[0] for p in watched.passes if p[3] == 1)
            gaps = sorted(b[0] - a[1] for a, b in pairwise(watched.passes) if b[3] == 1)
            found.append(
                {
                    "case": name, "lines": lines, "prompt": prompt, "names": prefills[0][5], "pieces": len(prefills),
                    "prefill_s": prefills[-1][1] - prefills[0][0], "step_s": steps[len(steps) // 2], "step_min_s": steps[0],
                    "gap_s": gaps[len(gaps) // 2], "request_s": max(end - start for start, end in asked),
                }
            )  # fmt: skip
    return found


def worst_moments(watched: Watched, context: int, callers: int) -> dict[str, Any]:
    """All callers at full context: prefilled together, then one joining when the others are decoding. Peaks by pass.

    Prompts differ by a few tokens, so that there is padding and with it a mask, as between real callers.
    """
    own = watched.digests[1:] or [None]
    watched.passes.clear()
    watched.ask([[(context - 6 - n, 6, own[n % len(own)]) for n in range(callers)]])
    joint = _largest(watched.passes)
    late: list[dict[str, Any]] = []
    if callers > 1:
        watched.passes.clear()
        running = [(context - 10 - n, 10, own[n % len(own)]) for n in range(callers - 1)]
        watched.ask([running, [(context - 6, 6, own[-1])]])
        late = _largest(watched.passes)
    after = gauge.peak_and_reset()
    return {"joint": joint, "late": late, "after_peak": after, "peak_reserved": gauge.peak_reserved()}


def _largest(passes: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """The passes with the highest peaks, of prefills and of decode steps apart."""
    named = [dict(zip(PASS, p, strict=True)) for p in passes]
    kept = []
    for prefill in (True, False):
        of_kind = [p for p in named if (p["new"] > 1) == prefill]
        kept += sorted(of_kind, key=lambda p: -max(p["between_peak"], p["pass_peak"]))[:3]
    return sorted(kept, key=lambda p: p["start_s"])


def edges(watched: Watched) -> list[dict[str, Any]]:
    """Does what the plan calls fitting run on a card of that size, and does it fail on one that the plan calls too small?

    The card is made small for torch: `cap_bytes` is what a process may allocate of it.
    """
    found = []
    total = torch.cuda.get_device_properties(0).total_memory if gauge.CARD else 1
    for edge in watched.spec.get("edges", []):
        watched.engine._worker._lines = edge["concurrency"]
        info = {**vars(watched.engine._info), "context": edge["context"], "concurrency": edge["concurrency"]}
        watched.engine._info = type(watched.engine._info)(**info)
        outcome, start = "ran", time.perf_counter()
        if gauge.CARD:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.set_per_process_memory_fraction(min(1.0, edge["cap_bytes"] / total))
        try:
            worst_moments(watched, edge["context"], edge["concurrency"])
        except OnecardError as error:
            outcome = str(error).splitlines()[0][:120]
        watched.engine._worker.run(lambda: watched.engine._worker._batch.clear()).result()
        peak = gauge.peak_reserved()
        found.append(
            {**edge, "outcome": outcome, "peak_reserved": peak, "seconds": round(time.perf_counter() - start, 1)}
        )
    return found


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    random.seed(1)
    before = gauge.driver_used()
    with alone(spec["lock"], shared=True):
        watched = Watched(spec)
    result: dict[str, Any] = {
        "spec": spec, "machine": gauge.machine(), "load_s": watched.load_s, "load_peak": watched.load_peak,
        "tensor_bytes": tensor_bytes(watched.shared._model), "loaded": gauge.allocated(),
    }  # fmt: skip
    result["adapter_bytes"] = watched.add_adapters(spec.get("adapters", 0), spec.get("rank", 16))
    result["with_adapters"] = gauge.allocated()
    gauge.peak_and_reset()
    if spec.get("memory", True):
        with alone(spec["lock"], shared=True):
            result["worst"] = worst_moments(watched, spec["context"], spec["concurrency"])
    if spec.get("timing", True):
        result["timings"] = timings(watched, spec["lock"])
    if spec.get("context_alone"):
        result["process_bytes"] = gauge.driver_used() - before - gauge.reserved()
    if spec.get("edges"):
        with alone(spec["lock"], shared=True):
            result["edges"] = edges(watched)
    watched.engine.close()
    return result
