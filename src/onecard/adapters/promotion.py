"""May this version go into production? Pure: a verdict, its digest and a reason in, nothing or an error out."""

from __future__ import annotations

from onecard.adapters.manifest import Verdict
from onecard.errors import GateFailed, InputError


def check_gate(address: str, verdict: Verdict | None, force: bool, reason: str | None) -> None:
    """Passes with a passing verdict, or by force with a reason; GateFailed or InputError otherwise."""
    if force:
        if not (reason and reason.strip()):
            raise InputError("a forced promotion needs a reason, which goes into the log", next_step="say why")
        return
    if verdict is None:
        raise GateFailed(
            f"{address} has not been evaluated", next_step="run `onecard evaluate`, or force it with a reason"
        )
    if not verdict.passed:
        raise GateFailed(
            f"{address} did not pass its suite at {verdict.at}",
            where=verdict.report,
            next_step="train it again, or force it with a reason",
        )


def bound(verdict: Verdict, digest: str, address: str) -> Verdict:
    """The verdict with the version's digest in it; InputError when it was given on another one."""
    if verdict.digest not in ("", digest):
        raise InputError(
            f"the verdict was given on {verdict.digest[:12]}, and {address} is {digest[:12]}",
            next_step="evaluate this version",
        )
    return verdict.model_copy(update={"digest": digest})
