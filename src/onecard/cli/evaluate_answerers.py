"""Who answers an evaluation: a stored version in an engine of this process, or a server by its URL; and beside it the bare base.

The engine is asked through the very function with which the service makes its requests, so what is judged is what will be served.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from onecard.adapters.store import StoredVersion
    from onecard.engines.engine import Engine
    from onecard.evaluation.exam import Answerers, Exam
    from onecard.evaluation.questions import Question
    from onecard.evaluation.report import Judged
    from onecard.evaluation.suite import Ask, CountTokens
    from onecard.fleet.loader import LoadedFleet
    from onecard.fleet.schema import Preset

BASE = "base"


def open_engine(loaded: LoadedFleet, key: str) -> Engine:
    """The engine of one of the fleet's models, on this machine. FleetError for one that is opened elsewhere, MissingPart."""
    from onecard.errors import FleetError, MissingPart
    from onecard.weights.inventory import fingerprint, resolve

    model, where = loaded.fleet.models[key], f"{loaded.file}: models.{key}"
    if model.engine not in ("auto", "local"):
        start = "start it, and judge it by its --url"
        raise FleetError(f"engine {model.engine} is not opened here", where=f"{where}.engine", next_step=start)
    if model.quantization not in ("none", "int8", "nf4"):
        problem = f"{model.quantization} is not loaded here"
        raise FleetError(problem, where=f"{where}.quantization", allowed="none, int8, nf4")
    folder = resolve(model.id, loaded.folder)
    try:
        from onecard.engines.local.engine import LocalEngine
    except ImportError as error:
        raise MissingPart(f"{error.name} is not installed", next_step="pip install 'onecard[local]'") from error
    return LocalEngine.open(
        folder,
        model_id=model.id,
        fingerprint=fingerprint(folder),
        quantization=model.quantization,
        double_quantization=model.double_quantization,
        context=model.context,
        concurrency=model.concurrency,
    )


def in_process(
    loaded: LoadedFleet, stored: StoredVersion, engine: Engine, exam: Exam, *, with_base: bool
) -> tuple[Judged, Answerers]:
    """The candidate, and the base, in one engine; AdapterRefused when the candidate would not answer as itself."""
    from onecard.evaluation.exam import Answerers, bare
    from onecard.evaluation.report import Judged

    digest, info = engine.load_adapter(stored.folder, stored.manifest), engine.info()
    chat = bool(stored.manifest.recipe.get("chat_template", True))
    judged = Judged(
        fleet=loaded.fleet.name,
        fleet_digest=loaded.digest,
        agent=stored.agent,
        adapter=f"{stored.name}@{stored.version}",
        digest=digest,
        model=info.model_id,
        quantization=info.quantization,
        engine=info.engine,
        engine_version=info.engine_version,
        device=info.device,
        dtype=info.dtype,
        base_fingerprint=info.base_fingerprint,
        tokens_counted_by="base tokenizer",
    )
    return judged, Answerers(
        name=f"{stored.name}@{stored.version}",
        candidate=_asking(engine, digest, exam.presets, chat, exam.seed),
        count_tokens=engine.count_tokens,
        concurrency=info.concurrency,
        against={BASE: _asking(engine, None, bare(exam.presets), chat, exam.seed)} if with_base else {},
    )


@asynccontextmanager
async def over_url(
    loaded: LoadedFleet, agent: str, exam: Exam, url: str, version: str | None, *, with_base: bool | None
) -> AsyncIterator[tuple[Judged, Answerers]]:
    """The agent as a server answers for it while the context is open. `with_base` None: where the server has a base."""
    from onecard.evaluation.exam import Answerers, bare
    from onecard.evaluation.over_url import reach
    from onecard.evaluation.report import Judged
    from onecard.wire.client import Client

    model = loaded.fleet.models[_demand_chat(loaded, agent)]
    name = f"{agent}@{version}" if version else agent
    async with Client(url) as client:
        server = await reach(client)
        server.demand(name)
        if with_base:
            server.demand(BASE)
        told, count_tokens = server.told(name), _base_tokenizer(loaded, model.id)
        judged = Judged(
            fleet=loaded.fleet.name,
            fleet_digest=loaded.digest,
            agent=agent,
            adapter=told.adapter if told else None,
            digest=told.digest if told else None,
            model=model.id,
            quantization=model.quantization,
            url=url,
            tokens_counted_by="base tokenizer" if count_tokens else "server",
        )
        asks_base = server.has_base if with_base is None else with_base
        yield (
            judged,
            Answerers(
                name=name,
                candidate=server.ask(name, exam.presets, exam.seed),
                count_tokens=count_tokens,
                concurrency=model.concurrency,
                against={BASE: server.ask(BASE, bare(exam.presets), exam.seed)} if asks_base else {},
            ),
        )


def _demand_chat(loaded: LoadedFleet, agent: str) -> str:
    """The agent's model; FleetError when the agent is not asked in chat turns, which is all a URL is asked in here."""
    from onecard.errors import FleetError

    spec = loaded.agent(agent)
    if spec.recipe is not None and not spec.recipe.chat_template:
        problem = "trained with chat_template: false, and a server is asked over chat completions"
        raise FleetError(problem, where=f"{loaded.file}: agents.{agent}.recipe", next_step="judge it without --url")
    return spec.model


def _asking(engine: Engine, adapter: str | None, presets: Mapping[str, Preset], chat: bool, seed: int) -> Ask:
    """An answerer of an engine; without `chat` the prompt goes to the model as it is."""
    from onecard.errors import EngineFailed
    from onecard.evaluation.suite import Answer
    from onecard.serving.requests import prompt_generation

    async def ask(question: Question) -> Answer:
        asked_s = time.monotonic()
        request = prompt_generation(question.prompt, adapter, presets[question.preset])
        request = replace(request, seed=question.number(seed))
        if not chat:
            request = replace(request, messages=(), text=request.messages[0].content)
        text, tokens, reason = "", 0, None
        async with aclosing(cast(Any, engine.generate(request))) as chunks:
            async for chunk in chunks:
                text, tokens, reason = text + chunk.text, tokens + chunk.tokens, chunk.finish_reason
        if reason is None:
            raise EngineFailed("the engine broke off in the middle of an answer", where=question.where)
        return Answer(text, reason, time.monotonic() - asked_s, tokens)

    return ask


def _base_tokenizer(loaded: LoadedFleet, model_id: str) -> CountTokens | None:
    """Counts as the base's tokenizer does; None when it is not on this machine, or what reads it is not installed."""
    from onecard.errors import OnecardError

    try:
        from onecard.engines.local.tokens import load_tokenizer, written_ids
        from onecard.weights.inventory import resolve

        tokenizer = load_tokenizer(resolve(model_id, loaded.folder))
    except (OnecardError, ImportError):
        return None
    return lambda text: len(written_ids(tokenizer, text))
