"""A fleet's test mode: the embedded base stands for every model, so that its agents and presets answer without a card or a download.

It promises nothing about the answers: no adapter is loaded, and every response says so (`x-onecard-model: embedded:mini`, adapter none).
"""

from __future__ import annotations

from dataclasses import replace

from onecard.errors import FleetError
from onecard.fleet.loader import LoadedFleet
from onecard.fleet.schema import AgentSpec, ModelSpec

EMBEDDED = "embedded:mini"
LONGEST = 512  # tokens that the embedded base was built for


def with_embedded_base(loaded: LoadedFleet) -> tuple[LoadedFleet, list[str]]:
    """The fleet to serve, and what it leaves out, a sentence each. FleetError when no agent is left."""
    agents = {name: agent for name, agent in loaded.fleet.agents.items() if agent.input == "text"}
    if loaded.fleet.agents and not agents:
        raise FleetError("every agent takes images, and the embedded base takes text", where=str(loaded.file))
    left_out = [f"{name} is left out: it takes images" for name in loaded.fleet.agents if name not in agents]
    left_out += [f"{name} answers without {agent.adapter}" for name, agent in agents.items() if agent.adapter]
    used = {agent.model for agent in agents.values()} or set(loaded.fleet.models)
    changes = {
        "models": {key: _stand_in(spec) for key, spec in loaded.fleet.models.items() if key in used},
        "agents": {name: _bare(agent) for name, agent in agents.items()},
    }
    return replace(loaded, fleet=loaded.fleet.model_copy(update=changes)), left_out


def _stand_in(spec: ModelSpec) -> ModelSpec:
    return ModelSpec(id=EMBEDDED, context=min(spec.context, LONGEST), concurrency=spec.concurrency)


def _bare(agent: AgentSpec) -> AgentSpec:
    presets = {
        name: preset.model_copy(update={"max_new_tokens": min(preset.max_new_tokens, LONGEST // 4)})
        for name, preset in agent.presets.items()
    }
    return agent.model_copy(update={"adapter": None, "fallback": (), "deadline": None, "presets": presets})
