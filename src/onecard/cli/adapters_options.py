"""What the commands of `onecard adapters` share: which store, which version, and who does it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from onecard.adapters.store import Store

Command = TypeVar("Command", bound=Callable[..., Any])


def in_a_store(command: Command) -> Command:
    """The options that say which store, and --json."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts."),
        click.option(
            "--fleet", type=click.Path(path_type=Path, dir_okay=False), help="Use the store that this fleet file names."
        ),
        click.option("--store", "place", metavar="PATH", help="The store's folder or URL.  [default: ./modelstore]"),
    ):
        command = option(command)
    return command


def who(command: Command) -> Command:
    """--by and --reason, which go into the log."""
    command = click.option("--by", help="Who does it, for the log.  [default: your login name]")(command)
    return click.option("--reason", help="Why, for the log.")(command)


def open_store(place: str | None, fleet: Path | None, *, new: bool = False, new_url: bool = False) -> Store:
    """The store that the options name; InputError when nothing is there, so that a misspelt path is not an empty store.

    With `new` a store that does not exist yet is good: publishing makes it. With `new_url` one at a URL is, where an empty store and
    none are the same.
    """
    from onecard.adapters.store import Store
    from onecard.errors import InputError

    if place and fleet:
        raise click.UsageError("give --store or --fleet, not both")
    where = place or "./modelstore"
    if fleet:
        from onecard.fleet.loader import load_fleet

        where = load_fleet(fleet).store_url
    store = Store(where)
    if not (new or (new_url and store.at_url)) and not store.exists():
        raise InputError(
            "no store here", where=where, next_step="name it with --store or --fleet; `onecard train` makes one"
        )
    return store


def parsed_address(address: str, versioned: bool = True) -> tuple[str, str, str | None]:
    from onecard.adapters.address import parse_address

    parsed = parse_address(address)
    if parsed.reference and not versioned:
        raise click.UsageError(
            f"leave @{parsed.reference} out: this is about all versions of {parsed.agent}/{parsed.name}"
        )
    return parsed.agent, parsed.name, parsed.reference
