"""What `onecard doctor` knows of a machine and what it says of it: frozen records, read elsewhere and judged elsewhere.

A fact that could not be read is None or empty and is never judged: the doctor speaks only of what it saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from onecard.weights.start_times import FIRST_TOKEN

Severity = Literal["ok", "warning", "problem"]
SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "ok")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `what` was seen, `why` it matters, `mend` is a command for a shell; all empty but `what` when ok.

    `rights`: the command needs an administrator, or the other user whose process it is.
    """

    severity: Severity
    subject: str
    what: str
    why: str = ""
    mend: str = ""
    rights: bool = False


@dataclass(frozen=True)
class Process:
    """A process that holds something. `name` is "" where it may not be seen, `bytes` None where it is not told."""

    pid: int
    name: str = ""
    bytes: int | None = None
    own: bool = True


@dataclass(frozen=True)
class SeenGpu:
    """The first card as its driver's tool shows it, bytes; used and free need not sum up to all, for the driver keeps some.

    `processes` are those the tool may see: in a container often none.
    """

    vendor: Literal["nvidia", "amd"]
    name: str
    driver: str | None
    total_bytes: int
    used_bytes: int
    free_bytes: int
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True)
class Packages:
    """What is installed: versions by name, the pins, torch's build, and which of bitsandbytes' libraries are there.

    `pins` has the packages that run (not the developers' tools). `unmet`: installed versions that onecard's own requirements
    refuse, as (package, installed, required). `cuda` and `rocm` are what torch was built for.
    """

    python: str
    pins: Mapping[str, str]
    installed: Mapping[str, str]
    unmet: tuple[tuple[str, str, str], ...] = ()
    cuda: str | None = None
    rocm: str | None = None
    bitsandbytes_libraries: tuple[str, ...] = ()


@dataclass(frozen=True)
class EnvironmentFile:
    """The `.env` beside the fleet and the variables that were taken from it. `fault`: it cannot be read."""

    file: Path
    names: tuple[str, ...] = ()
    fault: str | None = None


@dataclass(frozen=True)
class Machine:
    """This machine. `gpu_on_bus`: the vendor of a card that hangs on the bus, with or without a driver. Sizes in bytes.

    `open_files`: soft and hard limit of open files, None without limits. `environment` has the variables that are judged, as set.
    """

    gpu: SeenGpu | None
    gpu_faults: tuple[str, ...]
    gpu_on_bus: str | None
    ram_bytes: int
    ram_available_bytes: int
    swap_bytes: int
    swap_free_bytes: int
    open_files: tuple[int, int] | None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """A folder that onecard or its libraries write to. `set_by` is the variable or file that put it there.

    `volume` is the same for places on one disk; `fault` says why nothing can be written there.
    """

    what: str
    path: Path
    set_by: str
    free_bytes: int
    total_bytes: int
    volume: str
    fault: str | None = None
    network: bool = False


@dataclass(frozen=True)
class Leftover:
    """Something that a killed process left behind. `blocks`: others wait for it in vain."""

    what: str
    path: Path
    bytes: int = 0
    blocks: bool = False


@dataclass(frozen=True)
class NeededModel:
    """A model of the fleet. `folder` is None when it is not wholly on this disk; then `missing_bytes` is what is still to be fetched
    (None: not known) and `from_hub` whether there is a hub to fetch it from. `largest_file_bytes`: of its weights on this disk."""

    key: str
    id: str
    folder: Path | None
    fault: str | None = None
    from_hub: bool = True
    gated: bool = False
    missing_bytes: int | None = None
    largest_file_bytes: int = 0
    weights_bytes: int = 0


@dataclass(frozen=True)
class MemoryNeed:
    """The plan against the card as it is now, bytes. `advice` are the changes of the fleet file that make it fit what is free.

    `planned_on` is the card the plan is for, `fits_empty` whether the fleet would fit if nobody else held anything.
    """

    planned_on: str
    need_bytes: int
    free_bytes: int
    fits_empty: bool
    advice: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """Why `onecard serve` would not start the fleet, before it loads anything. `mend` is the command that the error names, if any."""

    problem: str
    where: str = ""
    mend: str = ""


@dataclass(frozen=True)
class FleetFacts:
    """A fleet file on this machine. `other_card` names the card it is written for when that is not this machine's."""

    file: Path
    name: str
    digest: str
    models: tuple[NeededModel, ...]
    callers: int
    reserve_bytes: int
    memory: MemoryNeed | None
    memory_fault: str | None = None
    other_card: str | None = None
    refused: Refused | None = None

    @property
    def missing(self) -> tuple[NeededModel, ...]:
        return tuple(model for model in self.models if model.folder is None)


@dataclass(frozen=True)
class Service:
    """What answers on the port. `models` are the ids it has loaded; `onecard` is False for another server with /v1/models."""

    onecard: bool
    models: tuple[str, ...]
    status: str = "ok"
    detail: str | None = None
    fleet: str = ""
    fleet_digest: str = ""


@dataclass(frozen=True)
class Port:
    """The port the fleet is served on: who holds it, if anybody, and what it answers, if it is a service."""

    number: int
    taken: bool
    holder: Process | None = None
    service: Service | None = None


@dataclass(frozen=True)
class Active:
    """The model that `onecard use` made active, and every name an engine may know it by. `gone` says what is missing of its files,
    `fault` why the record cannot be read; `fetched` is False for one that was never on this disk."""

    file: Path
    id: str = ""
    repository: str = ""
    names: frozenset[str] = frozenset()
    asked: str = ""
    fetched: bool = True
    gone: str | None = None
    fault: str | None = None


@dataclass(frozen=True)
class Calibrated:
    """The calibration of this card: the driver and torch it was measured with. `fault`: it cannot be read."""

    file: Path
    at: str = ""
    driver: str | None = None
    torch: str | None = None
    fault: str | None = None


@dataclass(frozen=True)
class ColdStart:
    """Seconds of each part of a start, in order, until `until`. `model` is what was opened, `at` when (UTC, ISO 8601)."""

    at: str
    model: str
    parts: tuple[tuple[str, float], ...]
    fault: str | None = None
    until: str = FIRST_TOKEN

    @property
    def total_s(self) -> float:
        return sum(seconds for _, seconds in self.parts)


@dataclass(frozen=True)
class Facts:
    """Everything that was seen. What was not asked for is None."""

    machine: Machine
    packages: Packages
    places: tuple[Place, ...]
    leftovers: tuple[Leftover, ...]
    port: Port
    token: bool
    environment_file: EnvironmentFile | None = None
    fleet: FleetFacts | None = None
    active: Active | None = None
    calibrated: Calibrated | None = None
    cold_start: ColdStart | None = None
