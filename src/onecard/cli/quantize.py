"""`onecard quantize`: predicts, makes a quantized checkpoint in a process of its own, measures what it lost, records it.

The deciding and the making are the weights room's; here its order meets the fleet's data, this machine's memory and the ledger.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

if TYPE_CHECKING:
    from onecard.catalog.shapes import Layout
    from onecard.cli.quantize_suite import SuiteAsked
    from onecard.fleet.loader import LoadedFleet
    from onecard.weights.quantize_order import Order, Texts
    from onecard.weights.quantize_plan import Prediction

FORMS = ("awq", "gptq", "int8", "w8a8", "fp8", "nf4")
MAKERS = ("bitsandbytes", "llm-compressor")
PYTHON_VARIABLE = "ONECARD_QUANTIZE_PYTHON"


@dataclass(frozen=True)
class Source:
    """The model that is quantized: its id, where it lies, and its shape."""

    model: str
    folder: Path
    layout: Layout
    max_context: int | None


@click.command(short_help="Make a quantized checkpoint, and measure what it lost.")
@click.argument("model")
@click.option("--to", type=click.Choice(FORMS), required=True, help="The form to make.")
@click.option(
    "--maker", type=click.Choice(MAKERS), help="Which library makes int8.  [default: bitsandbytes for int8 and nf4]"
)
@click.option(
    "--data", type=click.Path(path_type=Path, dir_okay=False), help="JSONL with a prompt and a completion a row."
)
@click.option("--fleet", type=click.Path(path_type=Path, dir_okay=False), help="A fleet file, with --agent.")
@click.option("--agent", help="The agent of the fleet whose training rows are the text.")
@click.option("--samples", type=click.IntRange(min=4), default=128, show_default=True, help="Texts to calibrate with.")
@click.option("--max-tokens", type=click.IntRange(min=8), default=512, show_default=True, help="Where a text is cut.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder to make.  [default: <model>-<form>, here]")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu"]),
    default="auto",
    show_default=True,
    help="auto: a CUDA card if there is one.",
)
@click.option(
    "--python",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar=PYTHON_VARIABLE,
    show_envvar=True,
    help="The interpreter that has llm-compressor.  [default: this one]",
)
@click.option(
    "--evidence",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Ledger of measurements to add to.  [default: measurements.jsonl in onecard's cache]",
)
@click.option("--suite/--no-suite", default=True, show_default=True, help="Ask the agent's suite before and after.")
@click.option("--dry-run", is_flag=True, help="Predict size and memory and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def quantize(
    model: str,
    to: str,
    maker: str | None,
    data: Path | None,
    fleet: Path | None,
    agent: str | None,
    samples: int,
    max_tokens: int,
    output: Path | None,
    device: str,
    python: Path | None,
    evidence: Path | None,
    suite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a quantized checkpoint of MODEL: an id, a folder, or with --fleet the name of one of its models.

    Size and memory are predicted first. The text is a JSONL file or an agent's training rows, in the base's own chat template;
    a part of it is held out to measure perplexity and logits before and after. What is written is read back and must answer
    exactly like what was made. With an agent that has a suite, both models are asked its questions, without an adapter, and every
    check shows what changed. Ctrl-C, or a kill at any moment, leaves nothing under the final name.

    awq, gptq, w8a8 and fp8 are made by llm-compressor for vLLM, nf4 and int8 by bitsandbytes, int8 by either. w8a8 rounds the
    inputs of a Linear to 8 bits too, which vLLM's build for CPUs needs of int8. llm-compressor may live in an interpreter of its
    own: --python.

    \b
    Example:
      onecard quantize embedded:mini --to nf4 --data examples/data/style-train.jsonl
      onecard quantize base --to awq --fleet examples/demo.yaml --agent explainer --python quantizing/bin/python
    """
    from onecard.cli.quantize_output import bar, show, show_prediction
    from onecard.weights.quantize import demand_libraries
    from onecard.weights.quantize import quantize as make
    from onecard.weights.quantize_folder import demand_new
    from onecard.weights.quantize_process import probe

    loaded = _fleet(data, fleet, agent)
    source = source_of(model, loaded)
    texts = texts_of(source, data, loaded, agent, samples)
    asked = asked_of(source, loaded, agent) if suite else None
    order = _order(source, texts, to, maker, max_tokens, output, device, python, asked)
    if not dry_run:
        demand_new(order.output)
    with bar(quiet=as_json) as on_progress:
        on_progress("looking at the libraries", 0.0)
        found = probe(order.python)
        demand_libraries(order.maker, order.python, found["versions"])
        prediction = predicted(order, source, found["card"])
        if not dry_run:
            record = make(order, prediction, on_progress, asked.judged if asked else None)
    if dry_run:
        show_prediction(order, prediction, as_json=as_json)
        return
    _keep(record, evidence)
    if as_json:
        click.echo(json.dumps({"output": str(order.output), **record}, indent=2))
    else:
        show(order, record)


def source_of(model: str, loaded: LoadedFleet | None) -> Source:
    """The model by id, folder, or its name in the fleet. What `resolve` raises, and InputError for one that cannot be quantized."""
    from onecard.catalog.architecture import layout
    from onecard.weights.inventory import read_config, resolve
    from onecard.weights.quantize_plan import refuse_what_cannot_be_made

    named = loaded.fleet.models.get(model) if loaded else None
    model_id = named.id if named else model
    folder = resolve(model_id, loaded.folder if loaded and named else Path.cwd())
    config = read_config(folder)
    shape = layout(config)
    refuse_what_cannot_be_made(config, shape, str(folder))
    limit = config.get("max_position_embeddings")
    return Source(model_id, folder, shape, limit if isinstance(limit, int) else None)


