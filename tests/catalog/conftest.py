"""The real models of transformers on the meta device: what every count in the catalog is compared with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

BESIDE_THE_LANGUAGE_MODEL = {
    "vision_tower": ("vision_tower", "vision_model", "visual"),
    "audio_tower": ("audio_tower", "embed_audio"),
    "qformer": ("qformer", "query_tokens"),
    "projector": (
        "multi_modal_projector",
        "connector",
        "language_projection",
        "embed_vision",
        "vision_adapter",
        "vision_projection",
        "image_newline",
    ),
}


@dataclass(frozen=True)
class RealModel:
    """What there is to know of a model of transformers: parameters by component, its Linears, and those its loader converts.

    `linears` are (name, in, out, bias); `converted` are (component, name, in, out): what bitsandbytes really gets to quantize.
    """

    components: dict[str, int]
    tied: bool
    linears: Counter[tuple[str, int, int, bool]]
    converted: Counter[tuple[str, str, int, int]]


@pytest.fixture(scope="session")
def real_model() -> Callable[[Mapping[str, Any]], RealModel]:
    """The real model of a Hugging Face style config, built without memory, once a config."""
    known: dict[str, RealModel] = {}

    def look(config: Mapping[str, Any]) -> RealModel:
        key = json.dumps(config, sort_keys=True)
        if key not in known:
            known[key] = facts_of(build(config))
        return known[key]

    return look


def build(config: Mapping[str, Any]) -> Any:
    """The model on the meta device; without `architectures`, the causal language model of its type."""
    import torch
    import transformers

    keys = dict(config)
    built = transformers.CONFIG_MAPPING[keys.pop("model_type")](**keys)
    with torch.device("meta"):
        if "architectures" in keys:
            return getattr(transformers, keys["architectures"][0])(built)
        return transformers.AutoModelForCausalLM.from_config(built)


@pytest.fixture(scope="session")
def saved() -> Callable[..., dict[str, Any]]:
    """What transformers reads back of a config that it saved: with every key, or as `save_pretrained` writes it, without defaults."""

    def save(config: Mapping[str, Any], *, every_key: bool = True) -> dict[str, Any]:
        import transformers

        keys = {key: value for key, value in config.items() if key != "model_type"}
        built = transformers.AutoConfig.for_model(config["model_type"], **keys)
        return dict(json.loads(built.to_json_string(use_diff=not every_key)))

    return save


def sizes_of(linear: Any) -> tuple[int, int]:
    """Inputs and outputs of a Linear, or of GPT-2's Conv1D, which holds them transposed."""
    if hasattr(linear, "in_features"):
        return linear.in_features, linear.out_features
    return tuple(linear.weight.shape)


def facts_of(model: Any) -> RealModel:
    import torch
    from transformers.pytorch_utils import Conv1D

    components: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        components[component_of(model, name)] += parameter.numel()
    linears = Counter(
        (name.rpartition(".")[2], *sizes_of(module), module.bias is not None)
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and not name.endswith("lm_head")
    )
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return RealModel(dict(components), tied, linears, convert(model))


def convert(model: Any) -> Counter[tuple[str, str, int, int]]:
    """Runs the replacement that loading in 4 bits runs, with its own choice of what to keep."""
    import bitsandbytes
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import HfQuantizer

    owners = {name.removesuffix(".weight"): component_of(model, name) for name, _ in model.named_parameters()}
    keep = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    replace_with_bnb_linear(model, keep, BitsAndBytesConfig(load_in_4bit=True))
    return Counter(
        (owners[name], name.rpartition(".")[2], module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit)
    )


def component_of(model: Any, name: str) -> str:
    import torch
    from transformers.pytorch_utils import Conv1D

    for component, marks in BESIDE_THE_LANGUAGE_MODEL.items():
        if any(part in marks for part in name.split(".")):
            return component
    owner_name, _, kind = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    if owner_name.endswith("lm_head"):
        return "lm_head"
    if isinstance(owner, torch.nn.Embedding):
        return "embeddings" if owner is model.get_input_embeddings() else "other_embeddings"
    if isinstance(owner, (torch.nn.Linear, Conv1D)):
        return "linear" if kind == "weight" else "linear_bias"
    for mark, component in (("Expert", "experts"), ("Router", "router"), ("Conv1d", "conv"), ("Norm", "norms")):
        if mark in type(owner).__name__:
            return component
    return "other"
