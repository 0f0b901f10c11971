"""The report: one HTML page that needs nothing else. No script, no network, light and dark, on a phone and on paper.

`render` is pure: a `ReportData` and the pictures drawn from it become text. Whatever came from outside (names, prompts, answers, error
texts) is escaped where it is put into the page; a section without data is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from onecard.benchmark.figures import Headline, counted, moment, of_unit, plain, readable, spread_cell
from onecard.benchmark.picture import Picture, themed
from onecard.benchmark.report_data import Comparison, Measured, ReportData, Sample
from onecard.benchmark.report_runs import training_section
from onecard.benchmark.report_table import NO_FIGURE, definitions, table
from onecard.benchmark.statistics import CallerPoint, Spread, answered_by, caller_points, caution, outcome_counts
from onecard.evidence.results import ResultFile, Step
from onecard.evidence.summaries import needed_for, summarize


def render(data: ReportData, pictures: Sequence[Picture] = (), note: str | None = None) -> str:
    """The whole page. `note` is said where pictures would be, when there are none."""
    title = data.title or "onecard: measured"
    style = (resources.files("onecard.benchmark") / "report.css").read_text(encoding="utf-8")
    by_name = {picture.name: picture for picture in pictures}
    parts = [
        f"<header><h1>{escape(title)}</h1>",
        f"<p>{escape(data.intro)}</p>" if data.intro else "",
        f'<p class="muted">Written {escape(moment(data.created_at))} by onecard.</p></header>',
        *_plots([by_name["comparison"]] if "comparison" in by_name else []),
    ]
    for position, measured in enumerate(data.measured):
        suffix = f"-{position + 1}" if len(data.measured) > 1 else ""
        own = [by_name[n + suffix] for n in ("latency", "throughput", "ttft", "itl") if n + suffix in by_name]
        parts += _measured(measured, own, note)
    parts += _comparisons(data.comparisons, by_name.get("prediction"))
    names = ("training", "training-rate", "training-speed", "training-memory")
    parts += training_section(data.trainings, _plots([by_name[name] for name in names if name in by_name]), note)
    parts += _gates(data)
    parts += _samples(data.samples)
    parts += _how_to(data)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _measured(measured: Measured, own: Sequence[Picture], note: str | None) -> list[str]:
    result = measured.result
    points = caller_points(result.steps)
    what = result.what
    return [
        f"<h2>Load: {escape(', '.join(what.agents))} <span class='muted'>{escape(measured.name)}</span></h2>",
        *_cautions(result),
        _headline(result, points),
        *_plots(own),
        f'<p class="muted">{escape(note)}</p>' if note and not own else "",
        _points_table(points),
        _steps_table(result.steps),
        _who_answered(result),
        _what_and_where(result),
    ]


def _cautions(result: ResultFile) -> list[str]:
    said = []
    if not result.complete:
        said.append(f"This measurement is partial: {result.stopped_because or 'it did not finish'}.")
    failed = {kind: count for kind, count in outcome_counts(result).items() if kind != "ok"}
    if failed:
        total = sum(outcome_counts(result).values())
        kinds = ", ".join(f"{count} {kind}" for kind, count in failed.items())
        first = next(r.detail for s in result.steps for r in s.requests if r.outcome != "ok")
        said.append(f"{sum(failed.values())} of {total} requests got no answer ({kinds}). The first: {first}.")
    lag = caution(result)
    if lag:
        said.append(lag)
    return [f'<p class="caution">{escape(text)}</p>' for text in said]


def _headline(result: ResultFile, points: Sequence[CallerPoint]) -> str:
    boxes = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(meaning)}</span></div>"
        for value, meaning in Headline(result, points).boxes()
    )
    return f'<div class="headline">{boxes}</div>' if boxes else ""


def _plots(pictures: Iterable[Picture]) -> list[str]:
    figures = [_figure(picture) for picture in pictures]
    return [f'<div class="plots">{"".join(figures)}</div>'] if figures else []


def _figure(picture: Picture) -> str:
    return (
        f'<figure><div role="img" aria-label="{escape(picture.alt)}">{themed(picture)}</div>'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _points_table(points: Sequence[CallerPoint]) -> str:
    latencies = [_unit(name, "ms") for name in ("p50", "p95", "p99", "average", "TTFT p50", "ITL p50")]
    rates = [_unit("requests", "per s"), _unit("tokens", "per s")]
    head = ["callers", *latencies, *rates, _unit("memory", "GiB"), "errors"]
    fields = ("p50_ms", "p95_ms", "p99_ms", "avg_ms", "ttft_p50_ms", "itl_p50_ms", "rps", "tokens_s", "gpu_mem_gib")
    rows = []
    for point in points:
        cells = [str(point.callers), *(_spread(getattr(point, field)) for field in fields)]
        rows.append([*cells, f"{point.errors} of {point.requests}"])
    footnote = (
        "Median over the repeats, lowest to highest below it. TTFT: time to first token; ITL: gap between tokens. "
        f"{NO_FIGURE}: not known, or too few answered requests in a repeat to say (p95 needs {needed_for(95)}, "
        f"p99 {needed_for(99)})."
    )
    return table("By callers", head, rows, footnote)


def _steps_table(steps: Sequence[Step]) -> str:
    latencies = [_unit(name, "ms") for name in ("p50", "p95", "p99", "average")]
    head = ["callers", "repeat", "requests", *latencies, _unit("requests", "per s"), _unit("tokens", "per s"), "errors"]
    rows = []
    for step in steps:
        s = summarize(step)
        figures = (s.p50_ms, s.p95_ms, s.p99_ms, s.avg_ms, s.rps, s.tokens_s)
        cells = [
            str(step.callers),
            str(step.repeat),
            str(s.requests),
            *(readable(value) or NO_FIGURE for value in figures),
        ]
        rows.append([*cells, str(s.errors)])
    return f"<details><summary>Every repeat ({len(rows)})</summary>{table('', head, rows)}</details>" if rows else ""


def _who_answered(result: ResultFile) -> str:
    counts = answered_by(result)
    if len(counts) < 2 and not any(adapter for _, _, adapter in counts):
        return ""
    rows = [
        [escape(agent), escape(preset or NO_FIGURE), escape(adapter or "not said"), str(count)]
        for (agent, preset, adapter), count in sorted(counts.items(), key=lambda item: -item[1])
    ]
    return table("Who answered, by the answers' own headers", ["agent", "preset", "adapter", "answers"], rows, text=3)


def _what_and_where(result: ResultFile) -> str:
    what, where, how = result.what, result.where, result.how
    load = (
        f"closed loop, {_ranges(how.callers)} callers, {counted(how.requests, 'request')} of each, "
        f"{counted(how.repeats, 'repeat')}; before, {how.warmup_requests} of each uncounted; seed {how.seed}"
    )
    limit = f", at most {how.max_new_tokens} new tokens" if how.max_new_tokens else ""
    rows = {
        "service": f"{what.url} ({where.server})",
        "model": _joined(what.model, what.quantization),
        "engine": _joined(what.engine, what.engine_version),
        "fleet": _joined(what.fleet, (what.fleet_digest or "")[:12]),
        "card": _joined(where.card, where.driver),
        "machine": f"{where.cpu}, {where.cores} cores, {where.ram_gib:g} GiB, {where.system}",
        "versions": ", ".join(f"{name} {version}" for name, version in where.versions.items()),
        "load": load + limit,
        "prompts": f"{how.prompts} ({how.prompts_rows} rows, sha256 {how.prompts_sha256[:12]})",
        "when": f"{moment(result.started_at)} to {moment(result.ended_at)}",
    }
    return f"<h3>What ran, where and how</h3>{definitions(rows)}"


def _comparisons(comparisons: Sequence[Comparison], picture: Picture | None) -> list[str]:
    if not comparisons:
        return []
    rows = []
    for c in comparisons:
        range_text = NO_FIGURE if c.low is None or c.high is None else f"{plain(c.low)} to {plain(c.high)}"
        inside = {True: '<span class="yes">yes</span>', False: '<span class="no">no</span>', None: NO_FIGURE}
        note = f'<span class="small">{escape(c.note)}</span>' if c.note else ""
        error = NO_FIGURE if c.error is None else f"{c.error:+.0%}"
        predicted, measured = of_unit(c.predicted, c.unit), of_unit(c.measured, c.unit)
        rows.append(
            [
                escape(c.what) + note,
                c.tag,
                escape(predicted),
                range_text,
                escape(measured),
                error,
                inside[c.within_range],
            ]
        )
    head = ["what", "basis", "predicted", "range", "measured", "error", "in range"]
    footnote = "Error: (predicted - measured) / measured. Basis: where the prediction comes from."
    compared = table("", head, rows, footnote, text=2)
    return ["<h2>Prediction beside measurement</h2>", *_plots([picture] if picture else []), compared]


def _gates(data: ReportData) -> list[str]:
    if not data.gates:
        return []
    rows = []
    for line in data.gates:
        verdict = '<span class="yes">passed</span>' if line.passed else '<span class="no">failed</span>'
        rows.append([escape(line.agent), escape(line.check), escape(line.observed), verdict])
    return ["<h2>The gate</h2>", table("", ["agent", "demanded", "observed", "verdict"], rows, text=4)]


def _samples(samples: Sequence[Sample]) -> list[str]:
    parts = ["<h2>Sample answers</h2>"] if samples else []
    for sample in samples:
        articles = []
        for answer in sample.answers:
            facts = [
                answer.adapter,
                f"{answer.tokens} tokens" if answer.tokens is not None else None,
                f"{answer.seconds:.2f} s" if answer.seconds is not None else None,
            ]
            said = ", ".join(fact for fact in facts if fact)
            articles.append(
                f'<article><h4>{escape(answer.label)}</h4><span class="small">{escape(said)}</span>'
                f"<p>{escape(answer.text)}</p></article>"
            )
        parts.append(f'<h3>{escape(sample.question)}</h3><div class="answers">{"".join(articles)}</div>')
    return parts


def _how_to(data: ReportData) -> list[str]:
    parts = [f"<h2>Environment</h2>{definitions(data.environment)}"] if data.environment else []
    commands = [*data.commands, *(m.result.how.command for m in data.measured if m.result.how.command)]
    if commands:
        typed = escape("\n".join(dict.fromkeys(commands)))
        parts.append(f"<h2>To do it again</h2><pre>{typed}</pre>")
    if data.measured:
        parts.append(
            '<p class="footnote">Latency and time to first token count from the moment a request was meant to start: in a closed '
            "loop, the moment the same caller's previous answer had ended. Percentiles interpolate linearly between the two nearest "
            "observations and cover answered requests only; the others are counted as errors. Every request stands in the result file.</p>"
        )
    return parts


def _unit(name: str, unit: str) -> str:
    return f'{name}<span class="small">{unit}</span>'


def _spread(value: Spread | None) -> str:
    main, below = spread_cell(value)
    return (main or NO_FIGURE) + (f'<span class="small">{below}</span>' if below else "")


def _joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _ranges(callers: Sequence[int]) -> str:
    whole = list(range(callers[0], callers[-1] + 1)) == list(callers)
    return f"{callers[0]} to {callers[-1]}" if whole and len(callers) > 1 else ", ".join(map(str, callers))
