"""The floors nobody may break: which imports stay out of a cold start, and the import contracts themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "datasets",
    "fastapi",
    "uvicorn",
    "matplotlib",
    "numpy",
    "ray",
)


def imported_by(arguments: list[str]) -> set[str]:
    """Top-level packages that a run of the command line has imported when it ends."""
    code = (
        "import sys, io, contextlib\n"
        "from onecard.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(sys.argv[1:])\n"
        "print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["plan", "examples/style-a10g.yaml"],
        ["plan", "examples/demo.yaml"],
        ["models"],
        ["cards"],
        ["schema"],
        ["train", "--help"],
        ["serve", "--help"],
        ["bench", "--help"],
        ["evaluate", "--help"],
        ["demo", "--help"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    assert imported_by(arguments) & set(HEAVY) == set()
