"""The table of `onecard models`: one line of figures and one of words a model, within the terminal's width."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

    from onecard.catalog.fit import Need
    from onecard.catalog.models import Model

_HEADINGS = ("params", "context", "16 bit", "int8", "nf4", "KV/token")
_WIDTHS = (7, 9, 8, 8, 8, 10)


def print_table(rows: list[tuple[Model, Need | None]], size: int | None, fits: str | None) -> None:
    """Two lines a model: its id with the figures, then roles, input and licence over the whole width."""
    from rich.console import Console
    from rich.text import Text

    from onecard.catalog.units import GIB

    console = Console(highlight=False)
    width = min(max(len(model.id) for model, _ in rows), max(console.width - sum(_WIDTHS), 24))
    headings = "".join(f"{heading:>{cells}}" for heading, cells in zip(_HEADINGS, _WIDTHS, strict=True))
    console.print(Text(f"{'model':<{width}}{headings}", style="bold"), soft_wrap=True)
    for model, fit in rows:
        name = Text(f"{model.id:<{width}}")
        if len(model.id) > width:
            name.append(f"\n{'':<{width}}")
        console.print(name + _figures(model, size), soft_wrap=True)
        console.print(Text(f"  {_about(model, fit)}", style="dim"))
    if size is None:
        said = "GiB of weights in 16 bits, int8 and nf4; KV per token and caller in 16 bits, before any window is full"
    else:
        said = f"GiB one caller needs: weights, KV of 4k tokens and 1 GiB of reserve; {fits} is {size / GIB:.2f} GiB"
    console.print(Text(f"\n{len(rows)} model{'s' if len(rows) != 1 else ''}. {said}."))


def _figures(model: Model, size: int | None) -> Text:
    """The columns right of the id; with a size, what fits is green and the rest dim."""
    from rich.text import Text

    from onecard.catalog.fit import need
    from onecard.catalog.units import GIB, format_bytes, format_count

    cells = [(f"{model.parameters / 1e9:.1f}B", ""), (format_count(model.max_context), "")]
    for form in ("none", "int8", "nf4"):
        needed = need(model, form)
        shown = needed.weights_bytes if size is None else needed.total_bytes
        cells.append((f"{shown / GIB:.2f}", "" if size is None else ("green" if shown <= size else "dim")))
    cells.append((format_bytes(round(model.kv.bytes_per_token())), ""))
    return Text.assemble(*((f"{text:>{width}}", style) for (text, style), width in zip(cells, _WIDTHS, strict=True)))


def _about(model: Model, fit: Need | None) -> str:
    """Fit, roles, input, licence, and what the columns cannot show."""
    from onecard.catalog.fit import forms_of, need
    from onecard.catalog.units import format_bytes

    names = {"none": "16 bit", "published": f"published, {model.dtype}"}
    parts = [f"fits as {names.get(fit.form, fit.form)}: {format_bytes(fit.total_bytes)}"] if fit else []
    parts += [", ".join(model.role_names), "+".join(model.input)]
    parts.append(f"{model.licence.key} ({'open' if model.licence.fully_open else 'not fully open'})")
    if "published" in forms_of(model):
        parts.append(f"published in {model.dtype}: {format_bytes(need(model, 'published').weights_bytes)}")
    if not any(shape.quantized for shape in model.layout.linears):
        parts.append("transformers leaves it in 16 bits")
    return " | ".join(parts)
