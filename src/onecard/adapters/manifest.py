"""The manifest of one adapter version: what it is, what it was trained on, and the digest of every file.

`training` writes a Manifest, the store completes it with version and digests, `serving` and `engines` trust nothing else.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from onecard.errors import AdapterRefused

SCHEMA = 1


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class BaseModelRecord(Record):
    """The base an adapter belongs to. `fingerprint` is `weights.inventory.fingerprint` of its folder."""

    id: str
    fingerprint: str
    quantization: str
    double_quantization: bool = True
    dtype: str = "bf16"


class AddedToken(Record):
    """A token added to the vocabulary and the row of embedding and head it occupies."""

    token: str
    row: int = Field(ge=0)


class CurvePoint(Record):
    """One line of the training curve. `loss` is the mean over the optimizer step."""

    step: int
    loss: float
    learning_rate: float
    tokens_s: float | None = None


class TrainingRecord(Record):
    """How the run went. Times in seconds, memory in bytes (what it is measured on stands in `memory_kind`)."""

    rows: int
    trained_tokens: int
    steps: int
    seconds: float
    tokens_s: float
    peak_memory_bytes: int
    memory_kind: str = Field(description="cuda-allocated, or process-rss on a CPU")
    planned_peak_bytes: int | None = Field(None, description="what the plan expected of peak_memory_bytes")
    rehearsed_peak_bytes: int | None = Field(None, description="the heaviest step, computed before the run")
    packed: bool = False
    forward_tokens: int = Field(0, description="packed: the most tokens of one forward pass, as the run ended")
    recomputed_layers: int = 0
    validation: tuple[tuple[int, float], ...] = Field((), description="(step, loss) of the rows kept out")
    notes: tuple[str, ...] = Field((), description="what the run changed to go on")
    curve: tuple[CurvePoint, ...]
    hardware: str
    versions: dict[str, str]


class Verdict(Record):
    """One gate verdict, bound to the digests it was given on.

    `digest` is that of the adapter version; the store fills it in on recording and refuses one that differs.
    """

    passed: bool
    digest: str = ""
    at: str
    suite_digest: str
    summary: dict[str, Any]
    report: str | None = None


class OriginRecord(Record):
    """Where a version was before it came into this store, as far as that is known."""

    address: str = Field(
        description="agent/name@version in the store it was exported from; else where it lay, in words"
    )
    digest: str | None = Field(None, description="the version's digest in that store")
    exported_at: str | None = None
    trained_here: bool = Field(
        description="onecard trained it, here or where it comes from; false: it was made elsewhere"
    )
    unknown: tuple[str, ...] = Field((), description="fields of the manifest that only its training would know")
    assumed: tuple[str, ...] = Field((), description="fields taken from the base that whoever imported it named")
    before: str | None = Field(None, description="what its manifest there said of its parent or origin, in words")


class Manifest(Record):
    """What stands in manifest.json. `files` and `digest` are filled by the store on publishing.

    `training` and `data_sha256` are None only for an adapter that was made elsewhere, as `origin` then says.
    """

    schema_version: int = SCHEMA
    agent: str
    name: str
    version: str = ""
    created_at: str = ""
    base: BaseModelRecord
    rank: int
    alpha: float
    targets: tuple[str, ...]
    added_tokens: tuple[AddedToken, ...] = ()
    chat_template_sha256: str
    stop_ids: tuple[int, ...]
    recipe: dict[str, Any]
    data_sha256: str | None = None
    training: TrainingRecord | None = None
    parent: str | None = None
    origin: OriginRecord | None = Field(None, description="None: it was trained into this store")
    files: dict[str, str] = Field(default_factory=dict, description="file name -> sha256 hex of its content")
    digest: str = Field("", description="sha256 over the sorted (file, sha256) lines: the version's identity")

    @property
    def run(self) -> TrainingRecord:
        """The run that made it; AdapterRefused for an adapter that was made elsewhere."""
        if self.training is None:
            raise AdapterRefused(
                f"{self.agent}/{self.name}@{self.version} was not trained here: nothing is known of its run"
            )
        return self.training

    @property
    def trained_here(self) -> bool:
        """False for an adapter that was made elsewhere: nobody here knows its data, its recipe and its run."""
        return self.origin is None or self.origin.trained_here

    @model_validator(mode="after")
    def _says_how_it_was_trained(self) -> Manifest:
        missing = [name for name in ("training", "data_sha256") if getattr(self, name) is None]
        if missing and self.trained_here:
            raise ValueError(f"{' and '.join(missing)} missing, and origin does not say that it was made elsewhere")
        return self
