"""`onecard bench context`: latency against context length, up to the limit of the plan or the server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from onecard.cli.bench_files import Kept, check_folder, run_kept
from onecard.cli.bench_options import SERVICE, TARGET, command_of, options
from onecard.cli.bench_output import conclude, interval_record, kept_record, show_files, show_invalid
from onecard.cli.bench_service import Service, Wanted, service_of

if TYPE_CHECKING:
    from onecard.benchmark.context_curve import ContextPlan


@click.command(short_help="Latency against context length, up to the limit.")
@options(
    *(option for option in SERVICE),
    click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Repeats of every length."),
    click.option(
        "--requests", type=click.IntRange(1), default=5, show_default=True, help="Requests of each caller and repeat."
    ),
    click.option("--callers", type=click.IntRange(1, 1000), default=1, show_default=True, help="Concurrent callers."),
    click.option("--new-tokens", type=click.IntRange(1), default=16, show_default=True, help="Tokens of each answer."),
    click.option("--up-to", type=click.IntRange(32), help="Largest context.  [default: what the fleet or server says]"),
    click.option("--contexts", help="Lengths, such as 512,1024,4096.  [default: powers of two up to the limit]"),
    click.option("--model", "models", multiple=True, metavar="AGENT", help="Who is asked: one."),
    TARGET,
)
@click.pass_context
def context(click_context: click.Context, /, **wishes: Any) -> int:
    """Made-up prompts that grow; a context is prompt and answer together, in tokens as the server counts them.

    Every prompt begins with another word, so that a cache of prefixes does not answer for the model.

    \b
    Example:
      onecard bench context examples/demo.yaml --model explainer
      onecard bench context http://127.0.0.1:8700 --model explainer --contexts 512,1024,2048 --callers 2
    """
    from onecard.benchmark.context_curve import ContextCurve
    from onecard.cli.bench_progress import StepBar

    check_folder(wishes["out"])
    wanted = Wanted(
        wishes["target"], wishes["models"], wishes["presets"], wishes["prompts"], wishes["api_key"], "context"
    )
    with service_of(wanted, quiet=wishes["as_json"]) as service, StepBar(quiet=wishes["as_json"]) as bar:
        plan = _plan(service, command_of(click_context), wishes)
        kept = run_kept(
            lambda keep, done: ContextCurve(plan, bar, keep=keep, done=done).run(),
            "context", plan, plan.as_how(), wishes["out"], wishes["resume"],
        )  # fmt: skip
    _show(kept, wishes["as_json"])
    return _code(kept)


def _plan(service: Service, command: str, wishes: dict[str, Any]) -> ContextPlan:
    from onecard.benchmark.context_curve import ContextPlan, context_lengths, parse_contexts
    from onecard.errors import InputError

    if len(service.prompts) > 1:
        raise InputError("one agent at a time", where="--model", allowed="one of " + ", ".join(service.prompts))
    agent = next(iter(service.prompts))
    if wishes["contexts"]:
        contexts = parse_contexts(wishes["contexts"], wishes["new_tokens"])
    else:
        contexts = context_lengths(wishes["up_to"] or _limit(service, agent, wishes["api_key"]), wishes["new_tokens"])
    return ContextPlan(
        url=service.url,
        prompts=service.prompts,
        presets=wishes["presets"],
        contexts=contexts,
        new_tokens=wishes["new_tokens"],
        callers=wishes["callers"],
        requests=wishes["requests"],
        repeats=wishes["repeats"],
        seed=wishes["seed"],
        timeout_s=wishes["timeout"],
        api_key=wishes["api_key"],
        command=command,
        **service.about,
    )


def _limit(service: Service, agent: str, api_key: str | None) -> int:
    """The context the fleet gives the agent's model, or what the service's /health says of it."""
    name = agent.partition("@")[0]
    if service.loaded is not None:
        models = service.loaded.fleet.models
        spec = service.loaded.fleet.agents.get(name)
        return (models[spec.model] if spec else next(iter(models.values()))).context
    import asyncio

    from onecard.errors import InputError, OnecardError
    from onecard.wire.client import Client

    async def said() -> int | None:
        async with Client(service.url, api_key=api_key, timeout_s=20) as client:
            health = await client.health()
        keys = {one.agent: one.model for one in health.adapters}
        return next((model.context for model in health.models if model.name == keys.get(name, model.name)), None)

    try:
        found = asyncio.run(said())
    except OnecardError:
        found = None
    if found is None:
        raise InputError("the server does not say how long a context may be", where="--up-to", allowed="--up-to TOKENS")
    return found


def _show(kept: Kept, as_json: bool) -> None:
    from onecard.benchmark.breakdown import part
    from onecard.benchmark.figures import readable
    from onecard.evidence.summaries import duration_s, shown_percentile, summarize, ttfts_ms

    steps = kept.result.steps
    lengths = sorted({step.context_tokens or 0 for step in steps})
    rows = []
    for length in lengths:
        own = [step for step in steps if step.context_tokens == length]
        requests = [request for step in own for request in step.requests]
        whole = part(f"{length:,}", requests, sum(duration_s(step) for step in own))
        answered = [request for request in requests if request.outcome == "ok"]
        itl = shown_percentile([v for step in own if (v := summarize(step).itl_p50_ms) is not None] * 2, 50)
        ttft = shown_percentile(ttfts_ms(answered), 50)
        rows.append((length, whole, ttft, itl))
    if as_json:
        record = [
            {
                "context_tokens": length, "prompt_tokens": whole.prompt_tokens, "requests": whole.requests, "failed": whole.failed,
                "p50_ms": interval_record(whole.latency[50.0]), "p95_ms": interval_record(whole.latency[95.0]),
                "ttft_p50_ms": ttft, "itl_p50_ms": itl,
            }
            for length, whole, ttft, itl in rows
        ]  # fmt: skip
        click.echo(json.dumps({**kept_record(kept), "contexts": record}, indent=2))
        return
    from rich import box
    from rich.table import Table

    from onecard.cli.bench_output import interval_cell
    from onecard.cli.bench_table import console_of

    caption = "milliseconds from the intended start; p50 with its 95% interval; prompt tokens as the server counts them"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    for head in ("context", "prompt tokens", "requests", "failed", "p50", "TTFT p50", "prompt tokens/s", "ITL p50"):
        table.add_column(head, justify="right")
    for _, whole, ttft, itl in rows:
        prompt = whole.prompt_tokens
        rate = readable(prompt / ttft * 1000) if prompt and ttft else "-"
        table.add_row(
            whole.name, readable(prompt) or "-", str(whole.requests), str(whole.failed), interval_cell(whole.latency[50.0]),
            readable(ttft) or "-", rate, readable(itl) or "-",
        )  # fmt: skip
    console_of().print(table)
    show_invalid(steps)
    show_files(kept)


def _code(kept: Kept) -> int:
    """A length that the server refuses is an answer: exit code 1. A server that died is an error."""
    last = kept.result.steps[-1] if kept.result.steps else None
    lengths = {step.context_tokens for step in kept.result.steps}
    refused = last and all(request.outcome in ("refused", "error") for request in last.requests)
    if refused and len(lengths) > 1 and kept.result.stopped_because != "interrupted":
        return 1
    return conclude(kept)
