"""What the dashboard of `onecard serve` holds against what is: the plan's memory by part, the card, the agents' deadlines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onecard.fleet.loader import LoadedFleet
    from onecard.serving.dashboard import Expected


def expected_of(loaded: LoadedFleet) -> Expected:
    """Looks nothing up on the internet. A fleet that cannot be planned on this machine is served all the same, with its deadlines only."""
    from onecard.cli.plan import plan_of
    from onecard.errors import OnecardError
    from onecard.serving.dashboard import Expected, Promise

    deadlines = {
        name: Promise(agent.deadline.seconds, agent.deadline.percentile)
        for name, agent in loaded.fleet.agents.items()
        if agent.deadline is not None
    }
    try:
        made = plan_of(loaded, offline=True)
    except OnecardError:
        return Expected(deadlines=deadlines)
    kinds = dict.fromkeys(line.kind for line in made.serving.lines)
    return Expected(
        card=made.card.name,
        card_bytes=made.card.total_bytes,
        reserve_bytes=made.reserve_bytes,
        planned_bytes={kind: made.serving.bytes_of_kind(kind) for kind in kinds},
        deadlines=deadlines,
    )
