"""The pictures of a report: drawn once with matplotlib, kept as SVG and PNG.

Every axis has a unit and starts at zero; every line has its own colour and its own marker. The only place that knows matplotlib.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from onecard.benchmark.figures import plain
from onecard.benchmark.picture import BLUE, GRID, INK, MARKERS, MUTED, ORANGE, SERIES, VERMILLION, Picture
from onecard.benchmark.report_data import Comparison, ReportData
from onecard.benchmark.statistics import CallerPoint, Spread, caller_points, pooled
from onecard.errors import MissingPart
from onecard.evidence.results import ResultFile
from onecard.evidence.summaries import enough_for, itls_ms, percentile, ttfts_ms

STYLE: dict[str, Any] = {
    "font.size": 12,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 30,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 1.0,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "lines.linewidth": 2.2,
    "lines.markersize": 7,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "legend.frameon": False,
    "legend.fontsize": 11,
    "svg.fonttype": "path",  # the same letters on every machine, in every viewer
    "svg.hashsalt": "onecard",  # the same data gives the same file
    "savefig.facecolor": "white",
}
WIDTH_IN, HEIGHT_IN = 5.4, 3.9
UNBATCHED = "if unbatched"
_LEGEND: dict[str, Any] = {
    "loc": "lower left",
    "bbox_to_anchor": (-0.02, 0.99),
    "ncols": 4,
    "columnspacing": 1.1,
    "handlelength": 1.6,
    "handletextpad": 0.5,
}


def pictures(data: ReportData) -> list[Picture]:
    """Every picture the data has something to show for. MissingPart without matplotlib."""
    from onecard.benchmark.plots_training import training_plots  # it draws with what stands below

    matplotlib_door()
    found: list[Picture | None] = []
    for number, measured in enumerate(data.measured):
        suffix = f"-{number + 1}" if len(data.measured) > 1 else ""
        found += [
            latency_plot(measured.result, f"latency{suffix}"),
            throughput_plot(measured.result, f"throughput{suffix}"),
            ttft_plot(measured.result, f"ttft{suffix}"),
            itl_plot(measured.result, f"itl{suffix}"),
        ]
    if len(data.measured) > 1:
        found.insert(0, comparison_of_results([(m.name.removesuffix(".json"), m.result) for m in data.measured]))
    found += [prediction_plot(data.comparisons), *training_plots(data.trainings)]
    return [picture for picture in found if picture is not None]


def latency_plot(result: ResultFile, name: str = "latency") -> Picture | None:
    """p50, p95 and average latency against callers; whiskers span the repeats."""
    points = caller_points(result.steps)
    lines = [(label, _line(points, field)) for label, field in _LATENCIES]
    shown = [(label, line) for label, line in lines if line]
    if not shown:
        return None
    scale, unit = _time_unit([spread.high for _, line in shown for _, spread in line])

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for number, (label, line) in enumerate(shown):
            _draw_line(axes, line, label, number, scale)
        top = max(spread.high for _, line in shown for _, spread in line) * scale * 1.12
        first = next((line[0] for label, line in shown if label == "p50"), None)
        if first and len(points) > 1:
            most = points[-1].callers
            slope = first[1].median * scale / first[0]
            axes.plot(
                [first[0], most], [slope * first[0], slope * most], "--", color=MUTED, linewidth=1.4, label=UNBATCHED
            )
        axes.set_ylim(0, top)
        _callers_axis(axes, [p.callers for p in points])
        axes.set_ylabel(f"latency, {unit}")
        axes.set_title("Latency against callers")
        legend(axes)

    caption = "Latency from the intended start to the last token. Median over the repeats; whiskers reach from the lowest to the highest."
    if any(label == "p50" for label, _ in shown) and len(points) > 1:
        caption += " Dashed: the p50 of the fewest callers times the callers, as if nothing were batched."
    return picture_of(name, caption, _alt("Latency", shown, unit, scale), draw)


def throughput_plot(result: ResultFile, name: str = "throughput") -> Picture | None:
    """Requests per second against callers and, when the server counts tokens, tokens per second below."""
    points = caller_points(result.steps)
    panels = [("requests/s", _line(points, "rps")), ("tokens/s", _line(points, "tokens_s"))]
    shown = [(label, line) for label, line in panels if line]
    if not shown:
        return None

    def draw(figure: Any) -> None:
        rows = figure.subplots(len(shown), 1, sharex=True, squeeze=False)
        for number, (label, line) in enumerate(shown):
            axes = rows[number][0]
            _draw_line(axes, line, label, number, 1.0)
            axes.set_ylim(0, max(spread.high for _, spread in line) * 1.18 or 1.0)
            axes.set_ylabel(label)
            axes.yaxis.set_major_locator(matplotlib_door().ticker.MaxNLocator(4))
            axes.tick_params(labelbottom=number == len(shown) - 1)
        rows[0][0].set_title("Throughput against callers", pad=12)
        _callers_axis(rows[-1][0], [p.callers for p in points])

    caption = (
        "Answered requests, and the tokens in them, per second. A flat line says that more callers only wait longer."
    )
    return picture_of(name, caption, _alt("Throughput", shown, "", 1.0), draw)


def ttft_plot(result: ResultFile, name: str = "ttft") -> Picture | None:
    """How the time to first token is spread, for each number of callers."""
    caption = "From the intended start to the first token, all repeats"
    return _distributions(pooled(result.steps, ttfts_ms), name, "Time to first token", caption)


def itl_plot(result: ResultFile, name: str = "itl") -> Picture | None:
    """How the gaps between the pieces of streamed answers are spread, for each number of callers."""
    caption = "Gaps between successive pieces of streamed answers, all repeats"
    return _distributions(pooled(result.steps, itls_ms), name, "Inter-token latency", caption)


def _distributions(values_ms: dict[int, list[float]], name: str, title: str, caption: str) -> Picture | None:
    enough = {callers: values for callers, values in values_ms.items() if enough_for(95, len(values))}
    if not enough:
        return None
    scale, unit = _time_unit([max(values) for values in enough.values()])

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for callers, values in enough.items():
            low, first, middle, third, high = (percentile(values, p) * scale for p in (5, 25, 50, 75, 95))
            axes.plot([callers, callers], [low, high], color=BLUE, linewidth=1.6, solid_capstyle="round")
            axes.plot([callers, callers], [first, third], color=BLUE, linewidth=11, solid_capstyle="butt")
            axes.plot(callers, middle, "o", color="white", markeredgecolor=BLUE, markeredgewidth=1.6, markersize=7)
            axes.plot(callers, max(values) * scale, "x", color=VERMILLION, markersize=7, markeredgewidth=2)
        axes.set_ylim(0, max(max(values) for values in enough.values()) * scale * 1.12)
        _callers_axis(axes, list(enough))
        axes.set_ylabel(f"{title[0].lower()}{title[1:]}, {unit}")
        axes.set_title(title)
        line = matplotlib_door().lines.Line2D
        axes.legend(
            handles=[
                line([], [], color="white", marker="o", markeredgecolor=BLUE, linestyle="", label="median"),
                line([], [], color=BLUE, linewidth=8, label="middle half"),
                line([], [], color=BLUE, linewidth=1.6, label="90%"),
                line([], [], color=VERMILLION, marker="x", markeredgewidth=2, linestyle="", label="worst"),
            ],
            **_LEGEND,
        )

    medians = ", ".join(f"{c}: {percentile(v, 50) * scale:.3g} {unit}" for c, v in enough.items())
    reading = f"{caption}: the thick bar holds the middle half, the thin line 90%."
    return picture_of(name, reading, f"{title}, median by callers: {medians}.", draw)


def comparison_of_results(results: Sequence[tuple[str, ResultFile]], name: str = "comparison") -> Picture | None:
    """The p50 of several result files against callers, one line each."""
    found = [(label, _line(caller_points(result.steps), "p50_ms")) for label, result in results[: len(SERIES)]]
    shown = [(label, line) for label, line in found if line]
    if len(shown) < 2:
        return None
    columns = columns_of([label for label, _ in shown])
    scale, unit = _time_unit([spread.high for _, line in shown for _, spread in line])

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for number, (label, line) in enumerate(shown):
            _draw_line(axes, line, short(label), number, scale)
        axes.set_ylim(0, max(spread.high for _, line in shown for _, spread in line) * scale * 1.12)
        _callers_axis(axes, sorted({callers for _, line in shown for callers, _ in line}))
        axes.set_ylabel(f"p50 latency, {unit}")
        axes.set_title("Median latency of each result", pad=12 + 18 * math.ceil(len(shown) / columns))
        legend(axes, columns)

    return picture_of(
        name, "p50 from the intended start, median over the repeats.", _alt("p50", shown, unit, scale), draw
    )


def prediction_plot(comparisons: Sequence[Comparison]) -> Picture | None:
    """Predicted and measured bars side by side, one panel per unit; the whisker is the predicted range."""
    if not comparisons:
        return None
    units = list(dict.fromkeys(comparison.unit for comparison in comparisons))
    groups = [[c for c in comparisons if c.unit == unit] for unit in units]

    def draw(figure: Any) -> None:
        heights = [len(group) + 0.45 for group in groups]
        rows = figure.subplots(len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
        for unit, group, (axes,) in zip(units, groups, rows, strict=True):
            _draw_bars(axes, unit, group)
        rows[0][0].set_title("Prediction beside measurement", pad=30, x=0)
        handles, labels = rows[0][0].get_legend_handles_labels()
        rows[0][0].legend(handles, labels, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, borderaxespad=0.2)

    said = "; ".join(f"{c.what}: predicted {c.predicted:.3g}, measured {c.measured:.3g} {c.unit}" for c in comparisons)
    height = 1.3 + 0.78 * len(comparisons) + 0.55 * len(groups)
    caption = "What the plan said before, beside what was measured after; the thin line is the predicted range."
    return picture_of("prediction", caption, said, draw, height)


def _draw_bars(axes: Any, unit: str, group: Sequence[Comparison]) -> None:
    widest = max(max(c.predicted, c.measured, c.high or 0.0) for c in group)
    longest = 0

    def write(x: float, y: float, text: str, place: str = "center") -> None:
        # Outside the layout: a long text must not squeeze the bars.
        axes.text(x, y, text, va=place, fontsize=11).set_in_layout(False)

    for row, comparison in enumerate(group):
        top, below = row - 0.13, row + 0.23
        axes.barh(top, comparison.predicted, 0.32, color=ORANGE, label="predicted" if row == 0 else None)
        axes.barh(below, comparison.measured, 0.32, color=BLUE, label="measured" if row == 0 else None)
        right, said = comparison.predicted, plain(comparison.predicted)
        if comparison.low is not None and comparison.high is not None:
            axes.plot([comparison.low, comparison.high], [top, top], color=INK, linewidth=1.6)
            right, said = max(right, comparison.high), f"{said} ({plain(comparison.low)} - {plain(comparison.high)})"
        write(right + widest * 0.02, top, said)
        write(comparison.measured + widest * 0.02, below, plain(comparison.measured))
        write(0, row - 0.36, short(comparison.what, 52), "bottom")
        longest = max(longest, len(said))
    axes.set_ylim(len(group) - 0.55, -0.75)
    # Room for the longest figure behind the longest bar: a letter takes about 2% of the width.
    axes.set_xlim(0, (widest or 1.0) / max(0.3, 0.97 - 0.021 * longest))
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False)
    axes.set_ylabel(short(unit, 10), rotation=0, ha="right", va="center", labelpad=8)


_LATENCIES = (("p95", "p95_ms"), ("average", "avg_ms"), ("p50", "p50_ms"))


def _line(points: Sequence[CallerPoint], field: str) -> list[tuple[int, Spread]]:
    return [(point.callers, spread) for point in points if (spread := getattr(point, field)) is not None]


def _draw_line(axes: Any, line: Sequence[tuple[int, Spread]], label: str, number: int, scale: float) -> None:
    x = [callers for callers, _ in line]
    y = [spread.median * scale for _, spread in line]
    reach = [[(s.median - s.low) * scale for _, s in line], [(s.high - s.median) * scale for _, s in line]]
    axes.errorbar(
        x, y, yerr=reach, color=SERIES[number], marker=MARKERS[number], label=label,
        elinewidth=1.3, capsize=3, capthick=1.3,
    )  # fmt: skip


def _callers_axis(axes: Any, callers: Sequence[int]) -> None:
    axes.set_xlabel("concurrent callers")
    axes.set_xlim(min(callers) - 0.4, max(callers) + 0.4)
    axes.set_xticks(callers if len(callers) <= 12 else callers[:: len(callers) // 8])


def legend(axes: Any, columns: int = 4) -> None:
    handles, labels = axes.get_legend_handles_labels()
    # matplotlib puts plain lines before those with error bars; the dashed reference belongs after the measured lines.
    order = sorted(range(len(labels)), key=lambda place: labels[place] == UNBATCHED)
    axes.legend(
        [handles[place] for place in order], [labels[place] for place in order], **{**_LEGEND, "ncols": columns}
    )


def columns_of(labels: Sequence[str]) -> int:
    """Columns of a legend of names: long ones stand below each other."""
    return 2 if max(map(len, labels)) <= 22 else 1


def _time_unit(values_ms: Sequence[float]) -> tuple[float, str]:
    """Seconds from three seconds up, else milliseconds."""
    return (1e-3, "s") if max(values_ms) >= 3000 else (1.0, "ms")


def _alt(what: str, lines: Sequence[tuple[str, Sequence[tuple[int, Spread]]]], unit: str, scale: float) -> str:
    said = []
    for label, line in lines:
        figures = ", ".join(f"{callers}: {spread.median * scale:.3g}" for callers, spread in line)
        said.append(f"{label} by callers {figures}")
    return f"{what}{', ' + unit if unit else ''}: {'; '.join(said)}."


def short(label: str, most: int = 26) -> str:
    """A name as it can stand in a picture: one line, printable, not too long. A leading _ would hide it from matplotlib's legend."""
    line = "".join(letter if letter.isprintable() else " " for letter in label)
    if len(line) > most:  # what tells two long names apart stands at their ends as often as at their beginnings
        line = f"{line[: most // 2 - 1]}...{line[-(most - most // 2 - 2) :]}"
    return f" {line}" if line.startswith("_") else line


def picture_of(name: str, caption: str, alt: str, draw: Callable[[Any], None], height_in: float = HEIGHT_IN) -> Picture:
    matplotlib = matplotlib_door()
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        draw(figure)
        svg, png = io.StringIO(), io.BytesIO()
        with warnings.catch_warnings():
            # A letter the font lacks is drawn as a box; the person at the terminal can do nothing about it.
            warnings.filterwarnings("ignore", message="Glyph")
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once, for both files
            figure.savefig(svg, format="svg", metadata={"Date": None})
            figure.savefig(png, format="png", dpi=200)
    return Picture(name, caption, alt, svg.getvalue(), png.getvalue())


def matplotlib_door() -> Any:
    """The one door to matplotlib."""
    try:
        import matplotlib
        import matplotlib.figure
        import matplotlib.lines
        import matplotlib.ticker
    except ImportError:
        raise MissingPart("pictures need matplotlib", next_step="pip install 'onecard[plots]'") from None
    return matplotlib
