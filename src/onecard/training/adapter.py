"""The adapter itself: LoRA through PEFT on the right modules, saved in PEFT's own format so that the same run gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils.other import TrainableTokensWrapper
from safetensors.torch import save as serialize
from transformers.pytorch_utils import Conv1D

from onecard.adapters.durable import disk_errors, write_new
from onecard.adapters.manifest import AddedToken
from onecard.engines.local.loading import LoadedBase, grow_vocabulary, quiet
from onecard.engines.local.tokens import load_tokenizer
from onecard.errors import InputError, nearest
from onecard.fleet.recipe import LoraSection
from onecard.training.added_tokens import trained_rows

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Mamba's kernels read this layer's weight themselves, past an adapter on it: PEFT 0.21 refuses it for these architectures.
STATE_SPACE, UNREACHED = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"), "out_proj"


def attach(base: LoadedBase, lora: LoraSection, added: Sequence[AddedToken]) -> Any:
    """The base wrapped in a fresh adapter. Adapter weights are fp32: steps of 1e-4 would be lost in bf16. Draws from torch's generator.

    InputError for a target that the base does not have, with the nearest that it has.
    """
    targets = _targets(base, None if isinstance(lora.targets, str) else lora.targets)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        trainable_token_indices=trained_rows(base.model, added),
        task_type="CAUSAL_LM",
    )
    with quiet():
        model = get_peft_model(base.model, config)
    make_fp32(model)
    return model


def make_fp32(model: Any) -> None:
    """TRL rounds the adapter of a quantized base to bf16 when it is handed one; trained weights are kept in fp32."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def token_wrappers(model: Any) -> dict[str, Any]:
    """PEFT's wrappers around the embedding and the head whose rows are trained, by module name; none when no token is added."""
    return {name: module for name, module in model.named_modules() if isinstance(module, TrainableTokensWrapper)}


def targets_of(model: Any) -> tuple[str, ...]:
    """The names of the modules that got an adapter, sorted."""
    return tuple(sorted(model.peft_config["default"].target_modules))


def save(model: Any, folder: Path, base_id: str, tokenizer: Any | None) -> None:
    """Writes adapter_config.json and adapter_model.safetensors, and the tokenizer when one is given. No path of this machine is kept.

    DiskFull or MachineError when the disk refuses.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_state(model).items()}
    weights = serialize(state, metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": base_id, "inference_mode": True, "target_modules": list(targets_of(model))}
    with disk_errors(folder, len(weights)):
        write_new(folder / WEIGHTS, weights)
        write_new(folder / CONFIG, (json.dumps(config, indent=2, sort_keys=True, default=_plain) + "\n").encode())
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


def adapter_state(model: Any) -> dict[str, torch.Tensor]:
    """PEFT's names and tensors of the adapter alone. Left to itself PEFT adds the whole embedding after a resize."""
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return state


def load(base: LoadedBase, folder: Path) -> Any:
    """The base wrapped in a saved adapter, in eval mode, its vocabulary grown when the folder brings a tokenizer."""
    if (folder / "tokenizer.json").is_file():
        grow_vocabulary(base.model, load_tokenizer(folder), known=len(base.tokenizer))
    with quiet():
        return PeftModel.from_pretrained(base.model, folder, local_files_only=True).eval()


def _targets(base: LoadedBase, asked: Sequence[str] | None) -> list[str]:
    """The names asked for, each checked to be a linear module inside the base; all of them when none is. The head is not one.

    PEFT's own all-linear lists every layer's modules one by one on small models and the last names on large ones.
    """
    head = base.model.get_output_embeddings()
    linear = sorted(
        {
            name.rpartition(".")[2]
            for name, module in base.model.named_modules()
            if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
        }
    )
    if base.model.config.model_type in STATE_SPACE:
        linear = [name for name in linear if name != UNREACHED]
    for target in asked or ():
        if target not in linear:
            raise InputError(
                f"the base has no linear module '{target}' to adapt{nearest(target, linear)}",
                where="recipe: lora.targets",
                allowed=f"all-linear, or some of {', '.join(linear)}",
            )
    return linear if asked is None else list(asked)


def _plain(value: Any) -> Any:
    """JSON for what PEFT keeps in sets and enums."""
    return sorted(value) if isinstance(value, set) else getattr(value, "value", str(value))
