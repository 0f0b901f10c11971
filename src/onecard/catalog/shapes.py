"""What a model is made of, as arithmetic sees it: Linear layers by shape, other parameters by component, and the KV cache.

A `Layout` follows exactly from a config (see architecture.py). Parameters are counted once: a head tied to the embeddings adds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COMPONENTS = (
    "embeddings",
    "lm_head",
    "linear",
    "linear_bias",
    "experts",
    "router",
    "norms",
    "other_embeddings",
    "conv",
    "other",
    "vision_tower",
    "audio_tower",
    "projector",
    "qformer",
)


@dataclass(frozen=True)
class LinearShape:
    """`count` Linear layers of one shape. `module` is the last part of their name, as LoRA's target_modules gives it.

    `component` says whose they are: "linear" for the language model, else vision_tower, audio_tower, projector, qformer or router.
    `quantized` says whether transformers converts them when a model is loaded in int8 or nf4.
    """

    module: str
    in_features: int
    out_features: int
    count: int = 1
    bias: bool = False
    component: str = "linear"
    quantized: bool = True

    @property
    def weights(self) -> int:
        """Parameters of all `count` weight matrices, biases left out."""
        return self.in_features * self.out_features * self.count

    @property
    def biases(self) -> int:
        return self.out_features * self.count if self.bias else 0


@dataclass(frozen=True)
class KvShape:
    """What one sequence leaves in the cache: layers that keep every token, layers that keep a window, and a fixed state.

    `fixed_state_bytes` per sequence is what recurrent layers (linear attention, state space) hold whatever the length.
    """

    layers_full: int
    kv_heads: int
    head_dim: int
    layers_sliding: int = 0
    window: int = 0
    sliding_kv_heads: int = 0
    sliding_head_dim: int = 0
    fixed_state_bytes: int = 0

    def full_bytes_per_token(self, dtype_bytes: float = 2) -> float:
        """Bytes each token adds in layers that keep all of them: layers x heads x width x 2 (keys and values) x dtype."""
        return self.layers_full * self.kv_heads * self.head_dim * 2 * dtype_bytes

    def sliding_bytes_per_token(self, dtype_bytes: float = 2) -> float:
        """Bytes each token adds in sliding layers until their window is full."""
        return self.layers_sliding * self.sliding_kv_heads * self.sliding_head_dim * 2 * dtype_bytes

    def bytes_per_token(self, dtype_bytes: float = 2) -> float:
        """Bytes each token adds while the sequence is shorter than the window."""
        return self.full_bytes_per_token(dtype_bytes) + self.sliding_bytes_per_token(dtype_bytes)

    def bytes_for(self, tokens: int, sequences: int = 1, dtype_bytes: float = 2) -> int:
        """Bytes that `sequences` sequences of `tokens` tokens hold together."""
        kept = min(tokens, self.window)
        growing = tokens * self.full_bytes_per_token(dtype_bytes) + kept * self.sliding_bytes_per_token(dtype_bytes)
        return round(sequences * (growing + self.fixed_state_bytes))


@dataclass(frozen=True)
class Layout:
    """A whole model. `rest` holds, by component, every parameter that is not in a LinearShape; `hidden_size` is the text model's."""

    linears: tuple[LinearShape, ...]
    rest: Mapping[str, int]
    kv: KvShape
    hidden_size: int
    vocab_size: int

    @property
    def components(self) -> dict[str, int]:
        """Parameters by component, in COMPONENTS' order, empty ones left out. Their sum is the model's size."""
        counts = dict.fromkeys(COMPONENTS, 0)
        for component, count in self.rest.items():
            counts[component] += count
        for shape in self.linears:
            counts[shape.component] += shape.weights
            counts["linear_bias" if shape.component == "linear" else shape.component] += shape.biases
        return {component: count for component, count in counts.items() if count}

    @property
    def parameters(self) -> int:
        return sum(self.components.values())
