"""`onecard claims`: what is claimed of models, cards and runs, and what becomes of it. Verdicts are computed when they are asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onecard.cli.claims_check import Checked
    from onecard.evidence.claims import Claim
    from onecard.evidence.results import ResultFile

OWN_FILE = "claims.yaml"
DETAILED = 3  # so many claims or fewer are shown with everything


@click.group()
def claims() -> None:
    """What is claimed of models, cards and runs: confirmed, refuted or unknown, and why.

    Ships with the claims of the documents onecard was made from. Your own stand in claims.yaml, beside the fleet or in this folder.

    \b
    Example:
      onecard claims list --verdict refuted
      onecard claims check a7 d2-llava-seen
      onecard claims add --model microsoft/phi-4 --quantization nf4 --quantity weights_gib --at-most "9 GiB" --who me
    """


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that list and check share."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts."),
        click.option("--fleet", type=click.Path(path_type=Path), help="A fleet file: claims.yaml beside it is read."),
        click.option("--file", "file", type=click.Path(path_type=Path), help="Your own claims; left out: claims.yaml."),
        click.option("--model", metavar="ID", help="Claims about this model: its id, or a part such as phi-4."),
        click.option("--verdict", "asked", type=click.Choice(["confirmed", "refuted", "unknown"])),
        click.option("--document", metavar="LETTER", help="Claims of one shipped document: A to E."),
    ):
        command = option(command)
    return command


@claims.command(name="list")
@_filters
def list_(
    document: str | None, asked: str | None, model: str | None, file: Path | None, fleet: Path | None, as_json: bool
) -> None:
    """List claims, each with its verdict.

    \b
    Example:
      onecard claims list --document D
      onecard claims list --verdict refuted --model llava
    """
    from onecard.cli.claims_output import record, show_list

    own = own_file(file, fleet)
    known, titles = _claims(own)
    rows = _judged(_chosen(known, titles, document, model), own.parent, asked, remarks=False)
    if as_json:
        click.echo(json.dumps([record(row) for row in rows], indent=2))
    else:
        show_list(rows, titles)


@claims.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_filters
@click.option("--results", type=click.Path(path_type=Path), multiple=True, help="A result file of `onecard bench`.")
@click.option("--strict", is_flag=True, help="Exit code 1 when a claim is refuted.")
@click.pass_context
def check(
    click_context: click.Context,
    ids: tuple[str, ...],
    document: str | None,
    asked: str | None,
    model: str | None,
    file: Path | None,
    fleet: Path | None,
    as_json: bool,
    results: tuple[Path, ...],
    strict: bool,
) -> None:
    """Predict each claim again and show claimed, predicted and measured side by side, with the verdict and why.

    ID is a claim or the beginning of several, such as a7. Up to three claims are shown with everything.

    \b
    Example:
      onecard claims check d2-llava-seen
      onecard claims check --document C --strict
      onecard claims check a7 --results sweep.json
    """
    from onecard.cli.claims_output import record, show_details, show_table
    from onecard.evidence.results import read_results

    own = own_file(file, fleet)
    known, titles = _claims(own)
    measured = [(str(path), read_results(path)) for path in results]
    rows = _judged(_chosen(named(known, ids), titles, document, model), own.parent, asked, measured)
    if as_json:
        click.echo(json.dumps([record(row) for row in rows], indent=2))
    elif len(rows) <= DETAILED:
        show_details(rows)
    else:
        show_table(rows, titles)
    refuted = any(row.judgement.verdict == "refuted" for row in rows)
    click_context.exit(1 if strict and refuted else 0)


@claims.command()
@click.option("--id", "claim_id", help="Left out: made from the model, the form and the quantity.")
@click.option("--model", metavar="ID", help="Hub id the claim is about.")
@click.option("--quantization", metavar="FORM", help="none, int8, nf4, awq, gptq, fp8.")
@click.option("--card", metavar="ID", help="A card of the catalog.")
@click.option("--engine", metavar="NAME", help="local or vllm.")
@click.option("--context", type=int, help="Prompt plus answer, tokens.")
@click.option("--callers", type=int, help="Requests at once.")
@click.option("--prompt-tokens", type=int)
@click.option("--new-tokens", type=int)
@click.option("--recipe", metavar="NAME|FILE", help="How its adapter is trained.")
@click.option("--rows", type=int, help="Training rows.")
@click.option("--row-tokens", type=int, help="Tokens of a training row.")
@click.option("--quantity", required=True, metavar="NAME", help="memory_gib, latency_s, fits, ...")
@click.option("--is", "is_", metavar="VALUE", help='The claimed value: "12.2 GB", "165 ms", yes, no.')
@click.option("--about", metavar="VALUE", help="The same, within a tenth.")
@click.option("--at-most", metavar="VALUE")
@click.option("--at-least", metavar="VALUE")
@click.option("--range", "range_", metavar="VALUE", help='"60-90 h".')
@click.option("--who", required=True, help="Who says so.")
@click.option("--source", help="Where it stands: a link, a page.")
@click.option("--date", help="When it was said.")
@click.option("--statement", help="The claim as a sentence; left out: made from the rest.")
@click.option("--note", help="What is taken for granted.")
@click.option("--file", type=click.Path(path_type=Path), help="Where to write it; left out: claims.yaml.")
@click.option("--fleet", type=click.Path(path_type=Path), help="Write to claims.yaml beside this fleet file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def add(file: Path | None, fleet: Path | None, as_json: bool, **said: Any) -> None:
    """Write down what somebody claims, and say at once what becomes of it.

    Leave out what was not said: a figure is only predicted from what the claim says.

    \b
    Example:
      onecard claims add --model Qwen/Qwen3-8B --quantization awq --card rtx-3070 --context 8192 \\
        --quantity fits --is yes --who "a blog" --source https://example.org/post
      onecard claims add --model microsoft/phi-4 --recipe qlora --quantity training_memory_gib --at-most "15 GB" --who me
    """
    from onecard.cli.claims_check import check as checked
    from onecard.cli.claims_made import claim_of
    from onecard.cli.claims_output import record, show_details
    from onecard.errors import ResultError
    from onecard.evidence.claims_file import add_claim, shipped_claims

    own = own_file(file, fleet)
    claim = claim_of(said)
    if claim.id in {shipped.id for shipped in shipped_claims().claims}:
        raise ResultError(
            f"'{claim.id}' is a claim that ships with onecard", where="--id", next_step="give another --id"
        )
    add_claim(own, claim)
    row = checked(claim, own.parent)
    if as_json:
        click.echo(json.dumps({"file": str(own), **record(row)}, indent=2))
        return
    show_details([row])
    click.echo(f"added to {own}")


def own_file(file: Path | None, fleet: Path | None) -> Path:
    """Where one's own claims stand. InputErrors for both options, and for a fleet file that is not there."""
    from onecard.errors import FleetError

    if file is not None and fleet is not None:
        raise click.UsageError("--file and --fleet both say where claims stand: give one")
    if fleet is not None and not fleet.is_file():
        raise FleetError("no such file", where=str(fleet))
    return file if file is not None else (fleet.parent if fleet else Path()) / OWN_FILE


