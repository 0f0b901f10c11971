"""The GPUs of the catalog: memory a process really gets, bandwidth, compute and price, each with its source.

`total_bytes` is what a process can allocate at most: torch's own figure where it is known, else the driver's less a stated allowance.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from pydantic import Field

from onecard.catalog.files import Entry, read_entries
from onecard.catalog.units import GIB
from onecard.errors import CatalogError, nearest

# Torch reports 0.2 to 0.8 GiB less than the driver on the ten cards of the catalog where both are known.
DRIVER_ALLOWANCE_GIB = 0.5

MemoryBasis = Literal["torch", "driver", "unified", "measured", "given"]
Basis = Literal["specified", "measured", "given"]


class Memory(Entry):
    """What the driver and torch report, GiB. Unified memory: the GPU's default share of all of it."""

    driver_mib: int | None = Field(None, gt=0)
    driver_gib: float | None = Field(None, gt=0)
    torch_total_gib: float | None = Field(None, gt=0)
    unified_gib: float | None = Field(None, gt=0)
    gpu_share: float | None = Field(None, gt=0, le=1)
    note: str | None = None
    source: str


class Bandwidth(Entry):
    """Memory bandwidth, 10^9 bytes per second."""

    memory_bandwidth_gbs: float = Field(gt=0)
    basis: Basis = "specified"
    note: str | None = None
    source: str


class Compute(Entry):
    """Dense matrix rates at boost clock (10^12 operations per second); null: the hardware cannot, or it is not known.

    `fp16_tflops` accumulates in fp32, as PyTorch does.
    """

    fp32_tflops: float | None = None
    tf32_tflops: float | None = None
    fp16_tflops: float | None = Field(None, gt=0)
    bf16_tflops: float | None = Field(None, gt=0)
    fp8_tflops: float | None = None
    int8_tops: float | None = None
    fp4_tflops: float | None = None
    fp16_accumulate_fp16_tflops: float | None = None
    fp8_accumulate_fp16_tflops: float | None = None
    note: str | None = None
    source: str


class Quote(Entry):
    """A price for one card at one place; `date` as exact as was recorded."""

    provider: str
    usd_per_hour: float = Field(ge=0)
    date: str
    source: str


class Price(Entry):
    """Low and high over the quotes."""

    low_usd_per_hour: float
    high_usd_per_hour: float
    quotes: tuple[Quote, ...] = Field(min_length=1)
    note: str | None = None


class Power(Entry):
    """Board power limit, watts."""

    tdp_w: float | None = None
    source: str


