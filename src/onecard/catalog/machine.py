"""The card of this machine: what the driver's tool says, matched to the catalog, or the CPU described as a card.

Reading the tools' output is pure and tested with recordings; running them is the thin part at the end.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from onecard.catalog.cards import Bandwidth, Card, Memory, find_card, load_cards, slug
from onecard.catalog.units import GIB, MIB
from onecard.errors import CatalogError, OnecardError

NVIDIA_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
ROCM_QUERY = ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json")

# A card of the right name with other memory is another card: the 8 GB and 12 GB RTX 3060 share a name.
_MEMORY_TOLERANCE = 0.05


@dataclass(frozen=True)
class SeenCard:
    """A card as its driver names it, with the driver's memory."""

    name: str
    driver_bytes: int


def parse_nvidia_smi(text: str) -> list[SeenCard]:
    """Cards in the output of NVIDIA_QUERY: a name and MiB a line. Lines that are no card (messages) are left out."""
    seen = []
    for line in text.splitlines():
        name, comma, mib = line.rpartition(",")
        if comma and mib.strip().isdigit():
            seen.append(SeenCard(name.strip(), int(mib) * MIB))
    return seen


def parse_rocm_smi(text: str) -> list[SeenCard]:
    """Cards in the JSON of ROCM_QUERY: the key names changed case over the releases, so they are compared in lower case."""
    try:
        document = json.loads(text)
    except ValueError:
        return []
    seen = []
    for card, facts in sorted(document.items()) if isinstance(document, dict) else []:
        if not card.startswith("card") or not isinstance(facts, dict):
            continue
        lower = {str(key).lower(): str(value) for key, value in facts.items()}
        name = lower.get("card series") or lower.get("card model") or card
        total = lower.get("vram total memory (b)", "")
        if total.isdigit():
            seen.append(SeenCard(name.strip(), int(total)))
    return seen


def match_card(seen: SeenCard) -> Card:
    """The catalog's card of this name and memory (within 5%). CatalogError that says how to describe it otherwise."""
    asked = slug(seen.name)
    named = [card for card in load_cards() if asked in (card.id, slug(card.name), *card.aliases)]
    for card in named or _of_the_line(asked):
        known = (card.memory.driver_gib or card.total_gib) * GIB
        if abs(known - seen.driver_bytes) <= _MEMORY_TOLERANCE * known:
            return card
    gib = seen.driver_bytes / GIB
    raise CatalogError(
        f"the card of this machine, '{seen.name}' with {gib:.1f} GiB, is not in the catalog",
        where="card: auto",
        next_step=f"describe it: card: {{vram_gib: {gib - 0.5:.1f}, bandwidth_gbs: <from its data sheet>}}",
    )


def _of_the_line(asked: str) -> list[Card]:
    """Cards whose id begins with the name asked for, such as a100-80gb for a100-pcie-80gb; memory then decides."""
    line = asked.split("-")[0] if not asked.startswith(("rtx-", "rx-")) else asked
    return [card for card in load_cards() if card.id == line or card.id.startswith(f"{line}-")]


def cpu_card(available_bytes: int, bandwidth_gbs: float, notes: tuple[str, ...] = ()) -> Card:
    """The CPU as a card: what memory is free now, and how fast one thread copies it."""
    return Card(
        id="cpu",
        name="CPU of this machine",
        vendor="this machine",
        architecture="CPU",
        memory=Memory(torch_total_gib=available_bytes / GIB, source="memory available at the time of asking"),
        memory_given="measured",
        bandwidth=Bandwidth(
            memory_bandwidth_gbs=bandwidth_gbs,
            basis="measured",
            note="one thread copying 32 MiB, bytes read plus bytes written; several threads reach more",
            source="measured on this machine at the time of asking",
        ),
        notes=notes,
    )


def detect_card() -> Card:
    """The first NVIDIA or AMD card of this machine, else its CPU. CatalogError for a card the catalog does not know.

    A driver tool that is there and fails leaves a note on the CPU's card, so that a broken driver is not taken for no card.
    """
    notes = []
    for query, parse in ((NVIDIA_QUERY, parse_nvidia_smi), (ROCM_QUERY, parse_rocm_smi)):
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
        except FileNotFoundError:
            continue
        except (OSError, subprocess.TimeoutExpired) as error:
            notes.append(f"{query[0]} did not answer: {error}")
            continue
        seen = parse(done.stdout)
        if seen:
            return match_card(seen[0])
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            notes.append(f"{query[0]} failed: {said[0] if said else f'exit code {done.returncode}'}")
    return cpu_card(available_ram_bytes(), measure_copy_gbs(), tuple(notes))


def resolve_card(name: str) -> Card:
    """The card a person named: `auto` is this machine's."""
    return detect_card() if name.strip().lower() == "auto" else find_card(name)


def available_ram_bytes() -> int:
    """Memory a process could take now: the system's available memory, or less where a container is held to less."""
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return available
    return min(available, max(int(limit) - used, 0)) if limit.isdigit() else available


def measure_copy_gbs(seconds: float = 0.08) -> float:
    """10^9 bytes per second, read plus written, of the best of several copies of 32 MiB by one thread."""
    size = 32 * MIB
    source, target = memoryview(bytearray(size)), memoryview(bytearray(size))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        target[:] = source
        best = min(best, time.perf_counter() - start)
    if best <= 0:
        raise OnecardError("this machine's clock did not move during a memory copy")
    return 2 * size / best / 1e9