def named(known: Sequence[Claim], ids: Sequence[str]) -> list[Claim]:
    """The claims with these ids, or whose ids begin so; all when none is asked for. UnknownName with the nearest."""
    from onecard.errors import UnknownName, nearest

    chosen: dict[str, Claim] = {}
    for asked in ids:
        exact = [claim for claim in known if claim.id == asked.lower()]
        found = exact or [claim for claim in known if claim.id.startswith(asked.lower())]
        if not found:
            words = [claim.id for claim in known]
            raise UnknownName(
                f"no claim '{asked}'{nearest(asked, words)}", next_step="`onecard claims list` lists every claim"
            )
        chosen |= {claim.id: claim for claim in found}
    return list(chosen.values()) if ids else list(known)


def _claims(own: Path) -> tuple[list[Claim], dict[str, str]]:
    """Shipped claims and one's own, and the documents' titles. ResultError for an id that both have."""
    from onecard.errors import ResultError
    from onecard.evidence.claims_file import read_claims, shipped_claims

    shipped, mine = shipped_claims(), read_claims(own)
    taken = {claim.id for claim in shipped.claims} & {claim.id for claim in mine.claims}
    if taken:
        raise ResultError(f"'{min(taken)}' is a claim that ships with onecard", where=str(own), next_step="rename it")
    return [*shipped.claims, *mine.claims], {**shipped.documents, **mine.documents}


def _chosen(known: Sequence[Claim], titles: dict[str, str], document: str | None, model: str | None) -> list[Claim]:
    from onecard.errors import InputError, Refusal
    from onecard.evidence.claims import claims_about

    letter = document.upper() if document else None
    if letter is not None and letter not in titles:
        raise InputError(f"no document '{document}'", where="--document", allowed=", ".join(sorted(titles)))
    chosen = claims_about(known, model=model, document=letter)
    if not chosen:
        raise Refusal("no claim passes", next_step="loosen --model or --document; `onecard claims list` shows all")
    return chosen


def _judged(
    chosen: Sequence[Claim],
    folder: Path,
    asked: str | None,
    results: Sequence[tuple[str, ResultFile]] = (),
    *,
    remarks: bool = True,
) -> list[Checked]:
    from onecard.cli.claims_check import check as checked
    from onecard.errors import Refusal

    rows = [checked(claim, folder, results, remarks=remarks) for claim in chosen]
    rows = [row for row in rows if asked is None or row.judgement.verdict == asked]
    if not rows:
        raise Refusal(f"no claim is {asked}", next_step="leave --verdict out")
    return rows
