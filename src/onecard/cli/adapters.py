"""`onecard adapters`: what is in the store, and moving versions into and out of production.

An adapter is written AGENT/NAME, one of its versions AGENT/NAME@VERSION, where VERSION is like v0003 or an alias.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onecard.cli import adapters_output as output
from onecard.cli.adapters_export import export
from onecard.cli.adapters_import import import_
from onecard.cli.adapters_options import in_a_store, open_store, parsed_address, who

if TYPE_CHECKING:
    from onecard.adapters.store import Store, StoredVersion


@click.group()
def adapters() -> None:
    """The adapter store: list, show, promote, roll back, verify, export, import.

    An adapter is written AGENT/NAME, one of its versions AGENT/NAME@VERSION; VERSION is like v0003, or
    candidate, production or previous.

    \b
    Example:
      onecard adapters list
      onecard adapters promote writer/style@v0003
      onecard adapters rollback writer/style
      onecard adapters export writer/style@production --to style.tar
    """


adapters.add_command(export)
adapters.add_command(import_)


@adapters.command("list", short_help="Every adapter with its aliases and its candidate's verdict.")
@in_a_store
def list_(place: str | None, fleet: Path | None, as_json: bool) -> None:
    """List every adapter with its aliases and its candidate's verdict.

    \b
    Example:
      onecard adapters list --store ./modelstore
    """
    store = open_store(place, fleet, new_url=True)
    found = store.list()
    if as_json:
        output.print_json([output.listing_record(store, listing) for listing in found])
        return
    if not found:
        click.echo(output.nothing_in(store))
        return
    output.print_listings(store, found)


@adapters.command(short_help="The versions of an adapter, or everything about one.")
@click.argument("address")
@in_a_store
def show(address: str, place: str | None, fleet: Path | None, as_json: bool) -> None:
    """Show the versions of AGENT/NAME, or everything about AGENT/NAME@VERSION.

    \b
    Example:
      onecard adapters show writer/style
      onecard adapters show writer/style@production
    """
    store, (agent, name, reference) = open_store(place, fleet), parsed_address(address)
    chosen = [store.resolve(agent, f"{name}@{reference}")] if reference else store.versions(agent, name)
    if as_json:
        records = [output.version_record(store, stored) for stored in chosen]
        output.print_json(records[0] if reference else records)
    elif reference:
        output.print_version(store, chosen[0])
    else:
        output.print_versions(store, chosen)


@adapters.command(short_help="Put a version into production.")
@click.argument("address")
@click.option("--force", is_flag=True, help="Without a passing verdict; needs --reason.")
@who
@in_a_store
def promote(
    address: str, force: bool, by: str | None, reason: str | None, place: str | None, fleet: Path | None, as_json: bool
) -> None:
    """Put AGENT/NAME[@VERSION] into production; without a version, its candidate.

    The version needs a passing verdict of `onecard evaluate`. The old production becomes previous.

    \b
    Example:
      onecard adapters promote writer/style
      onecard adapters promote writer/style@v0002 --force --reason "v0003 is too wordy"
    """
    store, (agent, name, reference) = open_store(place, fleet), parsed_address(address)
    stored = store.promote(agent, name, reference or "candidate", by=by, reason=reason, force=force)
    _say_production(store, stored, as_json)


@adapters.command(short_help="Take back the last promotion.")
@click.argument("address")
@who
@in_a_store
def rollback(
    address: str, by: str | None, reason: str | None, place: str | None, fleet: Path | None, as_json: bool
) -> None:
    """Take back the last promotion of AGENT/NAME; again takes back the one before it.

    \b
    Example:
      onecard adapters rollback writer/style --reason "answers got longer"
    """
    store, (agent, name, _) = open_store(place, fleet), parsed_address(address, versioned=False)
    _say_production(store, store.rollback(agent, name, by=by, reason=reason), as_json)


@adapters.command(short_help="Hash the files again and compare.")
@click.argument("address", required=False)
@in_a_store
def verify(address: str | None, place: str | None, fleet: Path | None, as_json: bool) -> int:
    """Hash the files of AGENT/NAME@VERSION, of all versions of AGENT/NAME, or of the whole store.

    Exit code 1 when anything differs from what was published.

    \b
    Example:
      onecard adapters verify writer/style@production
    """
    store = open_store(place, fleet)
    results = {}
    for agent, name, version in _chosen(store, address):
        results[f"{agent}/{name}@{version}"] = store.verify(agent, name, version)
    if as_json:
        output.print_json(results)
    else:
        for which, found in results.items():
            click.echo(f"{which}: " + ("as published" if not found else "DIFFERS"))
            for difference in found:
                click.echo(f"  {difference}")
    return 1 if any(results.values()) else 0


@adapters.command(short_help="Who did what when.")
@click.argument("address")
@in_a_store
def log(address: str, place: str | None, fleet: Path | None, as_json: bool) -> None:
    """Who did what with AGENT/NAME and when, oldest first.

    \b
    Example:
      onecard adapters log writer/style
    """
    store, (agent, name, _) = open_store(place, fleet), parsed_address(address, versioned=False)
    entries = store.log(agent, name)
    if as_json:
        output.print_json([entry.model_dump(mode="json") for entry in entries])
        return
    output.print_log(entries)


@adapters.command(short_help="Delete a version for good.")
@click.argument("address")
@click.option("--yes", is_flag=True, help="Do not ask.")
@who
@in_a_store
def remove(
    address: str, yes: bool, by: str | None, reason: str | None, place: str | None, fleet: Path | None, as_json: bool
) -> int:
    """Delete AGENT/NAME@VERSION for good. A version that an alias points at is not deleted.

    \b
    Example:
      onecard adapters remove writer/style@v0001 --yes
    """
    store, (agent, name, reference) = open_store(place, fleet), parsed_address(address)
    if reference is None:
        raise click.UsageError(f"name the version, such as {address}@v0001")
    if not yes and not click.confirm(f"delete {address} for good?", err=True):
        click.echo("kept", err=True)
        return 1
    store.remove(agent, name, reference, by=by, reason=reason)
    output.print_json({"removed": address}) if as_json else click.echo(f"{address} is deleted")
    return 0


def _chosen(store: Store, address: str | None) -> list[tuple[str, str, str]]:
    """(agent, name, version) of everything an optional address covers."""
    if address is None:
        return [(listing.agent, listing.name, v) for listing in store.list() for v in listing.versions]
    agent, name, reference = parsed_address(address)
    if reference:
        return [(agent, name, reference)]
    store.aliases(agent, name)
    return [c for c in _chosen(store, None) if c[:2] == (agent, name)]


def _say_production(store: Store, stored: StoredVersion, as_json: bool) -> None:
    aliases = store.aliases(stored.agent, stored.name)
    if as_json:
        output.print_json(
            {"agent": stored.agent, "name": stored.name, "digest": stored.digest, "aliases": aliases.model_dump()}
        )
        return
    before = f"; `onecard adapters rollback` goes back to {aliases.previous}" if aliases.previous else ""
    click.echo(f"{stored.address} is in production{before}")
