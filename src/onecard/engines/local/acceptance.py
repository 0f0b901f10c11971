"""Is this adapter for this base, whole and unaltered? Decided from its files alone, before anything touches the running model.

What needs no base (digests, file names, config against manifest, finite numbers) is `onecard.adapters.verification`'s; here the
adapter meets the base: fingerprint, quantization, chat template, vocabulary, and every tensor against the layer it is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from onecard.adapters.manifest import Manifest
from onecard.adapters.verification import CONFIG, WEIGHTS, check_adapter, differences, read_adapter_config
from onecard.engines.local.added_rows import AddedRows
from onecard.engines.local.loading import LoadedBase
from onecard.engines.local.tokens import chat_template_sha256, load_tokenizer
from onecard.errors import AdapterRefused, OnecardError

PREFIX = "base_model.model."  # what PEFT writes before the base's own module names


@dataclass(frozen=True)
class BaseFacts:
    """What an adapter must fit. `linears` maps module names to (inputs, outputs); `head` is None when it is tied to the embedding.

    `vocabulary` is the number of rows of the embedding.
    """

    fingerprint: str
    quantization: str
    double_quantization: bool
    tokenizer: Any
    linears: Mapping[str, tuple[int, int]]
    embedding: str
    head: str | None
    vocabulary: int
    hidden: int
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, eq=False)
class AcceptedAdapter:
    """An adapter that fits: `lora` maps every module it changes to A [rank, inputs] and B [outputs, rank]."""

    digest: str
    rank: int
    alpha: float
    lora: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    rows: AddedRows | None
    tokenizer: Any
    stop_ids: tuple[int, ...]


def base_facts(base: LoadedBase, fingerprint: str, quantization: str, double_quantization: bool) -> BaseFacts:
    """The facts of a base that has just been loaded and has no adapter yet."""
    embedding, head = base.model.get_input_embeddings(), base.model.get_output_embeddings()
    names = {module: name for name, module in base.model.named_modules()}
    return BaseFacts(
        fingerprint=fingerprint,
        quantization=quantization,
        double_quantization=double_quantization,
        tokenizer=base.tokenizer,
        linears={
            name: (module.in_features, module.out_features)
            for module, name in names.items()
            if isinstance(module, torch.nn.Linear) and module is not head
        },
        embedding=names[embedding],
        head=None if head.weight is embedding.weight else names[head],
        vocabulary=embedding.weight.shape[0],
        hidden=embedding.weight.shape[1],
        dtype=embedding.weight.dtype,
        device=base.device,
    )


def accept(folder: Path, manifest: Manifest, base: BaseFacts) -> AcceptedAdapter:
    """Reads and checks everything; AdapterRefused with the first reason found."""
    where = str(folder)
    if not manifest.digest:
        raise AdapterRefused("it was never published: its manifest has no digests", where=where, next_step="publish it")
    try:
        if found := differences(folder, manifest):
            raise AdapterRefused(f"the files are not those that were published: {'; '.join(found)}", where=where)
        check_adapter(folder, manifest)
        _check_base(manifest, base, where)
        tokenizer = _tokenizer(folder, manifest, base)
        tensors = load_file(folder / WEIGHTS)
    except OSError as error:
        raise AdapterRefused(f"cannot be read: {error}", where=where) from error
    config = read_adapter_config(folder)
    lora = _take_lora(tensors, config, base, where)
    rows = _take_rows(tensors, config, manifest, base, where)
    if tensors:
        raise AdapterRefused(f"tensors for no layer of this base: {_some(tensors)}", where=where)
    return AcceptedAdapter(manifest.digest, manifest.rank, manifest.alpha, lora, rows, tokenizer, manifest.stop_ids)


def _check_base(manifest: Manifest, base: BaseFacts, where: str) -> None:
    made_for = manifest.base
    if made_for.fingerprint != base.fingerprint:
        raise AdapterRefused(
            f"it was trained on {made_for.id} with the weight fingerprint {made_for.fingerprint[:12]}, "
            f"and the loaded base has {base.fingerprint[:12]}",
            where=where,
            next_step="load the base it was trained on, or train it on this one",
        )
    same_scales = base.quantization != "nf4" or made_for.double_quantization == base.double_quantization
    if made_for.quantization != base.quantization or not same_scales:
        raise AdapterRefused(
            f"it was trained on {_form(made_for.quantization, made_for.double_quantization)} weights, "
            f"and the loaded base is {_form(base.quantization, base.double_quantization)}",
            where=where,
            next_step="set the model's quantization to what the adapter was trained on",
        )
    if manifest.chat_template_sha256 != chat_template_sha256(base.tokenizer):
        raise AdapterRefused("it was trained with another chat template than the loaded base's", where=where)


def _form(quantization: str, double: bool) -> str:
    return quantization + (" (double-quantized)" if quantization == "nf4" and double else "")


def _tokenizer(folder: Path, manifest: Manifest, base: BaseFacts) -> Any:
    """The adapter's own tokenizer: the base's, plus exactly the manifest's added tokens. AdapterRefused for any other."""
    if not (folder / "tokenizer.json").is_file():
        if manifest.added_tokens:
            raise AdapterRefused("it adds tokens and brings no tokenizer that knows them", where=str(folder))
        return base.tokenizer
    try:
        own = load_tokenizer(folder)
    except OnecardError as error:
        raise AdapterRefused(error.problem, where=str(folder)) from error
    expected = base.tokenizer.get_vocab() | {added.token: added.row for added in manifest.added_tokens}
    if own.get_vocab() != expected:
        wrong = dict(own.get_vocab().items() ^ expected.items())
        raise AdapterRefused(
            f"its vocabulary is not the base's with its added tokens: {_some(wrong)}", where=str(folder)
        )
    if chat_template_sha256(own) != manifest.chat_template_sha256:
        raise AdapterRefused("its tokenizer has another chat template than its manifest", where=str(folder))
    return own


