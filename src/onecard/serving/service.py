"""The service without HTTP: requests in, answers out, and what there is to know about its health.

It holds one engine per resident model and the directory of who answers. It decides nothing that it could leave to pure functions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

import psutil

from onecard.engines.engine import Engine, EngineInfo, GenerationRequest, MemoryReport, TellsLogprobs
from onecard.errors import EngineFailed, InputError, OnecardError
from onecard.serving.answer import Answer, Place
from onecard.serving.answerers import Answerer, Directory
from onecard.serving.choices import Choices
from onecard.serving.limits import Limits
from onecard.serving.metrics import Metrics
from onecard.serving.ranking import Ranking
from onecard.serving.requests import chat_generation, completion_generation, nth, prompt_generation
from onecard.serving.unsupported import prompts_of, refuse_unsupported
from onecard.wire.chat import ChatRequest, CompletionRequest, GenerationFields, ModelCard, ModelList
from onecard.wire.generate import GenerateRequest
from onecard.wire.health import AgentHealth, Health, MemoryHealth, MemoryPartHealth, ModelHealth

if TYPE_CHECKING:
    from onecard.serving.residency import Residency

Asked = TypeVar("Asked", Answer, Ranking)


@dataclass(frozen=True)
class FleetName:
    """Which fleet this service is of."""

    name: str
    digest: str


class Service:
    """Answers for every agent of a fleet. Closing it ends the engines; what is in flight then fails with EngineFailed.

    `directory` may be exchanged while it serves (`exchange`): requests that were accepted before finish with whom they found.
    """

    def __init__(
        self,
        fleet: FleetName,
        engines: Mapping[str, Engine],
        directory: Directory,
        limits: Limits = Limits(),  # noqa: B008  # frozen
    ) -> None:
        self.fleet = fleet
        self.engines = dict(engines)
        self.directory = directory
        self.limits = limits
        self.metrics = Metrics()
        self.residency: Residency | None = None  # set by who knows the store; without it nothing is exchanged
        self.in_flight: set[Answer | Ranking] = set()
        self._accepted: WeakSet[Answer | Ranking] = WeakSet()  # begun or not; who is dropped unbegun leaves by itself
        self._switching = threading.Lock()  # between finding who answers and accepting for them nobody exchanges them
        self._ids = {key: engine.info().model_id for key, engine in engines.items()}
        self._started_s = time.monotonic()
        self._created = int(time.time())
        self._stopping = False
        self._closed = False

    def chat(self, request: ChatRequest) -> Choices:
        """InputError or UnknownName for a request that cannot be answered as it asks."""
        with self._switching:
            who = self.directory.find(request.model)
            if not who.chat:
                raise InputError(
                    f"{who.name} was trained without a chat template",
                    where="messages",
                    next_step="ask it through /v1/completions or /generate",
                )
            refuse_unsupported(request)
            self._check(who, request, asks_logprobs=bool(request.logprobs))
            self.limits.check_new_tokens(request.max_completion_tokens, "max_completion_tokens")
            name, preset = who.preset(request.preset, "preset")
            return self._choices(who, [chat_generation(request, who.digest, preset)], name, request)

    def complete(self, request: CompletionRequest) -> Choices:
        """As `chat`, for prompts that are taken as they are."""
        with self._switching:
            who = self.directory.find(request.model)
            refuse_unsupported(request)
            self._check(who, request, asks_logprobs=request.logprobs is not None)
            name, preset = who.preset(request.preset, "preset")
            prompts = prompts_of(request)
            self.limits.check_choices(len(prompts) * (request.n or 1), "prompt")
            asked = [completion_generation(request, prompt, who.digest, preset) for prompt in prompts]
            return self._choices(who, asked, name, request, echo=bool(request.echo))

    def generate(self, request: GenerateRequest) -> Answer:
        """As `chat`, for a prompt and a style."""
        with self._switching:
            who = self.directory.with_style(request.style, request.agent)
            name, preset = who.preset(request.style, "style")
            asked = prompt_generation(request.prompt, who.digest, preset, chat=who.chat)
            return self._accept(Answer(who, asked, name, self._place(who)))

    def rank(self, name: str, prompt: str, texts: Sequence[str], preset_name: str | None, field_name: str) -> Ranking:
        """Texts to be scored as answers to a prompt under a preset of the agent; `field_name` is theirs in the request."""
        with self._switching:
            who = self.directory.find(name)
            self.limits.check_candidates(len(texts), field_name)
            _, preset = who.preset(preset_name, "preset")
            asked = prompt_generation(prompt, who.digest, preset, chat=who.chat)
            return self._accept(Ranking(who, asked, texts, self._place(who)))

    def exchange(self, directory: Directory) -> None:
        """New requests find whom this directory names, from now on."""
        with self._switching:
            self.directory = directory

    def uses(self, digest: str) -> int:
        """Requests accepted for an adapter and not over yet."""
        with self._switching:
            return sum(one.who.digest == digest and not one.closed for one in self._accepted)

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

    def _check(self, who: Answerer, request: GenerationFields, asks_logprobs: bool) -> None:
        self.limits.check_choices(request.n or 1, "n")
        self.limits.check_new_tokens(request.max_tokens, "max_tokens")
        if asks_logprobs and not isinstance(who.engine, TellsLogprobs):
            raise InputError(
                f"the engine of {who.name} tells no log-probabilities", where="logprobs", allowed="leave it out"
            )

    def _choices(
        self,
        who: Answerer,
        asked: Sequence[GenerationRequest],
        preset: str,
        request: GenerationFields,
        echo: bool = False,
    ) -> Choices:
        n = request.n or 1
        answers = [
            self._accept(Answer(who, nth(one, number), preset, self._place(who), echo=echo))
            for one in asked
            for number in range(n)
        ]
        return Choices(answers, n)

    def _accept(self, asked: Asked) -> Asked:
        """EngineFailed once the service is stopping."""
        if self._stopping:
            raise EngineFailed("the service is stopping")
        self._accepted.add(asked)
        return asked

    def _place(self, who: Answerer) -> Place:
        return Place(self.in_flight, self._ids[who.model], self.metrics, self.limits)

    def _memory(self) -> MemoryHealth:
        """Engines in this process are counted once, not once an engine; those in processes of their own are added."""
        reports = {key: engine.memory() for key, engine in self.engines.items()}
        on_cards = [reports[key].process_bytes for key, engine in self.engines.items() if engine.info().device != "cpu"]
        return MemoryHealth(
            parts=tuple(
                MemoryPartHealth(model=key, name=part.name, bytes=part.bytes)
                for key, report in reports.items()
                for part in report.parts
            ),
            gpu_bytes=max(on_cards, default=None),
            process_bytes=psutil.Process().memory_info().rss + sum(self._elsewhere(reports)),
        )

    def _elsewhere(self, reports: Mapping[str, MemoryReport]) -> Iterator[int]:
        for key, engine in self.engines.items():
            if engine.info().engine == "vllm":
                yield reports[key].process_bytes


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
        task=answerer.task,
    )
