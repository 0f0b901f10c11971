"""Who answers an evaluation: a stored version in an engine of this process, or a server by its URL; and beside it the bare base.

The engine is asked through the very function with which the service makes its requests, so what is judged is what will be served.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from onecard.adapters.store import StoredVersion
    from onecard.engines.engine import Engine
    from onecard.evaluation.exam import Answerers, Exam
    from onecard.evaluation.gate import Absent
    from onecard.evaluation.questions import Question
    from onecard.evaluation.report import Judged
    from onecard.evaluation.suite import Ask, CountTokens, Score
    from onecard.fleet.loader import LoadedFleet
    from onecard.fleet.schema import Preset

BASE, PRODUCTION = "base", "production"


def open_engine(loaded: LoadedFleet, key: str) -> Engine:
    """The engine of one of the fleet's models, chosen and opened as `serve` does, with room for the versions that are judged."""
    from onecard.serving.opening import choice_of, here, open_model

    return open_model(loaded, key, choice_of(loaded, key, here()), _versions(loaded, key))


def _versions(loaded: LoadedFleet, key: str) -> list[StoredVersion]:
    """What the store has of the adapters on a model, under the references that an evaluation asks for."""
    from onecard.adapters.store import Store
    from onecard.errors import UnknownName

    store, found = Store(loaded.store_url), []
    for agent, spec in loaded.fleet.agents.items():
        for reference in ("candidate", PRODUCTION) if spec.model == key and spec.adapter else ():
            try:
                found.append(store.resolve(agent, f"{spec.adapter_name}@{reference}"))
            except UnknownName:
                continue
    return found


def in_process(
    loaded: LoadedFleet,
    stored: StoredVersion,
    engine: Engine,
    exam: Exam,
    *,
    with_base: bool,
    production: StoredVersion | None = None,
    absent: Mapping[str, Absent] | None = None,
) -> tuple[Judged, Answerers]:
    """The candidate, the version in production and the base, in one engine; AdapterRefused when one would not answer as itself."""
    from onecard.evaluation.exam import Answerers, bare
    from onecard.evaluation.report import Judged

    digest, info = engine.load_adapter(stored.folder, stored.manifest), engine.info()
    who: dict[str, tuple[str | None, Mapping[str, Preset], bool]] = {
        stored.version: (digest, exam.presets, _in_chat(stored))
    }
    if production is not None:
        there = engine.load_adapter(production.folder, production.manifest)
        who[PRODUCTION] = (there, exam.presets, _in_chat(production))
    if with_base:
        who[BASE] = (None, bare(exam.presets), _in_chat(stored))
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
        production=production.version if production else None,
        production_digest=production.digest if production else None,
    )
    asks = {name: _asking(engine, adapter, presets, chat, exam.seed) for name, (adapter, presets, chat) in who.items()}
    scores = {name: _scoring(engine, adapter, presets, chat) for name, (adapter, presets, chat) in who.items()}
    return judged, Answerers(
        name=f"{stored.name}@{stored.version}",
        candidate=asks.pop(stored.version),
        count_tokens=engine.count_tokens,
        concurrency=info.concurrency,
        against=asks,
        score=scores.pop(stored.version),
        scores_against=scores,
        absent=absent or {},
    )


def _in_chat(stored: StoredVersion) -> bool:
    """Whether an adapter was trained in the base's chat template."""
    return bool(stored.manifest.recipe.get("chat_template", True))


@asynccontextmanager
async def over_url(
    loaded: LoadedFleet,
    agent: str,
    exam: Exam,
    url: str,
    version: str | None,
    *,
    with_base: bool | None,
    with_production: bool = False,
) -> AsyncIterator[tuple[Judged, Answerers]]:
    """The agent as a server answers for it while the context is open. `with_base` None: where the server has a base.

    `with_production`: also the agent without a version, which is what the server's callers get now.
    """
    from onecard.cli.evaluate_url_scores import scores_over_url
    from onecard.evaluation.exam import Answerers, bare
    from onecard.evaluation.gate import Absent
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
        told, tokenizer = server.told(name), _base_tokenizer(loaded, model.id)
        count_tokens = _counting(tokenizer)
        before = server.told(agent) if with_production else None
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
            production=before.adapter if before else agent if with_production else None,
            production_digest=before.digest if before else None,
        )
        asks_base = server.has_base if with_base is None else with_base
        who = {name: (name, exam.presets)}
        if with_production:
            server.demand(agent)
            who[PRODUCTION] = (agent, exam.presets)
        if asks_base:
            who[BASE] = (BASE, bare(exam.presets))
        asks = {rival: server.ask(asked, presets, exam.seed) for rival, (asked, presets) in who.items()}
        scores, why = await scores_over_url(client, who, exam, tokenizer, loaded, model.id)
        yield (
            judged,
            Answerers(
                name=name,
                candidate=asks.pop(name),
                count_tokens=count_tokens,
                concurrency=model.concurrency,
                against=asks,
                score=scores.pop(name, None),
                scores_against=scores,
                cannot_score=why,
                absent={rival: Absent("it was not asked at this URL", excused=False) for rival in (PRODUCTION, BASE)},
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
        request = prompt_generation(question.prompt, adapter, presets[question.preset], chat=chat)
        request = replace(request, seed=question.number(seed))
        text, tokens, reason = "", 0, None
        async with aclosing(cast(Any, engine.generate(request))) as chunks:
            async for chunk in chunks:
                text, tokens, reason = text + chunk.text, tokens + chunk.tokens, chunk.finish_reason
        if reason is None:
            raise EngineFailed("the engine broke off in the middle of an answer", where=question.where)
        return Answer(text, reason, time.monotonic() - asked_s, tokens)

    return ask


def _scoring(engine: Engine, adapter: str | None, presets: Mapping[str, Preset], chat: bool) -> Score:
    """The likelihoods an engine gives texts as answers."""
    from onecard.serving.requests import prompt_generation

    async def score(question: Question, texts: Sequence[str]) -> list[float]:
        request = prompt_generation(question.prompt, adapter, presets[question.preset], chat=chat)
        return await engine.score(request, texts)

    return score


def _base_tokenizer(loaded: LoadedFleet, model_id: str) -> Any:
    """The base's tokenizer; None when it is not on this machine, or what reads it is not installed."""
    from onecard.errors import OnecardError

    try:
        from onecard.engines.local.tokens import load_tokenizer
        from onecard.weights.inventory import resolve

        return load_tokenizer(resolve(model_id, loaded.folder))
    except (OnecardError, ImportError):
        return None


def _counting(tokenizer: Any) -> CountTokens | None:
    if tokenizer is None:
        return None
    from onecard.engines.local.tokens import written_ids

    return lambda text: len(written_ids(tokenizer, text))
