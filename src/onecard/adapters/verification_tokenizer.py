"""Checks the tokenizer files of an adapter as far as they can be without the base: added tokens, chat template, no code to run.

Whether all other ids are the base's is checked by the engine when it loads the adapter beside its base.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from onecard.adapters.manifest import Manifest
from onecard.adapters.verification_config import read_object
from onecard.errors import AdapterRefused

TOKENIZER, TOKENIZER_CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
LIMIT_BYTES = 64 << 20  # a vocabulary of 256,000 tokens takes about 35 MB


def check_tokenizer(folder: Path, manifest: Manifest) -> None:
    """AdapterRefused when the tokenizer's added tokens or chat template are not the manifest's, or when it names code."""
    config = _read(folder / TOKENIZER_CONFIG)
    if code := config.get("auto_map"):
        raise AdapterRefused(
            f"auto_map is {ascii(code)[:100]}, which names code to run",
            where=str(folder / TOKENIZER_CONFIG),
            next_step="save the tokenizer with transformers' own class",
        )
    _check_template(folder, config, manifest)
    if not (folder / TOKENIZER).is_file():
        if manifest.added_tokens:
            raise AdapterRefused(
                f"it adds {len(manifest.added_tokens)} tokens and brings no {TOKENIZER} that knows them",
                where=str(folder),
                next_step="save the tokenizer beside it",
            )
        return
    _check_added(_stated(_read(folder / TOKENIZER), config), manifest, str(folder / TOKENIZER))


def _check_template(folder: Path, config: dict[str, Any], manifest: Manifest) -> None:
    """Every chat template in the folder must be the one of the manifest."""
    found: list[tuple[Path, Any]] = []
    if (folder / TEMPLATE).is_file():
        try:
            found.append((folder / TEMPLATE, (folder / TEMPLATE).read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            raise AdapterRefused("not UTF-8", where=str(folder / TEMPLATE)) from None
    if config.get("chat_template") is not None:
        found.append((folder / TOKENIZER_CONFIG, config["chat_template"]))
    for file, template in found:
        if (
            not isinstance(template, str)
            or sha256(template.encode(errors="surrogatepass")).hexdigest() != manifest.chat_template_sha256
        ):
            raise AdapterRefused("its tokenizer has another chat template than its manifest", where=str(file))


def _check_added(stated: Iterator[tuple[Any, Any]], manifest: Manifest, where: str) -> None:
    """Every statement about an added token, or about its id, is the manifest's, and there is one."""
    rows = {added.token: added.row for added in manifest.added_tokens}
    names = {added.row: added.token for added in manifest.added_tokens}
    missing = dict(rows)
    for token, number in stated:
        named = isinstance(token, str) and token in rows
        numbered = type(number) is int and number in names
        if (named or numbered) and not (named and numbered and rows[token] == number):
            expected = f"{names[number]!a} has it" if numbered else f"it has {rows[token]}"
            raise AdapterRefused(
                f"its tokenizer gives {ascii(token)[:100]} the id {ascii(number)[:40]}, and the manifest says {expected}",
                where=where,
            )
        if named:
            missing.pop(token, None)
    if missing:
        raise AdapterRefused(f"its tokenizer does not know the added token {next(iter(missing))!a}", where=where)


def _stated(tokenizer: dict[str, Any], config: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Every (token, id) that the files state. A vocabulary is an object, or a list of [token, score] in the order of ids."""
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    elif isinstance(vocabulary, list):
        yield from ((entry[0], number) for number, entry in enumerate(vocabulary) if isinstance(entry, list) and entry)
    added = tokenizer.get("added_tokens")
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict):
            yield entry.get("content"), entry.get("id")
    decoder = config.get("added_tokens_decoder")
    for number, entry in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(entry, dict):
            yield (
                entry.get("content"),
                int(number) if len(number) < 12 and number.isascii() and number.isdigit() else number,
            )


def _read(file: Path) -> dict[str, Any]:
    """The file's JSON object; empty when there is no such file."""
    return read_object(file, LIMIT_BYTES) if file.is_file() else {}
