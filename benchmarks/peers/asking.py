"""How one tool is asked: it runs in a process of its own, reads the list of models and prints one JSON line each.

An answer maps a quantity (QUANTITIES) to {name the tool has for it: bytes}; a quantity or model left out is "no answer", with the tool's
own words for why. Only the standard library: this runs in the peers' Python.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WEIGHTS = ("16bit", "int8", "nf4", "nf4_dq")
CACHE = ("kv_per_token", "cache_at_long")
QUANTITIES = (*WEIGHTS, *CACHE)

Answer = dict[str, dict[str, float]]


def answer_all(version: Callable[[], str], ask: Callable[[dict[str, Any]], Answer]) -> None:
    """Reads {models: [...]} from the file named on the command line; prints the version, then one line a model."""
    models = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out = sys.stdout
    print(json.dumps({"version": version()}), file=out, flush=True)
    for model in models:
        line: dict[str, Any] = {"id": model["id"]}
        words = io.StringIO()
        try:
            with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
                line["answers"] = ask(model)
        except (Exception, SystemExit) as error:  # whatever a peer raises is its "no answer"
            line["why"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
        print(json.dumps(line), file=out, flush=True)


def per_token(at: Callable[[int], float], long: int) -> dict[str, float]:
    """Both cache quantities of a tool that says bytes for a number of tokens: one token more than 64, and all at `long`."""
    return {"kv_per_token": at(65) - at(64), "cache_at_long": at(long)}
