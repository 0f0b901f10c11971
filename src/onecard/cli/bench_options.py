"""Options that the verbs of `onecard bench` share, and the command line that repeats a measurement."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
# What does not belong to the load: it is left out of the recorded command, the key above all.
LEFT_OUT = ("api_key", "as_json", "out", "resume")

PROMPTS_HELP = 'JSONL rows {"prompt": ..., "images": [...]}.  [default: the agent\'s held-out rows, else a dozen shipped questions]'

SERVICE = (
    click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts."),
    click.option(
        "--api-key", envvar="ONECARD_API_KEY", help="Key of the service, or $ONECARD_API_KEY. Never recorded."
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        default=120.0,
        show_default=True,
        help="Seconds a request.",
    ),
    click.option("--seed", default=0, show_default=True, help="Decides prompts, their order and the arrivals."),
    click.option(
        "--resume",
        type=click.Path(path_type=Path, dir_okay=False),
        help="A result file that was interrupted: what it holds is not measured again.",
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("results"),
        show_default=True,
        help="Folder for JSON and CSV.",
    ),
    click.option("--prompts", type=click.Path(path_type=Path, dir_okay=False), help=PROMPTS_HELP),
    click.option("--max-new-tokens", type=click.IntRange(1), help="Longest answer, tokens.  [default: the preset's]"),
    click.option(
        "--preset", "presets", multiple=True, metavar="NAME", help="The agent's preset.  [default: each row's own]"
    ),
)
MODEL = click.option("--model", "models", multiple=True, metavar="AGENT", help="Who is asked; several share the load.")
TARGET = click.argument("target", metavar="URL|FLEET")
TRAFFIC = (
    click.option(
        "--answer-tokens", metavar="LENGTHS", help="Longest answers, as a distribution: 64, lognormal:120:0.6."
    ),
    click.option(
        "--prompt-tokens",
        metavar="LENGTHS",
        help="Made-up prompts of such lengths: 200, uniform:100..400, normal:300:80, lognormal:200:0.7.",
    ),
    click.option(
        "--percentile",
        type=click.FloatRange(1, 99.99),
        default=95.0,
        show_default=True,
        help="Of the requests, so many percent are to be within the deadline.",
    ),
    click.option(
        "--deadline",
        type=click.FloatRange(0, min_open=True),
        help="Seconds, sent as x-deadline-ms.  [default: the fleet's, for each agent]",
    ),
    click.option(
        "--mix",
        default="equal",
        show_default=True,
        help="Parts of the agents: equal, zipf, zipf:1.2 (in the order of --model) or explainer=3,quizmaster=1.",
    ),
)
LOAD = (
    click.option(
        "--arrivals",
        help="An open loop: poisson:RATE, constant:RATE, bursts:RATE:SIZE (requests/s), trace:FILE[:SPEED].",
    ),
    click.option("--callers", type=click.IntRange(1, 1000), help="A closed loop of so many.  [default: 4]"),
    click.option(
        "--until",
        type=click.FloatRange(0, 1, min_open=True),
        help="End when the percentile is known to within this part of itself, say 0.1.",
    ),
)


def options(*given: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in the reverse of their order, as click does."""

    def decorate(command: Command) -> Command:
        for option in given:
            command = option(command)
        return command

    return decorate


def command_of(context: click.Context) -> str:
    """The command line that repeats the measurement, with its defaults as they are today; the key is left out."""
    words = ["onecard", "bench", context.info_name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        value = context.params.get(name)
        if name in LEFT_OUT or value is None or value is False:
            continue
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(parameter, click.Argument):
                words.append(str(one))
            elif one is True:
                words.append(parameter.opts[0])
            else:
                words += [parameter.opts[0], f"{one:g}" if isinstance(one, float) else str(one)]
    return shlex.join(words)
