"""`onecard data check`: the token ledger of a training file, before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
    """What the rows are read for: a base, a recipe, the agent's presets if an agent is known, and the suite's held-out rows.

    `any_method`: nobody named a recipe, so that rows of either kind are counted as what they are.
    """

    model: str
    folder: Path
    recipe: Recipe
    presets: Mapping[str, Preset] | None
    suite_file: Path | None = None
    any_method: bool = False


@click.group(short_help="Check a training file: the token ledger.")
def data() -> None:
    """Look at training data before it is trained on.

    \b
    Example:
      onecard data check examples/data/style-train.jsonl --recipe style-tokens
    """


@data.command(short_help="Count what every row will teach, and find the faulty ones.")
@click.argument("source", metavar="FILE")
@click.option("--recipe", help="A recipe file, or a shipped recipe's name.  [default: the agent's, or qlora]")
@click.option("--model", help=f"The base whose tokenizer counts.  [default: the agent's, or {DEFAULT_MODEL}]")
@click.option("--fleet", type=click.Path(path_type=Path, dir_okay=False), help="A fleet file, with --agent.")
@click.option("--agent", help="The agent of the fleet whose recipe, base, presets and suite are used.")
@click.option("--suite", type=click.Path(path_type=Path), help="Held-out rows that must not be trained on.")
@click.option("--limit-rows", type=click.IntRange(min=1), help="Read the first rows only.")
@click.option("--samples", type=click.IntRange(min=0), default=3, show_default=True, help="Rows shown decoded.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts: every row, fault and warning.")
def check(
    source: str,
    recipe: str | None,
    model: str | None,
    fleet: Path | None,
    agent: str | None,
    suite: Path | None,
    limit_rows: int | None,
    samples: int,
    as_json: bool,
) -> int:
    """Count the tokens of FILE: what every row teaches, how long rows are, and what would stop a training run.

    FILE is JSONL, JSON, CSV or parquet, a folder that `datasets` saved, or hub:owner/name[:split]. A row holds a prompt
    and a completion, messages, or a prompt with a chosen and a rejected answer. Exit code 1 when there is a fault.
    Without --fleet and --agent, presets are not known: any name is taken and no token is put before prompts.

    \b
    Example:
      onecard data check examples/data/style-train.jsonl --fleet examples/demo.yaml --agent explainer
      onecard data check rows.csv --recipe style-tokens --suite held-out.jsonl --json
      onecard data check hub:owner/name:train --limit-rows 1000 --model mistralai/Mistral-7B-Instruct-v0.3
    """
    from onecard.cli.data_output import console_of, counting, print_check

    terms = terms_of(fleet, agent, recipe, model)
    if suite is not None:
        terms = replace(terms, suite_file=suite)
    with counting(quiet=as_json) as on_count:
        prepared = check_file(source, terms, limit_rows, on_count)
    if as_json:
        from onecard.cli.data_record import record_of

        click.echo(json.dumps(record_of(source, prepared, samples), indent=2))
    else:
        print_check(console_of(), prepared, samples)
    return 1 if prepared.ledger.faults else 0


def check_file(
    source: Path | str, terms: Terms, limit_rows: int | None = None, on_count: Callable[[int, int], None] | None = None
) -> Prepared:
    """The ledger of a file; DataError when it cannot be read at all."""
    from onecard.weights.inventory import resolve

    try:
        from onecard.training.preparation import prepare
        from onecard.training.rows import scan_rows

        recipe = terms.recipe
        if terms.any_method:
            rows, _ = scan_rows(source, limit=1)
            preferring = bool(rows) and rows[0].kind == "preference"
            recipe = recipe.model_copy(update={"method": "dpo" if preferring else "sft"})
        base = resolve(terms.model, terms.folder)
        return prepare(source, base, recipe, terms.presets, limit_rows, terms.suite_file, on_count=on_count)
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
        return Terms(model or DEFAULT_MODEL, Path.cwd(), chosen, None, any_method=named is None)
    loaded = load_fleet(fleet)
    spec = loaded.agent(agent)
    chosen = named or spec.recipe or Recipe()
    suite = loaded.existing(spec.suite.data, f"agents.{agent}.suite.data") if spec.suite else None
    if model:
        return Terms(model, Path.cwd(), chosen, spec.presets, suite)
    return Terms(loaded.fleet.models[spec.model].id, loaded.folder, chosen, spec.presets, suite)
