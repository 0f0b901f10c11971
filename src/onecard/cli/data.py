"""`onecard data check`: the token ledger of a training file, before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from onecard.fleet.recipe import Recipe
    from onecard.fleet.schema import Preset
    from onecard.training.preparation import Prepared

DEFAULT_MODEL = "embedded:mini"


@dataclass(frozen=True)
class Terms:
    """What the rows are read for: a base, a recipe, and the agent's presets if an agent is known."""

    model: str
    folder: Path
    recipe: Recipe
    presets: Mapping[str, Preset] | None


@click.group(short_help="Check a training file: the token ledger.")
def data() -> None:
    """Look at training data before it is trained on.

    \b
    Example:
      onecard data check examples/data/style-train.jsonl --recipe style-tokens
    """


@data.command(short_help="Count what every row will teach, and find the faulty ones.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--recipe", help="A recipe file, or a shipped recipe's name.  [default: the agent's, or qlora]")
@click.option("--model", help=f"The base whose tokenizer counts.  [default: the agent's, or {DEFAULT_MODEL}]")
@click.option("--fleet", type=click.Path(path_type=Path, dir_okay=False), help="A fleet file, with --agent.")
@click.option("--agent", help="The agent of the fleet whose recipe, base and presets are used.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def check(
    file: Path, recipe: str | None, model: str | None, fleet: Path | None, agent: str | None, as_json: bool
) -> int:
    """Count the tokens of FILE, a JSONL file with a prompt and a completion in every row.

    Shows what is read and what is learned, and every row that would stop a training run. Exit code 1 when a row is
    faulty. Without --fleet and --agent, presets are not known: any name is taken and no token is put before prompts.

    \b
    Example:
      onecard data check examples/data/style-train.jsonl --fleet examples/demo.yaml --agent explainer
      onecard data check rows.jsonl --recipe style-tokens --json
    """
    prepared = check_file(file, terms_of(fleet, agent, recipe, model))
    if as_json:
        click.echo(json.dumps(_record(file, prepared), indent=2))
    else:
        _show(prepared)
    return 1 if prepared.ledger.faults else 0


def check_file(file: Path, terms: Terms) -> Prepared:
    """The ledger of a file; DataError when it cannot be read at all."""
    from onecard.weights.inventory import resolve

    try:
        from onecard.training.preparation import prepare

        return prepare(file, resolve(terms.model, terms.folder), terms.recipe, terms.presets)
    except ModuleNotFoundError as error:
        raise missing_part(error) from error


def missing_part(error: ModuleNotFoundError) -> Exception:
    """Counting tokens and training need libraries that a plain install leaves out."""
    from onecard.errors import MissingPart

    return MissingPart(f"{error.name} is not installed", next_step="pip install 'onecard[local]'")


def terms_of(fleet: Path | None, agent: str | None, recipe: str | None, model: str | None) -> Terms:
    """What --fleet and --agent say, or defaults; --recipe and --model come first. UsageError for one of the pair alone."""
    from onecard.fleet.loader import load_fleet, load_recipe
    from onecard.fleet.recipe import Recipe

    if (fleet is None) != (agent is None):
        raise click.UsageError("--fleet and --agent go together")
    named = Recipe.model_validate(load_recipe(recipe, Path.cwd(), "--recipe")) if recipe else None
    if fleet is None or agent is None:
        chosen = named or Recipe.model_validate(load_recipe("qlora", Path.cwd(), "--recipe"))
        return Terms(model or DEFAULT_MODEL, Path.cwd(), chosen, None)
    loaded = load_fleet(fleet)
    spec = loaded.agent(agent)
    chosen = named or spec.recipe or Recipe()
    if model:
        return Terms(model, Path.cwd(), chosen, spec.presets)
    return Terms(loaded.fleet.models[spec.model].id, loaded.folder, chosen, spec.presets)


def _show(prepared: Prepared) -> None:
    from onecard.cli.data_output import console_of, ledger_table, print_faults, print_samples

    console = console_of()
    if prepared.ledger.rows:
        console.print(ledger_table(prepared.ledger))
        print_samples(console, prepared)
    print_faults(console, prepared.ledger.faults)
    if not prepared.ledger.faults:
        console.print("[green]no faults[/green]")


def _record(file: Path, prepared: Prepared) -> dict[str, object]:
    from onecard.cli.data_output import sample_rows

    return {
        "file": str(file),
        "sha256": prepared.facts.sha256,
        "summary": prepared.ledger.summary(),
        "faults": [{"where": fault.where, "problem": fault.problem} for fault in prepared.ledger.faults],
        "samples": [
            {"where": where, "prompt": prompt, "learned": learned} for where, prompt, learned in sample_rows(prepared)
        ],
    }
