"""Shell lines that set variables in the shell that reads them, for bash, zsh and fish, and nothing else.

Every value stands in single quotes, in which no shell expands anything, and every line ends with a semicolon, so that an `eval $(...)`
whose quotes were forgotten reads them apart. Names and values that could still end a line are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, get_args

from onecard.errors import InputError
from onecard.weights.active import VARIABLE, ActiveModel, check_text

Shell = Literal["bash", "zsh", "fish"]
SHELLS: tuple[Shell, ...] = get_args(Shell)

# What is set from the plan. An empty string in VLLM_QUANTIZATION is no form to vLLM, so without one the variable is unset.
PLANNED = ("VLLM_MODEL_ID", "VLLM_QUANTIZATION", "VLLM_MAX_MODEL_LEN")


def exports(variables: Mapping[str, str | None], shell: Shell) -> str:
    """One line a variable, in order; None unsets it. InputError for a name or a value that no line can hold."""
    lines = []
    for name, value in variables.items():
        if not re.fullmatch(VARIABLE, name):
            raise InputError(f"{name!a} is no name of a variable", allowed="letters, digits and _")
        if value is None:
            lines.append(f"set -e {name};" if shell == "fish" else f"unset {name};")
        else:
            quoted = _quoted(name, value, shell)
            lines.append(f"set -gx {name} {quoted};" if shell == "fish" else f"export {name}={quoted};")
    return "".join(f"{line}\n" for line in lines)


def variables_of(
    record: ActiveModel, vllm_form: str | None, places: Mapping[str, str], stale: Iterable[str]
) -> dict[str, str | None]:
    """What a shell should hold while this model is active.

    `vllm_form`: vLLM's name of the form, "" for what the checkpoint is by itself, None when vLLM cannot hold it, and then its
    variables are unset. `places`: variables that say where models lie. `stale`: names other models set, unset unless this one does.
    """
    planned: dict[str, str | None] = dict.fromkeys(PLANNED)
    if vllm_form is not None:
        planned = {
            "VLLM_MODEL_ID": record.repository,
            "VLLM_QUANTIZATION": vllm_form or None,
            "VLLM_MAX_MODEL_LEN": str(record.context),
        }
    gone: dict[str, str | None] = {name: None for name in sorted(set(stale)) if name not in (*PLANNED, *places)}
    return {**gone, **planned, **places, **record.env}


def shell_of(asked: str) -> Shell:
    """The shell lines are for: the one asked for; for "auto" the nearest shell among the processes above, else $SHELL, else bash."""
    named = next((shell for shell in SHELLS if shell == asked), None)
    if named:
        return named
    names = [*_processes_above(), Path(os.environ.get("SHELL", "")).name]
    return next((shell for name in names for shell in SHELLS if name.lstrip("-") == shell), "bash")


def _quoted(name: str, value: str, shell: Shell) -> str:
    try:
        check_text(value)
    except ValueError as error:
        raise InputError(str(error), where=name, next_step="rename it") from None
    if shell == "fish":
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return "'" + value.replace("'", "'\\''") + "'"


def _processes_above() -> list[str]:
    """Names of the processes above this one, the nearest first."""
    import psutil

    try:
        return [parent.name() for parent in psutil.Process().parents()]
    except psutil.Error:
        return []
