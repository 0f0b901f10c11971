"""`onecard cards`: the GPUs of the catalog as a table; `show` prints every fact about one, or about the card of this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from onecard.catalog.cards import Card

_BASIS = {
    "torch": "what torch reports",
    "driver": "the driver's figure less 0.5 GiB",
    "unified": "the GPU's default share of unified memory",
    "measured": "measured on this machine",
    "given": "as given",
}


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
@click.pass_context
def cards(click_context: click.Context, as_json: bool) -> None:
    """List the GPUs of the catalog: memory a process really gets, bandwidth, matrix rate, price.

    \b
    Example:
      onecard cards
      onecard cards show rtx-3090
      onecard cards show auto
    """
    if click_context.invoked_subcommand is not None:
        return
    from onecard.catalog.cards import load_cards

    if as_json:
        click.echo(json.dumps([_record(card) for card in load_cards()], indent=2))
    else:
        _print_table(load_cards())


@cards.command()
@click.argument("card_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def show(card_id: str, as_json: bool) -> None:
    """Print every fact about one card, each with its source; `auto` is the card of this machine.

    \b
    Example:
      onecard cards show mi300x
    """
    from onecard.catalog.machine import resolve_card

    card = resolve_card(card_id)
    if as_json:
        click.echo(json.dumps(_record(card), indent=2))
    else:
        from onecard.cli.facts_output import print_facts

        print_facts(f"{card.id} ({card.name})", _facts(card))


def _record(card: Card) -> dict[str, Any]:
    record = card.model_dump(mode="json", exclude_none=True)
    record["total_bytes"] = card.total_bytes
    record["memory_basis"] = card.memory_basis
    return record


def _print_table(found: tuple[Card, ...]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    roomy = console.width >= 96  # below, the chip's name would push the figures over the edge
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("card", no_wrap=True)
    if roomy:
        table.add_column("chip", style="dim", no_wrap=True)
    for heading in ("GiB", "GB/s", "bf16 TFLOP/s", "fp8", "USD/h"):
        table.add_column(heading, justify="right", no_wrap=True)
    for card in found:
        bf16 = card.tflops.get("bf16")
        mark = "" if card.memory_basis == "torch" else "*"
        table.add_row(
            card.id,
            *((card.architecture,) if roomy else ()),
            f"{card.total_gib:.2f}{mark or ' '}",
            f"{card.bandwidth_gbs:,.0f}",
            f"{bf16:,.0f}" if bf16 else "-",
            "yes" if card.fp8 else "-",
            _price(card),
        )
    console.print(table)
    note = "GiB: what torch reports; * the driver's figure less 0.5, or the GPU's default share of unified memory."
    console.print(Text(f"{note} Prices: low to high of the quotes that `cards show` dates.", style="dim"))


def _price(card: Card) -> str:
    if card.price is None:
        return "-"
    low, high = card.price.low_usd_per_hour, card.price.high_usd_per_hour
    return f"{low:.2f}" if low == high else f"{low:.2f}-{high:.2f}"


def _facts(card: Card) -> list[tuple[str, str, str | None]]:
    """What, the fact in words, its source."""
    from onecard.catalog.cards import reading_notes

    memory, bandwidth = card.memory, card.bandwidth
    raw = [f"{memory.driver_gib} GiB by the driver"] if memory.driver_gib else []
    if memory.torch_total_gib and card.memory_basis == "torch":
        raw.append(f"{memory.torch_total_gib} GiB by torch")
    if memory.unified_gib:
        raw.append(f"{memory.unified_gib:.0f} GiB unified; {memory.note}")
    facts: list[tuple[str, str, str | None]] = [
        ("also called", ", ".join(card.aliases), None),
        ("vendor", f"{card.vendor}, {card.architecture}", None),
        ("capability", card.compute_capability or "", card.compute_capability_source),
        ("usable memory", f"{card.total_gib:.2f} GiB: {_BASIS[card.memory_basis]}", memory.source),
        ("memory", ", ".join(raw), None),
        ("bandwidth", f"{card.bandwidth_gbs:,.1f} GB/s ({bandwidth.basis}){_after(bandwidth.note)}", bandwidth.source),
    ]
    if card.compute:
        rates = ", ".join(f"{name} {rate:g}" for name, rate in card.tflops.items())
        facts.append(("dense TFLOP/s", f"{rates}{_after(card.compute.note)}", card.compute.source))
    if card.power and card.power.tdp_w:
        facts.append(("power", f"{card.power.tdp_w:.0f} W", card.power.source))
    facts.append(("PCIe", card.pcie or "", None))
    for quote in card.price.quotes if card.price else ():
        facts.append(("price", f"{quote.usd_per_hour:g} USD/h, {quote.provider}, {quote.date}", quote.source))
    facts += [("price", card.price_note or "", None), *(("note", note, None) for note in card.notes)]
    facts += [("how to read", note, None) for note in reading_notes()] if card.id != "cpu" else []
    return [fact for fact in facts if fact[1]]


def _after(note: str | None) -> str:
    return f"; {note}" if note else ""
