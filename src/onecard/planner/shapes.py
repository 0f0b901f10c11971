"""What the planner knows of a model: its layout and the few facts that memory and speed follow from.

Made from a catalog entry, or from the config.json of a model that is in no catalog. Reading files is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from onecard.catalog.architecture import layout as layout_of
from onecard.catalog.architecture import lora_targets
from onecard.catalog.models import Model
from onecard.catalog.operators import Operators, operators_of
from onecard.catalog.quantization_config import CheckpointForm, read_quantization
from onecard.catalog.shapes import KvShape, Layout, LinearShape
from onecard.catalog.storages import Form
from onecard.errors import CatalogError, nearest

# How configs name the longest text a model was made for.
CONTEXT_KEYS = ("max_position_embeddings", "max_seq_len", "n_positions")

__all__ = ["Form", "ModelShape", "shape_of_config", "shape_of_model", "unknown_shape"]


@dataclass(frozen=True, eq=False)
class ModelShape:
    """One model. `checkpoint` says how its file is quantized (None: it is not), `published` which kernels read that, and `config`
    is the Hugging Face config all of it follows from. `published_bytes` are its weights in that form where a file was looked at.

    `experts_used` of `experts` are read for a token in mixture models (both 1 otherwise). `image_tokens`: what one image takes of
    the context, None when it varies or there are no images. `published_source` says where `published_bytes` are exact from, None where
    they are a rounded size on disk. `notes` are sentences about this checkpoint that its plan must say.
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
    published_source: str | None = None
    notes: tuple[str, ...] = ()
    checkpoint: CheckpointForm | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kv(self) -> KvShape:
        return self.layout.kv

    @cached_property
    def linears(self) -> tuple[LinearShape, ...]:
        """Linear layers of the language model, the head left out."""
        return tuple(shape for shape in self.layout.linears if shape.component == "linear")

    @cached_property
    def quantizable(self) -> bool:
        """Whether loading in int8 or nf4 converts anything."""
        return any(shape.quantized for shape in self.linears)

    @cached_property
    def layers(self) -> int:
        """Decoder layers: as the layout says, else every layer holds one Linear of each of its names."""
        return self.layout.layers or max((shape.count for shape in self.linears), default=1)

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

    @property
    def architecture(self) -> str:
        """transformers' name of the language model's architecture; empty for a model that answers elsewhere."""
        return str(_text(self.config).get("model_type", ""))

    @cached_property
    def operators(self) -> Operators | None:
        """What a decode step launches, where it was counted."""
        return operators_of(self.architecture) or operators_of(str(self.config.get("model_type", "")))

    @cached_property
    def modules(self) -> frozenset[str]:
        """Names of the language model's Linears."""
        return frozenset(shape.module for shape in self.linears)

    @cached_property
    def gated(self) -> bool:
        """Whether the MLP multiplies two Linears of its input."""
        return {"gate_proj", "up_proj"} <= self.modules or {"w1", "w3"} <= self.modules

    @cached_property
    def fused_gate(self) -> bool:
        """Whether those two are one Linear."""
        return "gate_up_proj" in self.modules

    @property
    def activation(self) -> str:
        """transformers' name of the MLP's activation; empty where the config does not say."""
        text = _text(self.config)
        return str(text.get("hidden_act") or text.get("hidden_activation") or "")

    @cached_property
    def attention_width(self) -> int:
        """Heads x width of a head: what the attention's output projection reads."""
        outputs = [s.in_features for s in self.linears if s.module in ("o_proj", "out_proj", "dense", "wo", "c_proj")]
        return min(outputs, default=self.layout.hidden_size)

    @cached_property
    def kv_width(self) -> int:
        """Values a token's keys take in the widest attention layer."""
        kv = self.kv
        return max(kv.kv_heads * kv.head_dim, kv.sliding_kv_heads * kv.sliding_head_dim)

    @cached_property
    def heads(self) -> int:
        """Query heads."""
        return max(self.attention_width // max(self.kv.head_dim, 1), 1)

    @cached_property
    def eager_attention(self) -> bool:
        """Whether transformers has no fused attention for this architecture."""
        return self.operators is not None and self.operators.attention == "eager"

    @cached_property
    def one_key(self) -> bool:
        """Whether all heads share one key in a way no fused kernel takes: Falcon's multi-query attention."""
        return self.architecture == "falcon" and self.kv.kv_heads == 1

    @cached_property
    def expert_width(self) -> int:
        """The inner width of one expert, 0 without experts."""
        text = _text(self.config)
        return int(text.get("moe_intermediate_size") or text.get("intermediate_size") or 0) if self.experts > 1 else 0

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
    checkpoint = read_quantization(model.config)
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
        published=checkpoint.form if checkpoint else "none",
        checkpoint=checkpoint,
        config=model.config,
    )


def shape_of_config(model_id: str, config: Mapping[str, Any]) -> ModelShape:
    """A model by its Hugging Face config. CatalogError for an architecture nobody knows or a size that is missing."""
    experts, used = _experts(config)
    text, checkpoint = _text(config), read_quantization(config)
    context = next((text[key] for key in CONTEXT_KEYS if text.get(key)), None)
    return ModelShape(
        id=model_id,
        layout=layout_of(config),
        lora_targets=lora_targets(config),
        source="counted from its config",
        max_context=context if isinstance(context, int) else None,
        experts=experts,
        experts_used=used,
        takes_images="vision_config" in config,
        published=checkpoint.form if checkpoint else "none",
        checkpoint=checkpoint,
        config=config,
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
    total = next(
        (
            text[key]
            for key in ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
            if text.get(key)
        ),
        1,
    )
    used = next((text[key] for key in ("num_experts_per_tok", "top_k_experts", "moe_k") if text.get(key)), total)
    return int(total), int(used)
