"""May this version go into production? Pure: a verdict, what is in production and a reason in, nothing or an error out.

A verdict that compared a candidate with one version says nothing of it beside another: once production changed, it is old.
"""

from __future__ import annotations

from onecard.adapters.manifest import Verdict
from onecard.errors import GateFailed, InputError


def check_gate(
    address: str, verdict: Verdict | None, force: bool, reason: str | None, production: str | None = None
) -> None:
    """Passes with a passing verdict on what is in production now, or by force with a reason; GateFailed or InputError otherwise.

    `production` is the digest of the version in production, None when there is none.
    """
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
    if why := outdated(verdict, production):
        raise GateFailed(
            f"{address} is not promoted: {why}",
            where=verdict.report,
            next_step="evaluate again, or force it with a reason",
        )


def outdated(verdict: Verdict, production: str | None) -> str | None:
    """Why a verdict does not say how the version compares with what is in production now; None when it does, or never compared.

    `production` is the digest of the version in production, None when there is none. A version is never compared with itself.
    """
    if not compared(verdict):
        return None
    before = verdict.summary["judged_against"]["production"]
    if production in (before, verdict.digest):
        return None
    return f"it was judged against {_short(before)} in production, and now {_short(production)} is there"


def compared(verdict: Verdict) -> bool:
    """Whether the verdict says what was in production when it was given, even if nothing was."""
    against = verdict.summary.get("judged_against")
    return isinstance(against, dict) and "production" in against


def _short(digest: object) -> str:
    return str(digest or "nothing")[:12]


def bound(verdict: Verdict, digest: str, address: str) -> Verdict:
    """The verdict with the version's digest in it; InputError when it was given on another one."""
    if verdict.digest not in ("", digest):
        raise InputError(
            f"the verdict was given on {verdict.digest[:12]}, and {address} is {digest[:12]}",
            next_step="evaluate this version",
        )
    return verdict.model_copy(update={"digest": digest})
