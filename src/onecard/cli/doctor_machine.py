"""The machine as the doctor sees it: card and who holds it by the driver's own tool, memory, open files, telling variables.

Reading a tool's output is pure and tested with recordings; nothing here imports torch, for that alone takes longer than all of it.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from onecard.catalog.machine import available_ram_bytes
from onecard.catalog.units import MIB
from onecard.cli.doctor_records import Machine, Process, SeenGpu

NVIDIA_CARD = "--query-gpu=uuid,name,driver_version,memory.total,memory.used,memory.free"
NVIDIA_PROCESSES = "--query-compute-apps=gpu_uuid,pid,process_name,used_gpu_memory"
NVIDIA_FORMAT = "--format=csv,noheader,nounits"
ROCM_CARD = ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showdriverversion", "--json")
ROCM_PROCESSES = ("rocm-smi", "--showpids", "--json")
TOOL_TIMEOUT_S = 10
VENDORS = {"0x10de": "nvidia", "0x1002": "amd"}
JUDGED = (
    *("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING", "CUDA_LAUNCH_BLOCKING"),
    *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "BNB_CUDA_VERSION", "BNB_ROCM_VERSION"),
    *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TRANSFORMERS_CACHE", "VLLM_MODEL_ID"),
)


def read_machine(bus: Path = Path("/sys/bus/pci/devices")) -> Machine:
    """This machine now."""
    import psutil

    gpu, faults = read_gpu()
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return Machine(
        gpu=gpu,
        gpu_faults=faults,
        gpu_on_bus=gpu_on_bus(bus),
        ram_bytes=int(memory.total),
        ram_available_bytes=available_ram_bytes(),
        swap_bytes=int(swap.total),
        swap_free_bytes=int(swap.free),
        open_files=open_files(),
        environment={name: os.environ[name] for name in JUDGED if name in os.environ},
    )


def read_gpu() -> tuple[SeenGpu | None, tuple[str, ...]]:
    """The first card, and what the tools said that are there and failed."""
    said, nvidia_fault = _run(("nvidia-smi", NVIDIA_CARD, NVIDIA_FORMAT))
    if said is not None and (cards := parse_nvidia_cards(said)):
        uuid, gpu = next(iter(cards.items()))
        held, _ = _run(("nvidia-smi", NVIDIA_PROCESSES, NVIDIA_FORMAT))
        return _with_processes(gpu, parse_nvidia_processes(held or "", uuid)), ()
    said, amd_fault = _run(ROCM_CARD)
    if said is not None and (seen := parse_rocm_card(said)):
        held, _ = _run(ROCM_PROCESSES)
        return _with_processes(seen, parse_rocm_processes(held or "")), ()
    return None, tuple(fault for fault in (nvidia_fault, amd_fault) if fault)


def parse_nvidia_cards(text: str) -> dict[str, SeenGpu]:
    """Cards by uuid, from the output of NVIDIA_CARD; lines that are no card (messages) are left out."""
    cards = {}
    for uuid, name, driver, *sizes in _rows(text, 6):
        if all(size.isdigit() for size in sizes):  # [N/A] on machines whose card has no memory of its own
            total, used, free = (int(size) * MIB for size in sizes)
            cards[uuid] = SeenGpu("nvidia", name, driver, total, used, free)
    return cards


def parse_nvidia_processes(text: str, uuid: str) -> list[tuple[int, str, int | None]]:
    """(pid, name, bytes) of what computes on the card `uuid`, from the output of NVIDIA_PROCESSES."""
    seen = []
    for card, pid, name, mib in _rows(text, 4):
        if pid.isdigit() and card == uuid:
            seen.append((int(pid), Path(name).name, int(mib) * MIB if mib.isdigit() else None))
    return seen


def parse_rocm_card(text: str) -> SeenGpu | None:
    """The first card in the JSON of ROCM_CARD; its keys changed case over the releases."""
    document = _object(text)
    for card in sorted(key for key in document if key.startswith("card")):
        facts = {str(key).lower(): str(value) for key, value in _part(document, card).items()}
        total, used = facts.get("vram total memory (b)", ""), facts.get("vram total used memory (b)", "")
        if total.isdigit():
            name = facts.get("card series") or facts.get("card model") or card
            driver = {key.lower(): str(value) for key, value in _part(document, "system").items()}.get("driver version")
            held = int(used) if used.isdigit() else 0
            return SeenGpu("amd", name.strip(), driver, int(total), held, int(total) - held)
    return None


def parse_rocm_processes(text: str) -> list[tuple[int, str, int | None]]:
    """(pid, name, bytes) from the JSON of ROCM_PROCESSES: {"system": {"PID4711": "python, 1, 8589934592, 0, 0"}}."""
    seen = []
    for key, value in _part(_object(text), "system").items():
        parts = [part.strip() for part in str(value).split(",")]
        if key.startswith("PID") and key[3:].isdigit() and len(parts) >= 3:
            seen.append((int(key[3:]), parts[0], int(parts[2]) if parts[2].isdigit() else None))
    return seen


def gpu_on_bus(devices: Path) -> str | None:
    """The vendor of the first NVIDIA or AMD display or compute device on the PCI bus, driver or not; None without one."""
    for device in sorted(devices.glob("*")):
        try:
            kind, vendor = (device / "class").read_text().strip(), (device / "vendor").read_text().strip()
        except OSError:
            continue
        # 0x03 is a display controller, 0x12 an accelerator: datacentre cards are either.
        if kind.startswith(("0x03", "0x12")) and vendor in VENDORS:
            return VENDORS[vendor]
    return None


def open_files() -> tuple[int, int] | None:
    """Soft and hard limit of open files; None on systems without them or where there is no limit."""
    try:
        import resource
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else (soft, hard if hard != resource.RLIM_INFINITY else 2**31)


def process_of(pid: int, name: str = "", size: int | None = None) -> Process:
    """A process by its number, with the name and owner that the system tells."""
    import psutil

    try:
        seen = psutil.Process(pid)
        name = " ".join(seen.cmdline()[:4])[:60] or seen.name() or name
        own = not hasattr(os, "getuid") or os.getuid() in (0, seen.uids().real)
    except (psutil.Error, OSError):
        own = not hasattr(os, "getuid") or os.getuid() == 0
    return Process(pid, name, size, own)


def _with_processes(gpu: SeenGpu, held: list[tuple[int, str, int | None]]) -> SeenGpu:
    largest_first = sorted(held, key=lambda row: -(row[2] or 0))
    processes = tuple(process_of(pid, name, size) for pid, name, size in largest_first)
    return replace(gpu, processes=processes)


def _run(command: tuple[str, ...]) -> tuple[str | None, str | None]:
    """(output, None), or (None, what went wrong); (None, None) when there is no such tool."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=False)
    except FileNotFoundError:
        return None, None
    except subprocess.TimeoutExpired:
        return None, f"{command[0]} did not answer within {TOOL_TIMEOUT_S} s"
    except OSError as error:
        return None, f"{command[0]} cannot be run: {error.strerror}"
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        return None, f"{command[0]} failed: {said[0] if said else f'exit code {done.returncode}'}"
    return done.stdout, None


def _rows(text: str, width: int) -> list[list[str]]:
    rows = [[field.strip() for field in row] for row in csv.reader(text.splitlines())]
    return [row for row in rows if len(row) == width]


def _object(text: str) -> Mapping[str, object]:
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _part(document: Mapping[str, object], key: str) -> Mapping[str, object]:
    part = document.get(key)
    return part if isinstance(part, dict) else {}
