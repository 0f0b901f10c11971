"""/admin/adapters: which versions there are, which are in memory, and the requests that change it. Unknown fields are refused."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from onecard.wire.chat import Answered


class AdminRequest(BaseModel):
    """`agent` as in the fleet file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agent: str = Field(min_length=1)


class PromoteRequest(AdminRequest):
    """`force` promotes without a passing verdict and needs a reason, which the store's log keeps."""

    version: str = Field("candidate", min_length=1, description="v0001, or an alias.")
    reason: str | None = Field(None, min_length=1, max_length=1000)
    force: bool = False


class RollbackRequest(AdminRequest):
    reason: str | None = Field(None, min_length=1, max_length=1000)


class LoadRequest(AdminRequest):
    """Also what takes a version out again."""

    version: str = Field(min_length=1, description="v0001, or an alias when it is loaded.")


class AdapterRow(Answered):
    """One version in the store. `bytes` are those in memory, `requests` those accepted for it and not over."""

    agent: str
    adapter: str = Field(description="name@version")
    digest: str
    aliases: tuple[str, ...] = ()
    residency: Literal["answers", "beside", "leaving", "stored"]
    bytes: int = 0
    requests: int = 0


class AdapterRows(Answered):
    object: Literal["list"] = "list"
    data: tuple[AdapterRow, ...]


class ChangeAnswer(Answered):
    """What answers now; `leaving` are digests whose memory is freed when the requests accepted for them are over."""

    agent: str
    before: str | None = None
    now: str | None = None
    digest: str | None = None
    leaving: tuple[str, ...] = ()
    adapter_bytes: int = Field(0, description="What all adapters in memory hold at this moment.")
