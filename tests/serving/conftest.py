"""A deterministic engine in memory and a service around it, so that everything but the model itself is tested in milliseconds."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from onecard.adapters.manifest import Manifest
from onecard.engines.engine import Chunk, EngineInfo, GenerationRequest, MemoryPart, MemoryReport
from onecard.errors import AdapterRefused, EngineFailed, InputError, UnknownName
from onecard.fleet.schema import Preset
from onecard.serving.answerers import Answerer, Directory
from onecard.serving.limits import Limits
from onecard.serving.listening import listen
from onecard.serving.running import Running, run_in_background
from onecard.serving.service import FleetName, Service
from onecard.serving.settings import Settings

INFO = EngineInfo(
    engine="fake",
    engine_version="1",
    model_id="embedded:fake",
    quantization="none",
    dtype="fp32",
    device="cpu",
    context=64,
    concurrency=4,
    base_fingerprint="b" * 64,
)


class FakeEngine:
    """Repeats the prompt word by word after the name of who answers: "[digest] word word ...".

    A word is a token. Words of the prompt that make it misbehave: `slowly` waits between words, `crash` raises in the middle, `die` fails
    as a dead engine, `nothing` ends without a word. `cancelled` counts answers that were closed before their end.
    """

    def __init__(self, info: EngineInfo = INFO) -> None:
        self._info = info
        self.loaded: dict[str, Manifest] = {}
        self.asked: list[GenerationRequest] = []
        self.running = self.cancelled = 0
        self.closed = False

    def info(self) -> EngineInfo:
        return replace(self._info, adapters=tuple(self.loaded))

    def load_adapter(self, folder: Path, manifest: Manifest) -> str:
        if manifest.base.fingerprint != self._info.base_fingerprint:
            raise AdapterRefused("it was trained on another base", where=str(folder))
        self.loaded[manifest.digest] = manifest
        return manifest.digest

    def remove_adapter(self, digest: str) -> None:
        del self.loaded[digest]

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        self.asked.append(request)
        if self.closed:
            raise EngineFailed("the engine is closed")
        if request.adapter is not None and request.adapter not in self.loaded:
            raise UnknownName("that adapter is not loaded")
        prompt = request.text if request.text is not None else " ".join(m.content for m in request.messages)
        words = prompt.split()
        if len(words) + request.max_new_tokens > self._info.context:
            raise InputError(f"{len(words)} + {request.max_new_tokens} tokens, the context holds {self._info.context}")
        self.running += 1
        ended = False
        try:
            async for chunk in self._words(request, words):
                ended = chunk.finish_reason is not None
                yield chunk
        finally:
            self.running -= 1
            self.cancelled += not ended

    async def _words(self, request: GenerationRequest, words: list[str]) -> AsyncIterator[Chunk]:
        if "nothing" in words:
            return
        said = [f"[{request.adapter or 'base'}]", *words]
        if request.temperature > 0:
            drawn = hashlib.sha256(f"{request.seed} {request.temperature} {request.top_p}".encode()).hexdigest()[:8]
            said.insert(1, drawn)
        for number, word in enumerate(said[: request.max_new_tokens]):
            if "crash" in words and number == 1:
                raise RuntimeError("a bug in the engine")
            if self.closed:
                raise EngineFailed("the engine is closed")
            if "die" in words and number == 1:
                raise EngineFailed("the engine died")
            if "slowly" in words:
                await asyncio.sleep(0.05)
            last = number + 1 == min(len(said), request.max_new_tokens)
            stopped = word in request.stop
            text = "" if stopped else f"{word} "
            finish = "stop" if stopped or (last and number + 1 == len(said)) else "length" if last else None
            yield Chunk(text, 1, len(words), finish, 0.0125 if number == 0 else 0.0)  # type: ignore[arg-type]
            if stopped:
                return
            await asyncio.sleep(0)

    async def score(self, prompt: GenerationRequest, continuations: Sequence[str]) -> list[float]:
        return [-float(len(text)) for text in continuations]

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def memory(self) -> MemoryReport:
        if self.closed:
            raise EngineFailed("the engine is closed")
        return MemoryReport((MemoryPart("base weights", 1000), MemoryPart("kv cache", 24)), 5000)

    def close(self) -> None:
        self.closed = True


def service_of(engine: FakeEngine, limits: Limits = Limits()) -> Service:  # noqa: B008
    """Three agents on one base: two with adapters, two that share a style, one without an adapter."""
    clerk = {"warm": Preset(temperature=0.7, top_p=0.9, max_new_tokens=16), "terse": Preset(max_new_tokens=16)}
    styles = {"terse": Preset(token="<T>", max_new_tokens=8), "verbose": Preset(token="<V>", max_new_tokens=32)}
    engine.loaded = dict.fromkeys(("digest-1", "digest-2"))  # type: ignore[arg-type]
    agents = [
        Answerer("explainer", "base", engine, "style@v0003", "digest-1", styles),
        Answerer("quizmaster", "base", engine, "quiz@v0001", "digest-2", {"default": Preset(max_new_tokens=16)}),
        Answerer("clerk", "base", engine, presets=clerk),
    ]
    base = Answerer("base", "base", engine, presets={"default": Preset(max_new_tokens=16)})
    return Service(FleetName("test", "f" * 64), {"base": engine}, Directory(agents, base), limits)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def service(engine: FakeEngine) -> Service:
    return service_of(engine)


@pytest.fixture(scope="session")
def service_around() -> Callable[..., AbstractContextManager[tuple[Running, FakeEngine]]]:
    """Opens a service with a fake engine over real HTTP on loopback."""

    @contextmanager
    def opened(settings: Settings | None = None, limits: Limits | None = None) -> Iterator[tuple[Running, FakeEngine]]:
        engine = FakeEngine()
        service, listening = service_of(engine, limits or Limits()), listen("127.0.0.1", 0)
        with run_in_background(service, listening, grace_s=5, settings=settings or Settings()) as running:
            yield running, engine

    return opened


@pytest.fixture
def running(service: Service) -> Iterator[Running]:
    """The service over real HTTP on loopback."""
    with run_in_background(service, listen("127.0.0.1", 0), grace_s=5) as running:
        yield running


class Real(NamedTuple):
    """A service of the embedded base with random adapters, over HTTP; `folder` has its fleet file and its store."""

    running: Running
    folder: Path

    @property
    def url(self) -> str:
        return self.running.url

    @property
    def service(self) -> Service:
        return self.running.service


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """`explainer` follows production, with a second version that is only a candidate; `ranker` is for re-ranking; `plain` is bare."""
    import torch
    import yaml

    from onecard.adapters.store import Store
    from onecard.fleet.loader import load_fleet
    from onecard.serving.start import start
    from tests.serving.test_start import _publish

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("real")
    agents = {
        "explainer": {"model": "base", "adapter": "style@production", "presets": {"default": {"max_new_tokens": 16}}},
        "ranker": {"model": "base", "adapter": "rank@v0001", "task": "rerank"},
        "plain": {"model": "base", "presets": {"default": {"max_new_tokens": 16}}},
    }
    base = {"id": "embedded:mini", "context": 256, "concurrency": 4}
    fleet = {"name": "real", "card": "auto", "store": "./modelstore", "models": {"base": base}, "agents": agents}
    (folder / "fleet.yaml").write_text(yaml.safe_dump(fleet))
    store = Store(folder / "modelstore")
    for number, (agent, name) in enumerate((("explainer", "style"), ("ranker", "rank"), ("explainer", "style"))):
        made = folder / str(number)
        made.mkdir()
        _publish(store, agent, name, made, seed=number + 1)
    store.promote("explainer", "style", "v0001", force=True, reason="a test")
    service = start(load_fleet(folder / "fleet.yaml"))
    with run_in_background(service, listen("127.0.0.1", 0), grace_s=5) as running:
        yield Real(running, folder)
