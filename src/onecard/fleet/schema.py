"""The fleet file as pydantic models: one YAML file describes a whole deployment.

Unknown keys are refused everywhere. Every key states its unit and effect in its description; `onecard schema` prints them
as a JSON schema for editors. Nothing here reads a file, a GPU or a clock: see `loader.py` for reading.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from onecard.errors import nearest
from onecard.fleet.recipe import Recipe

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Quantization = Literal["none", "int8", "nf4", "awq", "gptq", "fp8"]


class Strict(BaseModel):
    """A frozen record that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class CustomCard(Strict):
    """A card that is not in the catalog, described by its figures."""

    vram_gib: float = Field(gt=0, le=1024, description="Memory a process can use, GiB.")
    bandwidth_gbs: float = Field(gt=0, le=100_000, description="Memory bandwidth, 10^9 bytes per second.")
    bf16_tflops: float | None = Field(
        None, gt=0, description="Dense bf16 matrix rate, TFLOP/s; left out: no prefill prediction."
    )
    usd_per_hour: float | None = Field(None, ge=0, description="What an hour of it costs, US dollars.")
    name: str = Field("custom", description="Shown in tables.")


class ModelSpec(Strict):
    """One model that is resident on the card, loaded once."""

    id: str = Field(min_length=1, description="Hub id (org/name), a local folder, or embedded:mini.")
    quantization: Quantization = Field("none", description="How the weights are held in memory.")
    double_quantization: bool = Field(
        True, description="nf4 only: also quantize the block scales (saves 0.05 byte a parameter)."
    )
    context: int = Field(4096, ge=16, le=10_000_000, description="Longest prompt plus answer, tokens.")
    concurrency: int = Field(1, ge=1, le=4096, description="Callers answered at once.")
    engine: Literal["auto", "local", "vllm", "remote"] = Field("auto", description="What answers.")
    kv_cache: Literal["auto", "fp8"] = Field(
        "auto", description="How keys and values are held: auto is 16 bits; fp8 is half of that and needs engine: vllm."
    )
    url: str | None = Field(None, description="engine: remote only: base URL of an OpenAI-compatible server.")

    @model_validator(mode="after")
    def _remote_has_url(self) -> ModelSpec:
        if (self.engine == "remote") != (self.url is not None):
            raise ValueError("url goes with engine: remote, and engine: remote needs a url")
        return self


class Deadline(Strict):
    """A promise: this percentile of requests of this shape is answered within so many seconds."""

    seconds: float = Field(gt=0, description="From the moment the request was meant to start to its last token.")
    prompt_tokens: int = Field(ge=1, description="Length of a typical prompt, tokens.")
    new_tokens: int = Field(ge=1, description="Length of a typical answer, tokens.")
    percentile: float = Field(95, gt=0, lt=100, description="Share of requests, percent, that must make it.")


class Preset(Strict):
    """Generation settings by name; a style is a preset with a token."""

    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Nucleus sampling: the smallest set of tokens with this probability."
    )
    max_new_tokens: int = Field(128, ge=1, description="Answers are cut after so many tokens.")
    token: str | None = Field(None, description="An added token put before the prompt, such as <STYLE_TERSE>.")


Rival = Literal["production", "base"]
Margin = Annotated[float, Field(ge=0, le=100)]
Measure = Literal["overlap", "exact", "accuracy", "perplexity"]


