"""How a calibration looks: a bar while it runs; then every figure beside what was believed before, and how the planner gets it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onecard.catalog.cards import Card
from onecard.evidence.calibration import Calibration
from onecard.evidence.calibration_rows import Figure, Form
from onecard.planner import engine_facts
from onecard.planner.calibrated import LINEARS, REFERENCE
from onecard.planner.speed import cold_start

WIDTH, ROOMY = 100, 96  # columns; below the latter the quartiles are left out
FORMS: tuple[Form, ...] = get_args(Form)
NAMES = {"none": "16 bit", "int8": "int8", "nf4": "nf4"}


@dataclass(frozen=True)
class Row:
    """One figure: `measured` and `believed` in `unit`; the quartiles where it was measured as such and not derived."""

    what: str
    measured: float | None
    unit: str
    figure: Figure | None = None
    believed: float | None = None


@contextmanager
def bar(quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """The display as a callback: a bar on a terminal, a line a part elsewhere, nothing when quiet. On standard error."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = _console(stderr=True)
    if quiet:
        yield lambda what, share: None
    elif not console.is_terminal:
        yield lambda what, share: console.print(f"measuring: {what}", markup=False) if share < 1 else None
    else:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(30), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("loading torch", total=1.0)
            yield lambda what, share: progress.update(task, description=what, completed=share)


def show(calibration: Calibration, file: Path, card: Card | None, *, found_by_itself: bool) -> None:
    """Everything on standard output. `card` is the catalog's, None for a card it does not know."""
    console = _console()
    where = f"{calibration.card.name} ({calibration.card.id}) with {calibration.host.cpu}"
    console.print(Text.assemble((where, "bold"), f", {calibration.at}, {calibration.seconds:.0f} s"))
    console.print(figures_table(rows_of(calibration, card), roomy=console.width >= ROOMY))
    if calibration.linears:
        console.print(tokens_table(calibration))
    for warning in calibration.warnings:
        console.print(Text(f"! {warning}", "yellow"))
    if not calibration.steady:
        console.print(Text("! the steps did not repeat themselves: layers are derived from first quartiles", "yellow"))
    for part in calibration.absent:
        console.print(Text(f"absent  {part.part}: {part.reason}", "dim"))
    console.print(Text.assemble(("file    ", "dim"), str(file)), soft_wrap=True)
    use = f"onecard plan FLEET --calibration {shlex.quote(str(file))}"
    if found_by_itself:
        use = f"onecard plan FLEET, when the fleet's card is {calibration.card.id}; elsewhere: --calibration FILE"
    console.print(Text.assemble(("next    ", "dim"), use), soft_wrap=True)


def record_of(calibration: Calibration, file: Path) -> dict[str, Any]:
    """For scripts: where it was written, the record, and what follows from it."""
    derived: dict[str, Any] = {
        "context_bytes": calibration.context_bytes,
        "best_tflops": calibration.best_tflops,
        "steady": calibration.steady,
    }
    for form in FORMS:
        derived[form] = {
            "layer_us": calibration.layer_us(form),
            "step_us": calibration.step_us(form),
            "adapter_linear_us": calibration.adapter_linear_us(form),
            "mixed_adapter_linear_us": calibration.mixed_adapter_linear_us(form),
            "training_layer_us": calibration.training_layer_us(form, checkpointing=False),
            "training_layer_checkpointing_us": calibration.training_layer_us(form, checkpointing=True),
        }
    return {
        "file": str(file),
        "derived": derived,
        "calibration": calibration.model_dump(mode="json", by_alias=True),
    }


def rows_of(calibration: Calibration, card: Card | None) -> list[Row]:
    """Every figure beside the value the planner takes when nobody measured."""
    speed = cold_start(card) if card else None
    on_cpu = calibration.card.kind == "cpu"
    context = engine_facts.CPU_PROCESS if on_cpu else engine_facts.CARD_CONTEXT
    bandwidth = speed.bandwidth_gbs if speed else None
    gib = 1 << 30
    rows = [
        Row("taken beside torch's tensors", _over(calibration.context_bytes, gib), "GiB", None, context.bytes / gib),
        Row("copy, read plus written", _median(calibration.copy_gbs), "GB/s", calibration.copy_gbs, bandwidth),
        Row("read", _median(calibration.read_gbs), "GB/s", calibration.read_gbs, bandwidth),
        Row("bf16 products, best", calibration.best_tflops, "TFLOP/s", None, speed.tflops if speed else None),
        Row("starting an operator", _median(calibration.launch_us), "us", calibration.launch_us),
        Row("waiting for one", _median(calibration.round_trip_us), "us", calibration.round_trip_us),
    ]
    if not on_cpu:
        believed = None if card is None else card.total_bytes
        rows.insert(0, Row("memory", calibration.card.total_bytes / gib, "GiB", None, _over(believed, gib)))
    overhead_us = speed.overhead_us if speed else None
    for form in FORMS:
        rows += _rows_of_form(calibration, form, None if overhead_us is None else _Believed(on_cpu, form, overhead_us))
    for pick in calibration.picks:
        how = "sampling" if pick.sampled else "taking the best"
        rows.append(Row(f"{how} of {pick.vocabulary:,} tokens", pick.us.median, "us", pick.us))
    return [row for row in rows if row.measured is not None]


