"""Weights and KV cache of onecard and its peers beside the truth, over the catalog and over models outside it.

`python benchmarks/peers_memory.py --peers-python PATH [--write]`: PATH is the Python that has `benchmarks/peers/requirements.txt`.
The truth is counted from the classes of transformers and the tensors of bitsandbytes (peers/truth.py, peers/truth_cache.py), needs no
download and no card, and takes about five minutes of one core. A peer that is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"
sys.path.insert(0, str(PEERS))

from report import misses, tables  # noqa: E402  (lies beside this file, not in a package)

from onecard.benchmark.machine import cpu_name  # noqa: E402

CATALOG = ROOT / "src" / "onecard" / "catalog" / "models.yaml"
RESULT = ROOT / "docs" / "measurements" / "2026-11-21-weights-and-cache.json"
START, END = "<!-- tables: begin (benchmarks/peers_memory.py --write) -->", "<!-- tables: end -->"

# Name, program, and the distribution to look for; onecard runs in this Python, the rest in the peers'.
TOOLS = {
    "onecard": ("ask_onecard.py", None),
    "accelerate": ("ask_accelerate.py", "accelerate"),
    "hf-mem": ("ask_hf_mem.py", "hf-mem"),
    "llm-analysis": ("ask_llm_analysis.py", "llm-analysis"),
    "llmfit": ("ask_llmfit.py", "llmfit"),
    "whichllm": ("ask_whichllm.py", "whichllm"),
}
LONG = 32768
CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len")

console = Console(stderr=True)


def models(only: str | None) -> list[dict[str, Any]]:
    """The catalog's models, then those outside it; `only` keeps ids that contain it."""
    catalog = yaml.load(CATALOG.read_text(encoding="utf-8"), yaml.CSafeLoader)["models"]
    outside = yaml.load((PEERS / "outside.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)
    every = [{"id": entry["id"], "config": entry["config"], "in_catalog": True} for entry in catalog]
    every += [{**entry, "in_catalog": False} for entry in outside]
    for (
        model
    ) in every:  # three are published quantized; here every model is asked about as 16 bits and what is made of those
        model["config"] = {key: value for key, value in model["config"].items() if key != "quantization_config"}
    return [model for model in every if only is None or only.lower() in model["id"].lower()]


def long_context(config: Mapping[str, Any]) -> int:
    """32,768 tokens, or what the model goes up to if that is less."""
    text = config.get("text_config", config)
    limit = next((text[key] for key in CONTEXTS if isinstance(text.get(key), int)), LONG)
    return min(LONG, limit)


def truth_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """Everything true of one model. SystemExit when its class does not build what the hub publishes: then the config is wrong."""
    from truth import weight_bytes
    from truth_cache import cache_facts, small_copy_agrees

    config = model["config"]
    sizes = weight_bytes(config)
    published = model.get("parameters")
    if published is not None and published != sizes["parameters"]:
        sys.exit(f"{model['id']}: the class builds {sizes['parameters']:,} parameters, published are {published:,}")
    return sizes | cache_facts(config, long_context(config)) | {"small_copy_agrees": small_copy_agrees(config)}


def with_bar(title: str, total: int, work: Callable[[Callable[[str], None]], None]) -> None:
    """Runs `work`, which is given a function to call for each model done."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, now="")
        work(lambda name: progress.update(task, advance=1, now=name))


def ask(
    name: str, python: str, asked: Path, environment: Mapping[str, str], done: Callable[[str], None]
) -> dict[str, Any]:
    """One tool's version and its answer to each model, from a process of its own."""
    program = TOOLS[name][0]
    answers: dict[str, Any] = {"version": None, "models": {}}
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(
            [python, str(PEERS / program), str(asked)],
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            env=dict(environment),
        )
        for text in process.stdout or ():
            line = json.loads(text)
            if "version" in line:
                answers["version"] = line["version"]
            else:
                answers["models"][line.pop("id")] = line
                done("")
        if process.wait():
            words.seek(0)
            last = (words.read().strip().splitlines() or ["without a word"])[-1]
            sys.exit(f"{name} ended early: {last}")
    return answers


def installed(python: str, distribution: str) -> bool:
    code = f"import importlib.metadata as m; m.version({distribution!r})"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


def choose_tools(peers_python: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """Tools to run with their Python, and those left out with the reason."""
    chosen, missing = {"onecard": sys.executable}, {}
    for name, (_, distribution) in TOOLS.items():
        if distribution is None:
            continue
        if peers_python is None:
            missing[name] = "no --peers-python was given"
        elif not installed(peers_python, distribution):
            missing[name] = f"not installed in {peers_python}: see benchmarks/peers/requirements.txt"
        else:
            chosen[name] = peers_python
    for name, reason in missing.items():
        console.print(f"[yellow]{name} is left out: {reason}")
    return chosen, missing


def measure(asked: list[dict[str, Any]], peers_python: str | None, old: Mapping[str, Any] | None) -> dict[str, Any]:
    """The whole document."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it reports a kernel that is not used here
    from truth import versions

    same = old is not None and old["versions"] == versions()
    known = {(row["id"], row["config_sha256"]): row["truth"] for row in old["models"]} if old and same else {}

    def count(done: Callable[[str], None]) -> None:
        for model in asked:
            model["config_sha256"] = sha256(
                json.dumps(model["config"], sort_keys=True, default=str).encode()
            ).hexdigest()
            model["truth"] = known.get((model["id"], model["config_sha256"])) or truth_of(model)
            done(model["id"])

    with_bar("truth", len(asked), count)
    chosen, missing = choose_tools(peers_python)
    told = all_answers(asked, chosen)
    return {
        "schema": 1,
        "what": "bytes of weights and of the KV cache, said by each tool and true",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": {"cpu": cpu_name(), "cpus": os.cpu_count(), "platform": platform.platform()},
        "versions": versions(),
        "tools": {name: {"version": told[name]["version"]} for name in chosen},
        "left_out": {name: reason.replace(str(peers_python), "the peers' Python") for name, reason in missing.items()},
        "models": [
            {
                **{key: model[key] for key in ("id", "in_catalog", "config_sha256", "truth")},
                "tools": {name: told[name]["models"].get(model["id"], {"why": "no answer"}) for name in chosen},
            }
            for model in asked
        ],
    }


def all_answers(asked: list[dict[str, Any]], chosen: Mapping[str, str]) -> dict[str, Any]:
    """Repositories, a hub over them, and every tool in turn."""
    from hub import saved_config, serving, write_repository

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def lay_out(done: Callable[[str], None]) -> None:
            for model in asked:
                place = write_repository(folder / "hub", model["id"], model["config"])
                model["whole_config"] = json.loads((place / "config.json").read_text(encoding="utf-8"))
                model["saved_config"] = saved_config(model["config"])
                done(model["id"])

        with_bar("repositories", len(asked), lay_out)
        questions = [
            {
                **{key: model[key] for key in ("id", "config", "whole_config", "saved_config")},
                "parameters": model["truth"]["parameters"],
                "long": model["truth"]["long"],
            }
            for model in asked
        ]
        listed = folder / "models.json"
        listed.write_text(json.dumps(questions, default=str), encoding="utf-8")
        told: dict[str, Any] = {}
        with serving(folder / "hub") as address:
            for tool, python in chosen.items():
                environment = {
                    **{key: value for key, value in os.environ.items() if "proxy" not in key.lower()},
                    "HF_ENDPOINT": address,
                    "HF_HOME": str(folder / "cache"),
                    "HOME": str(folder),
                    "HF_HUB_DISABLE_TELEMETRY": "1",
                    "OMP_NUM_THREADS": "1",
                    "PYTHONWARNINGS": "ignore",
                }

                def put(
                    done: Callable[[str], None], tool: str = tool, python: str = python, env: Any = environment
                ) -> None:
                    told[tool] = ask(tool, python, listed, env, done)

                with_bar(tool, len(asked), put)
        return told


def head(document: Mapping[str, Any]) -> str:
    """The line that says by what and when the tables were made."""
    tools = ", ".join(f"{name} {facts['version']}" for name, facts in document["tools"].items())
    truth = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    absent = "".join(f" {name} is left out: {reason}." for name, reason in document["left_out"].items())
    agreed = [row["truth"]["small_copy_agrees"] for row in document["models"]]
    return (
        f"Made {document['at']} by `benchmarks/peers_memory.py`, Python {document['python']}, {document['machine']['cpu']}: {tools}; "
        f"the truth by {truth} (CPU).{absent} "
        f"A small copy run on the CPU held the cache the meta device shows for {agreed.count('yes')} of {len(agreed)} models. "
        f"Every answer for every model: [{RESULT.name}]({RESULT.name})."
    )


def write(document: Mapping[str, Any]) -> None:
    """The JSON, and the tables into the page beside it; words outside the two marks are kept."""
    RESULT.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    page = RESULT.with_suffix(".md")
    text = (
        page.read_text(encoding="utf-8")
        if page.exists()
        else f"# Weights and cache against the truth, 2026-11-21\n\n{START}\n{END}\n"
    )
    before, _, rest = text.partition(START)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{START}\n{head(document)}\n\n{tables(document)}\n{END}{after}", encoding="utf-8")
    console.print(f"wrote {RESULT.relative_to(ROOT)} and {page.relative_to(ROOT)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", help="Python of the environment that holds the peers")
    parser.add_argument("--only", help="only models whose id contains this; not with --write")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.relative_to(ROOT)} and the page beside it")
    parser.add_argument(
        "--reuse-truth", action="store_true", help="take the truth of the last JSON, if its versions are these"
    )
    options = parser.parse_args()
    if options.only and options.write:
        parser.error("--write is for the whole list: leave --only away")
    asked = models(options.only)
    if not asked:
        parser.error(f"no model's id contains {options.only!r}")
    old = json.loads(RESULT.read_text(encoding="utf-8")) if options.reuse_truth and RESULT.exists() else None
    document = measure(asked, options.peers_python, old)
    print(tables(document))
    print("Where onecard is over 0.5%, not exact, or gives no answer:")
    print("\n".join(f"- {line}" for line in misses(document, "onecard")) or "- nowhere")
    if options.write:
        write(document)


if __name__ == "__main__":
    main()
