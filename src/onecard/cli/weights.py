"""`onecard weights`: what models take on this disk, freeing space, and hashing them again.

Removing says first what would go; it asks on a terminal, and elsewhere does nothing without --yes.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onecard.cli import weights_output as output

if TYPE_CHECKING:
    from onecard.cli.weights_fleets import FleetsHere
    from onecard.weights.storage import Held, Pruning, Storage

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def weights() -> None:
    """Models on this disk: list them, free space, hash them again.

    Fleets that `onecard plan`, `train` or `serve` was run with are remembered; the models they name, and what `onecard use` activated
    beside them or here, are kept unless --force is given.

    \b
    Example:
      onecard weights list
      onecard weights prune --until 50GiB
    """


def on_this_machine(command: Command) -> Command:
    """--fleet and --json."""
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(command)
    return click.option(
        "--fleet",
        "named",
        multiple=True,
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Also count what this fleet file needs; may be given again.",
    )(command)


def removing(command: Command) -> Command:
    """--force, --yes and --dry-run."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--force", is_flag=True, help="Also what a fleet on this machine needs."),
    ):
        command = option(command)
    return command


@weights.command("list", short_help="Models on this disk: size, form, last use, and which fleets need them.")
@on_this_machine
def list_(named: tuple[Path, ...], as_json: bool) -> None:
    """List every model on this disk: bytes really taken, form, last use, and which fleets need it.

    Sizes are disk blocks, with files that several names share counted once. The last use is `loaded` when onecard loaded the model
    then; otherwise it is when its weights were `read` or `written`, as the disk remembers it.

    \b
    Example:
      onecard weights list
      onecard weights list --fleet examples/demo.yaml --json
    """
    here, storage = _look(named)
    output.show_list(storage, here.gone, _leftovers(), _free(), as_json)


@weights.command(short_help="Delete models from the hub cache.")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@removing
@on_this_machine
def remove(ids: tuple[str, ...], force: bool, yes: bool, dry_run: bool, named: tuple[Path, ...], as_json: bool) -> int:
    """Delete the models ID... with all their revisions from the hub cache, after asking.

    A model that a running process uses is refused, and without --force one that a fleet on this machine needs. Folders of your own
    are never deleted. Exit code 1: refused, or not confirmed.

    \b
    Example:
      onecard weights remove mistralai/Mistral-7B-v0.3 --yes
    """
    here, storage = _look(named)
    chosen = _chosen(storage, ids)
    _demand_free_to_go(chosen, force)
    return _remove(storage, chosen, yes, dry_run, as_json, {"free_bytes": _free(), "gone_fleets": _texts(here.gone)})


def _size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    from onecard.catalog.units import parse_size

    return parse_size(value)


@weights.command(short_help="Delete the least recently used models until enough of the disk is free.")
@click.option(
    "--until",
    required=True,
    callback=_size,
    metavar="SIZE",
    help="Stop when so much of the disk is free: 50GiB, 800MB.",
)
@removing
@on_this_machine
def prune(until: int, force: bool, yes: bool, dry_run: bool, named: tuple[Path, ...], as_json: bool) -> int:
    """Delete models from the hub cache, the least recently used first, until SIZE of its disk is free.

    Models that a running process uses stay, and without --force those that a fleet on this machine needs. Exit code 1: not confirmed,
    or everything that may go is too little; then it says by how much, and goes all the same once it is confirmed.

    \b
    Example:
      onecard weights prune --until 50GiB --dry-run
      onecard weights prune --until 50GiB --yes
    """
    from onecard.weights.storage import choose
    from onecard.weights.storage_removal import leftover_bytes

    here, storage = _look(named)
    free, left = _free(), leftover_bytes(_leftovers())
    pruning = choose(storage, max(0, until - free - left), _users(storage.models), force=force)
    facts = _pruning_record(pruning, until, free, here)
    if not as_json:
        output.show_pruning(pruning, until, free, left, here.gone)
    if free >= until or not (pruning.remove or left):
        output.print_json({**facts, "remove": [], "removed": False}) if as_json else None
        return 1 if pruning.short_bytes else 0
    code = _remove(storage, pruning.remove, yes, dry_run, as_json, facts)
    return code or (1 if pruning.short_bytes else 0)


