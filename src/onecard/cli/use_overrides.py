"""`models.local.yaml`: what this machine wants otherwise for single models, beside the fleet file and not shared with it.

It maps a model's id to quantization, context, concurrency and environment variables, and wins over fleet and catalog. The variables
are those of models, cards and their libraries: a file that came with somebody's repository cannot set PATH or LD_PRELOAD.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, RootModel, field_validator

from onecard.cli.use_exports import PLANNED
from onecard.errors import FleetError, nearest
from onecard.fleet.document import read_document, validate
from onecard.fleet.schema import Quantization, Strict
from onecard.weights.active import VARIABLE, check_text

NAME = "models.local.yaml"
PREFIXES = (
    "VLLM_", "HF_", "HUGGING_FACE_", "TRANSFORMERS_", "TOKENIZERS_", "TORCH_", "PYTORCH_", "TORCHINDUCTOR_", "TRITON_", "CUDA_", "NVIDIA_",
    "NCCL_", "HIP_", "ROCR_", "ROCM_", "HSA_", "RCCL_", "OMP_", "MKL_", "OPENBLAS_", "BNB_", "RAY_", "ONECARD_",
)  # fmt: skip
# Variables of these prefixes that name files, hosts or secrets: libraries run code from such files, and send tokens to such hosts.
REFUSED = re.compile(
    r"_(PATH|DIR|ROOT|HOME|LIB|LIBS|LIBRARY|LIBRARIES|FILE|PLUGINS?|ENDPOINT|TOKEN|KEY|URL|MODULE|TOOLS?)(_|$)|INJECTION"
)


class Override(Strict):
    """What one model gets on this machine; what is left out stays as the fleet or the catalog says."""

    quantization: Quantization | None = Field(None, description="How the weights are held in memory.")
    context: int | None = Field(None, ge=16, le=10_000_000, description="Longest prompt plus answer, tokens.")
    concurrency: int | None = Field(None, ge=1, le=4096, description="Callers answered at once.")
    env: dict[str, str | int | float | bool] = Field(default_factory=dict, description="Variables exported with it.")

    @field_validator("env", mode="after")
    @classmethod
    def _about_models(cls, value: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        for name, content in value.items():
            if not re.fullmatch(VARIABLE, name):
                raise ValueError(f"a variable cannot be called {name!a}")
            if name in PLANNED:
                raise ValueError(f"the variable {name} follows from the plan: give quantization or context instead")
            if not name.startswith(PREFIXES):
                raise ValueError(
                    f"the variable {name} is none of models or cards; those begin with {', '.join(PREFIXES)}"
                )
            if REFUSED.search(name):
                raise ValueError(
                    f"the variable {name} names a file, a host or a secret, which belongs in .env or your shell"
                )
            check_text(str(content))
        return value

    @property
    def variables(self) -> dict[str, str]:
        """The variables as a shell holds them; true and false are 1 and 0, as the libraries read them."""
        return {name: str(int(v)) if isinstance(v, bool) else str(v) for name, v in self.env.items()}

    @property
    def wishes(self) -> dict[str, object]:
        """What is set of quantization, context and concurrency."""
        return self.model_dump(exclude_none=True, exclude={"env"})


class _File(RootModel[dict[str, Override]]):
    pass


@dataclass(frozen=True)
class Overrides:
    """The whole file. `file` is where it lies or would lie."""

    file: Path
    models: Mapping[str, Override] = field(default_factory=dict)

    def of(self, *ids: str) -> Override | None:
        """What is said of a model by any of the ids it goes by; case does not matter, as it does not to the hub."""
        asked = {name.lower() for name in ids}
        return next((override for name, override in self.models.items() if name.lower() in asked), None)

    @property
    def variables(self) -> frozenset[str]:
        """Every variable that any model of the file sets."""
        return frozenset(name for override in self.models.values() for name in override.env)


def read_overrides(folder: Path) -> Overrides:
    """The overrides of a folder; none without a file. FleetError with line and key for a fault, unknown keys with the nearest known."""
    file = folder / NAME
    with suppress(OSError):  # one that is there and cannot be read is told of by the reader below
        if not file.exists() or not file.read_bytes().strip():
            return Overrides(file)
    document = read_document(file)
    models: dict[str, Override] = {}
    for model_id, value in document.value.items():
        if not isinstance(value, dict):
            keys = ", ".join(Override.model_fields)
            raise FleetError("a model maps to keys and values", where=document.place((model_id,)), allowed=keys)
        known = list(Override.model_fields)
        unknown = next((key for key in value if key not in known), None)
        if unknown is not None:
            raise FleetError(
                f"unknown key '{unknown}'{nearest(unknown, known)}",
                where=document.place((model_id, unknown)),
                allowed=", ".join(known),
            )
        if model_id.lower() in (name.lower() for name in models):
            raise FleetError(f"'{model_id}' is given twice", where=document.place((model_id,)))
        models[model_id] = Override()
    return Overrides(file, validate(document, _File).root)
