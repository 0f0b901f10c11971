"""Findings about what is installed: torch and bitsandbytes built for the card, and versions against the pins known to work together."""

from __future__ import annotations

from collections.abc import Iterator

from onecard.cli.doctor_packages import LOCAL, numbers
from onecard.cli.doctor_records import Facts, Finding, Packages

NEWEST_PYTHON = (3, 14)


def torch_build(facts: Facts) -> Iterator[Finding]:
    """Whether torch was built for the card."""
    gpu, packages = facts.machine.gpu, facts.packages
    version = packages.installed.get("torch")
    if version is None:
        return
    built = f"CUDA {packages.cuda}" if packages.cuda else f"ROCm {packages.rocm}" if packages.rocm else "the CPU"
    pin = packages.pins.get("torch", version)
    if gpu is None:
        yield Finding("ok", "torch", f"torch {version} for {built}")
    elif gpu.vendor == "nvidia" and packages.cuda is None:
        yield Finding(
            "problem", "torch", f"torch {version} was built for {built}, and the card is an {gpu.name}",
            "torch would not use the card at all, and answers would take minutes",
            f"pip install --force-reinstall --no-deps torch=={pin} && pip install torch=={pin}",
        )  # fmt: skip
    elif gpu.vendor == "amd" and packages.rocm is None:
        yield Finding(
            "problem", "torch", f"torch {version} was built for {built}, and the card is an {gpu.name}",
            f"an AMD card needs the ROCm build of torch {pin}; PyTorch's page names the line for each ROCm",
            "python -m webbrowser https://pytorch.org/get-started/locally",
        )  # fmt: skip
    else:
        yield Finding("ok", "torch", f"torch {version} for {built}")


def bitsandbytes(facts: Facts) -> Iterator[Finding]:
    """Whether bitsandbytes has a library for torch's CUDA or ROCm: it takes one of the same major version, or the one it is told."""
    packages, variables = facts.packages, facts.machine.environment
    version = packages.installed.get("bitsandbytes")
    if version is None or facts.machine.gpu is None or not (packages.cuda or packages.rocm):
        return
    kind, built = ("cuda", packages.cuda) if packages.cuda else ("rocm", packages.rocm)
    there = [name.removeprefix(kind) for name in packages.bitsandbytes_libraries if name.startswith(kind)]
    variable = f"BNB_{kind.upper()}_VERSION"
    if (told := variables.get(variable)) is not None:
        if told not in there:
            yield Finding(
                "problem", "bitsandbytes", f"{variable}={told}, and bitsandbytes {version} has no library for it",
                f"int8 and nf4 will not load; it has {', '.join(there) or 'none'}", f"unset {variable}",
            )  # fmt: skip
        return
    major = numbers(built or "")[:1]
    if any(_major(name, kind) == major for name in there):
        yield Finding("ok", "bitsandbytes", f"bitsandbytes {version} has a library for {kind.upper()} {built}")
        return
    yield Finding(
        "problem", "bitsandbytes", f"bitsandbytes {version} has no library for {kind.upper()} {built}",
        f"int8 and nf4 will not load; it has {', '.join(there) or 'none'}",
        f"pip install --force-reinstall --no-deps bitsandbytes=={packages.pins.get('bitsandbytes', version)}",
    )  # fmt: skip


def _major(digits: str, kind: str) -> tuple[int, ...]:
    """cuda128 is 12.8; rocm71 is 7.1 and rocm714 7.14."""
    return (int(digits[:2]) if kind == "cuda" else int(digits[:1]),) if digits.isdigit() else ()


def versions(facts: Facts) -> Iterator[Finding]:
    """Installed against pinned: what onecard refuses, what is missing beside torch, what is only older or newer."""
    packages = facts.packages
    python = numbers(packages.python)[:2]
    if python > NEWEST_PYTHON:
        yield Finding(
            "warning", "versions", f"Python {packages.python} is newer than the pinned libraries",
            "they are known to work together on Python 3.11", "python3.11 -m venv .venv",
        )  # fmt: skip
    refused = {name for name, _, _ in packages.unmet}
    if packages.unmet:
        said = ", ".join(f"{name} {version} (onecard needs {wanted})" for name, version, wanted in packages.unmet)
        yield Finding("problem", "versions", said, "this onecard was not made for them", install(packages, refused))
    missing = [name for name in LOCAL if name in packages.pins and name not in packages.installed]
    wanted = facts.fleet is not None and bool(facts.fleet.models)
    if missing and "torch" in missing:
        said = "torch and what goes with it are not installed"
        yield (
            _missing(wanted, said, packages, missing) if wanted else Finding("ok", "versions", f"plain install: {said}")
        )
    elif missing:
        yield _missing(wanted, f"{', '.join(missing)}: not installed", packages, missing)
    other = [
        name
        for name, version in packages.installed.items()
        if name in packages.pins and name not in refused and numbers(packages.pins[name]) != numbers(version)
    ]
    if other:
        said = ", ".join(f"{name} {packages.installed[name]} ({_than(packages, name)})" for name in other)
        yield Finding(
            "warning", "versions", said, "the pinned versions are known to work together; others may too",
            install(packages, set(other)),
        )  # fmt: skip
    elif not packages.unmet and not missing:
        yield Finding("ok", "versions", f"{len(packages.installed)} packages as pinned")


def _missing(wanted: bool, said: str, packages: Packages, missing: list[str]) -> Finding:
    why = "the fleet's models are loaded in this environment" if wanted else "training and serving need them"
    return Finding("problem" if wanted else "warning", "versions", said, why, install(packages, set(missing)))


def _than(packages: Packages, name: str) -> str:
    pinned, here = packages.pins[name], packages.installed[name]
    return f"{'older' if numbers(here) < numbers(pinned) else 'newer'} than {pinned}"


def install(packages: Packages, names: set[str]) -> str:
    """The line that installs the pinned versions; torch by itself first, or pip may take another build with it."""
    rest = sorted(names - {"torch"}, key=list(packages.pins).index)
    lines = [f"pip install torch=={packages.pins['torch']}"] if "torch" in names else []
    lines += ["pip install " + " ".join(f"'{name}=={packages.pins[name]}'" for name in rest)] if rest else []
    return " && ".join(lines)
