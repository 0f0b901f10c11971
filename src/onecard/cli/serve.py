"""`onecard serve`: every agent of a fleet from one base, over HTTP on this machine.

The port is claimed before anything is loaded. Ctrl-C and SIGTERM end it with exit code 0 once the requests in flight are answered; a
second Ctrl-C ends it at once with 130.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from onecard.fleet.loader import LoadedFleet
    from onecard.serving.running import Running


@click.command()
@click.argument("fleet", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback only: without keys anyone may ask.")
@click.option(
    "--port", default=8700, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one and shows it."
)
@click.option(
    "--check", is_flag=True, help="Load, ask every agent on a free port, show the memory really taken, and stop."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts: one line once it serves.")
def serve(fleet: Path, host: str, port: int, check: bool, as_json: bool) -> int:
    """Serve every agent of FLEET from one base, each with its own adapter.

    An adapter that does not verify stops the start. Ctrl-C stops it: requests in flight are answered first (at most
    30 seconds), then it exits with 0; a second Ctrl-C does not wait and exits with 130.

    \b
    Example:
      onecard serve examples/demo.yaml
      onecard serve examples/demo.yaml --check
    """
    from onecard.cli.weights_fleets import open_fleet

    loaded = open_fleet(fleet)
    return _check(loaded, as_json) if check else _serve(loaded, host, port, as_json)


@contextmanager
def serve_in_background(
    loaded: LoadedFleet, port: int = 0, *, on_progress: Callable[[str], None] = lambda step: None
) -> Iterator[Running]:
    """The fleet's service on loopback while the context is open; `.url` is where, `.service` what. Port 0 takes a free one."""
    from onecard.serving.listening import listen
    from onecard.serving.running import run_in_background
    from onecard.serving.start import start

    listening = listen("127.0.0.1", port)
    try:
        service = start(loaded, on_progress)
    except BaseException:
        listening.close()
        raise
    with run_in_background(service, listening) as running:
        yield running


def _serve(loaded: LoadedFleet, host: str, port: int, as_json: bool) -> int:
    from onecard.cli.serve_output import show_service, steps
    from onecard.serving.listening import listen, url_of
    from onecard.serving.running import run
    from onecard.serving.start import start

    with listen(host, port) as listening:
        with steps(as_json) as on_progress:
            service = start(loaded, on_progress)
        if as_json:
            click.echo(json.dumps({"url": url_of(listening), **service.health().model_dump(mode="json")}))
        else:
            show_service(service, loaded, url_of(listening))
        whole = run(service, listening)
    if not whole:
        click.echo("stopped at once: requests in flight were cut off", err=True)
    elif not as_json:
        click.echo("stopped")
    return 0 if whole else 130


def _check(loaded: LoadedFleet, as_json: bool) -> int:
    """Loads and probes over HTTP; exit code 1 when an agent does not answer as itself."""
    import asyncio

    from onecard.cli.serve_output import question_of, show_report, steps
    from onecard.serving.check import check

    with steps(as_json) as on_progress, serve_in_background(loaded, on_progress=on_progress) as running:
        on_progress("asking every agent")
        report = asyncio.run(check(running.url, question=question_of(loaded)))
    planned = _planned(loaded)
    if as_json:
        click.echo(json.dumps({**report.record(), "planned_bytes": planned}, indent=2))
    else:
        show_report(report, planned)
    return 0 if report.passed else 1


def _planned(loaded: LoadedFleet) -> dict[str, int] | None:
    """Bytes of the plan by kind of part; None for a fleet that cannot be planned on this machine."""
    from onecard.cli.plan import plan_of
    from onecard.errors import OnecardError

    try:
        serving = plan_of(loaded).serving
    except OnecardError:
        return None
    return {kind: serving.bytes_of_kind(kind) for kind in dict.fromkeys(line.kind for line in serving.lines)}