class Check(Strict):
    """One demand of a suite on the answers given under one preset. Counts are the base tokenizer's tokens."""

    preset: str = Field("default", description="The preset the answers are generated with.")
    max_tokens: int | None = Field(None, ge=1, description="An answer must end by itself with at most so many tokens.")
    min_tokens: int | None = Field(None, ge=1, description="An answer must have at least so many tokens.")
    share: float = Field(0.95, gt=0, le=1, description="Share of answers that must keep the token limits.")
    overlap: float | None = Field(
        None, ge=0, le=1, description="Lowest mean F1 of words shared with the reference answer."
    )
    repetition: float | None = Field(
        None, ge=0, le=1, description="Highest share of repeated 4-word sequences in any answer."
    )
    ends_with: str | None = Field(None, description="Text the answers must end with, such as '?'; `share` applies.")
    exact: float | None = Field(
        None, ge=0, le=1,
        description="Lowest share of answers equal to the reference or to one of the row's `accepted` answers, "
        "case, punctuation and articles aside.",
    )  # fmt: skip
    choice: float | None = Field(
        None, ge=0, le=1, description="Lowest share of answers that name the row's best candidate and no other."
    )
    valid_json: bool = Field(False, description="Answers must be one JSON value and nothing else; `share` applies.")
    matches: str | None = Field(
        None, min_length=1, description="Regular expression (Python's) the whole answer must match; `share` applies."
    )
    accuracy: float | None = Field(
        None, ge=0, le=1, description="Lowest share of rows whose best candidate the model finds the most likely."
    )
    mrr: float | None = Field(
        None, ge=0, le=1, description="Lowest mean of 1 / rank of the best candidate, ranked by likelihood."
    )
    perplexity: float | None = Field(
        None, ge=1, description="Highest perplexity per token of the reference answers, every row weighing the same."
    )
    in_time: bool = Field(
        False, description="The deadline's percentile of answers must come within its seconds: alone, and at full load."
    )
    no_worse_than: dict[Rival, Margin] = Field(
        default_factory=dict,
        description="By how much each figure of this check may at most lie below that of production or base: "
        "shares as 0.02 for 2 points, perplexity in nats per token. Decided by a paired 95% interval.",
    )
    better_than: Rival | None = Field(
        None, description="Whose figures each figure of this check must exceed, by a paired 95% interval."
    )

    @field_validator("matches")
    @classmethod
    def _matches_is_an_expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"'{value}' is not a regular expression: {error}") from None
        return value


