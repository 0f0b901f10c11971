"""How quantizing looks: a bar while it runs, the prediction, and what came out beside what was predicted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onecard.catalog.units import format_bytes

if TYPE_CHECKING:
    from onecard.weights.quantize_order import Order
    from onecard.weights.quantize_plan import Part, Prediction


@contextmanager
def bar(quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """The display as a callback: a bar on a terminal, a line a part elsewhere, nothing when quiet. On standard error."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    if quiet:
        yield lambda doing, share: None
    elif not console.is_terminal:
        yield _lines(console)
    else:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(30), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("starting", total=1.0)
            yield lambda doing, share: progress.update(task, description=doing, completed=share)


def show_prediction(order: Order, prediction: Prediction, *, as_json: bool) -> None:
    """Size and memory, part by part, on standard output."""
    if as_json:
        click.echo(json.dumps(prediction_record(order, prediction), indent=2))
        return
    console = _console()
    console.print(Text(f"{order.model} in {order.to} with {order.maker}", style="bold"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "bytes", "", "from"):
        table.add_column(heading, justify="right" if heading == "bytes" else "left", overflow="fold")
    for title, parts, total in (
        ("files", prediction.files, prediction.file_bytes),
        ("memory at once", prediction.peak, prediction.peak_bytes),
    ):
        for part in parts:
            table.add_row(part.what, format_bytes(part.bytes), part.tag, Text(part.source, style="dim"))
        table.add_row(Text(title, style="bold"), Text(format_bytes(total), style="bold"), "", "", end_section=True)
    console.print(table)


def prediction_record(order: Order, prediction: Prediction) -> dict[str, Any]:
    """For scripts."""

    def listed(parts: tuple[Part, ...]) -> list[dict[str, Any]]:
        return [{"what": part.what, "bytes": part.bytes, "tag": part.tag, "source": part.source} for part in parts]

    return {
        "model": order.model,
        "to": order.to,
        "maker": order.maker,
        "source_bytes": prediction.source_bytes,
        "file_bytes": prediction.file_bytes,
        "files": listed(prediction.files),
        "peak_bytes": prediction.peak_bytes,
        "peak": listed(prediction.peak),
    }


def show(order: Order, record: dict[str, Any]) -> None:
    """What was made and what it lost, on standard output."""
    console = _console()
    console.print(Text(f"{record['model']} in {record['to']} with {record['maker']}", style="bold"))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for what, fact in facts(record):
        table.add_row(what, fact)
    console.print(table)
    if "suite" in record:
        console.print(_suite_table(record["suite"]))
    console.print(Text.assemble(("read back  ", "dim"), "it answers exactly like what was made"))
    console.print(Text.assemble(("folder     ", "dim"), str(order.output)), soft_wrap=True)
    console.print(Text.assemble(("next       ", "dim"), next_step(order)), soft_wrap=True)


def facts(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Figures in words."""
    size, texts = record["bytes"], record["texts"]
    perplexity, logits, peak = record["perplexity"], record["logits"], record["peak_bytes"]
    seconds = record["seconds"]["all"]
    held = peak["card"] if peak["card"] is not None else peak["memory"]
    return [
        (
            "weights",
            f"{format_bytes(size['weights'])}, predicted {format_bytes(size['weights_predicted'])}; "
            f"{format_bytes(size['source'])} in 16 bits",
        ),
        (
            "perplexity",
            f"{perplexity['quantized']:.4g}, the source {perplexity['source']:.4g} ({perplexity['change_percent']:+.2f}%), "
            f"on {texts['held_out_tokens']:,} tokens of {texts['held_out']} held-out texts",
        ),
        (
            "logits",
            f"relative error {logits['logit_error']:.3g}; the same most likely token at {logits['same_top_token']:.1%}; "
            f"KL divergence {logits['kl_divergence']:.3g} nats",
        ),
        ("peak", f"{format_bytes(held)} on {record['device']}, predicted {format_bytes(peak['predicted'])}"),
        ("time", f"{seconds:.0f} s"),
    ]


def _suite_table(suite: dict[str, Any]) -> Table:
    """The agent's checks on the bare model: what it comes to now, and by how much that is more or less than the source's."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = (
        f"suite of {suite['agent']}, bare model, {suite['asked']} questions, {suite['same_answers']:.0%} answered alike"
    )
    for heading in ("preset", "answers", "quantized", "minus source, 95%"):
        table.add_column(heading, overflow="fold")
    for check in suite["checks"]:
        table.add_row(
            check["preset"], check["check"], f"{check['observed']:.3g}", difference_words(check["difference"])
        )
    return table


def difference_words(difference: dict[str, Any]) -> str:
    """The mean paired difference with its interval."""
    mean, low, high = (difference[key] for key in ("mean", "low", "high"))
    return f"{mean:+.3g}" if low is None else f"{mean:+.3g} ({low:+.3g} to {high:+.3g})"


def next_step(order: Order) -> str:
    """How the checkpoint is used in a fleet: as what it already is."""
    engine = "vllm" if order.maker == "llm-compressor" else "auto"
    return f"in a fleet: id: {order.output}, quantization: {'none' if engine == 'vllm' else order.to}, engine: {engine}"


def _lines(console: Console) -> Callable[[str, float], None]:
    """One line for each thing that is begun."""
    said: list[str] = []

    def tell(doing: str, share: float) -> None:
        if doing and said[-1:] != [doing]:
            said.append(doing)
            console.print(doing, markup=False)

    return tell


def _console() -> Console:
    return Console(highlight=False)