class Card(Entry):
    """One card. `tflops(dtype)` and `total_bytes` are what the planner asks."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    name: str
    aliases: tuple[str, ...] = ()
    vendor: str
    architecture: str
    compute_capability: str | None = None
    compute_capability_source: str | None = None
    memory: Memory
    bandwidth: Bandwidth
    compute: Compute | None = None
    price: Price | None = None
    price_note: str | None = None
    pcie: str | None = None
    power: Power | None = None
    notes: tuple[str, ...] = ()
    memory_given: Literal["measured", "given"] | None = None

    @property
    def total_gib(self) -> float:
        """The most a process can allocate, GiB."""
        memory = self.memory
        if memory.torch_total_gib is not None:
            return memory.torch_total_gib
        if memory.unified_gib is not None:
            return memory.unified_gib * (memory.gpu_share or 1)
        if memory.driver_gib is None:
            raise CatalogError(f"card '{self.id}' states no memory", where="gpus.yaml")
        return memory.driver_gib - DRIVER_ALLOWANCE_GIB

    @property
    def total_bytes(self) -> int:
        return round(self.total_gib * GIB)

    @property
    def memory_basis(self) -> MemoryBasis:
        """Where `total_bytes` comes from: torch, driver (less the allowance), unified, measured here, or given by a person."""
        if self.memory_given is not None:
            return self.memory_given
        if self.memory.torch_total_gib is not None:
            return "torch"
        return "unified" if self.memory.unified_gib is not None else "driver"

    @property
    def bandwidth_gbs(self) -> float:
        return self.bandwidth.memory_bandwidth_gbs

    @property
    def tflops(self) -> dict[str, float]:
        """Known dense rates by name: fp32, tf32, fp16, bf16, fp8, fp4 (TFLOP/s) and int8 (TOP/s)."""
        if self.compute is None:
            return {}
        rates = {
            name: getattr(self.compute, f"{name}_tflops") for name in ("fp32", "tf32", "fp16", "bf16", "fp8", "fp4")
        }
        rates["int8"] = self.compute.int8_tops
        return {name: rate for name, rate in rates.items() if rate is not None}

    @property
    def fp8(self) -> bool:
        """Whether the hardware multiplies in fp8."""
        return "fp8" in self.tflops

    @property
    def int8(self) -> bool:
        """Whether the hardware multiplies in int8."""
        return "int8" in self.tflops


class _CardFile(Entry):
    compiled: str
    reading_notes: tuple[str, ...]
    cards: tuple[Card, ...]


@lru_cache(maxsize=1)
def _file() -> _CardFile:
    return read_entries("gpus.yaml", _CardFile)


def load_cards() -> tuple[Card, ...]:
    """Every card, smallest first within its vendor."""
    return _file().cards


def reading_notes() -> tuple[str, ...]:
    """What holds for all figures of the file: units, what is left out, how to read prices."""
    return _file().reading_notes


def find_card(name: str) -> Card:
    """The card with this id, name or alias (case, spaces and underscores do not matter). CatalogError with the nearest otherwise."""
    asked = slug(name)
    for card in load_cards():
        if asked in (card.id, slug(card.name), *card.aliases):
            return card
    words = [word for card in load_cards() for word in (card.id, *card.aliases)]
    raise CatalogError(
        f"no card '{name}' in the catalog{nearest(asked, words)}",
        allowed=", ".join(card.id for card in load_cards()),
        next_step="give its figures instead: card: {vram_gib: 24, bandwidth_gbs: 936, bf16_tflops: 71}",
    )


def slug(name: str) -> str:
    """A card's name as an id: "RTX 3060 12GB" is rtx-3060-12gb, "NVIDIA GeForce RTX 3090" is rtx-3090."""
    words = name.lower().replace("_", " ").replace("-", " ").replace("(", " ").replace(")", " ").split()
    return "-".join(word for word in words if word not in ("nvidia", "geforce", "amd", "radeon", "instinct", "tesla"))


def custom_card(
    vram_gib: float,
    bandwidth_gbs: float,
    bf16_tflops: float | None = None,
    *,
    usd_per_hour: float | None = None,
    name: str = "custom",
) -> Card:
    """A card described by its figures; `vram_gib` is what a process can use, so nothing is taken off it.

    CatalogError for a figure that is not above zero.
    """
    figures = {"vram_gib": vram_gib, "bandwidth_gbs": bandwidth_gbs, "bf16_tflops": bf16_tflops}
    for key, figure in figures.items():
        if figure is not None and not 0 < figure < float("inf"):
            raise CatalogError(f"{figure!r} is not a figure of a card", where=f"card: {key}", allowed="above zero")
    source = "given by the person who wrote it down"
    return Card(
        id="custom",
        name=name,
        vendor="unknown",
        architecture="unknown",
        memory=Memory(torch_total_gib=vram_gib, source=source),
        memory_given="given",
        bandwidth=Bandwidth(memory_bandwidth_gbs=bandwidth_gbs, basis="given", source=source),
        compute=Compute(bf16_tflops=bf16_tflops, fp16_tflops=bf16_tflops, source=source) if bf16_tflops else None,
        price=None if usd_per_hour is None else _own_price(usd_per_hour, source),
    )


def _own_price(usd_per_hour: float, source: str) -> Price:
    quote = Quote(provider="own", usd_per_hour=usd_per_hour, date="undated", source=source)
    return Price(low_usd_per_hour=usd_per_hour, high_usd_per_hour=usd_per_hour, quotes=(quote,))