@weights.command(short_help="Hash every file again and compare.")
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option(
    "--accept", is_flag=True, help="Take what your own folders hold now as right; the hub's hashes stay as they are."
)
@on_this_machine
def verify(ids: tuple[str, ...], accept: bool, named: tuple[Path, ...], as_json: bool) -> int:
    """Hash every file of the models ID..., or of all on this disk, and compare.

    Files from the hub are compared with the hashes it gave when they were fetched, folders of your own with what was in them when they
    were first verified. Exit code 1 when a file is damaged, changed or missing; what mends it is said.

    \b
    Example:
      onecard weights verify
      onecard weights verify mistralai/Mistral-7B-v0.3
    """
    from onecard.weights.storage_verify import files_of
    from onecard.weights.storage_verify import verify as verify_model

    _, storage = _look(named)
    chosen = _chosen(storage, ids) if ids else list(storage.models)
    total = sum(
        expected.file.stat().st_size for model in chosen for expected in files_of(model) if expected.file.is_file()
    )
    results = []
    with output.hashing(total, quiet=as_json) as bar:
        for model in chosen:
            bar.begin(model.id)
            results.append((model, verify_model(model, bar.read, accept=accept)))
    output.show_verified(results, as_json)
    return 0 if all(result.good for _, result in results) else 1


def _look(named: Sequence[Path]) -> tuple[FleetsHere, Storage]:
    """The fleets and the disk. Where models live may stand in a .env beside the fleet, or here, as it does for `onecard fetch`."""
    from onecard.cli.weights_fleets import fleets_here
    from onecard.weights.environment import follow
    from onecard.weights.storage_scan import scan

    taken = follow(named[0].parent if named else Path.cwd())
    if taken and taken.names:
        click.echo(f"from {taken.file}: {', '.join(taken.names)}", err=True)
    here = fleets_here(named)
    return here, scan(here.needs)


def _chosen(storage: Storage, ids: Sequence[str]) -> list[Held]:
    """The models with these ids, each once; a folder may be given by any path that leads to it."""
    from onecard.errors import UnknownName, nearest

    known = {model.id: model for model in storage.models}
    chosen = {}
    for id in ids:
        model = known.get(id) or known.get(str(Path(id).expanduser().resolve()))
        if model is None:
            raise UnknownName(
                f"no model '{id}' on this disk{nearest(id, list(known))}", next_step="`onecard weights list` shows them"
            )
        chosen[model.id] = model
    return list(chosen.values())


def _demand_free_to_go(chosen: Sequence[Held], force: bool) -> None:
    """Refusal or InputError for the first model that must not go, before any is touched."""
    from onecard.errors import InputError, Refusal
    from onecard.weights.storage import why_kept

    in_use = _users(chosen)
    for model in chosen:
        if model.fixed:
            raise InputError(f"onecard does not remove {model.id}", where=str(model.folder), next_step=model.fixed)
        why = why_kept(model, in_use, force=force)
        if why is not None:
            mend = "end the process first" if model.id in in_use else "take it out of the fleet, or add --force"
            raise Refusal(f"{model.id} stays: {why}", where=str(model.folder), next_step=mend)


def _remove(
    storage: Storage, chosen: Sequence[Held], yes: bool, dry_run: bool, as_json: bool, facts: dict[str, Any]
) -> int:
    """Says what goes, asks, removes it with what interrupted removals left; exit code 1 when it was not confirmed."""
    from onecard.errors import Refusal
    from onecard.weights.storage_removal import remove as remove_model
    from onecard.weights.storage_removal import sweep

    freed = storage.freed_bytes(chosen)
    if not as_json:
        output.show_going(chosen, freed)
    going = not dry_run and (yes or (not as_json and _asked()))
    if going:
        in_use = _users(chosen)  # whoever came while the question stood
        if taken := next((model for model in chosen if model.id in in_use), None):
            raise Refusal(f"{taken.id} stays: in use: {in_use[taken.id]}", next_step="end the process first")
        with output.deleting(len(chosen), quiet=as_json) as done:
            for model in chosen:
                remove_model(model)
                done(model.id)
            sweep(_leftovers())
    if as_json:
        records = [output.record_of(model) for model in chosen]
        output.print_json({**facts, "remove": records, "frees_bytes": freed, "removed": going})
    else:
        output.say_outcome(going, dry_run, chosen, _free())
    return 0 if going or dry_run else 1


def _asked() -> bool:
    """The answer of whoever sits at the terminal; no where nobody does."""
    return sys.stdin.isatty() and click.confirm("delete for good?", err=True)


def _pruning_record(pruning: Pruning, until: int, free: int, here: FleetsHere) -> dict[str, Any]:
    return {
        "until_bytes": until,
        "free_bytes": free,
        "frees_bytes": pruning.frees_bytes,
        "short_bytes": pruning.short_bytes,
        "kept": dict(pruning.kept),
        "gone_fleets": _texts(here.gone),
    }


def _users(models: Sequence[Held]) -> Mapping[str, str]:
    from onecard.weights.storage_users import users_of

    return users_of([model for model in models if model.place == "hub"])


def _leftovers() -> list[Path]:
    from onecard.weights.storage_removal import leftovers

    return leftovers()


def _free() -> int:
    """Bytes free on the disk of the hub cache, which may not exist yet."""
    from onecard.weights.places import hub_cache

    place = hub_cache().absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _texts(paths: Sequence[Path]) -> list[str]:
    return [str(path) for path in paths]
