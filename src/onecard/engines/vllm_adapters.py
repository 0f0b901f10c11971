"""Is this adapter for this base, and will vLLM answer with it? Decided from files, because vLLM would load anything.

vLLM answers 200 to an adapter of another base, with layers missing, without effect or with NaN in it, and one NaN spoils every answer until
a restart. So everything is checked before its path is told to vLLM, and after that the loaded adapter is probed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onecard.adapters.manifest import Manifest
from onecard.adapters.safetensors_header import TensorEntry, read_header
from onecard.adapters.verification import WEIGHTS, check_adapter, differences, read_adapter_config
from onecard.engines.vllm_base import ExportedBase
from onecard.errors import AdapterRefused

PREFIX = "base_model.model."  # what PEFT writes before the base's own module names
_CHUNK = 1 << 20
UNSERVED = ("use_dora", "alora_invocation_tokens", "modules_to_save")  # vLLM refuses them, or drops them


@dataclass(frozen=True)
class VllmBase:
    """What an adapter must fit. `fingerprint` is that of the base adapters were trained on, also when an export of it is served."""

    fingerprint: str
    quantization: str
    chat_template_sha256: str
    linears: Mapping[str, tuple[int, int] | None]
    max_rank: int
    export: ExportedBase | None


@dataclass(frozen=True)
class Servable:
    """An adapter that vLLM may be told of: the name it gets, and the folder it is read from."""

    digest: str
    name: str
    folder: Path
    bytes: int


def servable_name(manifest: Manifest) -> str:
    """The name in vLLM: `<name>@<version>-<digest12>`, new for every version, so that no cached block of another one can be met."""
    return f"{manifest.name}@{manifest.version or 'unversioned'}-{manifest.digest[:12]}"


def check_servable(folder: Path, manifest: Manifest, base: VllmBase) -> Servable:
    """AdapterRefused with the first reason found; nothing was told to vLLM by then."""
    where = str(folder)
    if not manifest.digest:
        raise AdapterRefused("it was never published: its manifest has no digests", where=where, next_step="publish it")
    try:
        if found := differences(folder, manifest):
            raise AdapterRefused(f"the files are not those that were published: {'; '.join(found)}", where=where)
        check_adapter(folder, manifest)
        _check_base(manifest, base, where)
        served = _with_tokens(folder, manifest, base)
        config = read_adapter_config(folder)
        entries = read_header(folder / WEIGHTS)
    except OSError as error:
        raise AdapterRefused(f"cannot be read: {error}", where=where) from error
    if unserved := [key for key in UNSERVED if config.get(key)]:
        raise AdapterRefused(f"vLLM does not serve {', '.join(unserved)}", where=where, next_step="set engine: local")
    if manifest.rank > base.max_rank:
        raise AdapterRefused(
            f"rank {manifest.rank}, and the engine was started for ranks up to {base.max_rank}", where=where,
            next_step="start the service again",
        )  # fmt: skip
    _check_coverage(tuple(config["target_modules"]), entries, base, where)
    return Servable(manifest.digest, servable_name(manifest), served, (served / WEIGHTS).stat().st_size)


def _check_base(manifest: Manifest, base: VllmBase, where: str) -> None:
    made_for = manifest.base
    if made_for.fingerprint != base.fingerprint:
        raise AdapterRefused(
            f"it was trained on {made_for.id} with the weight fingerprint {made_for.fingerprint[:12]}, "
            f"and the served base has {base.fingerprint[:12]}",
            where=where,
            next_step="serve the base it was trained on, or train it on this one",
        )
    if made_for.quantization != base.quantization:
        raise AdapterRefused(
            f"it was trained on {made_for.quantization} weights, and vLLM serves the base as {base.quantization}",
            where=where,
            next_step="set engine: local, which holds the base as it was trained on",
        )
    if manifest.chat_template_sha256 != base.chat_template_sha256:
        raise AdapterRefused("it was trained with another chat template than the served base's", where=where)


def _with_tokens(folder: Path, manifest: Manifest, base: VllmBase) -> Path:
    """The folder vLLM reads: the adapter's own, or for added tokens the export's, if its LoRA is this one's to the bit."""
    if not manifest.added_tokens:
        return folder
    address = f"{manifest.agent}/{manifest.name}@{manifest.version}"
    if base.export is None or base.export.digest != manifest.digest:
        what = f"the base of {base.export.address}" if base.export else "the base without them"
        raise AdapterRefused(
            f"it adds {len(manifest.added_tokens)} tokens, which vLLM drops, and {what} is served", where=str(folder),
            next_step=f"onecard adapters export {address} --for vllm --to <folder>, then set the model's id to <folder>/base",
        )  # fmt: skip
    _check_same_lora(folder / WEIGHTS, base.export.adapter / WEIGHTS)
    return base.export.adapter


def _check_same_lora(stored: Path, exported: Path) -> None:
    ours = {name: entry for name, entry in read_header(stored).items() if ".lora_" in name}
    theirs = read_header(exported)
    for name, entry in ours.items():
        other = theirs.get(name)
        if (
            other is None
            or (other.dtype, other.shape) != (entry.dtype, entry.shape)
            or not _equal(stored, entry, exported, other)
        ):
            raise AdapterRefused(
                f"the export's {name} is not the adapter's", where=str(exported), next_step="export it again"
            )
    if extra := sorted(set(theirs) - set(ours)):
        raise AdapterRefused(f"the export holds {extra[0]}, which the adapter does not", where=str(exported))


def _equal(one: Path, entry: TensorEntry, two: Path, other: TensorEntry) -> bool:
    with one.open("rb") as first, two.open("rb") as second:
        first.seek(entry.start)
        second.seek(other.start)
        left = entry.end - entry.start
        while left > 0:
            if first.read(min(left, _CHUNK)) != second.read(min(left, _CHUNK)):
                return False
            left -= _CHUNK
    return True


def _check_coverage(targets: tuple[str, ...], entries: Mapping[str, TensorEntry], base: VllmBase, where: str) -> None:
    """Every layer that a target means has its pair, of its size, and no pair is for a layer that the base lacks."""
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, entry in entries.items():
        module, lora, side = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")
        if lora:
            pairs.setdefault(module, {})[side] = entry.shape
    for target in targets:
        meant = [name for name in base.linears if name == target or name.endswith(f".{target}")]
        if not meant:
            raise AdapterRefused(f"the base has no linear layer {target}, which its config targets", where=where)
        if missing := sorted(set(meant) - set(pairs)):
            raise AdapterRefused(f"no tensors for {missing[0]}, which its config targets", where=where)
    for module, sides in pairs.items():
        if module not in base.linears:
            raise AdapterRefused(f"tensors for no layer of this base: {module}", where=where)
        size = base.linears[module]
        if size is not None and (sides["A"][1], sides["B"][0]) != size:
            raise AdapterRefused(
                f"{module} has A {list(sides['A'])} and B {list(sides['B'])}, "
                f"and the base's layer has {size[0]} inputs and {size[1]} outputs",
                where=where,
            )
