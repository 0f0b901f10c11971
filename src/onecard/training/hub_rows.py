"""Rows of data sets of the hub and of data sets saved to a folder, through the `datasets` library.

A data set of the hub is read as a stream, so that the first rows of a large one come without the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onecard.errors import DataError, MissingPart
from onecard.weights.hub_access import is_repo_id, offline_variable

PREFIX = "hub:"
INSTALL = "pip install 'onecard[local]'"


def is_hub(source: Path | str) -> bool:
    return str(source).startswith(PREFIX)


def hub_records(source: str) -> Iterator[tuple[str, Any]]:
    """The rows of `hub:owner/name[:split]`, split train unless named, each with its number from 1.

    DataError when the hub may not be asked, has no such data set or split, or does not answer.
    """
    repo, _, split = source.removeprefix(PREFIX).partition(":")
    if not is_repo_id(repo):
        raise DataError(f"{repo[:120]!r} is no data set's name", where=source[:200], allowed="hub:owner/name[:split]")
    datasets = _library(source)
    with _told(source):
        if offline := offline_variable():
            # Streams need the hub; what was fetched before is read from the cache.
            rows = _cached(datasets, repo, split or "train", source, offline)
        else:
            rows = datasets.load_dataset(repo, split=split or "train", streaming=True)
        for number, record in enumerate(rows, start=1):
            yield f"{source}:{number}", dict(record)


def folder_records(folder: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a folder that `save_to_disk` wrote; of one with several splits those of `train`."""
    datasets = _library(str(folder))
    with _told(str(folder)):
        found = datasets.load_from_disk(str(folder))
        if isinstance(found, datasets.DatasetDict):
            if "train" not in found:
                have = ", ".join(found)
                raise DataError(
                    "no split 'train'", where=str(folder), allowed=have, next_step="name the split's folder"
                )
            found = found["train"]
        for number, record in enumerate(found, start=1):
            yield f"{folder}:{number}", dict(record)


def _cached(datasets: Any, repo: str, split: str, source: str, offline: str) -> Any:
    try:
        return datasets.load_dataset(repo, split=split)
    except (ConnectionError, OSError) as error:
        raise DataError(
            f"the data set is not in the cache, and {offline} forbids asking the hub",
            where=source,
            next_step="unset the variable, or name a local file",
        ) from error


def _library(source: str) -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingPart(f"{error.name} is not installed", where=source, next_step=INSTALL) from None
    return datasets


@contextmanager
def _told(source: str) -> Iterator[None]:
    """What `datasets` raises, which is of many classes, as one of ours. Its bars stay off: they would mix with ours."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    except (DataError, GeneratorExit):
        raise
    except Exception as error:
        problem = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"cannot be read: {problem}", where=source) from error
    finally:
        if shown:
            datasets.enable_progress_bars()
