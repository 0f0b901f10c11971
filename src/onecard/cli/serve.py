"""`onecard serve`: every agent of a fleet from one base, over HTTP on this machine.

The port is claimed before anything is loaded. Ctrl-C and SIGTERM end it with exit code 0 once the requests in flight are answered; a
second Ctrl-C ends it at once with 130.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from onecard.errors import InputError

if TYPE_CHECKING:
    from onecard.fleet.loader import LoadedFleet
    from onecard.serving.limits import Limits
    from onecard.serving.running import Running
    from onecard.serving.settings import Settings


@click.command()
@click.argument("fleet", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback only, unless there are --keys.")
@click.option(
    "--port", default=8700, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one and shows it."
)
@click.option(
    "--check", is_flag=True, help="Load, ask every agent on a free port, show the memory really taken, and stop."
)
@click.option(
    "--embedded",
    is_flag=True,
    help="Test mode: the embedded base stands for every model, without adapters. No card, no download.",
)
@click.option(
    "--keys",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="ONECARD_KEYS",
    help="File of `onecard keys`: only their holders may ask.  [env: ONECARD_KEYS]",
)
@click.option(
    "--log", "log_file", metavar="FILE", help="A line of JSON for each request, appended; - for standard error."
)
@click.option(
    "--log-prompts",
    is_flag=True,
    help="Also log what was asked: prompts, documents, every field. They may be private; without this none is written.",
)
@click.option(
    "--max-body-mib", default=4.0, show_default=True, type=click.FloatRange(0.001, 1024), help="Largest request."
)
@click.option("--max-new-tokens", type=click.IntRange(1), help="Longest answer that a request may ask for.")
@click.option(
    "--timeout", default=600.0, show_default=True, type=click.FloatRange(1), help="Seconds that one answer may take."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts: one line once it serves.")
def serve(
    fleet: Path,
    host: str,
    port: int,
    check: bool,
    embedded: bool,
    keys: Path | None,
    log_file: str | None,
    log_prompts: bool,
    max_body_mib: float,
    max_new_tokens: int | None,
    timeout: float,
    as_json: bool,
) -> int:
    """Serve every agent of FLEET from one base, each with its own adapter.

    An adapter that does not verify stops the start. Ctrl-C stops it: requests in flight are answered first (at most
    30 seconds), then it exits with 0; a second Ctrl-C does not wait and exits with 130. SIGHUP makes every agent answer
    with what the store says now, and requests in flight finish on what they began with.

    \b
    Example:
      onecard serve examples/demo.yaml
      onecard serve examples/demo.yaml --check
      onecard serve examples/justnews-rtx3090.yaml --embedded --check
      onecard serve examples/demo.yaml --host 0.0.0.0 --keys keys.json --log requests.jsonl
    """
    from onecard.cli.serve_embedded import with_embedded_base
    from onecard.cli.weights_fleets import open_fleet
    from onecard.serving.limits import Limits

    loaded = open_fleet(fleet)
    if embedded:
        loaded, left_out = with_embedded_base(loaded)
        for sentence in left_out:
            click.echo(f"test mode: {sentence}", err=True)
    if check:
        return _check(loaded, as_json)
    if log_prompts and log_file is None:
        raise InputError("--log-prompts without a log", where="--log-prompts", next_step="say where: --log FILE")
    limits = Limits(body_bytes=int(max_body_mib * 2**20), new_tokens=max_new_tokens, answer_s=timeout)
    with opened_log(log_file) as stream:
        return _serve(loaded, host, port, limits, settings_of(keys, stream, log_prompts), as_json)


def settings_of(keys: Path | None, log: TextIO | None, log_prompts: bool) -> Settings:
    """Keys and log as the service takes them. InputError for a file of keys without any: nobody could ask."""
    from onecard.serving.keys import KeyRing
    from onecard.serving.observing import RequestLog
    from onecard.serving.settings import Settings

    ring = KeyRing(keys) if keys is not None else None
    if ring is not None and not ring.keys:
        raise InputError(
            "no keys in it", where=str(keys), next_step=f"onecard keys add NAME --scope 'infer:*' --file {keys}"
        )
    return Settings(ring, RequestLog(log, prompts=log_prompts) if log is not None else None)


@contextmanager
def opened_log(where: str | None) -> Iterator[TextIO | None]:
    """The stream of the log: none, standard error for -, or a file that is appended to and readable by its owner only."""
    if where is None or where == "-":
        yield None if where is None else sys.stderr
        return
    try:
        stream = os.fdopen(os.open(where, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=f"--log {where}") from error
    with stream:
        yield stream


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


def _serve(loaded: LoadedFleet, host: str, port: int, limits: Limits, settings: Settings, as_json: bool) -> int:
    from onecard.cli.serve_expected import expected_of
    from onecard.cli.serve_output import show_service, steps
    from onecard.serving.listening import listen, url_of
    from onecard.serving.running import run
    from onecard.serving.start import start

    with listen(host, port, anywhere=settings.keys is not None) as listening:
        with steps(as_json) as on_progress:
            expected = expected_of(loaded)  # before the start takes its memory
            service = start(loaded, on_progress, limits)
        if as_json:
            click.echo(json.dumps({"url": url_of(listening), **service.health().model_dump(mode="json")}))
        else:
            show_service(service, loaded, url_of(listening))
        whole = run(service, listening, settings=replace(settings, expected=expected))
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
