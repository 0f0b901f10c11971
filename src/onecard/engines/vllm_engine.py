"""vLLM as an Engine: one managed server, its adapters verified by our own checks, asked by token ids over its HTTP API.

Text becomes tokens and tokens become text here, with the very functions of the in-process engine, so that both answer alike; vLLM sees
ids only. It promises what `onecard.engines.engine` says; a crash fails what is in flight with one EngineFailed, and the server comes back.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from onecard.adapters.manifest import Manifest
from onecard.engines import vllm_http
from onecard.engines.engine import Chunk, EngineInfo, GenerationRequest, MemoryPart, MemoryReport
from onecard.engines.local.prompts import check_context, check_sampling, continuation_ids, prompt_ids
from onecard.engines.local.tokens import chat_template_sha256, load_tokenizer, stop_ids, text_ids, written_ids
from onecard.engines.remote_client import Connections
from onecard.engines.vllm_adapters import Servable, VllmBase, check_servable
from onecard.engines.vllm_answer import VllmAnswer
from onecard.engines.vllm_arguments import VllmSettings, arguments, check_settings, environment, rank_setting, window
from onecard.engines.vllm_base import (
    exported_base,
    linear_shapes,
    longest_context,
    published_form,
    write_base_tokenizer,
)
from onecard.engines.vllm_log import tail
from onecard.engines.vllm_no_adapter import NAME as NO_ADAPTER
from onecard.engines.vllm_no_adapter import write_no_adapter
from onecard.engines.vllm_process import GRACE_S, SERVER, START_S, VllmProcess
from onecard.engines.vllm_restarts import Restarts
from onecard.errors import AdapterRefused, EngineFailed, InputError, MissingPart, OnecardError, UnknownName

PYTHON = "ONECARD_VLLM_PYTHON"
PROBE = "An adapter that changes nothing here is no adapter: 0 1 2 3."
AS_WRITTEN = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
REFUSED_TOKEN = -100.0  # vLLM's strongest bias against a token


@dataclass(frozen=True)
class Resident:
    """A loaded adapter. `others_rows` are the ids of added tokens that are not its own."""

    servable: Servable
    manifest: Manifest
    stored: Path
    tokenizer: Any
    stop_ids: tuple[int, ...]
    others_rows: tuple[int, ...]


def find_command(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """What runs vLLM's server: this interpreter where vLLM is installed, else the one ONECARD_VLLM_PYTHON names; else MissingPart."""
    python = sys.executable if importlib.util.find_spec("vllm") else environ.get(PYTHON)
    if not python:
        raise MissingPart(
            "vLLM is not installed here", where="engine: vllm",
            next_step=f"pip install vllm, or name an interpreter that has it in {PYTHON}",
        )  # fmt: skip
    if not os.access(python, os.X_OK):
        raise MissingPart("no such interpreter", where=f"{PYTHON}={python}", next_step="name one that has vLLM")
    return (python, "-m", SERVER)


