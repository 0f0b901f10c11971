"""The parts of a calibration: the machine, and one record for every kind of figure that is measured on it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from onecard.evidence.results import Record

Form = Literal["none", "int8", "nf4"]


class Figure(Record):
    """Median and quartiles of `repeats` measurements, in the unit its owner's name says."""

    median: float = Field(gt=0)
    low: float = Field(gt=0, description="First quartile.")
    high: float = Field(gt=0, description="Third quartile.")
    repeats: int = Field(ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> Figure:
        if not self.low <= self.median <= self.high:
            raise ValueError("low, median and high must not run backwards")
        return self


class CalibratedCard(Record):
    """The card as torch names it; a CPU is the card `cpu`, whose bytes are those of the machine's memory."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="The catalog's id, or one made from the name.")
    name: str
    kind: Literal["cuda", "cpu"]
    driver: str | None = None
    compute_capability: str | None = None
    total_bytes: int = Field(gt=0)
    l2_bytes: int | None = Field(None, gt=0, description="Its last cache; what is timed is larger.")
    others_bytes: int | None = Field(None, ge=0, description="What other processes held of it while it was measured.")


class CalibratedHost(Record):
    """The machine around the card. `busy_percent` is what others used of the processor just before."""

    cpu: str
    cores: int = Field(ge=1)
    threads: int = Field(ge=1, description="Threads torch used for large operators on the CPU.")
    ram_bytes: int = Field(gt=0)
    system: str
    load_1min: float | None = Field(None, ge=0)
    busy_percent: float | None = Field(None, ge=0)


class Context(Record):
    """Bytes a process takes beyond torch's allocations: of the card, or of the machine's memory when the card is the CPU.

    `bare_bytes` before the first operator, `serving_bytes` after decoding in every form, `training_bytes` after a training step.
    """

    bare_bytes: int = Field(gt=0)
    serving_bytes: int | None = Field(None, gt=0)
    training_bytes: int | None = Field(None, gt=0)


class Gemm(Record):
    """One bf16 product [tokens, inputs] x [inputs, outputs]."""

    tokens: int = Field(ge=1)
    inputs: int = Field(ge=1)
    outputs: int = Field(ge=1)
    tflops: Figure


class LinearTime(Record):
    """One Linear on bf16 activations. `us` is the device's own time; `called_us` from call to call, launches and waiting included.

    `outlier_columns` of the activations are large enough for int8 to compute them in 16 bits.
    """

    form: Form
    tokens: int = Field(ge=1)
    inputs: int = Field(ge=1)
    outputs: int = Field(ge=1)
    outlier_columns: int = Field(0, ge=0)
    us: Figure
    called_us: Figure
    by: Literal["events", "profiler", "clock"] = Field(description="What told the device's time.")


class PickTime(Record):
    """Choosing one token from one line's logits, greedily or by sampling."""

    vocabulary: int = Field(ge=1)
    sampled: bool
    us: Figure


class SmallModel(Record):
    """The random Llama that `steps` and `training_steps` ran: so small that launching it takes the time, not computing it."""

    hidden_size: int = Field(ge=1)
    vocabulary: int = Field(ge=1)
    linears_per_layer: int = Field(7, ge=1, description="Linears of a layer; each adapter is on all of them.")
    rank: int = Field(ge=1)


class StepTime(Record):
    """One token for every line. `adapters` is how many different ones the lines have; 0 is the bare base.

    On a CPU, here and in training steps, the time that the thread itself ran: what others took of its core is not in it.
    """

    form: Form
    layers: int = Field(ge=1)
    lines: int = Field(ge=1)
    adapters: int = Field(ge=0)
    us: Figure


class TrainingStep(Record):
    """Forward and backward of one row of `tokens`, with a LoRA on every Linear."""

    form: Form
    layers: int = Field(ge=1)
    checkpointing: bool
    tokens: int = Field(ge=1)
    us: Figure


class Absent(Record):
    """A part that could not be measured."""

    part: str
    reason: str
