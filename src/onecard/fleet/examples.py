"""The example fleets: the repository's `examples/` folder, which an installed package carries as `onecard/fleet/examples`."""

from __future__ import annotations

from pathlib import Path

from onecard.errors import MissingPart


def examples_folder() -> Path:
    """The folder with the example fleets and their data."""
    installed = Path(__file__).parent / "examples"
    checkout = Path(__file__).parents[3] / "examples"
    for folder in (installed, checkout):
        if (folder / "demo.yaml").is_file():
            return folder
    raise MissingPart("the example fleets are missing", where=str(installed), next_step="install onecard again")
