"""How `onecard adapters` shows what is in the store: tables of 100 columns, and records for --json."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from onecard.adapters.manifest import Manifest, OriginRecord
    from onecard.adapters.store import AdapterListing, LogEntry, Store, StoredVersion

WIDTH = 100


def print_listings(store: Store, listings: Sequence[AdapterListing]) -> None:
    """Every adapter with its aliases; what could not be read is said below the table."""
    table = _table("adapter", "versions", "production", "candidate", "previous", "candidate's gate")
    for listing in listings:
        aliases = listing.aliases
        gate = "unreadable" if listing.problem else _candidate_gate(store, listing)
        named = [version or "-" for version in (aliases.production, aliases.candidate, aliases.previous)]
        table.add_row(f"{listing.agent}/{listing.name}", str(len(listing.versions)), *named, gate)
    _console().print(table)
    for listing in listings:
        if listing.problem:
            click.echo(f"{listing.agent}/{listing.name}: {listing.problem}", err=True)


def nothing_in(store: Store) -> str:
    """What to say of a store without adapters. At a URL an empty store looks like a misspelt one."""
    if not store.at_url:
        return f"no adapters in {store.where} yet: `onecard train` publishes one"
    return (
        f"no adapters at {store.where}: `onecard train` publishes into the store that a fleet names, "
        f"`onecard adapters import --store {store.where}` into this one"
    )


def print_versions(store: Store, versions: Sequence[StoredVersion]) -> None:
    """The versions of one adapter, one line each."""
    table = _table("version", "is", "created", "digest", "rank", "rows", "last loss", "gate")
    for stored in versions:
        manifest = stored.manifest
        table.add_row(
            stored.version,
            ", ".join(names_of(store, stored)) or "-",
            manifest.created_at[:16].replace("T", " "),
            stored.digest[:12],
            str(manifest.rank),
            f"{manifest.training.rows:,}" if manifest.training else "not trained here",
            _last_loss(manifest),
            _gate(store, stored),
        )
    _console().print(table)


def print_version(store: Store, stored: StoredVersion) -> None:
    """Everything about one version."""
    names = names_of(store, stored)
    manifest, base = stored.manifest, stored.manifest.base
    rows = {
        "adapter": stored.address + (f" ({', '.join(names)})" if names else ""),
        "where": stored.where,
        "digest": stored.digest,
        "created": manifest.created_at,
        "parent": manifest.parent or "-",
        **({"origin": origin_text(manifest.origin)} if manifest.origin else {}),
        "base": f"{base.id}, {base.quantization}, fingerprint {base.fingerprint[:12]}",
        "shape": f"rank {manifest.rank}, alpha {manifest.alpha:g}, on {', '.join(manifest.targets)}",
        "added tokens": ", ".join(f"{t.token} (row {t.row})" for t in manifest.added_tokens) or "-",
        **_training_rows(manifest),
        "gate": _gate(store, stored),
        "files": ", ".join(sorted(manifest.files)),
    }
    table = _table("", "", header=False)
    for label, text in rows.items():
        table.add_row(label, text)
    _console().print(table)


def _training_rows(manifest: Manifest) -> dict[str, str]:
    """How it was trained; of one that was made elsewhere it is said that nobody here knows."""
    training = manifest.training
    if training is None:
        unknown = manifest.origin.unknown if manifest.origin else ()
        return {"training": f"not trained here; unknown: {', '.join(unknown)}"}
    return {
        "training": f"{training.rows:,} rows, {training.trained_tokens:,} trained tokens, {training.steps:,} steps",
        "loss": " -> ".join(f"{point.loss:.3f}" for point in (training.curve[:1] + training.curve[-1:])) or "-",
        "took": f"{training.seconds:,.1f} s, {training.tokens_s:,.0f} tokens/s, on {training.hardware}",
        "peak memory": f"{training.peak_memory_bytes / 2**30:.2f} GiB ({training.memory_kind})",
    }


def print_log(entries: Sequence[LogEntry]) -> None:
    """Who did what when."""
    table = _table("when (UTC)", "who", "did", "version", "digest", "why")
    for entry in entries:
        did = f"{entry.action}, forced" if entry.forced else entry.action
        when = entry.at[:19].replace("T", " ")
        table.add_row(when, entry.by, did, entry.version or "-", (entry.digest or "-")[:12], entry.reason or "")
    _console().print(table)


def listing_record(store: Store, listing: AdapterListing) -> dict[str, Any]:
    return {
        "agent": listing.agent,
        "name": listing.name,
        "versions": listing.versions,
        "aliases": listing.aliases.model_dump(),
        "candidate_gate": None if listing.problem else _candidate_gate(store, listing),
        "problem": listing.problem,
    }


def version_record(store: Store, stored: StoredVersion) -> dict[str, Any]:
    verdict = store.verdict(stored)
    return {
        "version": stored.version,
        "aliases": names_of(store, stored),
        "where": stored.where,
        "verdict": verdict.model_dump(mode="json") if verdict else None,
        "manifest": stored.manifest.model_dump(mode="json"),
    }


def names_of(store: Store, stored: StoredVersion) -> list[str]:
    """The aliases that point at a version."""
    return store.aliases(stored.agent, stored.name).of(stored.version)


def _candidate_gate(store: Store, listing: AdapterListing) -> str:
    from onecard.errors import OnecardError

    if listing.aliases.candidate is None:
        return "-"
    try:
        return _gate(store, store.resolve(listing.agent, f"{listing.name}@candidate"))
    except OnecardError as error:
        return error.problem


def _gate(store: Store, stored: StoredVersion) -> str:
    verdict = store.verdict(stored)
    if verdict is None:
        return "not evaluated"
    return f"{'passed' if verdict.passed else 'failed'} {verdict.at[:10]}"


def origin_text(origin: OriginRecord) -> str:
    """Where a version was before: the store it was exported from, or the place of an adapter made elsewhere."""
    if origin.digest is None:
        return origin.address
    exported = f", exported {origin.exported_at}" if origin.exported_at else ""
    before = f"; there {origin.before}" if origin.before else ""
    return f"{origin.address} of another store ({origin.digest[:12]}{exported}){before}"


def _last_loss(manifest: Manifest) -> str:
    curve = manifest.training.curve if manifest.training else ()
    return f"{curve[-1].loss:.3f}" if curve else "-"


def _table(*columns: str, header: bool = True) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=header, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("created", "rows", "gate"))
    return table


def _console() -> Console:
    """Standard output, 100 columns wide when it is not a terminal. Markup is off: names and reasons are shown as they stand."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def print_json(value: Any) -> None:
    """A value as JSON on standard output."""
    click.echo(json.dumps(value, indent=2))
