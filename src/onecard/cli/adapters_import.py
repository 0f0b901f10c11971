"""`onecard adapters import`: a version from another store's archive, or a LoRA that was trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onecard.cli import adapters_output as output
from onecard.cli.adapters_options import in_a_store, open_store

if TYPE_CHECKING:
    from onecard.adapters.manifest import Manifest
    from onecard.adapters.store import Store, StoredVersion


@click.command("import", short_help="Publish a version from an archive, or a LoRA made elsewhere.")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--agent", help="The agent it is for.  [default: the archive's]")
@click.option("--name", help="The adapter's name.  [default: the archive's, or the folder's]")
@click.option("--digest", help="Refuse any archive but the one with this archive digest (its beginning is enough).")
@click.option("--with-verdict", is_flag=True, help="Let the archive's verdict count here as well; trust its maker.")
@click.option("--base", metavar="MODEL", help="For a LoRA made elsewhere: the base it was trained on.")
@click.option(
    "--quantization",
    type=click.Choice(["none", "int8", "nf4"]),
    help="For a LoRA made elsewhere: the form of the base it was trained on.  [default: none]",
)
@click.option("--by", help="Who does it, for the log.  [default: your login name]")
@in_a_store
def import_(
    source: Path,
    agent: str | None,
    name: str | None,
    digest: str | None,
    with_verdict: bool,
    base: str | None,
    quantization: str | None,
    by: str | None,
    place: str | None,
    fleet: Path | None,
    as_json: bool,
) -> None:
    """Publish what is in SOURCE as the next version, which becomes the candidate.

    SOURCE is an archive of `onecard adapters export`: every digest is checked and nothing altered is taken. Its
    verdict does not count here unless you say so, because an archive is not signed.

    Or SOURCE is a folder with adapter_config.json and adapter_model.safetensors that PEFT wrote elsewhere. Name
    its base and its agent: it is checked against the base, and its manifest says what is not known about it.

    \b
    Example:
      onecard adapters import style.tar --digest 5f0c9a
      onecard adapters import ./my-lora --base mistralai/Mistral-7B-v0.3 --agent writer --name terse
    """
    from onecard.adapters.archive import is_archive
    from onecard.errors import InputError

    if not source.exists():
        raise InputError("no such file or folder", where=str(source))
    store = open_store(place, fleet, new=True)
    if is_archive(source):
        if base or quantization:
            raise click.UsageError(
                "--base and --quantization are for a LoRA made elsewhere; an archive says them itself"
            )
        stored = _from_archive(store, source, agent, name, digest, with_verdict, by)
    else:
        if digest or with_verdict:
            raise click.UsageError(f"--digest and --with-verdict are for archives, and {source} is none")
        if not base or not agent:
            raise click.UsageError("a LoRA made elsewhere needs --base and --agent")
        manifest = _manifest(source, base, quantization or "none", agent, name or source.resolve().name)
        stored = store.publish(agent, manifest.name, source, manifest, by=by)
    _say(store, stored, as_json)


def _from_archive(
    store: Store,
    source: Path,
    agent: str | None,
    name: str | None,
    digest: str | None,
    with_verdict: bool,
    by: str | None,
) -> StoredVersion:
    from onecard.adapters.archive import import_version, opened
    from onecard.errors import AdapterRefused

    with opened(source) as archive:
        found = archive.index.archive_digest
        if digest and (len(digest) < 6 or not found.startswith(digest.lower())):
            raise AdapterRefused(
                f"its archive digest is {found}, and {digest} was asked for", where=str(source),
                next_step="get the archive again from whoever exported it, or give six digits at least",
            )  # fmt: skip
        manifest = archive.manifest
        return import_version(store, archive, agent or manifest.agent, name or manifest.name, by, with_verdict)


def _manifest(folder: Path, base: str, quantization: str, agent: str, name: str) -> Manifest:
    """The manifest of a folder that PEFT wrote elsewhere, checked against its base."""
    from onecard.adapters.address import checked_name
    from onecard.adapters.archive_plain import check_against_layers, manifest_of
    from onecard.adapters.manifest import BaseModelRecord
    from onecard.engines.local.tokens import chat_template_sha256, load_tokenizer, stop_ids
    from onecard.weights.headers import LocalFile, read_header
    from onecard.weights.inventory import fingerprint, resolve, weight_files

    checked_name("agent", agent)
    checked_name("adapter", name)
    place = resolve(base, Path())
    tokenizer = load_tokenizer(place)
    record = BaseModelRecord(id=base, fingerprint=fingerprint(place), quantization=quantization)
    manifest = manifest_of(
        folder,
        agent,
        name,
        record,
        chat_template_sha256(tokenizer),
        stop_ids(tokenizer, place),
        f"the folder {folder.name}",
    )
    layers = {tensor.name: tensor.shape for file in weight_files(place) for tensor in read_header(LocalFile(file))}
    check_against_layers(folder, manifest, layers)
    return manifest


def _say(store: Store, stored: StoredVersion, as_json: bool) -> None:
    verdict, origin = store.verdict(stored), stored.manifest.origin
    unknown = origin.unknown if origin else ()
    if as_json:
        said = {
            "imported": stored.address,
            "digest": stored.digest,
            "origin": origin.model_dump(mode="json") if origin else None,
            "unknown": unknown,
        }
        output.print_json(said | {"verdict": verdict.passed if verdict else None})
        return
    click.echo(f"{stored.address} is published, digest {stored.digest[:12]}")
    if origin:
        click.echo(f"  it is {output.origin_text(origin)}")
    if unknown:
        click.echo(f"  not trained here; unknown: {', '.join(unknown)}")
    if verdict is None:
        click.echo("  not evaluated here: `onecard evaluate` before it is promoted")
