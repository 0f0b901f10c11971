"""Runs one case in the process it is called in and leaves a JSON file: the target of a fresh process."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path


def run(spec_file: str, out_file: str) -> None:
    """Everything said goes to a log beside the result; a failure is a result with a problem."""
    log = os.open(out_file + ".log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    spec = json.loads(Path(spec_file).read_text())
    try:
        import look
        import serve
        import train

        measure = {
            "serve": serve.measure,
            "train": train.measure,
            "look-serve": look.serving,
            "look-train": look.training,
        }
        result = measure[spec["kind"]](spec)
    except BaseException:
        result = {"spec": spec, "problem": traceback.format_exc()[-1500:]}
    partial = Path(out_file + ".part")
    partial.write_text(json.dumps(result))
    partial.rename(out_file)
    os._exit(0)
