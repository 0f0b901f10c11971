"""Where a measurement took place: the processor, memory and versions of this machine, and the card when the service is on it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil

from onecard import __version__
from onecard.catalog.units import GIB
from onecard.evidence.results import Where
from onecard.wire.health import Health

# What decides how fast a service on this machine is, and what timed it. Read from package metadata: nothing is imported.
VERSIONS_OF = ("httpx", "torch", "transformers", "peft", "bitsandbytes", "vllm")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
CARD_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")


def this_machine(url: str, server_in_process: bool, health: Health | None) -> Where:
    """The record; card and driver only when the service runs here and says that it uses a card."""
    server = place_of(url, server_in_process)
    on_a_card = health is not None and health.memory.gpu_bytes is not None
    card, driver = _card() if on_a_card and server != "another machine" else (None, None)
    return Where(
        server=server,
        card=card,
        driver=driver,
        cpu=cpu_name(),
        cores=_cores(),
        ram_gib=round(psutil.virtual_memory().total / GIB, 1),
        system=f"{platform.system()} {platform.release()}",
        versions={"onecard": __version__, "python": platform.python_version(), **_versions()},
    )


def place_of(url: str, server_in_process: bool) -> Literal["this process", "this machine", "another machine"]:
    if server_in_process:
        return "this process"
    return "this machine" if urlsplit(url).hostname in LOOPBACK else "another machine"


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's own name where the system tells it, else its architecture."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next((name for name in names if name), platform.processor() or platform.machine())


def _cores() -> int:
    """The cores this process may use, which in a container is less than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS_OF:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _card() -> tuple[str | None, str | None]:
    """Name and driver of the first card, as the driver's tool says; None where there is no such tool."""
    try:
        done = subprocess.run(CARD_QUERY, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None, None
    name, comma, driver = (done.stdout.splitlines() or [""])[0].rpartition(",")
    return (name.strip(), driver.strip()) if comma else (None, None)
