"""`onecard init`: writes a starter fleet for the card found in this machine, or for one of the catalog."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import click

from onecard.errors import DiskFull, InputError, MachineError


@click.command()
@click.argument("path", default="fleet.yaml", type=click.Path(path_type=Path))
@click.option(
    "--card",
    "card_id",
    metavar="ID",
    default="auto",
    help="A card of the catalog (`onecard cards`); default: this machine's.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def init(path: Path, card_id: str, force: bool, as_json: bool) -> None:
    """Write a starter fleet to PATH (default: fleet.yaml), with comments, for the card found in this machine.

    \b
    Example:
      onecard init
      onecard init team.yaml --card rtx-3090
    """
    from onecard.catalog.machine import resolve_card
    from onecard.catalog.models import load_models
    from onecard.fleet.starter import choose_base, starter_fleet

    file = path / "fleet.yaml" if path.is_dir() else path
    if file.exists() and not force:
        raise InputError(
            "there is a file already", where=str(file), next_step="name another file, or --force to replace it"
        )
    card = resolve_card(card_id)
    base = choose_base(card, load_models())
    _write(file, starter_fleet(card, load_models()))
    if as_json:
        click.echo(json.dumps({"file": str(file), "card": card.id, "base": base.id, "quantization": base.quantization}))
        return
    click.echo(f"wrote {file}: {base.id} ({base.quantization}) for {card.name}, {card.total_gib:.4g} GiB")
    click.echo(f"next: onecard plan {file}")


def _write(file: Path, text: str) -> None:
    """All or nothing: a file that was there stays until the new one is whole."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    except FileNotFoundError:
        raise InputError("no such folder", where=str(file.parent), next_step="make it first") from None
    except OSError as error:
        raise MachineError(f"cannot write here: {error.strerror}", where=str(file.parent)) from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(file)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise DiskFull(f"cannot be written: {error.strerror}", where=str(file)) from None
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
