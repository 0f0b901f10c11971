"""Rows put into a checkpoint's files: exact, without gaps, in the file's own numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from onecard.engines.local import checkpoint_rows
from onecard.engines.local.checkpoint_rows import Shards, TrainedRows, bytes_to_write, copy_tensors, write_with_rows
from onecard.errors import InputError


def checkpoint(folder: Path, dtype: torch.dtype = torch.bfloat16, rows: int = 10) -> Path:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "a.weight": torch.randn(3, 4, generator=generator),
        "embed.weight": torch.randn(rows, 6, generator=generator),
        "z.bias": torch.randn(5, generator=generator),
    }
    save_file(
        {name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


@given(
    known=st.integers(1, 12),
    more=st.integers(0, 4),
    old=st.sets(st.integers(0, 11), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    chunk=st.integers(1, 64),
)
@settings(max_examples=40, deadline=None)
def test_rows_stand_where_they_belong_and_nothing_else_moves(
    known: int, more: int, old: set[int], dtype: torch.dtype, chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("rows")
    base = checkpoint(place / "base", dtype, known)
    ids = (*range(known, known + more), *sorted(row for row in old if row < known))
    (place / "new").mkdir()
    if not ids:
        return
    values = torch.arange(len(ids) * 6, dtype=torch.float32).reshape(len(ids), 6) + 0.5
    kept = checkpoint_rows.CHUNK_BYTES
    checkpoint_rows.CHUNK_BYTES = chunk
    try:
        written = write_with_rows(base, place / "new", {"embed.weight": TrainedRows(ids, values)})
    finally:
        checkpoint_rows.CHUNK_BYTES = kept
    before, after = load_file(base / "model.safetensors"), load_file(place / "new" / "model.safetensors")
    expected = torch.cat([before["embed.weight"], torch.zeros(more, 6, dtype=dtype)])
    expected[list(ids)] = values.to(dtype)
    assert torch.equal(after["embed.weight"], expected) and written.vocabulary == known + more
    assert all(torch.equal(after[name], before[name]) for name in ("a.weight", "z.bias"))


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", torch.float16)
    (tmp_path / "new").mkdir()
    for ids, values, problem in (
        ((11,), torch.ones(1, 6), "no row is given for 10"),
        ((10,), torch.ones(1, 7), "as wide as the rows"),
        ((10,), torch.full((1, 6), 1e6), "too large for F16"),
    ):
        with pytest.raises(InputError, match=problem):
            write_with_rows(base, tmp_path / "new", {"embed.weight": TrainedRows(ids, values)})
        (tmp_path / "new" / "model.safetensors").unlink(missing_ok=True)
    save_file({"embed.weight": torch.ones(4, 6, dtype=torch.int8)}, base / "model.safetensors")
    with pytest.raises(InputError, match="is I8"):
        write_with_rows(base, tmp_path / "new", {"embed.weight": TrainedRows((4,), torch.ones(1, 6))})


def test_a_weight_is_found_by_its_module_with_or_without_its_first_part(tmp_path: Path) -> None:
    shards = Shards.of(checkpoint(tmp_path / "base"))
    for module, found in (("embed", "embed.weight"), ("transformer.embed", "embed.weight"), ("head", None)):
        tensor = shards.find(module)
        assert (tensor.name if tensor else None) == found


def test_only_the_wanted_tensors_are_copied(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "base") / "model.safetensors"
    copy_tensors(source, tmp_path / "x.safetensors", lambda name: name != "embed.weight")
    before, after = load_file(source), load_file(tmp_path / "x.safetensors")
    assert set(after) == {"a.weight", "z.bias"} and all(torch.equal(after[name], before[name]) for name in after)


def test_the_room_needed_is_that_of_the_files_that_change(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base")
    assert bytes_to_write(base, {}) == 0
    assert bytes_to_write(base, {"embed.weight": TrainedRows((10,), torch.ones(1, 6))}) == (12 + 60 + 5) * 2 + 24
