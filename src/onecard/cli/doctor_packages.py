"""Installed versions beside the pins of constraints.txt, read from package metadata: nothing is imported, so nothing takes time.

torch's build is read from the file that says it, and bitsandbytes' card libraries are looked for by name, as it does itself.
"""

from __future__ import annotations

import ast
import importlib.util
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from onecard.cli.doctor_records import Packages

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
# What runs: the plain install, and what `onecard[local]` brings. Developers' tools are nobody's fault.
PLAIN = ("click", "rich", "pydantic", "PyYAML", "httpx", "psutil", "filelock")
LOCAL = (
    *("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "tokenizers", "safetensors"),
    *("huggingface_hub", "fastapi", "starlette", "uvicorn", "numpy"),
)
PLOTS = ("matplotlib",)
_COMPARISON = re.compile(r"(==|>=|<=|!=|<|>|~=)\s*([0-9][0-9A-Za-z.+]*)")


def read_packages() -> Packages:
    """What is installed in this environment."""
    pins = parse_constraints(CONSTRAINTS.read_text(encoding="utf-8"))
    installed = installed_versions((*PLAIN, *LOCAL, *PLOTS))
    cuda, rocm = torch_build(_package_folder("torch"))
    return Packages(
        python=platform.python_version(),
        pins={name: pins[name] for name in (*PLAIN, *LOCAL, *PLOTS) if name in pins},
        installed=installed,
        unmet=unmet(metadata.requires("onecard") or [] if _has("onecard") else [], installed),
        cuda=cuda,
        rocm=rocm,
        bitsandbytes_libraries=bitsandbytes_libraries(_package_folder("bitsandbytes")),
    )


def parse_constraints(text: str) -> dict[str, str]:
    """Pinned versions by name; comments and anything that is no exact pin are left out."""
    pins = {}
    for line in text.splitlines():
        name, pinned, version = line.partition("#")[0].strip().partition("==")
        if pinned:
            pins[name.strip()] = version.strip()
    return pins


def installed_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of those that are installed, by name."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def numbers(version: str) -> tuple[int, ...]:
    """The release part of a version for comparing: "2.13.0+cpu" is (2, 13, 0), "5.16.1rc1" is (5, 16, 1)."""
    release = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in release[0].split(".")] if release else []
    while parts and parts[-1] == 0:  # 2.60 and 2.60.0 are the same
        parts.pop()
    return tuple(parts)


def allows(specifier: str, version: str) -> bool:
    """Whether a requirement's specifier such as ">=5.16.1,<5.20" takes this version; only its release numbers are compared."""
    here = numbers(version)
    checks = {
        "==": lambda there: here == there,
        "!=": lambda there: here != there,
        ">=": lambda there: here >= there,
        "<=": lambda there: here <= there,
        ">": lambda there: here > there,
        "<": lambda there: there > here,
        "~=": lambda there: here >= there,
    }
    return all(checks[sign](numbers(asked)) for sign, asked in _COMPARISON.findall(specifier))


def unmet(requirements: list[str], installed: Mapping[str, str]) -> tuple[tuple[str, str, str], ...]:
    """(package, installed, required) of every installed package that a requirement of onecard refuses."""
    by_name = {name.lower(): (name, version) for name, version in installed.items()}
    refused = []
    for requirement in requirements:
        text = requirement.partition(";")[0].strip()
        name = re.split(r"[\s\[<>=!~]", text, maxsplit=1)[0]
        known = by_name.get(name.lower())
        if known is not None and not allows(specifier := text[len(name) :].strip(), known[1]):
            refused.append((*known, specifier))
    return tuple(dict.fromkeys(refused))


def torch_build(folder: Path | None) -> tuple[str | None, str | None]:
    """(CUDA, ROCm) that torch in this folder was built for, by its version.py; Nones for the CPU build or no torch."""
    if folder is None:
        return None, None
    try:
        tree = ast.parse((folder / "version.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None, None
    said: dict[str, str | None] = {}
    for node in tree.body:
        target = (
            node.targets[0]
            if isinstance(node, ast.Assign)
            else node.target
            if isinstance(node, ast.AnnAssign)
            else None
        )
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
            said[target.id] = value.value if isinstance(value.value, str) else None
    return said.get("cuda"), said.get("hip")


def bitsandbytes_libraries(folder: Path | None) -> tuple[str, ...]:
    """Its card libraries as they are named: cuda128, rocm70."""
    files = sorted(folder.glob("libbitsandbytes_*")) if folder is not None else []
    return tuple(file.name.removeprefix("libbitsandbytes_").partition(".")[0] for file in files)


def _has(name: str) -> bool:
    return bool(installed_versions((name,)))


def _package_folder(name: str) -> Path | None:
    """Where a package lies, without importing it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent if spec is not None and spec.origin else None
