"""A checkpoint's own bytes beside what its config's arithmetic says: where the two part, a person should know before a purchase."""

from __future__ import annotations

from onecard.catalog.shapes import Layout
from onecard.catalog.units import format_bytes
from onecard.weights.headers import PLAIN_FLOATS, HeaderSummary

TOLERANCE = 0.005  # of the arithmetic's figure; below it the two agree


def disagreement(headers: HeaderSummary, layout: Layout, form: str, counted_bytes: int) -> str | None:
    """A sentence on where the headers and the config part by more than 0.5%, or None.

    `form` is what the config says the checkpoint is held in ("none": not quantized), `counted_bytes` what the arithmetic gives for the
    weights in that form. Plain checkpoints are compared by parameters, because they may be published in 32 bits and run in 16.
    """
    if form == "none":
        return _packed_unsaid(headers) if headers.packed else _plain(headers, layout)
    if not headers.packed:
        return f"the config says {form}, and the checkpoint holds {_dtypes(headers)}: it is converted when it is loaded"
    if _apart(headers.weight_bytes, counted_bytes):
        return (
            f"the checkpoint's headers say {format_bytes(headers.weight_bytes)} of weights, the arithmetic of {form} "
            f"{format_bytes(counted_bytes)} ({_percent(headers.weight_bytes, counted_bytes)}); the headers count"
        )
    return None


def _plain(headers: HeaderSummary, layout: Layout) -> str | None:
    """Parameters against parameters. A tied head that is stored a second time is known and explained."""
    counts = layout.components
    held, counted = headers.parameters, layout.parameters
    if "lm_head" in counts and not headers.head_parameters:
        return (
            "the config says the output head has weights of its own, and the checkpoint holds none: it may answer noise"
        )
    if "lm_head" not in counts and headers.head_parameters:
        if not _apart(held - headers.head_parameters, counted):
            return (
                f"the checkpoint holds its tied output head a second time ({format_bytes(headers.head_bytes)} on disk); "
                "it is loaded once"
            )
    elif not _apart(held, counted):
        return None
    return (
        f"the checkpoint holds {held:,} parameters and its config counts {counted:,} ({_percent(held, counted)}); "
        "memory is planned by the config"
    )


def _packed_unsaid(headers: HeaderSummary) -> str:
    return (
        f"the checkpoint holds {_dtypes(headers)}, and its config names no quantization: memory is planned in 16 bits"
    )


def _dtypes(headers: HeaderSummary) -> str:
    """The dtypes that make up the checkpoint, the largest first."""
    large = [dtype for dtype, size in headers.bytes_by_dtype.items() if size > headers.total_bytes // 100]
    plain = all(dtype in PLAIN_FLOATS for dtype in large)
    return f"{'plain ' if plain else ''}{' and '.join(large)} weights"


def _apart(held: int, counted: int) -> bool:
    return abs(held - counted) > TOLERANCE * counted


def _percent(held: int, counted: int) -> str:
    return f"{(held - counted) / counted:+.1%}" if counted else "nothing to compare"
