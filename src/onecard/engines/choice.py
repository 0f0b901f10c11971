"""Which engine answers for a model, and why, in one sentence. Pure: facts in, decision out.

`auto` is what the plan counts on: in-process, unless only vLLM can hold the form, so that the plan is of what runs. It departs from that
only where that engine cannot run here or could not answer as asked, and then says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EngineName = Literal["local", "vllm", "remote"]
ONLY_VLLM = ("awq", "gptq", "fp8")
ONLY_LOCAL = ("int8", "nf4")


@dataclass(frozen=True)
class Wanted:
    """What one model is to do. `added_tokens`: agents whose adapters bring tokens of their own.

    `exported_for` is the address of the adapter whose tokens the model's folder holds, when it is an export for vLLM. `recurrent`: the
    model keeps a state that the in-process engine has no cache for. `scores`: an agent ranks candidates.
    """

    engine: Literal["auto", "local", "vllm", "remote"] = "auto"
    quantization: str = "none"
    kv_cache: str = "auto"
    adapters: int = 0
    added_tokens: tuple[str, ...] = ()
    exported_for: str | None = None
    recurrent: bool = False
    scores: bool = False


@dataclass(frozen=True)
class Here:
    """What is here: a card, the packages of the in-process engine, a vLLM."""

    card: bool
    local: bool
    vllm: bool


@dataclass(frozen=True)
class Choice:
    """`reason` is a sentence without a full stop. `missing` says what has to be installed before the engine can run."""

    engine: EngineName
    reason: str
    missing: str | None = None

    def __str__(self) -> str:
        return f"engine {self.engine}: {self.reason}"


LOCAL_MISSING = "pip install 'onecard[local]'"
VLLM_MISSING = "pip install vllm, or name an interpreter that has it in ONECARD_VLLM_PYTHON"


def choose_engine(wanted: Wanted, here: Here) -> Choice:
    """The engine for a model; never one that would answer otherwise than asked."""
    if wanted.engine == "remote":
        return Choice("remote", "the fleet names a server")
    if wanted.engine != "auto":
        return _with_missing(wanted.engine, "the fleet says so", here)
    if why := _needs_vllm(wanted):
        return _with_missing("vllm", why, here)
    if why := _needs_local(wanted):
        return _with_missing("local", why, here)
    if not here.card:
        if here.local or not here.vllm:
            return _with_missing(
                "local", "there is no card, and on a CPU the in-process engine is the faster one", here
            )
        return Choice("vllm", "the packages of the in-process engine are not installed, and vLLM is")
    if here.local or not here.vllm:
        beside = "; vLLM is installed too: engine: vllm, and plan again" if here.vllm and here.local else ""
        return _with_missing("local", f"it is what the plan counts on{beside}", here)
    return Choice("vllm", "the packages of the in-process engine are not installed, and vLLM is")


def _needs_vllm(wanted: Wanted) -> str | None:
    if wanted.exported_for is not None:
        return f"the model is the export of {wanted.exported_for} for vLLM"
    if wanted.quantization in ONLY_VLLM:
        return f"only vLLM holds {wanted.quantization}"
    if wanted.kv_cache == "fp8":
        return "only vLLM holds keys and values in fp8"
    return "the model keeps a recurrent state, which only vLLM holds" if wanted.recurrent else None


def _needs_local(wanted: Wanted) -> str | None:
    if wanted.added_tokens:
        who = ", ".join(wanted.added_tokens)
        return f"the adapter of {who} adds tokens, which vLLM serves only from an exported base"
    if wanted.quantization in ONLY_LOCAL:
        return f"vLLM does not hold {wanted.quantization}"
    return "candidates are scored against one prompt, which it computes once" if wanted.scores else None


def _with_missing(engine: EngineName, reason: str, here: Here) -> Choice:
    there = {"local": here.local, "vllm": here.vllm}.get(engine, True)
    return Choice(engine, reason, None if there else {"local": LOCAL_MISSING, "vllm": VLLM_MISSING}[engine])
