"""`onecard schema`: the fleet file's JSON schema, for editors that complete and check YAML."""

from __future__ import annotations

import json

import click


@click.command()
def schema() -> None:
    """Print the JSON schema of the fleet file.

    \b
    Example:
      onecard schema > fleet.schema.json
    """
    from onecard.fleet.schema import fleet_json_schema

    click.echo(json.dumps(fleet_json_schema(), indent=2))
