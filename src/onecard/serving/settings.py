"""How a service is opened to the world: its keys and its log. What is served stands in the fleet file; this does not."""

from __future__ import annotations

from dataclasses import dataclass, field

from onecard.serving.dashboard import Expected
from onecard.serving.keys import KeyRing
from onecard.serving.observing import RequestLog


@dataclass(frozen=True)
class Settings:
    """`keys` None: no keys, loopback only. `log` None: no line for a request. `expected` is what the dashboard holds against what is."""

    keys: KeyRing | None = None
    log: RequestLog | None = None
    expected: Expected = field(default_factory=Expected)
