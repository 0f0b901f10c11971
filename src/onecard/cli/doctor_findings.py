"""From facts to findings: what is wrong, why it matters, and the command that mends it. Pure: nothing is read here.

Problems come first, then warnings, then what is fine; within each in the order a start would meet them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from onecard.cli import doctor_findings_fleet as fleet
from onecard.cli import doctor_findings_machine as machine
from onecard.cli import doctor_findings_places as places
from onecard.cli import doctor_findings_service as service
from onecard.cli import doctor_findings_versions as versions
from onecard.cli.doctor_records import SEVERITIES, Facts, Finding, Severity

Check = Callable[[Facts], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    machine.card,
    versions.torch_build,
    versions.bitsandbytes,
    versions.versions,
    machine.held_memory,
    machine.variables,
    machine.main_memory,
    machine.open_files,
    places.environment_file,
    places.writable,
    places.room,
    places.leftovers,
    fleet.models,
    fleet.servable,
    fleet.token,
    fleet.disk,
    fleet.memory,
    service.port,
    service.active,
    fleet.calibration,
    fleet.cold_start,
)


def diagnose(facts: Facts) -> tuple[Finding, ...]:
    """Every finding, the worst first. A check that has nothing to look at says nothing."""
    found = [finding for check in CHECKS for finding in check(facts)]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def worst(findings: tuple[Finding, ...]) -> Severity:
    """The gravest severity there is; ok for none."""
    return min((finding.severity for finding in findings), key=SEVERITIES.index, default="ok")