@dataclass(frozen=True)
class _Believed:
    """What one decode layer and one adapted Linear of the small model are before anybody measured: on a card what they took on the machine
    that cold-start values were fitted on, on a processor what the planner reckons."""

    on_cpu: bool
    form: Form
    overhead_us: float

    @property
    def engine(self) -> engine_facts.EngineFacts:
        return engine_facts.LOCAL_ON_CPU if self.on_cpu else engine_facts.LOCAL_ON_CARD

    @property
    def layer_us(self) -> float:
        """Of a decoder of the Llama kind, which is what was measured."""
        if not self.on_cpu:
            return REFERENCE.layer_us + LINEARS * REFERENCE.linear_us[self.form]
        facts = engine_facts
        each_linear = 1 + self.engine.linear_operators[self.form]
        operators = facts.LAYER_OPERATORS + facts.MODULE_OPERATORS * facts.LAYER_MODULES + LINEARS * each_linear
        return operators * self.overhead_us

    def adapter_us(self, *, mixed: bool) -> float:
        if not self.on_cpu:
            return (REFERENCE.mixed_us if mixed else REFERENCE.adapter_us)[self.form]
        operators = self.engine.mixed_adapter_operators if mixed else self.engine.adapter_operators
        return self.overhead_us * operators[self.form]


def _rows_of_form(calibration: Calibration, form: Form, believed: _Believed | None) -> list[Row]:
    name = NAMES[form]
    layer = believed.layer_us if believed else None
    one, mixed = (believed.adapter_us(mixed=m) if believed else None for m in (False, True))
    return [
        Row(f"{name}: a layer, one line", calibration.layer_us(form), "us", None, layer),
        Row(f"{name}: a layer, four lines", calibration.layer_us(form, lines=4), "us"),
        Row(f"{name}: the rest of a step", calibration.step_us(form), "us"),
        Row(f"{name}: an adapter on a Linear", calibration.adapter_linear_us(form), "us", None, one),
        Row(f"{name}: the same, each of two mixed", calibration.mixed_adapter_linear_us(form), "us", None, mixed),
        Row(f"{name}: a layer trained", calibration.training_layer_us(form, checkpointing=False), "us"),
        Row(f"{name}: the same, checkpointing", calibration.training_layer_us(form, checkpointing=True), "us"),
    ]


def figures_table(rows: list[Row], *, roomy: bool = True) -> Table:
    """What was measured beside what was believed; the quartiles only where there is room."""
    table = _table("", "measured", "", *(["quartiles"] if roomy else []), "cold start", "ratio")
    for row in rows:
        quartiles = f"{_short(row.figure.low)} to {_short(row.figure.high)}" if row.figure else ""
        ratio = f"{row.measured / row.believed:.2f}" if row.measured and row.believed else ""
        believed = _short(row.believed) if row.believed else ""
        middle = [quartiles] if roomy else []
        table.add_row(row.what, _short(row.measured or 0.0), row.unit, *middle, believed, ratio)
    return table


def tokens_table(calibration: Calibration) -> Table:
    """Microseconds of one Linear in every form, and the rate of the bf16 product of the same size."""
    sizes = {(row.inputs, row.outputs) for row in calibration.linears}
    inputs, outputs = max(sizes)
    table = _table("tokens", *(f"{NAMES[form]} us" for form in FORMS), "int8, outliers us", "bf16 TFLOP/s")
    times = {(row.form, row.tokens, bool(row.outlier_columns)): row.us.median for row in calibration.linears}
    rates = {
        row.tokens: row.tflops.median for row in calibration.gemm if (row.inputs, row.outputs) == (inputs, outputs)
    }
    for tokens in sorted({row.tokens for row in calibration.linears}):
        cells = [times.get((form, tokens, False)) for form in FORMS]
        cells += [times.get(("int8", tokens, True)), rates.get(tokens)]
        table.add_row(str(tokens), *(_short(cell) if cell else "-" for cell in cells))
    table.title = Text(f"one Linear, {inputs} to {outputs}: the device's own time", "dim")
    table.title_justify = "left"
    return table


def _table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number and head else "left", no_wrap=True)
    return table


def _short(value: float) -> str:
    """Three digits that matter: 4,312; 790; 5.28; 0.0655."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _median(figure: Figure | None) -> float | None:
    return None if figure is None else figure.median


def _over(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _console(*, stderr: bool = False) -> Console:
    """100 columns wide when it is not a terminal."""
    console = Console(highlight=False, emoji=False, stderr=stderr)
    if not console.is_terminal:
        console.width = WIDTH
    return console
