"""One base in memory and the adapters that share it: a batch's lines may each be answered by another adapter or by the bare base.

LoRA is PEFT's, injected beside the frozen weights; added tokens are rows beside the base. Every method runs on one thread.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from onecard.engines.local.acceptance import AcceptedAdapter
from onecard.engines.local.added_rows import AddedRows, RowsBesideTheBase
from onecard.engines.local.loading import LoadedBase, quiet
from onecard.errors import AdapterRefused, InputError

BASE_LINE = "__base__"  # PEFT's name for lines of a mixed batch that no adapter changes


@dataclass(frozen=True, eq=False)
class Resident:
    """An adapter in memory. `key` is its name inside PEFT: never used twice, so that a name cannot outlive what it meant."""

    digest: str
    key: str
    rows: AddedRows | None
    tokenizer: Any
    stop_ids: tuple[int, ...]
    bytes: int


class SharedModel:
    """The base and its resident adapters. `None` in place of a Resident is the bare base."""

    def __init__(self, base: LoadedBase) -> None:
        self.device = base.device
        self.residents: list[Resident] = []
        self._model = base.model
        self._rows = RowsBesideTheBase(base.model)
        self._parameters = frozenset(inspect.signature(base.model.forward).parameters)
        self._tuner: LoraModel | None = None  # once there is an adapter
        self._active: str | None = None
        self._lines: list[str] | None = None  # one PEFT name per line of the batch, when they differ
        self._loaded = 0

    def check_cache(self, where: str) -> None:
        """InputError for a model whose state is more than keys and values per position, such as Mamba: it cannot be padded or cut."""
        ids, cache = torch.zeros(1, 2, dtype=torch.long, device=self.device), DynamicCache()
        try:
            self.forward([None], ids, torch.ones_like(ids), cache)
            plain = all(type(layer) is DynamicLayer and layer.keys.shape[2] == 2 for layer in cache.layers)
        except (TypeError, ValueError, AttributeError, LookupError, NotImplementedError):
            plain = False
        if not plain or not cache.layers:
            raise InputError(
                "the local engine cannot hold this architecture's state", where=where, next_step="use engine: vllm"
            )

    def add_if_it_acts(self, adapter: AcceptedAdapter, probe: Sequence[int]) -> Resident:
        """Adds an adapter and asks it: its logits on the probe must be numbers, and others than the base's. AdapterRefused, and gone."""
        resident = self.add(adapter)
        try:
            base, own = self._probed(None, probe), self._probed(resident, probe)
            if not bool(torch.isfinite(own).all()):
                raise AdapterRefused("with it the model computes infinities or NaN", next_step="train it again")
            if torch.equal(base, own[:, : base.shape[1]]):
                raise AdapterRefused(
                    "it changes nothing: on the probe its logits are the base's", next_step="train it for longer"
                )
        except BaseException:
            self.remove(resident)
            raise
        return resident

    def add(self, adapter: AcceptedAdapter) -> Resident:
        """Puts an adapter beside the base; what is there already is not touched. All or nothing."""
        self._loaded += 1
        key = f"adapter{self._loaded}"
        try:
            held = self._inject(adapter, key)
        except BaseException:
            self._delete(key)
            raise
        finally:
            self._activate(self._active)
        rows = adapter.rows
        if rows is not None:
            held += rows.embedding.nbytes + (0 if rows.head is rows.embedding else rows.head.nbytes)
        resident = Resident(adapter.digest, key, rows, adapter.tokenizer, adapter.stop_ids, held)
        self.residents.append(resident)
        return resident

    def remove(self, resident: Resident) -> None:
        """Frees an adapter's memory."""
        self.residents.remove(resident)
        self._activate(None)
        self._delete(resident.key)

    def free(self) -> None:
        """Lets go of the base and of every adapter."""
        self.residents, self._model, self._tuner = [], None, None
        self._rows.choose([])
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _inject(self, adapter: AcceptedAdapter, key: str) -> int:
        """PEFT's layers around the modules, with the adapter's values; the bytes they hold."""
        config = LoraConfig(
            r=adapter.rank, lora_alpha=adapter.alpha, target_modules=list(adapter.lora), init_lora_weights=False
        )
        with quiet():
            if self._tuner is None:
                self._tuner = LoraModel(self._model, {key: config}, key)
            else:
                self._tuner.peft_config[key] = config
                self._tuner.inject_adapter(self._model, key)
            self._model.eval()
        held = 0
        for module, (a, b) in adapter.lora.items():
            layer = self._model.get_submodule(module)
            for side, value in ((layer.lora_A, a), (layer.lora_B, b)):
                # fp32 whatever the base computes in, as PEFT trains and loads it; injected, it has the base's own dtype.
                side[key].weight = torch.nn.Parameter(value.to(self.device, torch.float32), requires_grad=False)
                held += side[key].weight.nbytes
        self._send_lines_to(list(adapter.lora))
        return held

    def _delete(self, key: str) -> None:
        if self._tuner is not None and key in self._tuner.peft_config:
            with quiet():
                self._tuner.delete_adapter(key)

    def forward(
        self,
        adapters: Sequence[Resident | None],
        ids: torch.Tensor,
        mask: torch.Tensor,
        cache: DynamicCache | None = None,
        keep: int = 1,
    ) -> torch.Tensor:
        """Logits [lines, keep, vocabulary] of the last `keep` positions, fp32 on the CPU.

        `ids` is [lines, new positions]; `mask` is [lines, all positions], 0 for padding on the left. `cache` grows by the new positions.
        Columns of tokens that a line's adapter does not own may be there: see `vocabulary_of`.
        """
        self._choose(adapters)
        where = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        offered = {"position_ids": where, "logits_to_keep": keep}  # some architectures know neither
        taken = {name: value for name, value in offered.items() if name in self._parameters}
        with torch.inference_mode():
            said = self._model(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=cache is not None, **taken
            )
            return said.logits[:, -keep:].cpu().float()

    def vocabulary_of(self, adapter: Resident | None) -> int:
        """How many of the logits' columns may answer: the base's, and the adapter's own added tokens."""
        own = adapter.rows.ids if adapter and adapter.rows else ()
        return max((self._rows.vocabulary, *(token + 1 for token in own)))

    def _probed(self, adapter: Resident | None, probe: Sequence[int]) -> torch.Tensor:
        """Logits [positions, the adapter's vocabulary] over a whole text."""
        ids = torch.tensor([list(probe)], device=self.device)
        return self.forward([adapter], ids, torch.ones_like(ids), keep=len(probe))[0, :, : self.vocabulary_of(adapter)]

    def _choose(self, adapters: Sequence[Resident | None]) -> None:
        self._rows.choose([adapter.rows if adapter else None for adapter in adapters])
        keys = [adapter.key if adapter else None for adapter in adapters]
        self._lines = None
        if len(set(keys)) == 1:
            if keys[0] != self._active:
                self._activate(keys[0])
        else:
            if self._active is None:
                self._activate(next(key for key in keys if key))
            self._lines = [key or BASE_LINE for key in keys]

    def _activate(self, key: str | None) -> None:
        """PEFT's active adapter; with None its layers are the base's own."""
        self._active = key
        if self._tuner is None:
            return
        with quiet():
            if key is None:
                self._tuner.disable_adapter_layers()
            else:
                self._tuner.enable_adapter_layers()
                self._tuner.set_adapter(key, inference_mode=True)

    def _send_lines_to(self, modules: Sequence[str]) -> None:
        """Lets PEFT's layers know which adapter each line of a mixed batch has, which its own `generate` does once per call."""
        for name in modules:
            layer = self._model.get_submodule(name)
            if not layer._forward_pre_hooks:
                layer.register_forward_pre_hook(self._name_lines, with_kwargs=True)

    def _name_lines(self, _module: torch.nn.Module, inputs: Any, keywords: dict[str, Any]) -> Any:
        return None if self._lines is None else (inputs, keywords | {"adapter_names": self._lines})
