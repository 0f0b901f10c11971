"""Whether a model of the catalog fits a size of memory: weights in each form, KV cache of one caller, and a reserve.

A first sieve for `onecard models --fits`; the planner's ledger has every part. The context and the reserve are stated, not hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

from onecard.catalog.models import Model
from onecard.catalog.quantization import QUANTIZATIONS, Quantization, weight_bytes
from onecard.catalog.units import GIB
from onecard.errors import InputError, nearest

FIT_CONTEXT = 4096
FIT_RESERVE_BYTES = GIB

FORMS: tuple[str, ...] = (*QUANTIZATIONS, "published")


@dataclass(frozen=True)
class Need:
    """Bytes a model takes in one form. `form` is a quantization, or "published" for a checkpoint that is quantized as it is."""

    form: str
    weights_bytes: int
    kv_bytes: int
    reserve_bytes: int = FIT_RESERVE_BYTES

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.reserve_bytes


def forms_of(model: Model) -> tuple[str, ...]:
    """The forms worth comparing, the most precise first: 16 bits, as published where that is quantized, int8, nf4."""
    if model.dtype in ("fp8", "mxfp4"):
        return ("none", "published", "int8", "nf4")
    return ("none", "int8", "nf4")


def check_form(form: str) -> None:
    """InputError with the nearest name unless this is a form a model can be held in."""
    if form not in FORMS:
        raise InputError(
            f"no quantization '{form}'{nearest(form, FORMS)}", where="--quantization", allowed=", ".join(FORMS)
        )


def need(model: Model, form: str, *, context: int = FIT_CONTEXT) -> Need:
    """What one caller at this context (or at the model's own limit, if that is less) needs. InputError for an unknown form."""
    check_form(form)
    weights = _published_bytes(model) if form == "published" else weight_bytes(model.layout, _quantization(form))
    return Need(form, weights, model.kv.bytes_for(min(context, model.max_context)))


def _published_bytes(model: Model) -> int:
    if model.dtype not in ("fp8", "mxfp4"):
        return weight_bytes(model.layout, "none")
    return model.disk.bytes_of_weights or round(model.disk.size_gb * 10**9)


def _quantization(form: str) -> Quantization:
    return next(known for known in QUANTIZATIONS if known == form)


def best_fit(model: Model, size_bytes: int, form: str | None = None) -> Need | None:
    """The need in the most precise form that fits `size_bytes` (or in the one asked for), None when none does."""
    for candidate in (form,) if form else forms_of(model):
        needed = need(model, candidate)
        if needed.total_bytes <= size_bytes:
            return needed
    return None
