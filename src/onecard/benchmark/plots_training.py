"""The pictures of training runs, each over the optimizer steps: loss, learning rate, speed, and memory against the plan.

Runs keep their colour and marker from picture to picture; what was planned or kept out of training is drawn in the run's own colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from onecard.benchmark.figures import plain
from onecard.benchmark.picture import MARKERS, SERIES, Picture
from onecard.benchmark.plots import columns_of, legend, picture_of, short
from onecard.benchmark.report_data import Training
from onecard.benchmark.report_training import StepFigures
from onecard.catalog.units import GIB, MIB

Line = list[tuple[int, float]]  # (step, value)


def training_plots(trainings: Sequence[Training]) -> list[Picture | None]:
    """The four pictures of these runs; None for one that nothing is known of."""
    return [loss_plot(trainings), rate_plot(trainings), speed_plot(trainings), memory_plot(trainings)]


def loss_plot(trainings: Sequence[Training]) -> Picture | None:
    """Loss against steps; long curves get a running mean over the faint raw line, rows kept out are crosses."""
    shown = _shown(trainings, lambda point: point.loss)
    if not shown:
        return None
    validated = any(_line(training, lambda point: point.validation_loss) for training, _, _ in shown)

    def draw(axes: Any) -> None:
        for training, number, line in shown:
            steps, losses = [step for step, _ in line], [loss for _, loss in line]
            window = max(1, len(losses) // 20)
            if window > 1:
                axes.plot(steps, losses, color=SERIES[number], linewidth=1, alpha=0.35)
            axes.plot(steps, running_mean(losses, window), label=short(training.label), **_mark(number, len(steps)))
            kept = _line(training, lambda point: point.validation_loss)
            if kept:
                axes.plot(*zip(*kept, strict=True), "--x", color=SERIES[number], linewidth=1.4, markeredgewidth=2)

    caption = "Mean loss of the trained tokens of each optimizer step; the bold line is a running mean."
    if validated:
        caption += " Crosses: the loss of the rows kept out of training."
    ends = ", ".join(f"{t.label} from {line[0][1]:.2f} to {line[-1][1]:.2f}" for t, _, line in shown)
    return _over_steps(
        "training", "Training loss", "loss, nats per token", shown, draw, caption, f"Training loss: {ends}."
    )


def rate_plot(trainings: Sequence[Training]) -> Picture | None:
    """The learning rate of each step, in the power of ten that leaves short figures at the axis."""
    shown = _shown(trainings, lambda point: point.learning_rate)
    most = max((rate for _, _, line in shown for _, rate in line), default=0.0)
    if most <= 0:
        return None
    power = math.floor(math.log10(most))

    def draw(axes: Any) -> None:
        for training, number, line in shown:
            steps, rates = [step for step, _ in line], [rate / 10.0**power for _, rate in line]
            axes.plot(steps, rates, label=short(training.label), **_mark(number, len(steps)))

    highest = ", ".join(f"{t.label} {max(rate for _, rate in line):.2g}" for t, _, line in shown)
    caption = "The learning rate each optimizer step was taken with."
    said = f"Highest rate: {highest}."
    return _over_steps("training-rate", "Learning rate", f"learning rate / 1e{power}", shown, draw, caption, said)


def speed_plot(trainings: Sequence[Training]) -> Picture | None:
    """Tokens a second of each step, smoothed as the loss is: steps hold rows of different lengths."""
    shown = _shown(trainings, lambda point: point.tokens_s)
    if not shown:
        return None

    def draw(axes: Any) -> None:
        for training, number, line in shown:
            steps, speeds = [step for step, _ in line], [speed for _, speed in line]
            window = max(1, len(speeds) // 20)
            if window > 1:
                axes.plot(steps, speeds, color=SERIES[number], linewidth=1, alpha=0.35)
            axes.plot(steps, running_mean(speeds, window), label=short(training.label), **_mark(number, len(steps)))

    mean = ", ".join(f"{t.label} {plain(sum(speed for _, speed in line) / len(line))}" for t, _, line in shown)
    caption = "Tokens of the rows of each step, prompts included and padding not, by the time the step took."
    said = f"Mean tokens a second: {mean}."
    return _over_steps("training-speed", "Speed", "tokens per second", shown, draw, caption, said)


def memory_plot(trainings: Sequence[Training]) -> Picture | None:
    """Memory in use after each step, the planned peak dashed and the rehearsed one dotted."""
    shown = _shown(trainings, lambda point: point.memory_bytes)
    if not shown:
        return None
    most = max(value for training, _, line in shown for value in (*(size for _, size in line), *_peaks(training)))
    scale, unit = (GIB, "GiB") if most >= GIB else (MIB, "MiB")

    def draw(axes: Any) -> None:
        for training, number, line in shown:
            steps, sizes = [step for step, _ in line], [size / scale for _, size in line]
            axes.plot(steps, sizes, label=short(training.label), **_mark(number, len(steps)))
            record = training.record
            planned = (record.planned_peak_bytes, record.rehearsed_peak_bytes) if record else (None, None)
            for size, style in zip(planned, ("--", ":"), strict=True):
                if size:
                    axes.plot([0, steps[-1]], [size / scale] * 2, style, color=SERIES[number], linewidth=1.6)

    caption = "Memory each step took at most on a card, or held at its end on a processor."
    if any(training.record and training.record.planned_peak_bytes for training, _, _ in shown):
        caption += " Dashed: the peak the plan expected; dotted: the heaviest step, rehearsed before the run."
    said = ", ".join(f"{t.label} at most {plain(max(size for _, size in line) / scale)} {unit}" for t, _, line in shown)
    return _over_steps("training-memory", "Memory", f"memory, {unit}", shown, draw, caption, f"Memory: {said}.")


Shown = list[tuple[Training, int, Line]]  # a run, its place among the colours, its line


def _shown(trainings: Sequence[Training], value: Callable[[StepFigures], float | None]) -> Shown:
    found = [(training, number, _line(training, value)) for number, training in enumerate(trainings[: len(SERIES)])]
    return [entry for entry in found if len(entry[2]) > 1]


def _line(training: Training, value: Callable[[StepFigures], float | None]) -> Line:
    return [
        (point.step, found) for point in training.steps if (found := value(point)) is not None and math.isfinite(found)
    ]


def _peaks(training: Training) -> list[int]:
    record = training.record
    return [size for size in (record.planned_peak_bytes, record.rehearsed_peak_bytes) if size] if record else []


def _mark(number: int, steps: int) -> dict[str, Any]:
    return {"color": SERIES[number], "marker": MARKERS[number], "markevery": max(1, steps // 8), "clip_on": False}


def _over_steps(
    name: str, title: str, unit: str, shown: Shown, draw: Callable[[Any], None], caption: str, said: str
) -> Picture:
    """One picture over the steps, from zero in both directions."""
    columns = columns_of([training.label for training, _, _ in shown])

    def whole(figure: Any) -> None:
        axes = figure.add_subplot()
        draw(axes)
        axes.set_ylim(0, axes.dataLim.y1 * 1.08 or 1.0)
        axes.set_xlim(0, None)
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel(unit)
        axes.set_title(title, pad=12 + 18 * math.ceil(len(shown) / columns))
        legend(axes, columns)

    return picture_of(name, caption, said, whole)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Centred mean over `window` neighbours; shorter at both ends."""
    half = window // 2
    means = []
    for place in range(len(values)):
        near = values[max(0, place - half) : place + half + 1]
        means.append(sum(near) / len(near))
    return means
