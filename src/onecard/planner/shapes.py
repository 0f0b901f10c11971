"""What the planner knows of a model: its layout and the few facts that memory and speed follow from.

Made from a catalog entry, or from the config.json of a model that is in no catalog. Reading files is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from onecard.catalog.architecture import layout as layout_of
from onecard.catalog.architecture import lora_targets
from onecard.catalog.models import Model
from onecard.catalog.shapes import KvShape, Layout, LinearShape
from onecard.errors import CatalogError, nearest

Form = Literal["none", "int8", "nf4", "awq", "gptq", "fp8", "mxfp4"]

# How a config.json names the forms a checkpoint may already be in.
_METHODS: dict[str, Form] = {"awq": "awq", "gptq": "gptq", "fp8": "fp8", "mxfp4": "mxfp4"}


@dataclass(frozen=True, eq=False)
class ModelShape:
    """One model. `published` is the form of the checkpoint itself and `published_bytes` its weights in that form, where known.

    `experts_used` of `experts` are read for a token in mixture models (both 1 otherwise). `image_tokens`: what one image takes of
    the context, None when it varies or there are no images.
    """

    id: str
    layout: Layout
    lora_targets: tuple[str, ...]
    source: str
    max_context: int | None = None
    experts: int = 1
    experts_used: int = 1
    image_tokens: int | None = None
    takes_images: bool = False
    published: Form = "none"
    published_bytes: int | None = None

    @property
    def kv(self) -> KvShape:
        return self.layout.kv

    @cached_property
    def linears(self) -> tuple[LinearShape, ...]:
        """Linear layers of the language model, the head left out."""
        return tuple(shape for shape in self.layout.linears if shape.component == "linear")

    @property
    def quantizable(self) -> bool:
        """Whether loading in int8 or nf4 converts anything."""
        return any(shape.quantized for shape in self.linears)

    @cached_property
    def layers(self) -> int:
        """Decoder layers: every layer holds one Linear of each of its names."""
        return max((shape.count for shape in self.linears), default=1)

    @cached_property
    def linear_count(self) -> int:
        """How many Linear modules the language model calls for a token."""
        return sum(shape.count for shape in self.linears)

    @cached_property
    def widest(self) -> int:
        """The largest input of a Linear: the width of the MLP."""
        return max((shape.in_features for shape in self.linears), default=self.layout.hidden_size)

    @cached_property
    def largest_linear(self) -> int:
        """Parameters of the largest single Linear, which quantized layers unpack into 16 bits."""
        return max((shape.in_features * shape.out_features for shape in self.linears), default=0)

    @cached_property
    def active_parameters(self) -> float:
        """Parameters one token meets: Linears, head, and its share of the experts. Embeddings are looked up, not multiplied."""
        counts = self.layout.components
        head = counts.get("lm_head") or counts.get("embeddings", 0)
        experts = counts.get("experts", 0) * self.experts_used / self.experts
        return sum(shape.weights for shape in self.linears) + head + experts + counts.get("router", 0)

    def targets(self, asked: str | tuple[str, ...]) -> tuple[str, ...]:
        """Module names a recipe means. CatalogError for a name this model does not have."""
        if isinstance(asked, str):
            return self.lora_targets
        names = sorted({shape.module for shape in self.linears})
        for name in asked:
            if name not in names:
                raise CatalogError(
                    f"{self.id} has no linear layer '{name}'{nearest(name, names)}",
                    where="recipe: lora.targets",
                    allowed=f"all-linear, or some of {', '.join(names)}",
                )
        return asked

    def targeted(self, asked: str | tuple[str, ...]) -> tuple[LinearShape, ...]:
        """The Linears that get an adapter."""
        names = self.targets(asked)
        return tuple(shape for shape in self.linears if shape.module in names)


def shape_of_model(model: Model) -> ModelShape:
    """A catalog entry as the planner sees it."""
    experts, used = _experts(model.config)
    published: Form = "none"
    published_bytes = None
    if model.dtype in ("fp8", "mxfp4"):
        published = "fp8" if model.dtype == "fp8" else "mxfp4"
        published_bytes = model.disk.bytes_of_weights or round(model.disk.size_gb * 10**9)
    return ModelShape(
        id=model.id,
        layout=model.layout,
        lora_targets=model.lora_targets,
        source="counted from its config",
        max_context=model.max_context,
        experts=experts,
        experts_used=used,
        image_tokens=model.image.tokens if model.image else None,
        takes_images="image" in model.input,
        published=published,
        published_bytes=published_bytes,
    )


def shape_of_config(model_id: str, config: Mapping[str, Any]) -> ModelShape:
    """A model by its Hugging Face config. CatalogError for an architecture nobody knows or a size that is missing."""
    experts, used = _experts(config)
    text = _text(config)
    context = text.get("max_position_embeddings") or text.get("max_seq_len")
    return ModelShape(
        id=model_id,
        layout=layout_of(config),
        lora_targets=lora_targets(config),
        source="counted from its config",
        max_context=context if isinstance(context, int) else None,
        experts=experts,
        experts_used=used,
        takes_images="vision_config" in config,
        published=_published(config),
    )


def unknown_shape(model_id: str) -> ModelShape:
    """A model that answers elsewhere: nothing need be known of it, and nothing of it is on this card."""
    layout = Layout((), {}, KvShape(0, 0, 0), hidden_size=1, vocab_size=1)
    return ModelShape(model_id, layout, (), "remote: nothing is known of it here")


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else config


def _experts(config: Mapping[str, Any]) -> tuple[int, int]:
    """(experts, used for a token) by any of the names architectures give them."""
    text = _text(config)
    total = next((text[key] for key in ("num_experts", "num_local_experts", "n_routed_experts") if text.get(key)), 1)
    used = next((text[key] for key in ("num_experts_per_tok", "top_k_experts") if text.get(key)), total)
    return int(total), int(used)


def _published(config: Mapping[str, Any]) -> Form:
    """The form a checkpoint says it is in. CatalogError for one whose bytes nobody here can count."""
    said = config.get("quantization_config")
    if not isinstance(said, Mapping):
        return "none"
    method = str(said.get("quant_method", "bitsandbytes" if "load_in_4bit" in said else "unknown"))
    if method == "bitsandbytes":
        return "int8" if said.get("load_in_8bit") else "nf4"
    if method not in _METHODS:
        raise CatalogError(
            f"the checkpoint is quantized as '{method}', whose bytes cannot be counted yet",
            where="config.json: quantization_config",
            allowed=", ".join(["bitsandbytes", *_METHODS]),
        )
    return _METHODS[method]
