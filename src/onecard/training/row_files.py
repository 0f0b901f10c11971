"""Where training rows come from: JSONL, JSON, CSV, parquet, a saved data set, or one of the hub (`hub:owner/name[:split]`).

Every record comes with its place, file:line or source:row, so that a fault can be found. Data sets are read through `datasets`, which
keeps to the offline variables and the token of the environment as it does for everybody else.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onecard.errors import DataError, MissingPart
from onecard.training.hub_rows import folder_records, hub_records, is_hub

Record = tuple[str, Any]  # file:line, and a record as plain data or the DataError of a line that is none
INSTALL = "pip install 'onecard[local]'"
ROW = '{"prompt": ..., "completion": ...}'
NEW_LINE = "\n"
LARGEST_CELL = 16 << 20  # characters of a CSV cell; the csv module's own limit of 128 KiB stops long documents


def records(source: Path | str) -> Iterator[Record]:
    """Every record of a source with its place, read as it is asked for. DataError when the source cannot be read."""
    if is_hub(source):
        return hub_records(str(source))
    file = Path(source)
    if file.is_dir() and any((file / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        return folder_records(file)
    readers = {".csv": _csv, ".parquet": _parquet, ".json": _json}
    return readers.get(file.suffix.lower(), _jsonl)(file)


def written_by_hand(source: Path | str) -> bool:
    """Whether a key nobody reads is a fault: in files written by hand it is a slip, in data sets made elsewhere it is usual."""
    return not is_hub(source) and not Path(source).is_dir() and Path(source).suffix.lower() != ".parquet"


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError("no such file", where=str(file)) from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(file)) from None


def _jsonl(file: Path) -> Iterator[Record]:
    return _lines(file, _text(file))


def _lines(file: Path, text: str) -> Iterator[Record]:
    # Only "\n" ends a line: str.splitlines would also cut at characters that JSON strings may hold, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{file}:{number}"
            try:
                yield where, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield where, DataError(f"not valid JSON: {error}", where=where)


def _json(file: Path) -> Iterator[Record]:
    """One array of objects; a .json file that holds an object a line is read as such."""
    text = _text(file)
    return _array(file, text) if text.lstrip()[:1] in ("[", "") else _lines(file, text)


def _array(file: Path, text: str) -> Iterator[Record]:
    """Element by element, so that each has its line and a slip in one is told where it stands; nothing is read behind it."""
    if not text.strip():
        return
    decoder, place, line, counted = json.JSONDecoder(), _skip(text, 0) + 1, 1, 0
    while (place := _skip(text, place)) < len(text) and text[place] != "]":
        line, counted = line + text.count(NEW_LINE, counted, place), place
        where = f"{file}:{line}"
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            problem = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            yield where, DataError(f"not valid JSON: {problem}", where=where)
            return
        yield where, value
        place = _skip(text, place)
        follows = text[place : place + 1]
        if follows == ",":
            place = _skip(text, place + 1)
        if follows not in (",", "]") or (follows == "," and text[place : place + 1] in ("]", "")):
            what = (
                "nothing after the comma behind" if follows == "," else "neither a comma nor the end of the array after"
            )
            yield where, DataError(f"not valid JSON: {what} this row", where=where)
            return
    end = _skip(text, place + 1)
    if end < len(text):
        where = f"{file}:{line + text.count(NEW_LINE, counted, end)}"
        yield where, DataError("not valid JSON: the array is followed by something else", where=where)


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _csv(file: Path) -> Iterator[Record]:
    text = _text(file)
    limit = csv.field_size_limit(LARGEST_CELL)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        yield from _table(file, reader)
    finally:
        csv.field_size_limit(limit)


def _table(file: Path, reader: Any) -> Iterator[Record]:
    header, before = None, 0
    while True:
        where = f"{file}:{before + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield where, DataError(f"not valid CSV: {error}", where=where)
            return
        before = reader.line_num
        if not cells:
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            _check_header(header, where)
        elif len(cells) != len(header):
            problem = f"the row has {len(cells)} cells and the header {len(header)}"
            yield where, DataError(problem, where=where, next_step="quote cells that hold commas or line ends")
        else:
            named = dict(zip(header, cells, strict=True))
            yield where, {key: cell for key, cell in named.items() if key != "preset" or cell.strip()}


def _check_header(header: list[str], where: str) -> None:
    """A header with one of the two sets of names; what else is in it is judged row by row."""
    named = set(header)
    if len(named) != len(header):
        raise DataError("the header names a column twice", where=where)
    if not ({"prompt", "completion"} <= named or {"prompt", "chosen", "rejected"} <= named):
        raise DataError(
            f"the header is {','.join(header)[:80]}",
            where=where,
            allowed="prompt,completion or prompt,chosen,rejected, and perhaps preset",
            next_step="name the columns in the first line; conversations fit into JSONL",
        )


def _parquet(file: Path) -> Iterator[Record]:
    if not file.is_file():
        raise DataError("no such file" if not file.exists() else "cannot be read: a folder", where=str(file))
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise MissingPart(f"{error.name} is not installed", where=str(file), next_step=INSTALL) from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{file}:{number}", record
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"cannot be read as parquet: {str(error)[:200]}", where=str(file)) from None
