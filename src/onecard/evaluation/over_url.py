"""A suite's questions put to an OpenAI-compatible server, ours or anybody's.

An onecard service is asked by preset name, so that it applies its own presets; any other server is sent the preset's token and settings.
What answers must be what the service said would answer: another adapter's digest in the middle of a run ends the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onecard.errors import EngineFailed, InputError, UnknownName, nearest
from onecard.evaluation.questions import Question
from onecard.evaluation.suite import Answer, Ask
from onecard.fleet.presets import apply_preset
from onecard.fleet.schema import Preset
from onecard.wire.chat import ChatMessage, ChatRequest
from onecard.wire.client import Client
from onecard.wire.health import AgentHealth, Health

BASE = "base"  # the bare model's name in an onecard service


@dataclass(frozen=True)
class Server:
    """What answers at a URL. `health` is None for servers that are not onecard's, `names` None where they list no models."""

    client: Client
    names: tuple[str, ...] | None
    health: Health | None

    def demand(self, name: str) -> None:
        """UnknownName when the server lists its models and this is none of them."""
        if self.names is not None and name not in self.names:
            raise UnknownName(
                f"no model '{name}'{nearest(name, self.names)}", where=self.client.url, allowed=", ".join(self.names)
            )

    @property
    def has_base(self) -> bool:
        return BASE in (self.names or ())

    def ask(self, name: str, presets: Mapping[str, Preset], seed: int) -> Ask:
        """An answerer for one of the server's names, by preset."""
        told = self.told(name)
        digest = told.digest if told else None

        async def ask(question: Question) -> Answer:
            preset = presets[question.preset]
            # A regression's preset is another agent's, which this agent's service does not know by name.
            by_name = told is not None and (question.preset in told.presets or "/" not in question.preset)
            request = _request(name, question, preset, seed, by_name=by_name)
            answer = await self.client.chat(request)
            if digest is not None and answer.who.digest != digest:
                raise EngineFailed(
                    f"{name} was {digest[:12]} at first, and {(answer.who.digest or 'nobody')[:12]} answered",
                    where=self.client.url,
                    next_step="evaluate again, when nobody changes the service's adapters meanwhile",
                )
            tokens = answer.usage.completion_tokens if answer.usage else None
            return Answer(answer.text, answer.finish_reason, answer.end_s - answer.sent_s, tokens)

        return ask

    def told(self, name: str) -> AgentHealth | None:
        """What the service says about the agent of a name. Other servers have a /health too, but no agents in it."""
        agents = self.health.adapters if self.health else ()
        return next((agent for agent in agents if agent.agent == name.partition("@")[0]), None)


async def reach(client: Client) -> Server:
    """What the server says about itself. EngineFailed when nothing answers."""
    try:
        names: tuple[str, ...] | None = tuple(await client.models())
    except UnknownName:
        names = None
    try:
        health: Health | None = await client.health()
    except (InputError, EngineFailed):
        health = None
    return Server(client, names, health)


def _request(name: str, question: Question, preset: Preset, seed: int, *, by_name: bool) -> ChatRequest:
    """The same settings either way; `by_name` leaves putting the preset's token to the service."""
    prompt = question.prompt if by_name else apply_preset(preset, question.prompt)
    return ChatRequest(
        model=name,
        messages=(ChatMessage(role="user", content=prompt),),
        preset=question.preset if by_name else None,
        max_tokens=preset.max_new_tokens,
        temperature=preset.temperature,
        top_p=preset.top_p,
        seed=question.number(seed),
    )
