"""The card of this machine: recorded outputs of the drivers' tools, and the tools themselves as small scripts on the path."""

from __future__ import annotations

import os

import pytest

from onecard.catalog.machine import (
    SeenCard,
    available_ram_bytes,
    cpu_card,
    detect_card,
    match_card,
    measure_copy_gbs,
    parse_nvidia_smi,
    parse_rocm_smi,
    resolve_card,
)
from onecard.catalog.units import GIB, MIB
from onecard.errors import CatalogError

# nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits
NVIDIA = "NVIDIA GeForce RTX 3090, 24576\nNVIDIA H200, 143771\n"
# rocm-smi --showproductname --showmeminfo vram --json
ROCM = """{"card0": {"VRAM Total Memory (B)": "206141652992", "VRAM Total Used Memory (B)": "297283584",
"Card Series": "AMD Instinct MI300X", "Card Model": "0x74a1", "Card Vendor": "Advanced Micro Devices, Inc. [AMD/ATI]",
"Card SKU": "M3000100", "GFX Version": "gfx942"}}"""
ROCM_OLD = '{"card0": {"Card series": "AMD Instinct MI300X OAM", "VRAM Total Memory (B)": "206141652992"}, "system": {"x": "y"}}'


def test_nvidia_smi_is_read_line_by_line():
    assert parse_nvidia_smi(NVIDIA) == [
        SeenCard("NVIDIA GeForce RTX 3090", 24576 * MIB),
        SeenCard("NVIDIA H200", 143771 * MIB),
    ]


@pytest.mark.parametrize(
    "text", ["", "No devices were found\n", "NVIDIA-SMI has failed because it couldn't communicate, sorry\n"]
)
def test_messages_of_nvidia_smi_are_no_cards(text):
    assert parse_nvidia_smi(text) == []


def test_rocm_smi_is_read_whatever_the_case_of_its_keys():
    assert parse_rocm_smi(ROCM) == [SeenCard("AMD Instinct MI300X", 206141652992)]
    assert parse_rocm_smi(ROCM_OLD) == [SeenCard("AMD Instinct MI300X OAM", 206141652992)]
    assert parse_rocm_smi("WARNING: no AMD GPUs") == parse_rocm_smi("[]") == []


@pytest.mark.parametrize(
    ("name", "mib", "card_id"),
    [
        ("NVIDIA GeForce RTX 3090", 24576, "rtx-3090"),
        ("NVIDIA GeForce RTX 3060", 12288, "rtx-3060-12gb"),
        ("NVIDIA A10G", 23028, "a10g"),
        ("NVIDIA H200", 143771, "h200-sxm"),
        ("NVIDIA H100 80GB HBM3", 81559, "h100-sxm"),
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", 81920, "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", 81920, "a100-80gb"),
        ("Tesla T4", 15360, "t4"),
        ("NVIDIA L40S", 46068, "l40s"),
        ("AMD Instinct MI300X", 196592, "mi300x"),
        ("Radeon RX 7900 XTX", 24560, "rx-7900-xtx"),
    ],
)
def test_a_seen_card_is_matched_by_name_and_memory(name, mib, card_id):
    assert match_card(SeenCard(name, mib * MIB)).id == card_id


def test_the_same_name_with_other_memory_is_another_card():
    with pytest.raises(
        CatalogError, match=r"'NVIDIA GeForce RTX 3060' with 8.0 GiB, is not in the catalog.*vram_gib: 7.5"
    ):
        match_card(SeenCard("NVIDIA GeForce RTX 3060", 8192 * MIB))


def test_a_card_nobody_wrote_down_says_how_to_describe_it():
    with pytest.raises(CatalogError, match=r"RTX A6000.*describe it: card: .vram_gib: 47.5, bandwidth_gbs"):
        match_card(SeenCard("NVIDIA RTX A6000", 49152 * MIB))


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Puts a driver's tool that prints `text` on an otherwise empty path."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name: str, text: str, code: int = 0) -> None:
        (tmp_path / "said.txt").write_text(text)
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\nwhile read -r line; do echo "$line"; done < {tmp_path}/said.txt\nexit {code}\n')
        script.chmod(0o755)

    return put


@pytest.mark.skipif(os.name == "nt", reason="shell scripts")
def test_the_first_card_the_driver_names_is_the_machines(tool):
    tool("nvidia-smi", NVIDIA)
    assert detect_card().id == resolve_card("auto").id == "rtx-3090"


@pytest.mark.skipif(os.name == "nt", reason="shell scripts")
def test_an_amd_card_is_found_when_there_is_no_nvidia_one(tool):
    tool("rocm-smi", ROCM.replace("\n", " ") + "\n")
    assert detect_card().id == "mi300x"


def test_without_a_card_the_cpu_is_the_card(tool):
    card = detect_card()
    assert (card.id, card.memory_basis, card.bandwidth.basis) == ("cpu", "measured", "measured")
    assert 0 < card.total_bytes <= available_ram_bytes() * 1.5
    assert card.notes == () and card.tflops == {}


@pytest.mark.skipif(os.name == "nt", reason="shell scripts")
def test_a_broken_driver_is_not_taken_for_no_card_in_silence(tool):
    tool("nvidia-smi", "NVIDIA-SMI has failed because it could not communicate with the driver\n", code=9)
    card = detect_card()
    assert card.id == "cpu"
    assert card.notes == ("nvidia-smi failed: NVIDIA-SMI has failed because it could not communicate with the driver",)


def test_a_named_card_is_looked_up():
    assert resolve_card("RTX 4090").id == "rtx-4090"


def test_the_cpu_as_a_card_keeps_its_bytes():
    card = cpu_card(23 * GIB + 5, 19.5)
    assert (card.total_bytes, card.bandwidth_gbs) == (23 * GIB + 5, 19.5)


def test_a_copy_is_measured():
    assert measure_copy_gbs(seconds=0.01) > 0.1
