"""How long `onecard --help` and `onecard plan` take as whole processes, from exec to exit, and which heavy packages they import.

`python benchmarks/cold_start.py [--repeats 15] [--out FILE]` writes one JSON document. Targets: 0.3 s and 1 s on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from onecard import __version__
from onecard.benchmark.machine import cpu_name

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "help": (["--help"], 0.3),
    "plan": (["plan", "examples/style-a10g.yaml"], 1.0),
}
HEAVY = ("torch", "transformers", "peft", "trl", "bitsandbytes", "numpy", "fastapi", "matplotlib")


def seconds_of(arguments: list[str]) -> float:
    """Wall time of one process; an exit code other than 0 ends the benchmark."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "onecard", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def heavy_imports(arguments: list[str]) -> list[str]:
    """Heavy packages in sys.modules when the command ends."""
    code = (
        "import sys; from onecard.cli.main import main; main(sys.argv[1:]); print('\\n', *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    return sorted(loaded & set(HEAVY))


def measure(repeats: int) -> dict[str, object]:
    """The document: commands take turns, so that a disturbance of the machine meets all of them."""
    for arguments, _ in COMMANDS.values():
        seconds_of(arguments)  # fills the file cache
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, (arguments, _) in COMMANDS.items():
            times[name].append(seconds_of(arguments))
    return {
        "schema": 1,
        "what": "cold start of the command line, whole processes",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "onecard": __version__,
        "python": platform.python_version(),
        "machine": {
            "cpu": cpu_name(),
            "cpus": os.cpu_count(),
            "platform": platform.platform(),
            "load_average": os.getloadavg(),
        },
        "commands": {
            name: {
                "command": " ".join(["onecard", *arguments]),
                "target_s": target,
                "median_s": round(statistics.median(times[name]), 4),
                "min_s": round(min(times[name]), 4),
                "max_s": round(max(times[name]), 4),
                "seconds": [round(value, 4) for value in times[name]],
                "heavy_imports": heavy_imports(arguments),
            }
            for name, (arguments, target) in COMMANDS.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "cold_start.json")
    options = parser.parse_args()
    document = measure(options.repeats)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for entry in document["commands"].values():  # type: ignore[attr-defined]
        print(
            f"{entry['command']}: median {entry['median_s']:.3f} s, min {entry['min_s']:.3f} s, target {entry['target_s']} s"
        )
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
