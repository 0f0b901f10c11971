"""Recordings of the drivers' tools, and a machine that has a card and no driver."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.catalog.units import MIB
from onecard.cli.doctor_machine import (
    gpu_on_bus,
    parse_nvidia_cards,
    parse_nvidia_processes,
    parse_rocm_card,
    parse_rocm_processes,
    process_of,
    read_gpu,
    read_machine,
)

CARDS = """\
GPU-6b2f, NVIDIA H200, 570.86.15, 143771, 4, 143236
GPU-77aa, NVIDIA GB10, 580.95.05, [N/A], [N/A], [N/A]
"""
PROCESSES = """\
GPU-6b2f, 4711, /usr/bin/python3.11, 12034
GPU-6b2f, 4712, [Not Found], [N/A]
GPU-77aa, 4713, /usr/bin/python3.11, 9
"""
ROCM = """\
{"card0": {"VRAM Total Memory (B)": "206141652992", "VRAM Total Used Memory (B)": "297766912", "Card Series": "AMD Instinct MI300X",
 "Card Model": "0x74a1"}, "system": {"Driver version": "6.10.5"}}
"""
ROCM_HELD = '{"system": {"PID4711": "python3, 1, 8589934592, 0, unknown", "PID9": "short"}}'


def test_cards_by_uuid_and_those_without_memory_of_their_own_are_left_out() -> None:
    cards = parse_nvidia_cards(CARDS)
    assert list(cards) == ["GPU-6b2f"]
    card = cards["GPU-6b2f"]
    assert (card.name, card.driver, card.total_bytes) == ("NVIDIA H200", "570.86.15", 143771 * MIB)
    assert (card.used_bytes, card.free_bytes) == (4 * MIB, 143236 * MIB)


def test_processes_of_one_card_and_a_size_that_is_not_told() -> None:
    assert parse_nvidia_processes(PROCESSES, "GPU-6b2f") == [
        (4711, "python3.11", 12034 * MIB),
        (4712, "[Not Found]", None),
    ]


def test_rocm() -> None:
    card = parse_rocm_card(ROCM)
    assert card is not None
    assert (card.vendor, card.name, card.driver) == ("amd", "AMD Instinct MI300X", "6.10.5")
    assert card.free_bytes == 206141652992 - 297766912
    assert parse_rocm_card(ROCM.replace("VRAM Total", "vram total")) == card
    assert parse_rocm_processes(ROCM_HELD) == [(4711, "python3", 8 * 2**30)]


@given(st.text())
def test_garbage_is_no_card(text: str) -> None:
    for said in (text, f'{{"card0": {text!r}}}', f"[{text}]"):
        assert parse_nvidia_processes(said, "GPU-?") == []
        parse_nvidia_cards(said), parse_rocm_card(said), parse_rocm_processes(said)


def tool(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def test_no_tool_is_no_card_and_a_failing_or_hanging_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    assert read_gpu() == (None, ())
    tool(tmp_path, "nvidia-smi", "echo 'No devices were found' >&2; exit 6")
    assert read_gpu() == (None, ("nvidia-smi failed: No devices were found",))
    tool(tmp_path, "nvidia-smi", "sleep 9")
    monkeypatch.setattr("onecard.cli.doctor_machine.TOOL_TIMEOUT_S", 0.1)
    assert read_gpu() == (None, ("nvidia-smi did not answer within 0.1 s",))


def test_rocms_tool_is_asked_when_there_is_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    held = ROCM_HELD.replace("4711", str(os.getpid()))
    tool(
        tmp_path, "rocm-smi", f"case \"$1\" in --showpids) echo '{held}';; *) echo '{ROCM.replace(chr(10), '')}';; esac"
    )
    card, faults = read_gpu()
    assert card is not None and faults == ()
    (held_by,) = card.processes
    assert (held_by.pid, held_by.bytes, held_by.own) == (os.getpid(), 8 * 2**30, True)


@pytest.mark.parametrize(
    ("kind", "vendor", "seen"),
    [("0x030000", "0x10de", "nvidia"), ("0x120000", "0x1002", "amd"), ("0x020000", "0x10de", None), ("0x030000", "0x8086", None)],
)  # fmt: skip
def test_a_card_on_the_bus(kind: str, vendor: str, seen: str | None, tmp_path: Path) -> None:
    device = tmp_path / "0000:01:00.0"
    device.mkdir()
    (device / "class").write_text(f"{kind}\n")
    (device / "vendor").write_text(f"{vendor}\n")
    (tmp_path / "0000:00:00.0").mkdir()
    assert gpu_on_bus(tmp_path) == seen


def test_a_process_that_is_gone_keeps_the_tools_name() -> None:
    assert process_of(2**22 + 1, "python", 5).name == "python"


def test_only_variables_that_are_judged_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    machine = read_machine()
    assert machine.environment["HF_HUB_OFFLINE"] == "1"
    assert "hf_secret" not in repr(machine)
    assert 0 < machine.ram_available_bytes <= machine.ram_bytes
