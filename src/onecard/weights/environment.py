"""What the environment and a `.env` beside the fleet say of where models live and how the hub is asked.

The environment is never overridden: a line of `.env` counts only where the variable is not set. Only the variables listed here are
taken from the file, and a hub that the file names gets no token but the file's own, so that a stranger's folder cannot collect one.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from onecard.errors import InputError
from onecard.weights.places import user_cache

FILE = ".env"


@dataclass(frozen=True)
class Variable:
    """A variable that may stand in `.env`. `is_path`: a relative value is relative to the file's folder."""

    name: str
    meaning: str
    is_path: bool = False


VARIABLES = (
    Variable(
        "ONECARD_MODELS", "the folder where models are kept, in the layout of the Hugging Face cache", is_path=True
    ),
    Variable("HF_HOME", "the Hugging Face libraries' folder: hub/ for models, datasets/ for data", is_path=True),
    Variable("HF_HUB_CACHE", "the folder for models alone; goes before ONECARD_MODELS and HF_HOME", is_path=True),
    Variable("HF_DATASETS_CACHE", "the folder for data sets alone", is_path=True),
    Variable("HF_TOKEN", "the token of your account on the hub, for gated and private models"),
    Variable("HF_ENDPOINT", "the address of another hub"),
    Variable("HF_HUB_OFFLINE", "1: never ask the hub"),
    Variable("HF_HUB_DOWNLOAD_TIMEOUT", "seconds to wait for the next byte"),
)


@dataclass(frozen=True)
class Taken:
    """What was taken from a `.env`: the names, and whether a token of the environment is held back from the hub it names."""

    file: Path
    names: tuple[str, ...]
    token_held_back: bool = False


def follow(folder: Path) -> Taken | None:
    """Sets in this process what `.env` in `folder` says and the environment does not; None without such a file.

    InputError for a file that cannot be read or a line that is no assignment.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    said = read_env_file(file)
    fresh = {
        one.name: _value(one, said[one.name], folder)
        for one in VARIABLES
        if said.get(one.name) and not os.environ.get(one.name)
    }
    held_back = "HF_ENDPOINT" in fresh and "HF_TOKEN" not in fresh and "HF_HUB_DISABLE_IMPLICIT_TOKEN" not in os.environ
    os.environ.update(fresh)
    if held_back:
        os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    return Taken(file, tuple(fresh), held_back)


def read_env_file(file: Path) -> dict[str, str]:
    """The assignments of a `.env`: NAME=value, with `export`, quotes and comments as shells have them, nothing expanded."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=str(file)) from None
    said: dict[str, str] = {}
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            # The line itself is not shown: it may be a token.
            raise InputError("not an assignment", where=f"{file}:{number}", allowed="NAME=value, or # and a comment")
        said[match["name"]] = next(value for value in match.group("double", "single", "bare") if value is not None)
    return said


def token_source() -> str | None:
    """Where the hub's token comes from, for people: a variable, or the file that `hf auth login` wrote; None when there is none."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name, "").strip():
            return name
    home = os.environ.get("HF_HOME") or str(user_cache() / "huggingface")
    file = Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
    return str(file) if file.is_file() else None


_LINE = re.compile(
    r"(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*"
    r"""(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<bare>[^"'\s#][^\s]*|))(?:\s+#.*)?"""
)


def _value(one: Variable, text: str, folder: Path) -> str:
    return str((folder / Path(text).expanduser()).absolute()) if one.is_path else text
