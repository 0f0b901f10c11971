"""The command `onecard`: finds the verb, runs it, turns errors into messages and exit codes.

Verbs are imported only when they are called, so that `onecard --help` answers at once and nothing pulls in torch by accident.
Exit codes: 0 done, 1 "no", 2 wrong use or a machine that cannot, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from onecard import __version__
from onecard.errors import OnecardError

# verb -> (module under onecard.cli, object, one line of help). The line stands here so that --help imports no verb.
VERBS: dict[str, tuple[str, str, str]] = {
    "init": ("init", "init", "Write a starter fleet for the card found in this machine."),
    "demo": ("demo", "demo", "The whole story on the embedded base, on a CPU."),
    "models": ("models", "models", "The catalog of models: filter by fit, licence, role, context, input."),
    "cards": ("cards", "cards", "The catalog of GPUs."),
    "plan": ("plan", "plan", "Memory, speed and cost of a fleet, before any download."),
    "choose": ("choose", "choose", "Which model in which form for an agent: claimed, predicted, measured."),
    "calibrate": ("calibrate", "calibrate", "Measure this machine's card, so that plans rest on it."),
    "claims": ("claims", "claims", "What is claimed of models and cards, and what becomes of it."),
    "fetch": ("fetch", "fetch", "Download models: resumed, checked by their hashes, disk and licence first."),
    "use": ("use", "use", "Activate a model: .active_model, and shell lines for eval."),
    "weights": ("weights", "weights", "Models on this disk: list, remove, prune, verify."),
    "doctor": ("doctor", "doctor", "What is wrong on this machine, and the command that mends it."),
    "schema": ("schema", "schema", "Print the fleet file's JSON schema, for editors."),
    "data": ("data", "data", "Check a training file: the token ledger."),
    "train": ("train", "train", "Train one agent's adapter and publish it as a candidate."),
    "evaluate": ("evaluate", "evaluate", "The gate: a candidate against its suite, beside production and base."),
    "adapters": ("adapters", "adapters", "The adapter store: list, show, promote, roll back, verify, export, import."),
    "serve": ("serve", "serve", "Serve every agent of a fleet from one base."),
    "keys": ("keys", "keys", "Who may ask a service: add, list and remove keys with scopes."),
    "bench": ("bench", "bench", "Load a service and time it from the intended start."),
    "quantize": ("quantize", "quantize", "Make a quantized checkpoint, and measure what it lost."),
    "report": ("report", "report", "One self-contained HTML page from result files."),
    "verify": ("verify", "verify", "Every success criterion of a fleet, checked, with the evidence."),
}

# What `onecard[local]` brings and a plain install does not.
LOCAL = {
    "torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "safetensors", "tokenizers",
    "fastapi", "starlette", "uvicorn", "numpy",
}  # fmt: skip


class Verbs(click.Group):
    """A click group whose commands are imported when they are needed."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module, attribute, _ = VERBS[name]
        command: click.Command = getattr(importlib.import_module(f"onecard.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from onecard.errors import nearest

            raise click.UsageError(f"no verb '{args[0]}'{nearest(args[0], list(VERBS))}; `onecard --help` lists them")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, _, line) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="onecard")
def onecard() -> None:
    """One card, a whole team of agents.

    Plans which open models fit your GPU, trains small adapters on one base, serves them all from it, measures what came out.

    \b
    Example:
      onecard demo
      onecard plan examples/demo.yaml
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; never shows a stack trace for an expected error."""
    try:
        result = onecard.main(
            list(arguments) if arguments is not None else None, prog_name="onecard", standalone_mode=False
        )
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return _say("interrupted", 130)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except click.ClickException as error:
        error.show()
        return 2
    except OnecardError as error:
        show_error(error)
        return error.exit_code
    except ModuleNotFoundError as error:
        missing = missing_part(error)
        if missing is None:
            raise
        show_error(missing)
        return missing.exit_code
    except BrokenPipeError:
        # The reader of our output left (`onecard models | head`): not an error of ours.
        sys.stderr.close()
        return 0


def missing_part(error: ModuleNotFoundError) -> OnecardError | None:
    """The error for a library that the plain install leaves out, with the line that installs it; None for any other module."""
    from onecard.errors import MissingPart

    package = (error.name or "").partition(".")[0]
    if package not in LOCAL:
        return None
    return MissingPart(
        f"{package} is not installed: this verb loads a model in this process",
        next_step="pip install torch==2.13.0, then pip install 'onecard[local]'",
    )


def show_error(error: OnecardError) -> None:
    """Where, what, allowed values, next step: one line each, on standard error."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text("no: " if error.exit_code == 1 else "error: ", style="bold red") + Text(error.problem))
    for label, text in (("where", error.where), ("allowed", error.allowed), ("next", error.next_step)):
        if text:
            console.print(Text(f"  {label}: ", style="dim") + Text(text))


def _say(text: str, code: int) -> int:
    click.echo(text, err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
