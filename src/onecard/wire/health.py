"""What GET /health answers: who is served, by what, and the memory it really takes. Written by serving, read by benchmark."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from onecard.wire.chat import Answered


class MemoryPartHealth(Answered):
    """One part of the memory an engine holds, bytes."""

    model: str = Field(description="key of the fleet's `models`")
    name: str
    bytes: int


class MemoryHealth(Answered):
    """`gpu_bytes` is the allocator's peak on the card, None on a CPU; `process_bytes` the process's resident set."""

    parts: tuple[MemoryPartHealth, ...] = ()
    gpu_bytes: int | None = None
    process_bytes: int | None = None

    @property
    def taken_bytes(self) -> int | None:
        """What counts against the card: GPU memory, or the process's on a CPU."""
        return self.process_bytes if self.gpu_bytes is None else self.gpu_bytes


class ModelHealth(Answered):
    """One base model, loaded once."""

    name: str = Field(description="key of the fleet's `models`")
    id: str
    fingerprint: str
    engine: str
    engine_version: str
    quantization: str
    dtype: str
    device: str
    context: int
    concurrency: int


class AgentHealth(Answered):
    """One agent and the adapter that answers for it; no adapter means the bare base."""

    agent: str
    model: str = Field(description="key of the fleet's `models`")
    adapter: str | None = Field(None, description="name@version")
    digest: str | None = None
    presets: tuple[str, ...] = ()
    task: str = Field("generate", description="generate, or rerank")


class Health(Answered):
    """The whole document. `model` is the id of the first model, for scripts that look at one."""

    status: Literal["ok", "stopping", "failed"]
    detail: str | None = None
    fleet: str = ""
    fleet_digest: str = ""
    model: str = ""
    models: tuple[ModelHealth, ...] = ()
    adapters: tuple[AgentHealth, ...] = ()
    memory: MemoryHealth = MemoryHealth()
    in_flight: int = Field(0, description="requests being answered or waiting")
    uptime_s: float = 0.0
