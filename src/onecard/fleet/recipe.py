"""A recipe: how one adapter is trained. The same object is priced by the planner and run by training.

Every key says in its description what it costs or changes. A recipe is written in a file, named from the shipped ones
(`onecard/fleet/recipes/*.yaml`), or written inline in the fleet file.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

HUB = "hub:"  # before the name of a data set that is not a file here
TOKEN_PATTERN = r"^<[A-Za-z][A-Za-z0-9_]{0,62}>$"


class Section(BaseModel):
    """A frozen part of a recipe that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraSection(Section):
    """The adapter's shape."""

    rank: int = Field(16, ge=1, le=512, description="Columns of A, rows of B: memory and capacity grow with it.")
    alpha: float = Field(32, gt=0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.05, ge=0, lt=1, description="Share of the adapter's inputs dropped while training.")
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="Module names that get an adapter; all-linear follows the base's architecture."
    )


class BatchSection(Section):
    """How many rows are seen before a step: `rows` x `accumulate` of them, however they are laid into forward passes."""

    rows: int = Field(1, ge=1, description="Rows a forward pass sees when rows are not packed.")
    accumulate: int = Field(16, ge=1, description="Forward passes before one optimizer step when rows are not packed.")
    packing: bool = Field(
        True, description="Lay a step's rows end to end without padding; rows never see one another. Same sums, faster."
    )
    forward_tokens: int = Field(
        4096,
        ge=16,
        description="Most tokens of one packed forward pass: activations grow with it. A longer row is alone.",
    )

    @property
    def step_rows(self) -> int:
        """Rows of one optimizer step."""
        return self.rows * self.accumulate


class OptimizerSection(Section):
    """How the weights are moved."""

    name: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "adamw_8bit", description="8-bit holds 2 bytes of state a trained parameter, torch holds 8."
    )
    learning_rate: float = Field(2e-4, gt=0, le=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="Share of the steps that warm up.")
    warmup_steps: int | None = Field(None, ge=0, description="Steps that warm up; overrides the ratio.")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)


class CheckpointSection(Section):
    """What survives a crash."""

    every_steps: int = Field(500, ge=1, description="Steps between two checkpoints.")
    every_minutes: float = Field(10, gt=0, description="A checkpoint is also written after so many minutes.")
    keep: int = Field(2, ge=1, description="The newest are kept.")


class ValidationSection(Section):
    """Rows kept out of training, whose loss is measured on the way."""

    share: float = Field(0.0, ge=0, lt=1, description="Share of the rows that is not trained on; 0: none is kept out.")
    every_steps: int = Field(50, ge=1, description="Steps between two measurements; the last step is always measured.")


class DpoSection(Section):
    """Direct preference optimization (Rafailov et al. 2023): chosen answers over rejected ones, held near the base."""

    beta: float = Field(0.1, gt=0, description="How strongly the adapter is held to what the base says.")


class DataChecksSection(Section):
    """What `data check`, and every run before it starts, lets pass."""

    duplicates: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest share of rows that repeat another row word for word; fewer are a warning.",
    )
    leaks: int = Field(
        0,
        ge=0,
        description="Most rows whose prompt, or answer of eight words or more, also stands in the suite's held-out rows.",
    )


class Recipe(Section):
    """Everything that decides what an adapter becomes, apart from the base and the data."""

    name: str = Field("inline", description="Shown in manifests and reports.")
    base_quantization: Literal["nf4", "int8", "none"] = Field(
        "nf4", description="How the frozen base is held: nf4 is QLoRA."
    )
    double_quantization: bool = Field(True, description="nf4 only; must equal the serving model's.")
    compute_dtype: Literal["bf16", "fp16", "fp32"] = Field(
        "bf16", description="Activations and matrix products; fp16 (loss scaled) is for cards without bf16."
    )
    method: Literal["sft", "dpo"] = Field("sft", description="Learn answers, or prefer one answer to another.")
    dpo: DpoSection = DpoSection()
    lora: LoraSection = LoraSection()
    added_tokens: tuple[Annotated[str, Field(pattern=TOKEN_PATTERN)], ...] = Field(
        (), description="Special tokens added to the vocabulary."
    )
    token_training: Literal["rows", "whole"] = Field(
        "rows",
        description="rows: only the added tokens' rows of embedding and head (kilobytes); whole: both matrices (gigabytes), "
        "which `plan` prices and `train` refuses, for neither store nor engine takes them.",
    )
    chat_template: bool = Field(
        True, description="Prompts are wrapped by the base's own chat template, as serving does."
    )
    batch: BatchSection = BatchSection()
    optimizer: OptimizerSection = OptimizerSection()
    epochs: float = Field(1.0, gt=0, description="Passes over the data; ignored when max_steps is set.")
    max_steps: int | None = Field(None, ge=1)
    max_length: int = Field(
        1024, ge=16, description="Longest row, tokens; longer rows are an error, never cut silently."
    )
    gradient_checkpointing: Literal["auto"] | bool | Annotated[int, Field(ge=0)] = Field(
        True,
        description="Recompute activations backward, less memory and about 30% slower: true all layers, false none, a number "
        "the first so many, auto as many as the card's memory asks for.",
    )
    validation: ValidationSection = ValidationSection()
    data_checks: DataChecksSection = DataChecksSection()
    checkpoints: CheckpointSection = CheckpointSection()
    seed: int = 17
    data: str | None = Field(
        None,
        description="Training rows: a file (JSONL, JSON, CSV, parquet) or a saved data set's folder, relative to the recipe, or a "
        "data set of the hub as hub:owner/name[:split]; an agent's `data` overrides it.",
    )

    @model_validator(mode="after")
    def _tokens_are_distinct(self) -> Recipe:
        if len(set(self.added_tokens)) != len(self.added_tokens):
            raise ValueError("added_tokens has a token twice")
        return self
