"""From rows to a verified adapter: count the tokens, load the base, train, check that it learned, save, load it back, and only then
let the folder appear under its name.

An interruption at any point leaves nothing under that name.
"""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from onecard.adapters.durable import disk_errors
from onecard.engines.local.loading import DTYPES, LoadedBase, choose_device, load_base
from onecard.errors import InputError
from onecard.training import adapter, checks, loop
from onecard.training.added_tokens import demand_rows, extend_model
from onecard.training.manifest_writer import RunFacts, versions, write_manifest
from onecard.training.memory import PeakMemory
from onecard.training.order import OnProgress, Progress, TrainedAdapter, TrainingOrder
from onecard.training.preparation import Prepared, prepare


def train_adapter(order: TrainingOrder, progress: OnProgress) -> TrainedAdapter:
    """Makes one adapter. `progress` is called at every stage and step; what it raises ends the run and leaves nothing behind.

    DataError for faulty rows, InputError for a base or recipe that cannot be used, DoesNotFit when memory runs out, NothingLearned
    when the checks after the run fail, DiskFull when the adapter cannot be written.
    """
    demand_rows(order.recipe)
    with _appearing_whole(order.output) as folder:
        prepared = prepare(
            order.data_file, order.base_folder, order.recipe, order.presets, order.limit_rows, order.suite_file
        )
        progress(Progress("data", f"{len(prepared.ledger.rows)} rows", ledger=prepared.ledger))
        prepared.ledger.demand_clean()
        run, trained = _train(order, prepared, folder, progress)
        progress(Progress("checking", "loading the saved adapter into a fresh base"))
        _check_saved(order, prepared, folder, trained)
        manifest = write_manifest(order, prepared.facts, run)
    progress(Progress("done", f"{manifest.run.steps} steps in {manifest.run.seconds:.0f} s"))
    return TrainedAdapter(order.output, manifest)


@dataclass(frozen=True)
class Trained:
    """What the saved files have to come up to: the adapter's tensors by name, and what the model said with them."""

    state: dict[str, torch.Tensor]
    probe: checks.Probe


def _train(order: TrainingOrder, prepared: Prepared, folder: Path, progress: OnProgress) -> tuple[RunFacts, Trained]:
    """The run, the checks on the model in memory, and the files. The model is gone when this returns."""
    recipe, rows = order.recipe, prepared.ledger.encoded
    progress(Progress("loading", f"{order.base_id} in {recipe.base_quantization}"))
    with PeakMemory(choose_device(order.device)) as memory:
        base = _load(order)
        extend_model(base, prepared.tokenizer, prepared.facts.added_tokens)
        set_seed(recipe.seed)  # A is drawn at random when the adapter is attached
        model = adapter.attach(base, recipe.lora, prepared.facts.added_tokens)
        start = _copy(model)
        digest, asked = checks.base_digest(model), checks.probe_rows(rows)
        before = checks.probe(model, asked)
        result = loop.run(
            model,
            prepared.tokenizer,
            rows,
            recipe,
            order.run_folder,
            progress,
            identity=_identity(order, prepared),
            resume=order.resume,
            tensorboard=order.tensorboard,
        )
    progress(Progress("checking", "did it learn?"))
    after = checks.probe(model, asked)
    checks.demand_movement(model, start, prepared.facts.added_tokens)
    checks.demand_same_base(digest, checks.base_digest(model))
    checks.demand_lower_loss(before, after)
    progress(Progress("saving", "writing the adapter"))
    adapter.save(model, folder, order.base_id, prepared.tokenizer if prepared.facts.added_tokens else None)
    facts = RunFacts(result, memory.bytes, memory.kind, adapter.targets_of(model), base.device)
    return facts, Trained(_copy(model), after)


def _identity(order: TrainingOrder, prepared: Prepared) -> dict[str, str]:
    """What must be the same for a run to go on from a checkpoint, by the name a person is told."""
    recipe = order.recipe.model_dump(mode="json", exclude={"name", "data", "checkpoints"})
    parts = {f"recipe's {key}": json.dumps(value, sort_keys=True) for key, value in recipe.items()}
    return {
        "data": prepared.facts.sha256,
        "base": order.base_fingerprint,
        "chat template": prepared.facts.chat_template_sha256,
        "device": choose_device(order.device).type,
        **parts,
        **{f"version of {library}": number for library, number in versions().items()},
    }


def _copy(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in adapter.adapter_state(model).items()}


def _check_saved(order: TrainingOrder, prepared: Prepared, folder: Path, trained: Trained) -> None:
    """What users will get: the files, in a base that never saw the training, must say what the trained model said."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    asked = checks.probe_rows(prepared.ledger.encoded)
    model = adapter.load(_load(order), folder)
    reloaded, dtype = checks.probe(model, asked), DTYPES[order.recipe.compute_dtype]
    checks.demand_same_weights(trained.state, adapter.adapter_state(model))
    checks.demand_exact_reload(trained.probe, reloaded, dtype)
    checks.demand_effect(reloaded, checks.base_probe(model, asked), dtype)


def _load(order: TrainingOrder) -> LoadedBase:
    recipe = order.recipe
    return load_base(
        order.base_folder,
        recipe.base_quantization,
        double_quantization=recipe.double_quantization,
        dtype=recipe.compute_dtype,
        device=order.device,
    )


@contextmanager
def _appearing_whole(output: Path) -> Iterator[Path]:
    """A hidden folder that is renamed to `output` when the block ends well, and removed when it does not."""
    if output.exists():
        raise InputError("the output folder exists already", where=str(output), next_step="name another, or remove it")
    with disk_errors(output.parent, 0):
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp makes it readable for its owner only
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
