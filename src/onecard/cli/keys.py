"""`onecard keys`: who may ask a service, and what each may do. A key is shown once; the file keeps its sha256.

A service that runs with the file notices changes by itself: a removed key stops with the next request.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

FILE = click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("keys.json"),
    show_default=True,
    envvar="ONECARD_KEYS",
    help="Where the keys are kept; the same as serve's --keys.  [env: ONECARD_KEYS]",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


@click.group()
def keys() -> None:
    """Who may ask a service: keys with scopes, kept as hashes.

    \b
    Scopes:
      infer:AGENT   ask this agent; infer:base the bare base, infer:* all of them
      admin         /admin/adapters: load, promote, roll back, unload
    /health, /metrics and /v1/models take any key, /ready none.

    \b
    Example:
      onecard keys add newsroom --scope infer:synthesizer --scope infer:reranker
      onecard serve fleet.yaml --host 0.0.0.0 --keys keys.json
    """


@keys.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, help="infer:AGENT, infer:* or admin; may be repeated.")
@FILE
@JSON
def add(name: str, scopes: tuple[str, ...], file: Path, as_json: bool) -> int:
    """Make a key and show it, once.

    \b
    Example:
      onecard keys add newsroom --scope infer:synthesizer
    """
    from onecard.serving.keys import KeyRing

    secret = KeyRing(file).add(name, scopes)
    if as_json:
        click.echo(json.dumps({"name": name, "scopes": scopes, "key": secret, "file": str(file)}))
        return 0
    click.echo(secret)
    click.echo(f"the key of {name} ({', '.join(scopes)}); it is not shown again", err=True)
    return 0


@keys.command(name="list")
@FILE
@JSON
def list_keys(file: Path, as_json: bool) -> int:
    """Show every key's name, scopes and beginning.

    \b
    Example:
      onecard keys list
    """
    from onecard.serving.keys import KeyRing

    found = KeyRing(file).keys
    if as_json:
        told = [{"name": k.name, "scopes": k.scopes, "begins": k.begins, "added": k.added} for k in found]
        click.echo(json.dumps(told))
        return 0
    if not found:
        click.echo(f"no keys in {file}: onecard keys add NAME --scope 'infer:*' --file {file}")
    for key in found:
        click.echo(f"{key.name:20} {key.begins}...  {key.added}  {', '.join(key.scopes)}")
    return 0


@keys.command()
@click.argument("name")
@FILE
@JSON
def remove(name: str, file: Path, as_json: bool) -> int:
    """Take a key away; a running service refuses it from its next request on.

    \b
    Example:
      onecard keys remove newsroom
    """
    from onecard.serving.keys import KeyRing

    KeyRing(file).remove(name)
    click.echo(json.dumps({"removed": name, "file": str(file)}) if as_json else f"{name} may no longer ask")
    return 0
