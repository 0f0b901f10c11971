"""The in-process engine: one base on transformers, its adapters through PEFT, one thread that decodes for everybody.

It promises what `onecard.engines.engine` says. An adapter that would not answer as itself is refused, and what was loaded before
answers as before, to the bit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from onecard.adapters.manifest import Manifest
from onecard.engines.engine import Chunk, EngineInfo, GenerationRequest, MemoryPart, MemoryReport, TokenLogprob
from onecard.engines.local.acceptance import BaseFacts, accept, base_facts
from onecard.engines.local.answer import Answer, Prompt
from onecard.engines.local.loading import Device, Dtype, LoadedBase, Quantization, load_base, read_config, tensor_bytes
from onecard.engines.local.prompts import check_context, check_sampling, continuation_ids, prompt_ids
from onecard.engines.local.scoring import mean_log_likelihoods, prompt_log_probabilities, spelled
from onecard.engines.local.shared_model import Resident, SharedModel
from onecard.engines.local.tokens import stop_ids, text_ids, written_ids
from onecard.engines.local.worker import Worker, first_line
from onecard.errors import AdapterRefused, EngineFailed, InputError, OnecardError, UnknownName

T = TypeVar("T")

PROBE = "An adapter that changes nothing here is no adapter: 0 1 2 3."

AS_WRITTEN = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
WITH_SPECIAL = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}

# Below this a CPU decodes faster on one core: waking the others costs more than a small matrix gives them to do (27 s against 19 s for
# the same 24 answers of the embedded base on two cores).
ONE_CORE_BYTES = 64 << 20


class LocalEngine:
    """An Engine in this process. Its methods may be called from any thread and any event loop."""

    def __init__(self, base: LoadedBase, facts: BaseFacts, info: EngineInfo) -> None:
        self._info = info
        self._facts = facts
        self._base_stops = stop_ids(base.tokenizer, base.folder)
        self._base_bytes = tensor_bytes(base.model)
        self._probe = text_ids(base.tokenizer, PROBE)[: info.context]
        self._model = SharedModel(base)
        self._model.check_cache(where=info.model_id)
        self._adapters: dict[str, Resident] = {}
        self._changing = threading.Lock()  # one adapter is loaded or removed at a time
        small = info.device == "cpu" and self._base_bytes < ONE_CORE_BYTES
        self._worker = Worker(self._model, info.concurrency, threads=1 if small else None)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        model_id: str,
        fingerprint: str,
        quantization: Quantization,
        double_quantization: bool,
        dtype: Dtype = "bf16",
        device: Device = "auto",
        context: int,
        concurrency: int,
    ) -> LocalEngine:
        """Loads the base of `folder` and starts its thread. `fingerprint` is what adapters must have been trained on."""
        if concurrency < 1:
            raise InputError(f"a concurrency of {concurrency}", where=model_id, allowed="1 or more")
        longest = getattr(read_config(folder).get_text_config(), "max_position_embeddings", None)
        if longest is not None and context > longest:
            raise InputError(
                f"a context of {context} tokens", where=model_id, allowed=f"up to {longest}, as the base was built"
            )
        base = load_base(folder, quantization, double_quantization=double_quantization, dtype=dtype, device=device)
        info = EngineInfo(
            engine="local",
            engine_version=", ".join(f"{name} {version(name)}" for name in ("transformers", "peft")),
            model_id=model_id,
            quantization=quantization,
            dtype=dtype,
            device=str(base.device),
            context=context,
            concurrency=concurrency,
            base_fingerprint=fingerprint,
        )
        return cls(base, base_facts(base, fingerprint, quantization, double_quantization), info)

    def info(self) -> EngineInfo:
        """Who answers, with the digests of the adapters that can be asked now."""
        return replace(self._info, adapters=tuple(self._adapters))

    def load_adapter(self, folder: Path, manifest: Manifest) -> str:
        """Verifies and loads an adapter and returns its digest. Blocks for as long as that takes; requests go on meanwhile."""
        with self._changing:
            accepted = accept(folder, manifest, self._facts)
            if accepted.digest not in self._adapters:
                try:
                    resident = self._worker.run(lambda: self._model.add_if_it_acts(accepted, self._probe)).result()
                except OnecardError:
                    raise
                except Exception as error:
                    raise AdapterRefused(f"it cannot be loaded: {first_line(error)}", where=str(folder)) from error
                self._adapters = {**self._adapters, accepted.digest: resident}
            return accepted.digest

    def remove_adapter(self, digest: str) -> None:
        """New requests for it are unknown at once; its memory is freed when the requests that it was accepted for are done."""
        with self._changing:
            if (resident := self._resident(digest)) is None:
                raise InputError("the base cannot be removed, only closed")
            self._adapters = {kept: adapter for kept, adapter in self._adapters.items() if kept != digest}
            self._worker.retire(resident)

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """Streams the answer. InputError and UnknownName come at once, before the first chunk is waited for."""
        adapter = self._resident(request.adapter)
        prompt = self._prompt(request, adapter)
        check_sampling(request)
        check_context(len(prompt.ids), request.max_new_tokens, self._info.context)
        return self._stream(request, prompt, adapter)

    async def score(self, prompt: GenerationRequest, continuations: Sequence[str]) -> list[float]:
        """Mean log-likelihood, nats per token; after `messages` each continuation is scored with the end of its turn."""
        adapter = self._resident(prompt.adapter)
        asked = self._prompt(prompt, adapter)
        tokenizer = self._tokenizer(adapter)
        answers = [continuation_ids(prompt, asked.ids, text, tokenizer, asked.stop_ids) for text in continuations]
        check_context(len(asked.ids), max(map(len, answers), default=0), self._info.context)
        return await self._scored(lambda: mean_log_likelihoods(self._model, adapter, asked.ids, answers))

    async def _scored(self, job: Callable[[], T]) -> T:
        """What a job between two steps finds; EngineFailed when it cannot be computed."""
        try:
            return await asyncio.wrap_future(self._worker.run(job))
        except OnecardError:
            raise
        except Exception as error:
            raise EngineFailed(f"the scores could not be computed: {first_line(error)}") from error

    async def prompt_logprobs(self, request: GenerationRequest) -> list[TokenLogprob]:
        """How likely each token of a prompt is after those before it; the first has nothing before it."""
        adapter = self._resident(request.adapter)
        ids, tokenizer = self._prompt(request, adapter).ids, self._tokenizer(adapter)
        check_context(len(ids), 0, self._info.context)
        told = await self._scored(
            lambda: prompt_log_probabilities(self._model, adapter, ids, request.top_logprobs or 0)
        )
        return spelled(ids, told, partial(tokenizer.decode, **WITH_SPECIAL))

    def count_tokens(self, text: str) -> int:
        """Tokens of a text by the base's tokenizer, without special tokens around it."""
        return len(written_ids(self._facts.tokenizer, text))

    def memory(self) -> MemoryReport:
        """Bytes held now: the base's tensors, each adapter, the key-value cache."""
        parts = [MemoryPart("base weights", self._base_bytes)] if self._base_bytes else []
        parts += [
            MemoryPart(f"adapter {adapter.digest[:12]}", adapter.bytes) for adapter in tuple(self._model.residents)
        ]
        parts.append(MemoryPart("kv cache", self._worker.cache_bytes))
        on_card = self._facts.device.type == "cuda"
        held = torch.cuda.max_memory_allocated() if on_card else psutil.Process().memory_info().rss
        return MemoryReport(tuple(parts), int(held))

    def close(self) -> None:
        """Stops the thread, ends what is in flight with EngineFailed, and frees the memory. May be called again."""
        with self._changing:
            self._worker.close()
            self._adapters = {}
            self._base_bytes = 0
            self._model.free()

    async def _stream(
        self, request: GenerationRequest, prompt: Prompt, adapter: Resident | None
    ) -> AsyncGenerator[Chunk, None]:
        tokenizer = self._tokenizer(adapter)
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Chunk | OnecardError] = asyncio.Queue()

        def deliver(item: Chunk | OnecardError) -> None:
            try:
                loop.call_soon_threadsafe(arrived.put_nowait, item)
            except RuntimeError:  # the caller's event loop is closed: nobody is left to hear it
                answer.cancel()

        answer = Answer(request, prompt, adapter, partial(tokenizer.decode, **AS_WRITTEN), deliver)
        answer.spell = partial(tokenizer.decode, **WITH_SPECIAL)
        self._worker.submit(answer)
        try:
            while True:
                item = await arrived.get()
                if isinstance(item, OnecardError):
                    raise item
                yield item
                if item.finish_reason:
                    return
        finally:
            answer.cancel()

    def _resident(self, digest: str | None) -> Resident | None:
        """The adapter of a digest, None for the base. UnknownName for one that is not loaded; never the base instead."""
        if digest is None:
            return None
        try:
            return self._adapters[digest]
        except KeyError:
            raise UnknownName(f"no adapter {digest[:12]} is loaded", allowed="the digest of a loaded adapter") from None

    def _prompt(self, request: GenerationRequest, adapter: Resident | None) -> Prompt:
        ids = prompt_ids(request, self._tokenizer(adapter))
        return Prompt(tuple(ids), adapter.stop_ids if adapter else self._base_stops, chat=bool(request.messages))

    def _tokenizer(self, adapter: Resident | None) -> Any:
        return adapter.tokenizer if adapter else self._facts.tokenizer
