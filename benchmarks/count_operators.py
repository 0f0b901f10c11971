"""How many operators one decode step launches, by architecture: what rules the speed of eager PyTorch on a fast card.

`python benchmarks/count_operators.py [MODEL_TYPE ...] [--out src/onecard/catalog/operators.yaml]` builds tiny random models of each
architecture on the CPU in bf16 at two depths, so that what a layer adds can be told from what stands around the layers, and counts one
step as the in-process engine makes it: one line, and four lines with padding on their left. Views, metadata and allocations are no
operators; those inside a Linear are not counted either, since they depend on the form it is held in; scaled_dot_product_attention is
one, whatever a CPU makes of it. Needs the `local` extra; no download.
"""

from __future__ import annotations

import argparse
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from tiny_models import tiny_models
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from onecard.catalog.architecture import known_architectures

CACHED = 7  # tokens in the cache before the step
NO_KERNEL = ("aten.empty", "aten.new_empty", "aten.lift_fresh", "aten._local_scalar_dense", "aten.sym_", "aten.detach")


class Launches(TorchDispatchMode):
    """Counts operators that would launch a kernel, outside of Linears and of what `counted_once` covers."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.inside = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.inside and not is_free(func, (args, kwargs), result):
            self.names.append(str(func))
        return result


def is_free(func: Any, given: Any, result: Any) -> bool:
    """Whether an operator only looks at memory in another way, or asks for some."""
    if str(func).startswith(NO_KERNEL):
        return True
    if func._schema.is_mutable:
        return False
    tensors = [one for one in tree_leaves(result) if isinstance(one, torch.Tensor)]
    storages = {one.untyped_storage()._cdata for one in tree_leaves(given) if isinstance(one, torch.Tensor)}
    return not tensors or all(one.untyped_storage()._cdata in storages for one in tensors)


class AttentionOnce(TorchFunctionMode):
    """scaled_dot_product_attention as the one kernel it is on a card."""

    def __init__(self, launches: Launches) -> None:
        super().__init__()
        self.launches = launches

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.launches.names.append("scaled_dot_product_attention")
        self.launches.inside += 1
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.launches.inside -= 1


@dataclass(frozen=True)
class Step:
    """One decode step of one model: operators outside of Linears, Linears in the layers, calls of modules."""

    operators: int
    linears: int
    module_calls: int


@contextmanager
def counting(model: Any, launches: Launches, counts: dict[str, int]) -> Iterator[None]:
    """Hooks that take Linears of the layers out of the count and count them apart; the head's stays in, as one operator."""
    head = model.get_output_embeddings()
    hooks = [
        torch.nn.modules.module.register_module_forward_pre_hook(
            lambda *_: counts.__setitem__("calls", counts["calls"] + 1)
        )
    ]

    def enter(module: Any, _inputs: Any) -> None:
        launches.inside += 1
        if module is head:
            launches.names.append("the head")
        else:
            counts["linears"] += 1

    def leave(*_: Any) -> None:
        launches.inside -= 1

    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, Conv1D)):
            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def build(config: dict[str, Any]) -> tuple[Any, str]:
    """A random model in bf16, and the attention the engine asks for."""
    keys = dict(config)
    built = transformers.CONFIG_MAPPING[keys.pop("model_type")](**keys)
    classes = (transformers.AutoModelForCausalLM, transformers.AutoModelForImageTextToText)
    auto = next((one for one in classes if type(built) in one._model_mapping), None)
    if auto is None:
        raise LookupError("transformers has no model of its own for it, only as a part of another")
    known = auto._model_mapping[type(built)]
    kind = known[0] if isinstance(known, (tuple, list)) else known
    attention = "sdpa" if kind._supports_sdpa else "eager"
    return auto.from_config(built, attn_implementation=attention, dtype=torch.bfloat16).eval(), attention


