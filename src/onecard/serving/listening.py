"""The socket a service listens on: claimed before any model is loaded, on loopback only unless there are keys.

Without keys everybody who reaches the port may ask, so no other address is taken.
"""

from __future__ import annotations

import errno
import ipaddress
import socket

from onecard.errors import InputError, MachineError, PortInUse

DEFAULT_PORT = 8700
BACKLOG = 2048


def listen(host: str, port: int, *, anywhere: bool = False) -> socket.socket:
    """A listening socket; port 0 takes a free one. InputError for an address that is not loopback, PortInUse for a taken port.

    `anywhere` takes any address of this machine: for a service with keys.

    It listens at once, so that a second service on the port fails now and not after minutes of loading. Clients that connect
    before the service is up wait.
    """
    address = any_address(host) if anywhere else loopback_address(host)
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's algorithm off only then; with it every answer waits 40 ms.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port left by a stopped service is free
        opened.bind((str(address), port))
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise _explained(error, host, port) from error
    return opened


def loopback_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address of a host on this machine; InputError for any other."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host.lower() == "localhost" else host.strip("[]"))
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise InputError(
            f"'{host}' can be reached from other machines, and this service has no keys",
            where="--host",
            allowed="127.0.0.1, localhost or ::1",
            next_step="make keys (onecard keys add) and serve with --keys, or use a tunnel: ssh -L 8700:127.0.0.1:8700 "
            "this-machine",
        )
    return address


def any_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address that is written; InputError for a name, which may mean another machine tomorrow."""
    try:
        return ipaddress.ip_address("127.0.0.1" if host.lower() == "localhost" else host.strip("[]"))
    except ValueError:
        raise InputError(
            f"'{host}' is no address", where="--host", allowed="an address of this machine, 0.0.0.0 or :: for all"
        ) from None


def url_of(opened: socket.socket) -> str:
    """http://address:port of a listening socket."""
    address, port = opened.getsockname()[:2]
    return f"http://[{address}]:{port}" if opened.family == socket.AF_INET6 else f"http://{address}:{port}"


def _explained(error: OSError, host: str, port: int) -> InputError | MachineError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"port {port} is in use",
            where=f"{host}:{port}",
            next_step="stop what listens there, or choose --port 0 for a free one",
        )
    if error.errno == errno.EACCES:
        return InputError(
            f"port {port} needs more rights", where="--port", allowed="1024 to 65535, or 0 for a free one"
        )
    return MachineError(f"cannot listen ({error.strerror})", where=f"{host}:{port}", next_step="choose another --host")
