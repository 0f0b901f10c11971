"""The record of one checkpoint: what `models.yaml` says about it, each fact with its source, and what follows from its config."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from onecard.catalog.architecture import layout
from onecard.catalog.files import Entry
from onecard.catalog.quantization import Quantization
from onecard.catalog.shapes import KvShape, Layout

RoleName = Literal[
    "primary", "secondary", "fallback", "adapter-base", "general", "reasoning", "maths", "code", "multilingual", "light",
    "vision", "vision-fallback",
]  # fmt: skip
InputKind = Literal["text", "image", "video", "audio"]


class Role(Entry):
    """A job this model is chosen for, and in which form it is run where the role was set. No reason: the model's own `why`."""

    name: RoleName
    reason: str | None = None
    quantization: Quantization | None = None


class ModelLicence(Entry):
    """The licence of this exact checkpoint. `fully_open` is about all the weights in it, so it may differ from the licence's own."""

    key: str
    fully_open: bool
    reason: str
    note: str | None = None
    source: str


class Gate(Entry):
    """Whether the repository asks for an account or an agreement first; `gated` null: not known."""

    gated: bool | None
    source: str


class Release(Entry):
    """`date` is ISO, as exact as is known: 2023, 2023-04 or 2023-04-25."""

    date: str = Field(pattern=r"^\d{4}(-\d{2}){0,2}$")
    note: str | None = None
    source: str


class Published(Entry):
    """The parameter count its makers or the hub publish; `text` when it is no plain integer."""

    count: int | None = None
    text: str | None = None
    source: str


class Check(Entry):
    """The count from the config beside a published one.

    exact: equal; explained: `difference` (published less counted) is accounted for to the last parameter in `note`;
    approximate: only a rounded figure is published.
    """

    status: Literal["exact", "explained", "approximate"]
    published: int | None = None
    text: str | None = None
    difference: int | None = None
    source: str
    note: str | None = None


class Disk(Entry):
    """What the published weights take on disk. `caution` names second copies a full snapshot would download too."""

    size_gb: float
    dtype: str
    bytes_of_weights: int | None = None
    source: str
    caution: str | None = None


class Cache(Entry):
    """KV cache facts in bytes at 16 bits, as `architecture.kv_shape` computes them."""

    full_layers: int = 0
    full_bytes_per_token: int = 0
    sliding_layers: int = 0
    window_tokens: int = 0
    sliding_bytes_per_token: int = 0
    sliding_cap_bytes: int = 0
    fixed_state_bytes: int = 0
    note: str | None = None


class Image(Entry):
    """What images cost in tokens; `tokens` is for one image at the model's standard resolution, null when it varies."""

    encoder: str
    tokens: int | None = None
    max_tokens: int | None = None
    note: str | None = None


class Prequantized(Entry):
    """A repository that holds the model already quantized. `form` is the scheme; `verified` false: the id was not seen on the hub."""

    id: str
    form: str
    size_gb: float | None = None
    verified: bool = True


class Model(Entry):
    """One checkpoint. `config` holds the Hugging Face keys to build and plan it; `counted` are its parameters by component.

    `max_context` is the config's limit in tokens; `native_context` what it was trained for, where that is less.
    """

    id: str
    family: str
    why: str
    roles: tuple[Role, ...] = Field(min_length=1)
    kind: Literal["base", "instruct", "captioning"]
    kind_note: str | None = None
    input: tuple[InputKind, ...]
    dtype: Literal["bfloat16", "float16", "float32", "fp8", "mxfp4"]
    dtype_note: str | None = None
    max_context: int
    native_context: int | None = None
    context_note: str | None = None
    lora_targets: tuple[str, ...]
    licence: ModelLicence
    access: Gate
    released: Release
    published: Published
    check: Check
    disk: Disk
    counted: dict[str, int]
    counted_note: str | None = None
    tied_head: bool
    cache: Cache
    image: Image | None = None
    prequantized: tuple[Prequantized, ...] = ()
    notes: tuple[str, ...] = ()
    sources: dict[str, str]
    config: dict[str, Any]

    @property
    def role_names(self) -> tuple[RoleName, ...]:
        return tuple(role.name for role in self.roles)

    @property
    def parameters(self) -> int:
        """Parameters in memory, a tied head counted once."""
        return sum(self.counted.values())

    @cached_property
    def layout(self) -> Layout:
        """Linear shapes, components and KV cache from `config`."""
        return layout(self.config)

    @property
    def kv(self) -> KvShape:
        return self.layout.kv