def texts_of(source: Source, data: Path | None, loaded: LoadedFleet | None, agent: str | None, samples: int) -> Texts:
    """Rows as the base would read them, split into calibration and held-out text. DataError for faulty or too few rows."""
    from onecard.engines.local.tokens import chat_text, load_tokenizer
    from onecard.errors import DataError
    from onecard.training.rows import scan_rows
    from onecard.weights.quantize_order import split_texts

    file = data if data is not None else _agent_data(loaded, agent)
    rows, faults = scan_rows(file)
    if faults:
        raise faults[0]
    tokenizer = load_tokenizer(source.folder)
    chat = _in_chat(tokenizer, loaded, agent)
    texts = [
        chat_text(
            tokenizer,
            [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.completion}],
            answer_next=False,
        )
        if chat
        else row.prompt + row.completion
        for row in rows
    ]
    try:
        return split_texts(texts, samples, special_tokens=not chat)
    except ValueError as error:
        raise DataError(str(error), where=str(file)) from None


def asked_of(source: Source, loaded: LoadedFleet | None, agent: str | None) -> SuiteAsked | None:
    """The agent's suite for this model; None without one."""
    from onecard.cli.quantize_suite import suite_of
    from onecard.engines.local.tokens import load_tokenizer, stop_ids

    if loaded is None or agent is None or loaded.agent(agent).suite is None:
        return None
    tokenizer = load_tokenizer(source.folder)
    return suite_of(loaded, agent, tokenizer, stop_ids(tokenizer, source.folder), _in_chat(tokenizer, loaded, agent))


def _in_chat(tokenizer: Any, loaded: LoadedFleet | None, agent: str | None) -> bool:
    """Whether the model reads turns of its chat template: where it has one, and the agent's recipe does not say otherwise."""
    recipe = loaded.agent(agent).recipe if loaded and agent else None
    return bool(tokenizer.chat_template) and (recipe is None or recipe.chat_template)


def predicted(order: Order, source: Source, card: dict[str, Any] | None) -> Prediction:
    """Size and peak. DoesNotFit or DiskFull when this machine has not enough of either now."""
    from onecard.catalog.machine import available_ram_bytes
    from onecard.weights.quantize_folder import free_bytes, kept_files
    from onecard.weights.quantize_plan import demand_room, predict

    on_card = card is not None and order.device != "cpu"
    copied = sum(file.stat().st_size for file in kept_files(order.source))
    prediction = predict(
        source.layout,
        order.to,
        order.maker,
        group=order.group,
        samples=len(order.texts.calibration),
        max_tokens=order.max_tokens,
        copied=copied,
        on_card=on_card,
        answer_tokens=_longest_answer(order),
    )
    demand_room(
        prediction,
        free_memory=card["free_bytes"] if card is not None and on_card else available_ram_bytes(),
        free_disk=free_bytes(order.output.parent),
        memory_is=card["name"] if card is not None and on_card else "memory",
        where=order.model,
    )
    return prediction


def _longest_answer(order: Order) -> int:
    """At most so many tokens are a question of the suite and its answer: no token is less than a byte."""
    return max((len(one.text.encode()) + one.max_new_tokens for one in order.questions), default=0)


def _order(
    source: Source,
    texts: Texts,
    to: str,
    maker: str | None,
    max_tokens: int,
    output: Path | None,
    device: str,
    python: Path | None,
    asked: SuiteAsked | None,
) -> Order:
    from onecard.errors import InputError
    from onecard.weights.quantize_order import MAKERS as MAKERS_OF
    from onecard.weights.quantize_order import Device, Order, To
    from onecard.weights.quantize_plan import group_for

    form = cast(To, to)
    if maker is not None and maker not in MAKERS_OF[form]:
        raise InputError(f"{maker} does not make {to}", where="--maker", allowed=", ".join(MAKERS_OF[form]))
    name = source.model.rstrip("/").split("/")[-1].split(":")[-1] or "model"
    made_by = next((known for known in MAKERS_OF[form] if known == maker), MAKERS_OF[form][0])
    return Order(
        model=source.model,
        source=source.folder,
        output=(output or Path(f"{name}-{to}")).absolute(),
        to=form,
        maker=made_by,
        group=group_for(source.layout, form),
        texts=texts,
        max_tokens=min(max_tokens, source.max_context or max_tokens),
        device=cast(Device, device),
        # bitsandbytes lives here, wherever llm-compressor does.
        python=(python if python and made_by == "llm-compressor" else Path(sys.executable)).absolute(),
        questions=asked.questions if asked else (),
    )


def _fleet(data: Path | None, fleet: Path | None, agent: str | None) -> LoadedFleet | None:
    """The fleet when one is named. UsageError without any text, or with half of a pair."""
    from onecard.fleet.loader import load_fleet

    if agent is not None and fleet is None:
        raise click.UsageError("--agent needs --fleet")
    if data is None and (fleet is None or agent is None):
        raise click.UsageError(
            "text to calibrate and measure with is missing: --data FILE, or --fleet FILE --agent NAME"
        )
    return load_fleet(fleet) if fleet is not None else None


def _agent_data(loaded: LoadedFleet | None, agent: str | None) -> Path:
    if loaded is None or agent is None:
        raise click.UsageError("--fleet and --agent go together")
    return Path(loaded.data_file(agent))


def _keep(record: dict[str, Any], evidence: Path | None) -> None:
    """Into the ledger of measurements. The checkpoint is whole whatever becomes of this line, and carries the same record."""
    from onecard.evidence.ledger import Ledger
    from onecard.weights.places import user_cache

    file = evidence or user_cache() / "onecard" / "measurements.jsonl"
    payload = {key: value for key, value in record.items() if key not in ("schema", "kind", "at")}
    Ledger(file).record("quantized", payload, record["at"])
