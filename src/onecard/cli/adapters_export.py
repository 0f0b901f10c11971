"""`onecard adapters export`: a version as an archive for another store, or in the form vLLM takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onecard.cli import adapters_output as output
from onecard.cli.adapters_options import in_a_store, open_store, parsed_address

if TYPE_CHECKING:
    from onecard.adapters.store import Store, StoredVersion
    from onecard.engines.local.vllm_export import VllmExport


@click.command(short_help="Write a version as an archive, or for vLLM.")
@click.argument("address")
@click.option(
    "--to", "target", required=True, type=click.Path(path_type=Path), help="A new file ending in .tar, or a new folder."
)
@click.option(
    "--for", "purpose", type=click.Choice(["store", "vllm"]), default="store", show_default=True, help="Who reads it."
)
@click.option("--base", "base", metavar="MODEL", help="For vllm: the base, when it is not where the manifest says.")
@click.option("--unproven", is_flag=True, help="For vllm: leave out the proof, which loads the base twice.")
@in_a_store
def export(
    address: str,
    target: Path,
    purpose: str,
    base: str | None,
    unproven: bool,
    place: str | None,
    fleet: Path | None,
    as_json: bool,
) -> None:
    """Write AGENT/NAME@VERSION to a new file or folder.

    For a store it is an archive: files, manifest, verdict and log, which `onecard adapters import` checks and
    publishes elsewhere. Compare the archive digest on both sides.

    For vllm it is a folder with adapter/, a pure LoRA, and, when the adapter added tokens, base/: the base with
    their trained rows in its embedding and head. Unchanged weight files are hard links to the base's, or symbolic
    ones on another disk, so do not edit them in place. Original and export are then asked the same questions;
    when their greedy tokens differ, nothing is written. A base holds the tokens of one adapter: adapters with
    different added tokens cannot share one, and vLLM needs a server for each.

    \b
    Example:
      onecard adapters export writer/style@production --to style.tar
      onecard adapters export writer/style@v0003 --for vllm --to served/style
    """
    if purpose == "store" and (base or unproven):
        raise click.UsageError("--base and --unproven go with --for vllm")
    store, (agent, name, reference) = open_store(place, fleet), parsed_address(address)
    if reference is None:
        raise click.UsageError(f"name the version, such as {address}@production")
    stored = store.resolve(agent, f"{name}@{reference}")
    if purpose == "vllm":
        _for_vllm(store, stored, target, base, unproven, as_json)
        return
    _for_a_store(store, stored, target, as_json)


def _for_a_store(store: Store, stored: StoredVersion, target: Path, as_json: bool) -> None:
    from onecard.adapters.archive import export_version
    from onecard.adapters.version import now

    index = export_version(store, stored, target, now())
    if as_json:
        output.print_json({"exported": stored.address, "to": str(target), "archive_digest": index.archive_digest})
        return
    click.echo(f"{stored.address} is in {target}")
    click.echo(f"archive digest {index.archive_digest}")


def _for_vllm(
    store: Store, stored: StoredVersion, target: Path, base: str | None, unproven: bool, as_json: bool
) -> None:
    from onecard.engines.local.vllm_export import export_for_vllm
    from onecard.errors import AdapterRefused
    from onecard.weights.inventory import resolve

    if found := store.verify(stored.agent, stored.name, stored.version):
        raise AdapterRefused(f"{stored.address} is not what was published: {'; '.join(found)}", where=stored.where)
    base_folder = resolve(base or stored.manifest.base.id, Path())
    with _progress(as_json) as on_progress:
        made = export_for_vllm(
            stored.folder, stored.manifest, base_folder, target, proven=not unproven, on_progress=on_progress
        )
    if as_json:
        output.print_json(asdict(made) | {"to": str(target)})
        return
    _say(made, stored, target, base_folder)


def _say(made: VllmExport, stored: StoredVersion, target: Path, base_folder: Path) -> None:
    """What was written, what was proven, and how to serve it."""
    base = target / made.base if made.vocabulary else base_folder
    if made.vocabulary:
        tokens = ", ".join(token.token for token in stored.manifest.added_tokens)
        click.echo(f"{base}: {made.vocabulary:,} tokens with the rows of {tokens}")
        click.echo(f"  written anew {', '.join(made.rewritten)}; shared {', '.join(made.shared) or 'none'}")
    else:
        click.echo("no added tokens: the base serves as it is, together with other adapters like this one")
    click.echo(f"{target / made.adapter}: a pure LoRA of rank {stored.manifest.rank}")
    if made.proof is None:
        click.echo("not proven: nobody has compared its answers with the adapter's")
    else:
        proof = made.proof
        click.echo(
            f"proven on {proof.prompts} prompts in {proof.quantization}, {proof.dtype}: greedy tokens equal, "
            f"logits differ by at most {proof.max_logit_difference:g} over {proof.tokens_compared} tokens"
        )
    if made.quantization in ("nf4", "int8"):
        click.echo(f"trained on {made.quantization} weights: vLLM answers as here only with the base in that form")
    name = stored.name.replace("=", "-")
    click.echo(
        f"vllm serve {base} --enable-lora --max-lora-rank {made.max_lora_rank} "
        f"--lora-modules {name}-{stored.version}={target / made.adapter}"
    )


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error when that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    if quiet or not console.is_terminal:
        yield lambda what, done, total: None
        return
    columns: tuple[Any, ...] = (TextColumn("{task.description}", markup=False), BarColumn(30), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("checking the files", total=None)
        yield lambda what, done, total: shown.update(task, description=what, completed=done, total=total)
