"""`onecard fetch`: models onto this disk, resumed where they broke off and checked by their hashes; nothing half-written counts as whole.

The order is the promise: names, then licence and access, then what is here, then the disk, and only then the first byte of weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from onecard.cli.fetch_targets import Skipped, Target
    from onecard.cli.use_targets import Place
    from onecard.weights.fetch import RepoPlan
    from onecard.weights.hub_access import Access


@click.command()
@click.argument("asked", metavar="[all|ROLE|ID]...", nargs=-1)
@click.option(
    "--fleet",
    "fleet_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The fleet whose models `all` means; default: fleet.yaml, if there is one.",
)
@click.option(
    "--card", "card_id", metavar="ID", help="Fetch a role for this card of the catalog instead of the fleet's."
)
@click.option("--revision", metavar="NAME", default="main", show_default=True, help="A branch, tag or commit.")
@click.option("--offline", is_flag=True, help="Ask nobody: check what is here, by the hashes its files are named by.")
@click.option(
    "--allow-code",
    metavar="ORG/NAME",
    multiple=True,
    help="Fetch this repository's Python files too, and record the choice. Runs none of them.",
)
@click.option("--yes", is_flag=True, help="Do not ask before downloading.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def fetch(
    asked: tuple[str, ...],
    fleet_file: Path | None,
    card_id: str | None,
    revision: str,
    offline: bool,
    allow_code: tuple[str, ...],
    yes: bool,
    as_json: bool,
) -> None:
    """Download models: all of a fleet, a role, or ids.

    A role, or a model of the fleet, comes in the form in which `onecard use` makes it active on this card: where that is awq, its
    4-bit copy. An id is that repository.

    What is here and whole, by size and hash, is skipped; what broke off is resumed; what is damaged is fetched again. Licence, access
    and free disk are checked before the first byte. Only safetensors, tokenizer and config files come, never pickles or code.
    Where models live follows HF_HOME, HF_HUB_CACHE or ONECARD_MODELS, from the environment or from .env beside the fleet.

    \b
    Example:
      onecard fetch --fleet team.yaml
      onecard fetch code
      onecard fetch mistralai/Mistral-7B-v0.3 Qwen/Qwen3-8B --yes
      onecard fetch all --offline
    """
    from onecard.cli.fetch_targets import targets_of
    from onecard.cli.use_fit import ground_of
    from onecard.weights.hub_access import offline_variable
    from onecard.weights.places import hub_cache

    place = _place(fleet_file)
    _follow_environment(place.folder, as_json)
    without_hub = offline or offline_variable() is not None
    targets, skipped = targets_of(asked, place, lambda: ground_of(place, card_id, offline=without_hub))
    _check_code(allow_code, targets)
    cache = hub_cache()
    if without_hub:
        _check_only(targets, skipped, revision, cache, as_json)
    else:
        _fetch(targets, skipped, revision, cache, set(allow_code), ask=not (yes or as_json), as_json=as_json)


def _fetch(
    targets: list[Target],
    skipped: list[Skipped],
    revision: str,
    cache: Path,
    code: set[str],
    *,
    ask: bool,
    as_json: bool,
) -> None:
    """Plan, disk, question, download, and where it lies."""
    from onecard.cli.fetch_output import bars, show_plan
    from onecard.weights.fetch import check_disk
    from onecard.weights.fetch_cache import free_bytes
    from onecard.weights.fetch_run import carry_out
    from onecard.weights.hub_access import access

    by = access()
    plans = _plans(targets, revision, cache, code, by, as_json)
    free = free_bytes(cache)
    if not as_json:
        show_plan(list(zip(targets, plans, strict=True)), skipped, free, cache)
    check_disk(plans, free, str(cache))
    needed = sum(plan.needed_bytes for plan in plans)
    if needed and ask and sys.stdin.isatty() and not click.confirm("fetch it?", default=True, err=True):
        click.echo("no: nothing was downloaded", err=True)
        raise click.exceptions.Exit(1)
    _record_code(plans, code, cache)
    try:
        with bars(plans, quiet=as_json) as tick:
            places = carry_out(plans, by, cache, tick)
    except KeyboardInterrupt:
        click.echo("interrupted: what has come is kept in the cache, and the same command resumes", err=True)
        raise click.exceptions.Exit(130) from None
    _show_places(targets, skipped, plans, places, as_json)


def _plans(
    targets: list[Target], revision: str, cache: Path, code: set[str], by: Access, as_json: bool
) -> list[RepoPlan]:
    """What the hub lists beside what is here: all listings first, so that a closed door shows before hours of hashing."""
    from onecard.cli.fetch_output import checking
    from onecard.weights.fetch import RepoPlan, choose_files
    from onecard.weights.fetch_cache import states_of
    from onecard.weights.fetch_listing import list_repo

    chosen = []
    for target in targets:
        listing = list_repo(target.repo, revision, by=by)
        chosen.append((listing, *choose_files(listing, code=target.repo in code)))
    plans = []
    for listing, wanted, left_out in chosen:
        with checking(listing.repo, quiet=as_json) as progress:
            plans.append(RepoPlan(listing, tuple(states_of(listing, wanted, cache, progress)), tuple(left_out)))
    return plans


def _check_only(targets: list[Target], skipped: list[Skipped], revision: str, cache: Path, as_json: bool) -> None:
    """Without the hub: whether what is here is whole. Exit 1 when something is not."""
    from onecard.cli.fetch_output import checking, record_of, show_plan
    from onecard.weights.fetch import RepoPlan
    from onecard.weights.fetch_cache import RepoPlace
    from onecard.weights.fetch_listing import recall_repo

    plans = []
    for target in targets:
        with checking(target.repo, quiet=as_json) as progress:
            listing, states = recall_repo(target.repo, revision, cache, progress)
        plans.append(RepoPlan(listing, tuple(states)))
    whole = all(plan.whole for plan in plans)
    places = [RepoPlace(cache, plan.listing.repo).snapshot(plan.listing.commit) for plan in plans]
    if as_json:
        rows = zip(targets, plans, places, strict=True)
        models = [record_of(target, plan, place if plan.whole else None) for target, plan, place in rows]
        click.echo(json.dumps({"offline": True, "whole": whole, "models": models}, indent=2))
    else:
        for plan, place in zip(plans, places, strict=True):
            bad = [f"{one.file.name} ({one.fault or one.state})" for one in plan.files if one.state != "whole"]
            verdict = f"not whole: {', '.join(bad)}" if bad else f"whole, {len(plan.files)} files: {place}"
            click.echo(f"{plan.listing.repo}: {verdict}")
        show_plan([], skipped, 0, cache)
    if not whole:
        click.echo("no: the hub was not asked, and not all is whole; without --offline it is fetched again", err=True)
        raise click.exceptions.Exit(1)


def _show_places(
    targets: list[Target], skipped: list[Skipped], plans: list[RepoPlan], places: list[Path], as_json: bool
) -> None:
    if as_json:
        from onecard.cli.fetch_output import record_of

        models = [record_of(*one) for one in zip(targets, plans, places, strict=True)]
        aside = {one.name: one.reason for one in skipped}
        click.echo(json.dumps({"offline": False, "whole": True, "models": models, "skipped": aside}, indent=2))
        return
    for plan, place in zip(plans, places, strict=True):
        click.echo(f"{plan.listing.repo}: whole, {len(plan.files)} files checked: {place}")


def _place(file: Path | None) -> Place:
    """The fleet that was named, or the one that lies here, with what this machine wants otherwise."""
    from onecard.cli.fetch_targets import FLEET_FILE
    from onecard.cli.use_overrides import read_overrides
    from onecard.cli.use_targets import Place
    from onecard.cli.weights_fleets import remember_fleet
    from onecard.fleet.loader import load_fleet

    loaded = load_fleet(file or Path(FLEET_FILE)) if file is not None or Path(FLEET_FILE).is_file() else None
    if loaded is not None:
        remember_fleet(loaded)
    folder = loaded.folder if loaded else Path.cwd()
    return Place(folder, loaded, read_overrides(folder))


def _follow_environment(folder: Path, as_json: bool) -> None:
    from onecard.weights.environment import follow

    taken = follow(folder)
    if taken and taken.names and not as_json:
        click.echo(f"from {taken.file}: {', '.join(taken.names)}", err=True)
    if taken and taken.token_held_back:
        click.echo(f"{taken.file} names another hub: no token is sent there but one of that file", err=True)


def _check_code(allowed: tuple[str, ...], targets: list[Target]) -> None:
    """A choice about a repository that is not fetched is a slip of the pen."""
    from onecard.errors import InputError, nearest

    repos = [target.repo for target in targets]
    for repo in allowed:
        if repo not in repos:
            raise InputError(
                f"{repo} is not among what is fetched{nearest(repo, repos)}",
                where="--allow-code",
                allowed=", ".join(repos),
            )


def _record_code(plans: list[RepoPlan], code: set[str], cache: Path) -> None:
    from onecard.weights.fetch_code import record_choice
    from onecard.weights.fetch_faults import disk_fault

    for plan in plans:
        files = [one.file for one in plan.files if one.file.is_code]
        if plan.listing.repo in code and files:
            try:
                file = record_choice(plan.listing, files, cache)
            except OSError as error:
                raise disk_fault(error, cache) from None
            click.echo(f"{plan.listing.repo}: {len(files)} files of code allowed, recorded in {file}", err=True)
