"""When a vLLM that died is started again, and when it is given up. Pure: it is told the time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Restarts:
    """At most `most` restarts within `window_s`; the first after `first_s`, each further one after twice as long, up to `longest_s`."""

    most: int = 5
    window_s: float = 600.0
    first_s: float = 1.0
    longest_s: float = 60.0

    def delay_s(self, ends_s: tuple[float, ...]) -> float | None:
        """Seconds to wait after the last of these ends, ascending; None when it is given up."""
        recent = [end for end in ends_s if ends_s[-1] - end <= self.window_s]
        if len(recent) > self.most:
            return None
        return float(min(self.first_s * 2 ** (len(recent) - 1), self.longest_s))
