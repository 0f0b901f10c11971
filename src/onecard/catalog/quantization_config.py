"""What a checkpoint says of the form its weights are in: the `quantization_config` of its config.json, read into storages and skip lists.

A method nobody here can count, a missing field or an absurd one is refused with its name: a form is never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onecard.catalog.quantization_fields import WHERE, Said, bits_of, choice, flag, group_size, names, pair, whole
from onecard.catalog.skips import Names
from onecard.catalog.storages import (
    Awq,
    AwqVersion,
    Bnb4Bit,
    Bnb8Bit,
    BnbKind,
    Compressed,
    Form,
    Fp4,
    Fp8,
    Gptq,
    Kind,
    Storage,
    Strategy,
)
from onecard.errors import CatalogError, nearest

_BNB_KINDS: tuple[BnbKind, ...] = ("nf4", "fp4")
_AWQ_VERSIONS: tuple[AwqVersion, ...] = ("gemm", "gemv", "gemv_fast", "marlin")
_KINDS: tuple[Kind, ...] = ("int", "float")

# Whose Linears a method converts: every Linear (the head too, where no list keeps it out), the decoder layers of the language model
# alone, or nothing but the experts of a mixture.
Reach = Literal["all", "decoder", "experts"]


@dataclass(frozen=True)
class Group:
    """Linears kept in one way. `targets` None: all that the method reaches."""

    storage: Storage
    targets: Names | None = None


@dataclass(frozen=True)
class CheckpointForm:
    """How a checkpoint is quantized. `groups` in order, the first that means a Linear has it; `skips` stay in 16 bits whatever.

    `experts`: whether the method converts experts, which bitsandbytes does not. `head`: whether it may convert the output head.
    """

    method: str
    groups: tuple[Group, ...]
    skips: tuple[Names, ...] = ()
    reach: Reach = "all"
    experts: bool = True
    head: bool = True

    @property
    def storage(self) -> Storage:
        """How most of it is kept: what is not an exception by name."""
        return self.groups[-1].storage

    @property
    def form(self) -> Form:
        return self.storage.form

    def storage_of(self, paths: Sequence[str]) -> Storage | None:
        """How the Linear that goes by any of these names is kept; None for 16 bits."""
        if any(skip.match(path) for skip in self.skips for path in paths):
            return None
        for group in self.groups:
            if group.targets is None or group.targets.every_linear or any(map(group.targets.match, paths)):
                return group.storage
        return None


def read_quantization(config: Mapping[str, Any]) -> CheckpointForm | None:
    """How the checkpoint of this config is quantized, None when it is not. CatalogError when that cannot be told or counted."""
    text = config.get("text_config")
    places: list[Mapping[str, Any]] = [config, *([text] if isinstance(text, Mapping) else [])]
    found = [place[key] for place in places for key in ("quantization_config", "compression_config") if place.get(key)]
    if not found:
        return None
    if not isinstance(found[0], Mapping):
        raise CatalogError("it is no object", where=WHERE, next_step="give the config.json as it was published")
    said: Said = found[0]
    method = said.get("quant_method") or ("bitsandbytes" if _is_bitsandbytes(said) else None)
    if method is None:
        raise CatalogError("it names no quant_method", where=f"{WHERE}.quant_method", allowed=_known())
    read = _READERS.get(str(method))
    if read is None:
        raise CatalogError(
            f"the checkpoint is quantized as '{method}'{nearest(str(method), sorted(_READERS))}, whose bytes cannot be counted",
            where=f"{WHERE}.quant_method",
            allowed=_known(),
        )
    return read(said)


def _known() -> str:
    return ", ".join(sorted(_READERS))


def _is_bitsandbytes(said: Said) -> bool:
    return any(said.get(key) for key in ("load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit"))


def _bitsandbytes(said: Said) -> CheckpointForm:
    skips = names(said, ("llm_int8_skip_modules",), "transformers")
    head = bool(skips)  # a list that is given replaces the default one, which holds the head
    four, eight = flag(said, "load_in_4bit", "_load_in_4bit"), flag(said, "load_in_8bit", "_load_in_8bit")
    if four == eight:
        raise CatalogError(
            "load_in_4bit and load_in_8bit are both set" if four else "neither load_in_4bit nor load_in_8bit is set",
            where=f"{WHERE}.load_in_4bit",
            allowed="one of the two",
        )
    storage: Storage = Bnb8Bit()
    if four:
        kind = choice(said, "bnb_4bit_quant_type", _BNB_KINDS, "fp4")  # transformers' default
        block = whole(said, "bnb_4bit_blocksize", 64)
        storage = Bnb4Bit(kind, flag(said, "bnb_4bit_use_double_quant"), block)
    return CheckpointForm("bitsandbytes", (Group(storage),), skips, experts=False, head=head)


def _awq(said: Said) -> CheckpointForm:
    bits_of(said, ("bits", "w_bit"), (4,))
    group = group_size(said, ("group_size", "q_group_size"))
    version = choice(said, "version", _AWQ_VERSIONS, "gemm")
    skips = names(said, ("modules_to_not_convert",), "substring")
    return CheckpointForm("awq", (Group(Awq(group, version)),), skips, reach="decoder", head=False)


def _gptq(said: Said) -> CheckpointForm:
    bits, group = bits_of(said, ("bits",), (2, 3, 4, 8)), group_size(said, ("group_size",))
    groups, skips = [], list(names(said, ("modules_to_not_convert",), "substring"))
    dynamic = said.get("dynamic") or {}
    if not isinstance(dynamic, Mapping):
        raise CatalogError(f"{dynamic!r} is no table of patterns", where=f"{WHERE}.dynamic")
    for pattern, changed in dynamic.items():
        meant = Names((str(pattern).removeprefix("-:").removeprefix("+:"),), "regex", f"{WHERE}.dynamic")
        if str(pattern).startswith("-:"):
            skips.append(meant)
            continue
        own = {"bits": bits, "group_size": group, **(changed if isinstance(changed, Mapping) else {})}
        groups.append(Group(Gptq(bits_of(own, ("bits",), (2, 3, 4, 8)), group_size(own, ("group_size",))), meant))
    targets = _inside_a_block(said.get("modules_in_block_to_quantize"))
    groups.append(Group(Gptq(bits, group), targets))
    return CheckpointForm("gptq", tuple(groups), tuple(skips), reach="decoder", head=flag(said, "lm_head"))


def _inside_a_block(parts: Any) -> Names | None:
    """Names relative to a block, in lists that were quantized one after the other; None when all of a block was."""
    where = f"{WHERE}.modules_in_block_to_quantize"
    if not parts:
        return None
    listed = (
        [name for part in parts for name in ([part] if isinstance(part, str) else part)] if _is_lists(parts) else []
    )
    if not listed or not all(isinstance(name, str) for name in listed):
        raise CatalogError(f"{parts!r} is no list of module names", where=where)
    return Names(tuple(f".*\\.{re.escape(name)}$" for name in listed), "regex", where)


def _is_lists(parts: Any) -> bool:
    return isinstance(parts, list | tuple) and all(isinstance(part, str | list | tuple) for part in parts)


def _fp8(said: Said) -> CheckpointForm:
    block = said.get("weight_block_size")
    scale_bytes = 1 if said.get("scale_fmt") == "ue8m0" else 4
    static = choice(said, "activation_scheme", ("dynamic", "static"), "dynamic") == "static"
    storage = Fp8(static=static)
    if block is not None:
        storage = Fp8("block", pair(block, "weight_block_size"), static, scale_bytes)
    skips = names(said, ("modules_to_not_convert", "ignored_layers"), "transformers")
    return CheckpointForm("fp8", (Group(storage),), skips, head=bool(skips))


def _fbgemm(said: Said) -> CheckpointForm:
    skips = names(said, ("modules_to_not_convert",), "transformers")
    return CheckpointForm("fbgemm_fp8", (Group(Fp8("channel", static=True)),), skips, head=bool(skips))


def _mxfp4(said: Said) -> CheckpointForm:
    skips = names(said, ("modules_to_not_convert",), "transformers")
    return CheckpointForm("mxfp4", (Group(Fp4("mxfp4")),), skips, reach="experts", head=False)


def _modelopt(said: Said) -> CheckpointForm:
    algorithm = choice(said, "quant_algo", ("FP8", "NVFP4"))
    storage: Storage = Fp8(static=True) if algorithm == "FP8" else Fp4("nvfp4", static=True)
    return CheckpointForm("modelopt", (Group(storage),), names(said, ("ignore", "exclude_modules"), "glob"))


def _compressed_tensors(said: Said) -> CheckpointForm:
    sparse = said.get("sparsity_config") or {}
    if isinstance(sparse, Mapping) and sparse.get("format", "dense") != "dense":
        raise CatalogError(
            "sparse weights cannot be counted", where=f"{WHERE}.sparsity_config", allowed="format: dense"
        )
    groups = said.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise CatalogError("it names no config_groups", where=f"{WHERE}.config_groups")
    read = [_config_group(str(name), group, said) for name, group in groups.items()]
    # A Linear is looked up by its name before its class.
    read.sort(key=lambda group: group.targets is not None and group.targets.every_linear)
    return CheckpointForm("compressed-tensors", tuple(read), names(said, ("ignore",), "compressed-tensors"))


def _config_group(name: str, group: Any, said: Said) -> Group:
    where = f"config_groups.{name}"
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping):
        raise CatalogError("it says nothing of the weights", where=f"{WHERE}.{where}.weights")
    inputs = group.get("input_activations")
    static = isinstance(inputs, Mapping) and inputs.get("dynamic") is not True
    targets = group.get("targets") or []
    if not isinstance(targets, list | tuple) or not all(isinstance(target, str) for target in targets) or not targets:
        raise CatalogError("it has no list of targets", where=f"{WHERE}.{where}.targets")
    storage = _compressed(weights, str(group.get("format") or said.get("format") or ""), static, f"{where}.weights")
    return Group(storage, Names(tuple(targets), "compressed-tensors", f"{WHERE}.{where}.targets"))


_FORMATS = (
    "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized",
)  # fmt: skip
_STRATEGIES: tuple[Strategy, ...] = ("tensor", "channel", "group", "block", "tensor_group")


def _compressed(weights: Said, layout: str, static: bool, where: str) -> Storage:
    layout = choice({"format": layout or None}, "format", _FORMATS)
    kind = choice(weights, "type", _KINDS, where=where)
    strategy = choice(weights, "strategy", _STRATEGIES, where=where)
    bits = bits_of(weights, ("num_bits",), tuple(range(1, 9)) if layout == "pack-quantized" else (4, 8), where)
    if layout in ("nvfp4-pack-quantized", "mxfp4-pack-quantized"):
        size = 16 if layout.startswith("nvfp4") else 32
        if (bits, kind, weights.get("group_size")) != (4, "float", size):
            raise CatalogError(f"{layout} holds 4-bit floats in groups of {size}", where=f"{WHERE}.{where}.group_size")
        return Fp4("nvfp4" if size == 16 else "mxfp4", static)
    if layout != "pack-quantized" and bits != 8:
        raise CatalogError(
            f"{layout} holds 8 bits a weight, not {bits}", where=f"{WHERE}.{where}.num_bits", allowed="8"
        )
    group = group_size(weights, ("group_size",), where) if strategy in ("group", "tensor_group") else 0
    block = pair(weights.get("block_structure"), f"{where}.block_structure") if strategy == "block" else (0, 0)
    symmetric = weights.get("symmetric") is not False
    ordered = weights.get("actorder") in ("group", "dynamic", True)
    return Compressed(bits, kind, strategy, group, block, symmetric, layout == "pack-quantized", ordered, static)


_READERS: dict[str, Callable[[Said], CheckpointForm]] = {
    "bitsandbytes": _bitsandbytes,
    "awq": _awq,
    "gptq": _gptq,
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "mxfp4": _mxfp4,
    "modelopt": _modelopt,
    "compressed-tensors": _compressed_tensors,
}