def _take_lora(
    tensors: dict[str, torch.Tensor], config: Mapping[str, Any], base: BaseFacts, where: str
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Takes A and B of every targeted module out of `tensors`; all must be there and fit."""
    if isinstance(config.get("init_lora_weights"), str) and config["init_lora_weights"] != "gaussian":
        raise AdapterRefused(
            f"init_lora_weights {config['init_lora_weights']!r} may alter the base", where=f"{where}/{CONFIG}"
        )
    taken = {}
    for module, (inputs, outputs) in _targeted(config, base, where).items():
        pair = [tensors.pop(f"{PREFIX}{module}.lora_{side}.weight", None) for side in "AB"]
        if pair[0] is None or pair[1] is None:
            raise AdapterRefused(f"no tensors for {module}, which its config targets", where=where)
        if pair[0].shape[1] != inputs or pair[1].shape[0] != outputs:
            raise AdapterRefused(
                f"{module} has A {list(pair[0].shape)} and B {list(pair[1].shape)}, "
                f"and the base's layer has {inputs} inputs and {outputs} outputs",
                where=where,
            )
        taken[module] = (pair[0], pair[1])
    return taken


def _targeted(config: Mapping[str, Any], base: BaseFacts, where: str) -> dict[str, tuple[int, int]]:
    """Every linear layer that PEFT's target_modules means: names, or the ends of names, as `check_config` made sure."""
    found: dict[str, tuple[int, int]] = {}
    for target in config["target_modules"]:
        named = {name: size for name, size in base.linears.items() if name == target or name.endswith(f".{target}")}
        if not named:
            raise AdapterRefused(f"the base has no linear layer {target}, which its config targets", where=where)
        found |= named
    return found


def _take_rows(
    tensors: dict[str, torch.Tensor], config: Mapping[str, Any], manifest: Manifest, base: BaseFacts, where: str
) -> AddedRows | None:
    """Takes the rows of added tokens out of `tensors`: those of the embedding and, when it is not tied, those of the head."""
    if not manifest.added_tokens:
        return None
    ids = tuple(added.row for added in manifest.added_tokens)
    if max(ids) >= base.vocabulary + len(ids):
        raise AdapterRefused(
            f"its added tokens have the rows {list(ids)}, and the base has {base.vocabulary}", where=where
        )
    said = config.get("trainable_token_indices")
    rows = {}
    for module in filter(None, (base.embedding, base.head)):
        name = module.rpartition(".")[2]
        if not isinstance(said, dict) or said.get(name) != list(ids):
            raise AdapterRefused(
                f"its config does not say that {name} has the manifest's rows {list(ids)}", where=where
            )
        row = tensors.pop(f"{PREFIX}{module}.token_adapter.trainable_tokens_delta", None)
        if row is None:
            raise AdapterRefused(f"no trained rows of {name} for its added tokens", where=where)
        if row.shape != (len(ids), base.hidden):
            raise AdapterRefused(
                f"{name} has rows of shape {list(row.shape)}, expected [{len(ids)}, {base.hidden}]", where=where
            )
        rows[module] = row.to(base.device, base.dtype)
    return AddedRows(ids, rows[base.embedding], rows[base.head or base.embedding])


def _some(names: Mapping[str, Any]) -> str:
    """The first few names of many."""
    first = sorted(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