def step_of(model: Any, padding: list[int], *, log: Callable[[list[str]], None] | None = None) -> Step:
    """One step for lines that have so much padding on their left, as the engine makes it."""
    lines = len(padding)
    ids = torch.ones(lines, CACHED, dtype=torch.long)
    mask = torch.ones(lines, CACHED, dtype=torch.long)
    for line, missing in enumerate(padding):
        mask[line, :missing] = 0
    with (
        torch.no_grad()
    ):  # composite operators come apart here into those that launch, as they would not in inference mode
        try:
            cache = DynamicCache()
            said = forward(model, ids, mask, cache)
        except (ValueError, TypeError, AttributeError, LookupError):
            cache = DynamicCache(
                config=model.config.get_text_config()
            )  # layers that keep a state ask for a cache that knows them
            said = forward(model, ids, mask, cache)
        del said
        launches, counts = Launches(), {"linears": 0, "calls": 0}
        with counting(model, launches, counts), AttentionOnce(launches), launches:
            mask = torch.cat([mask, mask.new_ones(lines, 1)], dim=1)
            forward(model, ids[:, :1], mask, cache)
    if log:
        log(launches.names)
    return Step(len(launches.names), counts["linears"], counts["calls"])


def forward(model: Any, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> Any:
    """The engine's call: positions from the mask, logits of the last position only."""
    known = inspect.signature(model.forward).parameters
    where = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    offered = {"position_ids": where, "logits_to_keep": 1}
    held = "past_key_values" if "past_key_values" in known else "cache_params"
    taken = {name: value for name, value in offered.items() if name in known}
    return model(input_ids=ids, attention_mask=mask, **{held: cache}, use_cache=True, **taken)


def count(model_type: str) -> dict[str, Any]:
    """The entry of one architecture."""
    shallow, deep, layers = tiny_models(model_type)
    steps: dict[str, list[Step]] = {"one": [], "padded": []}
    for config in (shallow, deep):
        torch.manual_seed(0)
        model, attention = build(config)
        steps["one"].append(step_of(model, [0]))
        steps["padded"].append(step_of(model, [3, 0, 2, 1]))
    (one, more), (padded, padded_more) = steps["one"], steps["padded"]
    each = (more.operators - one.operators) / layers
    padded_each = (padded_more.operators - padded.operators) / layers
    return {
        "per_layer": tidy(each),
        "fixed": tidy(one.operators - each * layers),
        "padded_per_layer": tidy(padded_each),
        "padded_fixed": tidy(padded.operators - padded_each * layers),
        "linears_per_layer": tidy((more.linears - one.linears) / layers),
        "module_calls_per_layer": tidy((more.module_calls - one.module_calls) / layers),
        "attention": attention,
    }


def tidy(value: float) -> int | float:
    """A whole number where it is one, else two decimals."""
    return int(value) if value == int(value) else round(value, 2)


HEAD = """# What one decode step of eager PyTorch launches, by architecture: operators a layer and around the layers, outside of Linears.
# Written by benchmarks/count_operators.py; a test counts some of them again. `padded_...` is a batch whose lines have padding on their
# left. Layers of a pattern (sliding and full, recurrent and attention) are averaged over one whole pattern. `fixed` holds the head.
"""


def write(entries: dict[str, dict[str, Any]], path: Path) -> None:
    """The catalog's file, one line an architecture."""
    lines = [
        HEAD,
        f"transformers: {transformers.__version__}",
        f"torch: {torch.__version__.partition('+')[0]}",
        "architectures:",
    ]
    for model_type, entry in sorted(entries.items()):
        fields = ", ".join(f"{key}: {value}" for key, value in entry.items())
        lines.append(f"  {model_type}: {{{fields}}}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model_types", nargs="*", help="all that can be built when none is named")
    parser.add_argument("--out", type=Path, help="where to write the catalog's file; prints otherwise")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    entries = {}
    for model_type in asked.model_types or known_architectures():
        try:
            entries[model_type] = count(model_type)
        except Exception as error:  # one that cannot be built or run is left out of the file, and said
            print(f"{model_type}: left out: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            continue
        print(model_type, entries[model_type])
    if asked.out:
        write(entries, asked.out)


if __name__ == "__main__":
    main()
