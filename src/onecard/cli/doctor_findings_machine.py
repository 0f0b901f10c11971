"""Findings about the machine whatever it serves: card, driver, memory that others hold, telling variables, limits."""

from __future__ import annotations

from collections.abc import Iterator

from onecard.catalog.units import GIB, format_bytes
from onecard.cli.doctor_packages import numbers
from onecard.cli.doctor_records import Facts, Finding, Process

# NVIDIA's table of the oldest Linux driver for each CUDA: CUDA Compatibility, "Minor Version Compatibility".
OLDEST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
HELD_BY_OTHERS_BYTES = GIB // 2  # the reserve a fleet keeps when it says nothing
FILES_BESIDE_CALLERS = 256  # libraries, weights, sockets of the service itself
LARGEST_SHOWN = 3
EXPANDABLE = "expandable_segments:True"
MAKES_SLOW = {
    "CUDA_LAUNCH_BLOCKING": "every launch is waited for, and small models answer several times slower",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "every tensor is asked of the driver, which is slow and not what was planned",
}
HIDERS = {"nvidia": ("CUDA_VISIBLE_DEVICES",), "amd": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")}
TOOLS = {"nvidia": "nvidia-smi", "amd": "rocm-smi"}
MAKERS = {"nvidia": "NVIDIA", "amd": "AMD"}
INSTALL_DRIVER = {"nvidia": "sudo apt-get install nvidia-open", "amd": "sudo amdgpu-install --usecase=dkms,rocm"}
FROM_THE_MAKER = "from its maker's own package repository, or the distribution's"


def card(facts: Facts) -> Iterator[Finding]:
    """Whether the driver answers, and can carry torch's CUDA."""
    machine = facts.machine
    for fault in machine.gpu_faults:
        yield Finding(
            "problem" if machine.gpu_on_bus else "warning", "driver", fault,
            "the driver's tool is there and does not answer: nothing can use a card until it does", "sudo reboot", rights=True,
        )  # fmt: skip
    gpu = machine.gpu
    if gpu is None and not machine.gpu_faults:
        vendor = machine.gpu_on_bus
        if vendor is None:
            yield Finding("ok", "card", "no card: the processor is planned as one")
        else:
            yield Finding(
                "problem", "driver", f"an {MAKERS[vendor]} card is in this machine and {TOOLS[vendor]} is not",
                f"without its driver no program sees the card; it comes {FROM_THE_MAKER}", INSTALL_DRIVER[vendor], rights=True,
            )  # fmt: skip
    if gpu is None:
        return
    yield Finding("ok", "card", f"{gpu.name}, {format_bytes(gpu.total_bytes)}")
    oldest = _oldest_driver(facts.packages.cuda) if gpu.vendor == "nvidia" else None
    if oldest is None or gpu.driver is None or numbers(gpu.driver) >= numbers(oldest):
        yield Finding("ok", "driver", f"driver {gpu.driver or 'of unknown version'}")
        return
    yield Finding(
        "problem", "driver",
        f"driver {gpu.driver} is too old for CUDA {facts.packages.cuda}, which torch was built for",
        f"CUDA {facts.packages.cuda} needs driver {oldest} or newer, {FROM_THE_MAKER}", INSTALL_DRIVER["nvidia"], rights=True,
    )  # fmt: skip


def _oldest_driver(cuda: str | None) -> str | None:
    return OLDEST_DRIVER.get(numbers(cuda)[0]) if cuda and numbers(cuda) else None


def held_memory(facts: Facts) -> Iterator[Finding]:
    """What other processes hold of the card, with their names; the service on the fleet's port is none of them."""
    gpu = facts.machine.gpu
    if gpu is None:
        return
    ours = facts.port.holder.pid if facts.port.holder and facts.port.service else None
    others = [process for process in gpu.processes if process.pid != ours]
    held = sum(process.bytes or 0 for process in others) if gpu.processes else gpu.used_bytes
    allowed = facts.fleet.reserve_bytes if facts.fleet else HELD_BY_OTHERS_BYTES
    if held <= allowed or (ours is not None and not others):
        yield Finding("ok", "memory held", f"others hold {format_bytes(held)} of the card")
        return
    shown = ", ".join(_named(process) for process in others[:LARGEST_SHOWN])
    more = f" and {len(others) - LARGEST_SHOWN} more" if len(others) > LARGEST_SHOWN else ""
    what = f"{format_bytes(held)} of the card is held by {shown}{more}" if others else (
        f"{format_bytes(held)} of the card is held by processes that {TOOLS[gpu.vendor]} does not name"
    )  # fmt: skip
    why = f"the plan leaves {format_bytes(allowed)} to others; stop what you do not need"
    if others:
        mend = "kill " + " ".join(str(process.pid) for process in others[:LARGEST_SHOWN])
        yield Finding(
            "warning", "memory held", what, why, mend, rights=not all(process.own for process in others[:LARGEST_SHOWN])
        )
    else:
        yield Finding("warning", "memory held", what, why, f"sudo fuser -v {_devices(gpu.vendor)}", rights=True)


def _named(process: Process) -> str:
    size = f", {format_bytes(process.bytes)}" if process.bytes is not None else ""
    return f"{process.name or 'a process'} (pid {process.pid}{size})"


def _devices(vendor: str) -> str:
    return "/dev/nvidia*" if vendor == "nvidia" else "/dev/kfd"


def variables(facts: Facts) -> Iterator[Finding]:
    """Variables that make memory less predictable, hide the card, slow it down, or are no longer read."""
    gpu, said = facts.machine.gpu, facts.machine.environment
    found = []
    if gpu is not None:
        for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
            if name in said and EXPANDABLE.lower() not in said[name].replace(" ", "").lower():
                found.append(Finding(
                    "warning", "variables", f"{name}={said[name]}: expandable segments are off",
                    "memory is lost between blocks, so that less fits than was planned",
                    f"export {name}='{with_segments(said[name])}'",
                ))  # fmt: skip
        for name in HIDERS[gpu.vendor]:
            if name in said and said[name].strip() in ("", "-1"):
                found.append(Finding(
                    "problem", "variables", f"{name}={said[name]!r} hides the card", "every library then takes the processor",
                    f"unset {name}",
                ))  # fmt: skip
        for name, why in MAKES_SLOW.items():
            if said.get(name, "0") not in ("", "0"):
                found.append(Finding("warning", "variables", f"{name}={said[name]}", why, f"unset {name}"))
    if old := said.get("TRANSFORMERS_CACHE"):
        found.append(Finding(
            "warning", "variables", f"TRANSFORMERS_CACHE={old}", "transformers 5 does not read it: models lie elsewhere",
            f"unset TRANSFORMERS_CACHE && export HF_HUB_CACHE='{old}'",
        ))  # fmt: skip
    yield from found or [Finding("ok", "variables", "no variable in the way")]


def with_segments(said: str) -> str:
    """The allocator's settings with expandable segments on; another backend, which has none, is left out."""
    options = [option.strip() for option in said.split(",") if option.strip()]
    kept = [option for option in options if not option.lower().startswith(("expandable_segments", "backend"))]
    return ",".join([EXPANDABLE, *kept])


def main_memory(facts: Facts) -> Iterator[Finding]:
    """Main memory against what goes through it on the way to the card, one file after the other. On a CPU the plan counts it."""
    fleet, machine = facts.fleet, facts.machine
    if fleet is None or machine.gpu is None:
        return
    largest = max((model.largest_file_bytes for model in fleet.models), default=0)
    if machine.ram_available_bytes >= largest:
        return
    swap = f"{format_bytes(machine.swap_free_bytes)} of swap" if machine.swap_bytes else "no swap"
    added_gib = -(-(largest - machine.ram_available_bytes) // GIB) + 4
    yield Finding(
        "warning", "main memory",
        f"{format_bytes(machine.ram_available_bytes)} of main memory free and {swap}; the largest weight file has {format_bytes(largest)}",
        "weights go through main memory on their way to the card: the start would crawl, or the system end it",
        f"sudo fallocate -l {added_gib}G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile",
        rights=True,
    )  # fmt: skip


def open_files(facts: Facts) -> Iterator[Finding]:
    """The limit of open files against the callers at once: each holds a connection, and a load test beside it one more."""
    limits = facts.machine.open_files
    if limits is None:
        return
    soft, hard = limits
    callers = facts.fleet.callers if facts.fleet else 0
    needed = FILES_BESIDE_CALLERS + 2 * callers
    if soft >= needed:
        yield Finding("ok", "open files", f"{soft:,} open files")
        return
    wanted = max(1024, needed)
    mend = f"ulimit -n {wanted}" if hard >= wanted else f"sudo prlimit --pid $$ --nofile={wanted}:{wanted}"
    yield Finding(
        "warning", "open files", f"at most {soft:,} open files, and {callers} callers need about {needed:,}",
        "connections beyond it are refused with 'too many open files'", mend, rights=hard < wanted,
    )  # fmt: skip
