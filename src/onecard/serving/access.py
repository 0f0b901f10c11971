"""Who may do what: a key in `authorization: Bearer ...` on every route but /ready, and the scope that the route demands.

Without keys everybody on this machine may do everything: the service then listens on loopback only. A page in somebody's browser is not
on this machine: administration without keys answers loopback names alone, which no foreign page can send.
"""

from __future__ import annotations

import ipaddress

from starlette.exceptions import HTTPException
from starlette.requests import Request

from onecard.serving.keys import Key, KeyRing
from onecard.serving.observing import observation

OPEN = frozenset(
    {"/ready", "/"}
)  # a load balancer has no key, and learns one bit; the page is where a person types theirs


class Access:
    """Decides with the service's keys, or without any (`keys` None)."""

    def __init__(self, keys: KeyRing | None) -> None:
        self._keys = keys

    def check_key(self, request: Request) -> None:
        """401 for a missing or unknown key; the known one is remembered for the scopes and the log."""
        if self._keys is None or request.url.path in OPEN:
            return
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        key = self._keys.find(secret.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            problem = "this key is not known" if secret else "a key is needed"
            raise HTTPException(401, f"{problem}: authorization: Bearer onecard_...", {"www-authenticate": "Bearer"})
        request.state.key = key
        observation(request).key = key.name

    def demand_infer(self, request: Request, agent: str) -> None:
        """403 when the key may not ask this agent."""
        key = self._key(request)
        if key is not None and not key.may_infer(agent):
            raise HTTPException(403, f"the key '{key.name}' has no scope infer:{agent}")

    def demand_admin(self, request: Request) -> None:
        """403 when the key may not administer, or without keys when the request comes by a name that is not loopback's."""
        key = self._key(request)
        if self._keys is None:
            if not _is_loopback(request.url.hostname or ""):
                raise HTTPException(403, "without keys only loopback may administer: ask http://127.0.0.1")
        elif key is None or not key.may_administer:
            raise HTTPException(403, f"the key '{key.name if key else '?'}' has no scope admin")

    def _key(self, request: Request) -> Key | None:
        return getattr(request.state, "key", None)


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