class Regression(Strict):
    """Another task that the candidate must not unlearn: another agent's held-out rows, or a file of rows."""

    agent: str | None = Field(None, description="Whose suite's rows are asked, under that agent's presets.")
    data: str | None = Field(None, description="JSONL of rows, relative to the fleet file; instead of `agent`.")
    measure: Measure = Field("overlap", description="What an answer is worth, as in a check of that name.")
    rows: int = Field(100, ge=1, description="At most so many rows per preset are asked.")
    no_worse_than: dict[Rival, Margin] = Field(
        default={"base": 0.05, "production": 0.05}, min_length=1, description="As in a check."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Regression:
        if (self.agent is None) == (self.data is None):
            raise ValueError("a regression names either an agent or data")
        return self


class LmEval(Strict):
    """Tasks of EleutherAI's lm-evaluation-harness, asked of the candidate and its rivals."""

    tasks: tuple[str, ...] = Field(min_length=1, description="Names of tasks, of the harness or of `include`.")
    include: str | None = Field(None, description="Folder of task files (YAML), relative to the fleet file.")
    limit: int | None = Field(None, ge=1, description="At most so many rows of each task.")
    metric: str | None = Field(None, description="Which metric is judged.  Default: the task's first.")
    at_least: float = Field(0, ge=0, le=1, description="Lowest mean of the metric.")
    no_worse_than: dict[Rival, Margin] = Field(default_factory=dict, description="As in a check.")


class Suite(Strict):
    """What a candidate adapter has to show before it may answer users: held-out rows and demands on the answers."""

    data: str = Field(description="JSONL of held-out rows (prompt, completion[, preset]), relative to the fleet file.")
    rows: int = Field(100, ge=1, description="At most so many rows per preset are asked.")
    checks: tuple[Check, ...] = Field(min_length=1)
    regressions: tuple[Regression, ...] = Field((), description="Other tasks that must not suffer.")
    lm_eval: LmEval | None = Field(None, description="Tasks of lm-evaluation-harness, which must be installed.")


class AgentSpec(Strict):
    """A job for a language model: which model, which adapter, how it is trained, judged and asked."""

    model: str = Field(description="A key under `models`.")
    task: Literal["generate", "rerank"] = Field("generate", description="What it does with a request.")
    input: Literal["text", "image"] = Field("text", description="What it is given.")
    adapter: str | None = Field(
        None, description="<name>@<version or alias> in the store under this agent; none: the bare base."
    )
    fallback: tuple[str, ...] = Field(
        (), description="Models that answer when the first cannot; which one did is always visible."
    )
    recipe: Recipe | None = Field(
        None, description="How its adapter is trained: a file, a shipped recipe's name, or inline."
    )
    data: str | None = Field(
        None,
        description="Training rows: a file (JSONL, JSON, CSV, parquet) or a saved data set's folder, relative to the fleet file, or a "
        "data set of the hub as hub:owner/name[:split]; overrides the recipe's.",
    )
    suite: Suite | None = Field(None, description="The gate its candidates must pass.")
    deadline: Deadline | None = None
    presets: dict[str, Preset] = Field(default_factory=lambda: {"default": Preset()}, min_length=1)

    @field_validator("adapter")
    @classmethod
    def _adapter_names_a_version(cls, value: str | None) -> str | None:
        if value is not None:
            name, separator, version = value.partition("@")
            if not (separator and name and version):
                raise ValueError(f"'{value}' is not <name>@<version or alias>, such as synth@production or synth@v0003")
        return value

    @property
    def adapter_name(self) -> str | None:
        """The adapter's name in the store, without version or alias."""
        return self.adapter.partition("@")[0] if self.adapter else None


class Fleet(Strict):
    """A deployment: one card, the models resident on it, and the agents they answer for."""

    name: Name
    card: str | CustomCard = Field(
        description="A GPU of the catalog, `auto` for the one in this machine, or its figures."
    )
    reserve_gib: float = Field(0.5, ge=0, description="Left for the desktop, the driver and others, GiB.")
    store: str = Field("./modelstore", description="Where adapters live, relative to the fleet file.")
    models: dict[Name, ModelSpec] = Field(min_length=1)
    agents: dict[Name, AgentSpec] = Field(min_length=1)

    @field_validator("agents")
    @classmethod
    def _base_is_not_an_agent(cls, value: dict[str, AgentSpec]) -> dict[str, AgentSpec]:
        if "base" in value:
            raise ValueError("'base' is the bare model's name in the service and cannot name an agent")
        return value

    @model_validator(mode="after")
    def _agents_name_known_models(self) -> Fleet:
        for agent, spec in self.agents.items():
            _known("model", spec.model, self.models, ("agents", agent, "model"))
            for number, key in enumerate(spec.fallback):
                _known("model", key, self.models, ("agents", agent, "fallback", number))
            for number, check in enumerate(spec.suite.checks if spec.suite else ()):
                _known("preset", check.preset, spec.presets, ("agents", agent, "suite", "checks", number, "preset"))
            for number, other in enumerate(spec.suite.regressions if spec.suite else ()):
                if other.agent is not None:
                    path = ("agents", agent, "suite", "regressions", number, "agent")
                    _known("agent with a suite", other.agent, [n for n, s in self.agents.items() if s.suite], path)
        return self


def _known(what: str, name: str, known: Collection[str], path: tuple[str | int, ...]) -> None:
    """Refuses a name that nothing in the file defines; `path` is where it stands, for the loader's message."""
    if name not in known:
        problem = f"no {what} '{name}'{nearest(name, list(known))}, known: {', '.join(sorted(known))}"
        raise PydanticCustomError("unknown_name", "{problem}", {"problem": problem, "path": path})


def fleet_json_schema() -> dict[str, Any]:
    """The JSON schema of the fleet file, for editors."""
    return Fleet.model_json_schema()
