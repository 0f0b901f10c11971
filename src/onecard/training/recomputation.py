"""Which layers keep what they computed and which compute it again backward: as many as memory asks for, and no more.

`auto` measures it: what the heaviest pass takes with every layer recomputed, what a few kept layers add, and how many fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from onecard.training.memory import available_bytes, ran_out

SPARE = 0.04  # share of the card's memory that stays free for what the allocator cannot join
TRIED = 2  # layers kept while measuring what one takes


class Recomputation:
    """While it holds, the model (transformers' own) recomputes its first `layers` layers. Without such layers it does all or none."""

    def __init__(self, model: Any, asked: Literal["auto"] | bool | int) -> None:
        self._model, self._asked = model, asked
        self._layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        self._possible = bool(getattr(model, "supports_gradient_checkpointing", False))
        self.layers = 0

    def __enter__(self) -> Recomputation:
        count = max(len(self._layers), 1)
        if self._asked is True or (self._asked == "auto" and self._model.device.type != "cpu"):
            self.put(count)
        elif self._asked is False or self._asked == "auto":
            self.put(0)
        else:
            self.put(min(int(self._asked), count))
        return self

    def __exit__(self, *_: object) -> None:
        self.put(0)

    def put(self, layers: int) -> None:
        """Recomputes the first so many layers from now on."""
        if not self._possible:
            return
        self.layers = layers
        if layers:
            self._model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            self._model.gradient_checkpointing_disable()
        for number, layer in enumerate(self._layers):
            layer.gradient_checkpointing = number < layers

    def all(self) -> bool:
        """Recomputes every layer; False when that is so already, or cannot be."""
        count = max(len(self._layers), 1)
        if not self._possible or self.layers >= count:
            return False
        self.put(count)
        return True

    def settle(self, peak: Callable[[], int], device: torch.device) -> None:
        """For `auto` on a card: recomputes as few layers as the heaviest pass allows. `peak` computes that pass, bytes at its most."""
        count = len(self._layers)
        if self._asked != "auto" or device.type == "cpu" or count <= TRIED or not self._possible:
            return
        self.put(count)
        frugal = peak()
        self.put(count - TRIED)
        try:
            each = max((peak() - frugal) / TRIED, 1.0)
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            self.put(count)
            return
        room = available_bytes(device) * (1 - SPARE) - frugal
        self.put(max(0, count - int(room // each)) if room > 0 else count)
