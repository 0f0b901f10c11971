"""The port a fleet is served on: whether it is free, which process holds it, and what a service there says it has loaded.

Only loopback is asked, and only for what any client may read.
"""

from __future__ import annotations

import asyncio
import socket

from onecard.cli.doctor_machine import process_of
from onecard.cli.doctor_records import Port, Process, Service
from onecard.errors import OnecardError

HOST = "127.0.0.1"
TIMEOUT_S = 1.0


def read_port(number: int) -> Port:
    """The port as it is now."""
    if not answers(number):
        return Port(number, taken=False)
    return Port(
        number, taken=True, holder=holder_of(number), service=asyncio.run(read_service(f"http://{HOST}:{number}"))
    )


def answers(number: int) -> bool:
    """Whether something listens on the port of loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
        asking.settimeout(TIMEOUT_S)
        return asking.connect_ex((HOST, number)) == 0


def holder_of(number: int) -> Process | None:
    """The process that listens on the port, where the system tells; another user's it tells to administrators only."""
    import psutil

    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return None
    for connection in connections:
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == number
        if listens and connection.pid is not None:
            return process_of(connection.pid)
    return None


async def read_service(url: str) -> Service | None:
    """An onecard service by its /health, another OpenAI-compatible one by its /v1/models; None for anything else.

    Both are asked at once, so that a port that takes connections and says nothing costs one timeout.
    """
    ours, another = await asyncio.gather(_onecard(url), _another(url))
    return ours or another


async def _onecard(url: str) -> Service | None:
    from onecard.wire.client import Client

    async with Client(url, timeout_s=TIMEOUT_S) as client:
        try:
            health = await client.health()
        except OnecardError:
            return None
    models = tuple(model.id for model in health.models)
    return Service(True, models, health.status, health.detail, health.fleet, health.fleet_digest)


async def _another(url: str) -> Service | None:
    """`root` is where vLLM loaded a model from, whatever name it serves it by."""
    import httpx

    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
            reply = await client.get(f"{url}/v1/models")
            listed = reply.json()["data"]
            models = tuple(model_name(model) for model in listed)
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Service(False, tuple(dict.fromkeys(models))) if models else None


def model_name(model: dict[str, object]) -> str:
    """Where a listed model was loaded from, or else what it is called."""
    name = model.get("root") or model["id"]
    return str(name)
