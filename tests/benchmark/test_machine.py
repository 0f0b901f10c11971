"""Where a measurement took place, told apart: in this process, on this machine, elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from onecard.benchmark.machine import cpu_name, place_of, this_machine
from onecard.wire.health import Health


@pytest.mark.parametrize(
    ("url", "in_process", "place"),
    [
        ("http://127.0.0.1:8700", True, "this process"),
        ("http://127.0.0.1:8700", False, "this machine"),
        ("http://localhost:8700/v1", False, "this machine"),
        ("http://[::1]:8700", False, "this machine"),
        ("https://gpu.example.org", False, "another machine"),
    ],
)
def test_the_place_of_the_server(url: str, in_process: bool, place: str) -> None:
    assert place_of(url, in_process) == place


def test_the_record_of_this_machine() -> None:
    where = this_machine("http://127.0.0.1:1", False, None)
    assert where.cpu and where.cores >= 1 and where.ram_gib > 0
    assert {"onecard", "python", "httpx"} <= set(where.versions)
    assert (where.card, where.driver) == (None, None)


def test_no_card_is_claimed_for_a_service_elsewhere_or_on_a_cpu() -> None:
    on_a_card = Health.model_validate({"status": "ok", "memory": {"gpu_bytes": 1}})
    assert this_machine("https://gpu.example.org", False, on_a_card).card is None
    assert this_machine("http://127.0.0.1:1", False, Health(status="ok")).card is None


def test_the_processors_name(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: A CPU 3000\nprocessor\t: 1\nmodel name\t: A CPU 3000\n")
    assert cpu_name(file) == "A CPU 3000"
    assert cpu_name(tmp_path / "none")
