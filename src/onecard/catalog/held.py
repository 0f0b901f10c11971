"""What a model's weights take, component by component and form by form: as its checkpoint keeps them, or as a person asks for them.

Every byte is counted from the config: each Linear is looked up by its full name, and what is no Linear stays in 16 bits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onecard.catalog.module_names import Named, every_place, named_linears
from onecard.catalog.quantization import Quantization, asked_storage, fitting_group, reaches, stored_bytes
from onecard.catalog.quantization_config import CheckpointForm
from onecard.catalog.shapes import Layout, LinearShape
from onecard.catalog.storages import Storage
from onecard.errors import CatalogError

Config = Mapping[str, Any]

# transformers 4.52 moved what a composite model is made of under `model.`; lists written before name the parts without it.
MOVED = (4, 52)


@dataclass(frozen=True)
class Part:
    """Weights of one component in one form. `storage` None is the model's own type, 16 bits as a rule."""

    component: str
    storage: Storage | None
    bytes: int

    @property
    def held(self) -> str:
        return self.storage.name if self.storage else "16-bit"


def checkpoint_parts(
    config: Config, layout: Layout, form: CheckpointForm | None, dtype_bytes: int = 2
) -> tuple[Part, ...]:
    """The weights as the checkpoint of this config keeps them. CatalogError when its lists cannot be told apart."""
    if form is None:
        return _parts(layout, (), lambda named: Counter(), dtype_bytes)
    older = form.method == "fp8" or _older(config)
    reached = [named for named in _named(config, layout, form) if _reached(named.shape, form)]
    return _parts(layout, reached, lambda named: _storages(named, form, older), dtype_bytes)


def asked_parts(
    config: Config,
    layout: Layout,
    quantization: Quantization,
    *,
    double_quantization: bool = True,
    group: int | None = None,
    dtype_bytes: int = 2,
) -> tuple[Part, ...]:
    """The weights of a 16-bit model in a form a person asks for. `group` None: the largest usual one that divides every input."""
    if layout.components.get("experts") and quantization not in ("none", "int8", "nf4"):
        reached = [named for named in named_linears(config, layout) if reaches(quantization, named.shape)]
    else:
        reached = [Named(shape, (), (), (), (), 1) for shape in layout.linears if reaches(quantization, shape)]
    group = group or fitting_group(named.shape for named in reached)
    storage = asked_storage(quantization, double_quantization=double_quantization, group=group)
    return _parts(layout, reached, lambda named: Counter({storage: named.shape.count}), dtype_bytes)


def _named(config: Config, layout: Layout, form: CheckpointForm) -> tuple[Named, ...]:
    """The Linears with their names; experts are only taken apart where the method converts them."""
    if form.experts:
        return named_linears(config, layout)
    rest = {component: count for component, count in layout.rest.items() if component != "experts"}
    return named_linears(config, Layout(layout.linears, rest, layout.kv, layout.hidden_size, layout.vocab_size))


def _reached(shape: LinearShape, form: CheckpointForm) -> bool:
    """Whether the method looks at this Linear at all."""
    if shape.component == "experts":
        return form.experts
    if shape.component == "lm_head":
        return form.head
    if form.reach == "experts":
        return False
    if form.reach == "decoder":
        return shape.component == "linear"
    # transformers converts plain Linears; those it passes over when it converts (Falcon's) no file of its holds converted.
    return shape.quantized or form.method in ("compressed-tensors", "modelopt")


def _older(config: Config) -> bool:
    """Whether lists of this config may name parts as they were before transformers moved them."""
    found = re.match(r"(\d+)\.(\d+)", str(config.get("transformers_version") or ""))
    return found is None or (int(found[1]), int(found[2])) < MOVED


def _storages(named: Named, form: CheckpointForm, older: bool) -> Counter[Storage | None]:
    """How many of these Linears are kept in which way."""
    outcomes = {
        (place, layer): form.storage_of(named.paths(place, layer, older=older)) for place, layer in every_place(named)
    }
    if len(set(outcomes.values())) == 1:
        return Counter({next(iter(outcomes.values())): named.shape.count})
    each = named.shape.count // max(len(named.layers or ()), 1)
    by_place = [
        Counter(
            {
                storage: each * count
                for storage, count in Counter(o for (p, _), o in outcomes.items() if p == place).items()
            }
        )
        for place in named.places
    ]
    if named.layers is None or any(counts != by_place[0] for counts in by_place):
        raise CatalogError(
            f"its lists take some of the {named.shape.count} '{named.shape.module}' of this architecture and leave others, "
            "and which ones cannot be told",
            where=form.skips[0].where if form.skips else "config.json: quantization_config",
            next_step="plan it from its files: a local folder or the hub's headers give every tensor's size",
        )
    return by_place[0]


def _parts(
    layout: Layout,
    reached: list[Named] | tuple[()],
    storages: Callable[[Named], Counter[Storage | None]],
    dtype_bytes: int,
) -> tuple[Part, ...]:
    sizes: dict[tuple[str, Storage | None], int] = {}

    def add(component: str, storage: Storage | None, size: int) -> None:
        sizes[component, storage] = sizes.get((component, storage), 0) + size

    rest = dict(layout.rest)
    converted = Counter(named.shape for named in reached)
    for named in reached:
        shape = named.shape
        if shape.component in ("experts", "lm_head"):
            rest[shape.component] -= shape.weights + shape.biases
        for storage, count in storages(named).items():
            kept = storage if storage is not None and storage.holds(shape.in_features, shape.out_features) else None
            add(shape.component, kept, stored_bytes(shape, kept, count, dtype_bytes))
    for shape in layout.linears:
        if converted[shape]:
            converted[shape] -= 1
            continue
        add(shape.component, None, stored_bytes(shape, None, shape.count, dtype_bytes))
    for component, count in rest.items():
        add(component, None, count * dtype_bytes)
    order = {component: number for number, component in enumerate(layout.components)}
    found = [Part(component, storage, size) for (component, storage), size in sizes.items() if size]
    return tuple(sorted(found, key=lambda part: (order.get(part.component, len(order)), part.storage is None)))
