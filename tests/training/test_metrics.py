"""metrics.jsonl: each step once, whole, and JSON that any reader takes."""

from __future__ import annotations

import json
import math

from onecard.training.metrics import FILE, Metrics


def strictly(line):
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(line, parse_constant=refuse)


def test_a_figure_that_is_no_number_is_left_out(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.write(1, loss=2.5, gradient_norm=math.inf, validation_loss=None)
    metrics.close()
    assert [strictly(line) for line in (tmp_path / FILE).read_text().splitlines()] == [{"step": 1, "loss": 2.5}]


def test_a_run_that_goes_on_keeps_the_lines_before_it_and_half_a_line_is_none(tmp_path):
    (tmp_path / FILE).write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
    metrics = Metrics(tmp_path, step=1)
    metrics.write(2, loss=1.5)
    metrics.close()
    lines = [strictly(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 1.5}]
    assert [place.name for place in tmp_path.iterdir()] == [FILE]
