"""Which running processes use a model: those that loaded it with onecard, that have its files open or mapped, or that name it.

Only what this user may see is seen: other people's processes show neither their files nor, on some systems, their command line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from onecard.weights.storage import Held
from onecard.weights.storage_memory import holders

_PROC = Path("/proc")


def users_of(models: Sequence[Held]) -> dict[str, str]:
    """Who uses each model that is in use, by its id, such as "process 4711 (vllm) has its files open". This process does not count."""
    found: dict[str, str] = {}
    for model in models:
        pids = [pid for pid in holders(Path(os.path.realpath(model.folder))) if pid != os.getpid()]
        if pids:
            found[model.id] = f"{_name(pids[0])} loaded it"
    left = [model for model in models if model.id not in found]
    if not left:
        return found
    places = {model.id: _places(model) for model in left}
    for pid in _other_processes():
        opened, arguments = set(_opened(pid)), _arguments(pid)
        for model in left:
            folder, files = places[model.id]
            if any(file in files or file.startswith(folder + os.sep) for file in opened):
                found.setdefault(model.id, f"{_name(pid)} has its files open")
            elif model.id in arguments or any(
                argument == folder or argument.startswith(folder + os.sep) for argument in arguments
            ):
                found.setdefault(model.id, f"{_name(pid)} was started with it")
    return found


def _places(model: Held) -> tuple[str, frozenset[str]]:
    """A model's real folder, and the real paths of its files: some lie in the store that all repositories of a cache share."""
    folder = os.path.realpath(model.folder)
    files = (os.path.realpath(Path(top, name)) for top, _, names in os.walk(folder) for name in names)
    return folder, frozenset(files)


def _other_processes() -> Iterator[int]:
    """Every process but this one and those that started it, whose command lines repeat this one's."""
    import psutil

    own = {os.getpid()}
    with suppress(psutil.Error):
        own |= {parent.pid for parent in psutil.Process().parents()}
    yield from (pid for pid in psutil.pids() if pid not in own)


def _opened(pid: int) -> Iterator[str]:
    """Real paths of the files a process has open or mapped. safetensors are mapped, which psutil's open_files does not show."""
    if not _PROC.is_dir():
        import psutil

        with suppress(psutil.Error, OSError):
            yield from (os.path.realpath(file.path) for file in psutil.Process(pid).open_files())
        return
    place = _PROC / str(pid)
    with suppress(OSError):
        for entry in (place / "fd").iterdir():
            with suppress(OSError):
                yield str(entry.readlink())
    with suppress(OSError):
        for line in (place / "maps").read_text(errors="surrogateescape").splitlines():
            parts = line.split(None, 5)
            if len(parts) == 6 and parts[5].startswith("/"):
                yield parts[5]


def _arguments(pid: int) -> list[str]:
    import psutil

    with suppress(psutil.Error, OSError):
        return list(psutil.Process(pid).cmdline()[1:])
    return []


def _name(pid: int) -> str:
    import psutil

    if not pid:
        return "a process that cannot be named"
    with suppress(psutil.Error, OSError):
        return f"process {pid} ({psutil.Process(pid).name()})"
    return f"process {pid}"