class VllmEngine:
    """An Engine in processes of its own. Its methods may be called from any thread and any event loop."""

    def __init__(
        self, settings: VllmSettings, info: EngineInfo, owner: Manifest | None, command: Sequence[str], **process: Any
    ) -> None:
        self._settings, self._info, self._owner = settings, info, owner
        self._residents: dict[str, Resident] = {}
        self._changing = threading.Lock()
        self._connections = Connections()
        self._in_flight = 0
        self._process = VllmProcess(
            command,
            lambda name, port, grace_s: arguments(settings, name=name, port=port, grace_s=grace_s),
            lambda key, scratch: environment(settings, os.environ, key=key, scratch=scratch),
            where=info.model_id,
            on_restart=self._load_again,
            **process,
        )
        try:
            self._prepare()
            self._process.start()
            self._info = replace(info, engine_version=f"vllm {vllm_http.version(self._process)}")
            self._base_probe = self._probe_base()
        except BaseException:
            self._process.stop(drain=False)
            raise

    @classmethod
    def open(
        cls,
        settings: VllmSettings,
        *,
        model_id: str,
        fingerprint: str,
        owner: Manifest | None = None,
        command: Sequence[str] | None = None,
        start_s: float = START_S,
        grace_s: float = GRACE_S,
        restarts: Restarts | None = None,
    ) -> VllmEngine:
        """Starts vLLM and waits until it answers.

        `fingerprint` is what adapters must have been trained on. `owner` is the manifest of the adapter whose added tokens the base holds,
        when it is an export. InputError for what vLLM cannot serve, MissingPart without one, EngineFailed when it does not come up.
        """
        settings = replace(
            settings, longest=longest_context(settings.folder), published=published_form(settings.folder)
        )
        check_settings(settings, model_id)
        info = EngineInfo(
            engine="vllm", engine_version="", model_id=model_id, quantization=settings.quantization, dtype=settings.dtype,
            device=settings.device, context=settings.context, concurrency=settings.concurrency, base_fingerprint=fingerprint,
        )  # fmt: skip
        return cls(
            settings, info, owner, command or find_command(), start_s=start_s, grace_s=grace_s, restarts=restarts
        )

    @property
    def process(self) -> VllmProcess:
        """The server underneath, for those who watch it."""
        return self._process

    def info(self) -> EngineInfo:
        """Who answers, with the digests of the adapters that can be asked now."""
        return replace(self._info, adapters=tuple(self._residents))

    def load_adapter(self, folder: Path, manifest: Manifest) -> str:
        """Checks the files, tells vLLM of them, and probes what was loaded. Blocks for as long as that takes."""
        with self._changing:
            self._process.check()
            servable = check_servable(folder, manifest, self._facts)
            if servable.digest not in self._residents:
                resident = self._resident_of(servable, manifest, folder)
                self._load(resident)
                self._residents = {**self._residents, servable.digest: resident}
            return servable.digest

    def remove_adapter(self, digest: str) -> None:
        """New requests for it are unknown at once; those in flight finish. vLLM frees its slot when another adapter needs it."""
        with self._changing:
            if (resident := self._find(digest)) is None:
                raise InputError("the base cannot be removed, only closed")
            self._residents = {kept: other for kept, other in self._residents.items() if kept != digest}
            with suppress(EngineFailed):  # a server that is gone has forgotten it
                vllm_http.forget(self._process, resident.servable.name)

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """Streams the answer. InputError and UnknownName come at once, before the first chunk is waited for."""
        adapter = self._find(request.adapter)
        tokenizer = adapter.tokenizer if adapter else self._tokenizer
        ids = prompt_ids(request, tokenizer)
        check_sampling(request)
        check_context(len(ids), request.max_new_tokens, self._settings.context)
        self._process.check()
        stops = adapter.stop_ids if adapter else self._stop_ids
        answer = VllmAnswer(request, len(ids), stops, partial(tokenizer.decode, **AS_WRITTEN))
        return self._stream(self._body(request, ids, adapter, stops), answer)

    async def score(self, prompt: GenerationRequest, continuations: Sequence[str]) -> list[float]:
        """Mean log-likelihood, nats per token; after `messages` each continuation is scored with the end of its turn.

        Where the context is all that the base was built for, prompt and continuation must leave one token of it free.
        """
        adapter = self._find(prompt.adapter)
        tokenizer = adapter.tokenizer if adapter else self._tokenizer
        stops = adapter.stop_ids if adapter else self._stop_ids
        ids = prompt_ids(prompt, tokenizer)
        answers = [continuation_ids(prompt, ids, text, tokenizer, stops) for text in continuations]
        check_context(len(ids), max(map(len, answers), default=0), window(self._settings) - 1)
        self._process.check()
        lines = asyncio.Semaphore(self._settings.concurrency)

        async def one(answer: Sequence[int]) -> float:
            async with lines:
                return await self._mean_log_likelihood(adapter, ids, answer)

        return list(await asyncio.gather(*map(one, answers)))

    def count_tokens(self, text: str) -> int:
        """Tokens of a text by the base's tokenizer, without special tokens around it."""
        return len(written_ids(self._tokenizer, text))

    def memory(self) -> MemoryReport:
        """What vLLM says it holds; EngineFailed while it is down, nothing once it is closed."""
        process = self._process
        if process.state == "stopped" or process.pid is None:
            return MemoryReport((), 0)
        process.check()
        log = tail(process.log_file)
        parts = [MemoryPart("base weights", vllm_http.weights_bytes(log, self._settings.folder))]
        for resident in tuple(self._residents.values()):
            parts.append(MemoryPart(f"adapter {resident.servable.digest[:12]}", resident.servable.bytes))
        parts.append(MemoryPart("kv cache", vllm_http.cache_bytes(process, log)))
        held = vllm_http.held_bytes(process.pid, on_card=self._settings.device != "cpu")
        return MemoryReport(tuple(parts), held or sum(part.bytes for part in parts))

    def close(self, *, drain: bool = False) -> None:
        """Ends the server. With `drain` requests in flight finish first, for the grace time at most; else they end with EngineFailed."""
        self._residents = {}
        self._process.stop(drain=drain and self._in_flight > 0, idle=lambda: self._in_flight == 0)

    def _prepare(self) -> None:
        """What is read of the base before the server starts, so that a mistake costs no start."""
        folder, owner = self._settings.folder, self._owner
        export = exported_base(folder)
        if export is not None and (owner is None or owner.digest != export.digest):
            raise InputError(
                f"this base holds the added tokens of {export.address}, which no agent of the fleet names", where=str(folder),
                next_step="name that adapter's version for an agent, or serve the base itself",
            )  # fmt: skip
        self._owner = owner if export else None
        added = self._owner.added_tokens if self._owner else ()
        self._added = tuple(token.row for token in added)
        try:
            if added:
                write_base_tokenizer(
                    folder, self._process.folder / "tokenizer", frozenset(token.token for token in added)
                )
            self._tokenizer = load_tokenizer(self._process.folder / "tokenizer" if added else folder)
        except ImportError as error:
            raise MissingPart(f"{error.name} is not installed", next_step="pip install 'onecard[local]'") from error
        self._stop_ids = stop_ids(self._tokenizer, folder)
        self._probe_ids = text_ids(self._tokenizer, PROBE)[: self._settings.context - 1]
        rank = rank_setting(self._settings.max_rank, str(folder)) if self._settings.adapters else 0
        self._facts = VllmBase(
            self._info.base_fingerprint, self._settings.quantization, chat_template_sha256(self._tokenizer),
            linear_shapes(folder), rank, export,
        )  # fmt: skip
        self._base_name = self._process.name
        if self._settings.adapters and self._settings.device == "cpu":
            write_no_adapter(self._process.folder / NO_ADAPTER, self._facts.linears)
            self._base_name = NO_ADAPTER

    def _resident_of(self, servable: Servable, manifest: Manifest, stored: Path) -> Resident:
        owns = bool(manifest.added_tokens)
        tokenizer = load_tokenizer(stored) if owns else self._tokenizer
        expected = self._tokenizer.get_vocab() | {added.token: added.row for added in manifest.added_tokens}
        if owns and tokenizer.get_vocab() != expected:
            raise AdapterRefused("its vocabulary is not the base's with its added tokens", where=str(stored))
        return Resident(servable, manifest, stored, tokenizer, manifest.stop_ids, () if owns else self._added)

    def _load(self, resident: Resident) -> None:
        """Told to vLLM under its own name and path and probed; AdapterRefused and forgotten again when the probe says no."""
        name, where = resident.servable.name, str(resident.stored)
        place = self._process.folder / "adapters" / name
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(resident.servable.folder.resolve(), target_is_directory=True)
        try:
            vllm_http.load(self._process, name, place)
            own, again = (vllm_http.probe(self._process, name, self._probe_ids) for _ in range(2))
            problem = vllm_http.probe_problem(self._base_probe, own, again)
        except EngineFailed as error:
            self._process.check()
            problem = f"vLLM does not load it: {error.problem}"
        if problem is None:
            return
        with suppress(EngineFailed):
            vllm_http.forget(self._process, name)
        self._make_sure_the_base_is_itself()
        raise AdapterRefused(problem, where=where)

    def _make_sure_the_base_is_itself(self) -> None:
        """After a refusal: an adapter can spoil the whole server, and then only a restart helps."""
        try:
            now = vllm_http.probe(self._process, self._base_name, self._probe_ids)
            spoiled = (
                max(abs(one - two) for one, two in zip(now, self._base_probe, strict=True)) > vllm_http.LARGEST_NOISE
            )
        except EngineFailed:
            spoiled = True
        if spoiled or any(value != value for value in now):
            self._process.restart("a refused adapter changed what the base answers")

    def _probe_base(self) -> tuple[float, ...]:
        """The base's log-probabilities on the probe. Where it needs an adapter of zeros, that is loaded first, and must change nothing."""
        bare = vllm_http.probe(self._process, self._process.name, self._probe_ids)
        if self._base_name == self._process.name:
            return bare
        vllm_http.load(self._process, NO_ADAPTER, self._process.folder / NO_ADAPTER)
        zeros = vllm_http.probe(self._process, NO_ADAPTER, self._probe_ids)
        if vllm_http.probe_problem(bare, zeros, bare) is None:
            raise EngineFailed("an adapter of zeros changes what vLLM answers", where=self._info.model_id)
        return zeros

    def _load_again(self) -> None:
        """After a restart: every adapter is checked, loaded and probed as at first. EngineFailed when one no longer passes."""
        self._base_probe = self._probe_base()
        for resident in tuple(self._residents.values()):
            try:
                check_servable(resident.stored, resident.manifest, self._facts)
                self._load(resident)
            except AdapterRefused as error:
                raise EngineFailed(f"{resident.servable.name} is refused after the restart: {error.problem}") from error

    def _body(
        self, request: GenerationRequest, ids: Sequence[int], adapter: Resident | None, stops: Sequence[int]
    ) -> dict[str, Any]:
        """The request as vLLM takes it: exactly our stop ids end it, and nobody says another adapter's tokens."""
        others = adapter.others_rows if adapter else self._added
        body: dict[str, Any] = {
            "model": self._name(adapter), "prompt": list(ids), "max_tokens": request.max_new_tokens,
            "temperature": request.temperature, "top_p": request.top_p, "stop_token_ids": list(stops), "ignore_eos": True,
            "return_token_ids": True,
        }  # fmt: skip
        if request.seed is not None:
            body["seed"] = request.seed - (1 << 64) if request.seed >= 1 << 63 else request.seed
        if others:
            body["logit_bias"] = {str(row): REFUSED_TOKEN for row in others}
        return body

    async def _stream(self, body: Mapping[str, Any], answer: VllmAnswer) -> AsyncGenerator[Chunk, None]:
        client = self._connections.to(self._process.url, self._process.key)
        self._in_flight += 1
        try:
            async with aclosing(client.stream_completion(body)) as events:  # type: ignore[type-var]
                async for event in events:
                    for choice in event.choices:
                        if chunk := answer.take(choice.token_ids or (), choice.finish_reason):
                            yield chunk
                        if answer.finished:
                            return
        except OnecardError as error:
            raise self._broken(error) from error
        finally:
            self._in_flight -= 1

    async def _mean_log_likelihood(
        self, adapter: Resident | None, prompt: Sequence[int], answer: Sequence[int]
    ) -> float:
        body = {
            "model": self._name(adapter), "prompt": [*prompt, *answer], "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0,
        }  # fmt: skip
        try:
            told = await self._connections.to(self._process.url, self._process.key).completion(body)
            likely = (told.choices[0].prompt_logprobs or ())[len(prompt) :]
            values = [float((at or {})[str(token)]["logprob"]) for at, token in zip(likely, answer, strict=True)]
        except OnecardError as error:
            raise self._broken(error) from error
        except (KeyError, IndexError, ValueError) as error:
            raise EngineFailed("vLLM did not say how likely the text is", where=self._info.model_id) from error
        return sum(values) / len(values)

    def _broken(self, error: OnecardError) -> OnecardError:
        """What a caller hears: the server's state when it is down, else its error. A name that vLLM lost is not the caller's mistake."""
        if self._process.state != "ready":
            return self._process.failure()
        if isinstance(error, InputError) and not isinstance(error, UnknownName):
            return error
        return EngineFailed(f"vLLM broke off: {error.problem}", where=self._info.model_id, next_step="ask again")

    def _name(self, adapter: Resident | None) -> str:
        return adapter.servable.name if adapter else self._base_name

    def _find(self, digest: str | None) -> Resident | None:
        """The adapter of a digest, None for the base. UnknownName for one that is not loaded; never the base instead."""
        if digest is None:
            return None
        try:
            return self._residents[digest]
        except KeyError:
            raise UnknownName(f"no adapter {digest[:12]} is loaded", allowed="the digest of a loaded adapter") from None
