"""Norms and gated MLPs with fewer kernels and less kept, while a run lasts; each is taken only after it said what the layer says.

An architecture's own norm is seven kernels over fp32 copies; torch has one. A gated MLP keeps its activation's answer and the product
that goes down, which both follow from the two that it keeps anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import rms_norm, silu
from transformers.modeling_layers import GradientCheckpointingLayer

CLOSE = {
    torch.float32: 1e-5,
    torch.bfloat16: 2**-6,
    torch.float16: 2**-9,
}  # two roundings, as a share of the largest value


class FusedLayers:
    """While it holds, the layers that can be taken are; `norms` and `gates` say how many."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._taken: list[Any] = []
        self.norms = self.gates = 0

    def __enter__(self) -> FusedLayers:
        layers = [module for module in self._model.modules() if isinstance(module, GradientCheckpointingLayer)]
        layer_of = {id(part): layer for layer in layers for part in layer.modules()}
        for module in self._model.modules():
            if (forward := _norm(module)) is not None:
                self.norms += 1
            elif (forward := _gate(module, layer_of.get(id(module)))) is not None:
                self.gates += 1
            else:
                continue
            module.forward = forward
            self._taken.append(module)
        return self

    def __exit__(self, *_: object) -> None:
        for module in self._taken:
            del module.forward


def _norm(module: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """torch's RMS norm, where the module says the same with its weight as it is or with one added to it."""
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not type(module).__name__.endswith("RMSNorm") or not isinstance(epsilon, float) or weight is None:
        return None
    for scale in (weight, weight + 1):
        held = scale.detach().clone() if scale is not weight else weight

        def forward(x: torch.Tensor, held: torch.Tensor = held) -> torch.Tensor:
            return rms_norm(x, held.shape, held, epsilon)

        if _same(module, forward, weight.shape[-1], weight):
            return forward
    return None


def _gate(module: Any, layer: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """A SwiGLU MLP: down(silu(gate(x)) * up(x)). A `layer` that is computed again backward keeps nothing, so nothing is kept for it."""
    gate, up, down = (getattr(module, f"{name}_proj", None) for name in ("gate", "up", "down"))
    if gate is None or up is None or down is None or not hasattr(module, "act_fn"):
        return None

    def forward(x: torch.Tensor) -> torch.Tensor:
        opened, raised = gate(x), up(x)
        product = _SwiGlu.apply(opened, raised)
        if not product.requires_grad or getattr(layer, "gradient_checkpointing", False):
            return down(product)
        place, shape = product.data_ptr(), product.shape
        given = opened.detach(), raised.detach()

        def keep(tensor: torch.Tensor) -> Any:
            """What down keeps of its input is that input: nothing of its own, but what it is made of."""
            return given if tensor.data_ptr() == place and tensor.shape == shape else tensor

        def give(kept: Any) -> torch.Tensor:
            return silu(kept[0]).mul_(kept[1]) if isinstance(kept, tuple) else kept

        with torch.autograd.graph.saved_tensors_hooks(keep, give):
            return down(product)

    like = next((w for w in module.parameters() if w.is_floating_point()), None)
    if like is None or not _same(module, forward, int(gate.in_features), like):
        return None
    return forward


class _SwiGlu(torch.autograd.Function):  # type: ignore[misc]
    """silu(gate) * up, keeping nothing but the two."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        to_up = silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), to_up


@torch.no_grad()  # type: ignore[untyped-decorator]
def _same(module: Any, forward: Callable[[torch.Tensor], torch.Tensor], width: int, like: torch.Tensor) -> bool:
    """Whether both say the same to a few random states."""
    dtype = like.dtype if like.dtype in CLOSE else torch.bfloat16
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, width, generator=chance).to(like.device, dtype)
    try:
        own, ours = module(x), forward(x)
    except (RuntimeError, TypeError, ValueError):
        return False
    if own.shape != ours.shape or own.dtype != ours.dtype:
        return False
    return float((own.float() - ours.float()).abs().max()) <= CLOSE[dtype] * float(own.float().abs().max())
