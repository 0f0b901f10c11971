"""The service without HTTP: requests in, answers out, and what there is to know about its health.

It holds one engine per resident model and the directory of who answers. It decides nothing that it could leave to pure functions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from onecard.engines.engine import Engine, EngineInfo, GenerationRequest
from onecard.errors import EngineFailed, InputError, OnecardError
from onecard.serving.answer import Answer
from onecard.serving.answerers import Answerer, Directory
from onecard.serving.requests import chat_generation, completion_generation, prompt_generation
from onecard.serving.unsupported import refuse_unsupported
from onecard.wire.chat import ChatRequest, CompletionRequest, ModelCard, ModelList
from onecard.wire.generate import GenerateRequest
from onecard.wire.health import AgentHealth, Health, MemoryHealth, MemoryPartHealth, ModelHealth


@dataclass(frozen=True)
class FleetName:
    """Which fleet this service is of."""

    name: str
    digest: str


class Service:
    """Answers for every agent of a fleet. Closing it ends the engines; what is in flight then fails with EngineFailed."""

    def __init__(self, fleet: FleetName, engines: Mapping[str, Engine], directory: Directory) -> None:
        self.fleet = fleet
        self.engines = dict(engines)
        self.directory = directory
        self.in_flight: set[Answer] = set()
        self._ids = {key: engine.info().model_id for key, engine in engines.items()}
        self._started_s = time.monotonic()
        self._created = int(time.time())
        self._stopping = False
        self._closed = False

    def chat(self, request: ChatRequest) -> Answer:
        """InputError or UnknownName for a request that cannot be answered as it asks."""
        who = self.directory.find(request.model)
        if not who.chat:
            raise InputError(
                f"{who.name} was trained without a chat template",
                where="messages",
                next_step="ask it through /v1/completions or /generate",
            )
        refuse_unsupported(request)
        name, preset = who.preset(request.preset, "preset")
        return self._answer(who, chat_generation(request, who.digest, preset), name)

    def complete(self, request: CompletionRequest) -> Answer:
        """As `chat`, for a prompt that is taken as it is."""
        who = self.directory.find(request.model)
        refuse_unsupported(request)
        name, preset = who.preset(request.preset, "preset")
        return self._answer(who, completion_generation(request, who.digest, preset), name)

    def generate(self, request: GenerateRequest) -> Answer:
        """As `chat`, for a prompt and a style."""
        who = self.directory.with_style(request.style, request.agent)
        name, preset = who.preset(request.style, "style")
        return self._answer(who, prompt_generation(request.prompt, who.digest, preset, chat=who.chat), name)

    def models(self) -> ModelList:
        """Every name a request may use."""
        return ModelList(data=tuple(map(self.model, self.directory.names)))

    def model(self, name: str) -> ModelCard:
        """One of these names; UnknownName for any other."""
        self.directory.find(name)
        return ModelCard(id=name, created=self._created)

    def health(self) -> Health:
        """What is served and what it takes. Never raises: an engine that does not answer is a status."""
        status, detail = ("stopping", "the service is stopping") if self._stopping else ("ok", None)
        models, memory = [], MemoryHealth(process_bytes=psutil.Process().memory_info().rss)
        try:
            models = [_model_health(key, engine.info()) for key, engine in self.engines.items()]
            memory = self._memory()
        except OnecardError as error:
            status, detail = "failed", str(error)
        return Health(
            status=status,
            detail=detail,
            fleet=self.fleet.name,
            fleet_digest=self.fleet.digest,
            model=next(iter(self._ids.values()), ""),
            models=tuple(models),
            adapters=tuple(_agent_health(answerer) for answerer in self.directory.agents),
            memory=memory,
            in_flight=len(self.in_flight),
            uptime_s=round(time.monotonic() - self._started_s, 3),
        )

    def check_ready(self) -> None:
        """EngineFailed while requests cannot be answered."""
        health = self.health()
        if health.status != "ok":
            raise EngineFailed(health.detail or health.status)

    def stop(self) -> None:
        """Refuses new requests from now on; those in flight go on."""
        self._stopping = True

    def close(self) -> None:
        """Ends the engines and frees their memory. Safe to call twice."""
        self._stopping = True
        if not self._closed:
            self._closed = True
            for engine in self.engines.values():
                engine.close()

    def _answer(self, who: Answerer, request: GenerationRequest, preset: str) -> Answer:
        if self._stopping:
            raise EngineFailed("the service is stopping")
        return Answer(who, request, preset, self.in_flight, self._ids[who.model])

    def _memory(self) -> MemoryHealth:
        """Engines live in one process: its size and the allocator's peak are counted once, not once an engine."""
        reports = {key: engine.memory() for key, engine in self.engines.items()}
        on_cards = [reports[key].process_bytes for key, engine in self.engines.items() if engine.info().device != "cpu"]
        return MemoryHealth(
            parts=tuple(
                MemoryPartHealth(model=key, name=part.name, bytes=part.bytes)
                for key, report in reports.items()
                for part in report.parts
            ),
            gpu_bytes=max(on_cards, default=None),
            process_bytes=psutil.Process().memory_info().rss,
        )


def _model_health(key: str, info: EngineInfo) -> ModelHealth:
    return ModelHealth(
        name=key,
        id=info.model_id,
        fingerprint=info.base_fingerprint,
        engine=info.engine,
        engine_version=info.engine_version,
        quantization=info.quantization,
        dtype=info.dtype,
        device=info.device,
        context=info.context,
        concurrency=info.concurrency,
    )


def _agent_health(answerer: Answerer) -> AgentHealth:
    return AgentHealth(
        agent=answerer.agent,
        model=answerer.model,
        adapter=answerer.adapter,
        digest=answerer.digest,
        presets=tuple(answerer.presets),
    )
