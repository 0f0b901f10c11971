"""Who answers under which name: agents, agents at a version, and the bare base. Pure: names in, an answerer or an error out.

A name nobody has is an error that lists the known ones. It never means the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onecard.engines.engine import Engine
from onecard.errors import InputError, UnknownName, nearest
from onecard.fleet.presets import default_preset
from onecard.fleet.schema import Preset

BASE = "base"


@dataclass(frozen=True)
class Answerer:
    """One agent with the adapter version that answers for it, or the bare base (`adapter` and `digest` None).

    `chat` is False for an adapter that was trained without the base's chat template: it is asked with plain text only. `task` is the
    fleet's word for what it is for; every answerer takes every route.
    """

    agent: str
    model: str
    engine: Engine
    adapter: str | None = None
    digest: str | None = None
    presets: Mapping[str, Preset] = field(default_factory=lambda: {"default": Preset()})
    chat: bool = True
    task: str = "generate"

    @property
    def name(self) -> str:
        """The exact name: agent@version, or the agent alone when no adapter answers for it."""
        return f"{self.agent}@{self.adapter.rpartition('@')[2]}" if self.adapter else self.agent

    @property
    def default_preset(self) -> str:
        """The preset called `default`, or the first one of the fleet file."""
        return default_preset(self.presets)

    def preset(self, asked: str | None, field_name: str) -> tuple[str, Preset]:
        """The preset of this name, or the default one for None; InputError lists the allowed ones."""
        name = self.default_preset if asked is None else asked
        if name not in self.presets:
            allowed = list(self.presets)
            raise InputError(
                f"{self.agent} has no {field_name} '{name[:60]}'{nearest(name[:60], allowed)}",
                where=field_name,
                allowed=", ".join(allowed),
            )
        return name, self.presets[name]


class Directory:
    """Every answerer of a service by name. `beside` are further versions of agents, found by their exact name only."""

    def __init__(
        self, agents: Sequence[Answerer], base: Answerer | None = None, beside: Sequence[Answerer] = ()
    ) -> None:
        self.agents = tuple(agents)
        self.base = base
        self.beside = tuple(beside)
        self._by_name = {answerer.name: answerer for answerer in beside}
        self._by_name |= {name: answerer for answerer in agents for name in (answerer.agent, answerer.name)}
        if base is not None:
            self._by_name[BASE] = base

    @property
    def names(self) -> list[str]:
        """Every name a request may use."""
        return list(self._by_name)

    def find(self, name: str, field_name: str = "model") -> Answerer:
        """The answerer of this name; UnknownName lists the known ones."""
        if name not in self._by_name:
            raise UnknownName(
                f"no model '{name[:80]}'{nearest(name[:80], self.names)}",
                where=field_name,
                allowed=", ".join(self.names),
            )
        return self._by_name[name]

    def with_style(self, style: str | None, agent: str | None) -> Answerer:
        """Who answers in a style: the named agent, else the only agent that has it. InputError when nobody or several do."""
        if agent is not None:
            return self.find(agent, "agent")
        having = [answerer for answerer in self.agents if style is None or style in answerer.presets]
        if len(having) == 1:
            return having[0]
        if not having:
            allowed = sorted({name for answerer in self.agents for name in answerer.presets})
            raise InputError(
                f"no agent has the style '{str(style)[:60]}'{nearest(str(style)[:60], allowed)}",
                where="style",
                allowed=", ".join(allowed) or "none, this fleet has no agents",
            )
        what = "every agent has a default style" if style is None else f"several agents have the style '{style}'"
        raise InputError(f"{what}: say which", where="agent", allowed=", ".join(a.agent for a in having))
