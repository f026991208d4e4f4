"""How much work to hand over at once."""

_DISPATCH_SECONDS = 2.0


class Pace:
    """Sizes dispatches to last about two seconds: a slow machine stays live to signals, a fast one never waits."""

    def __init__(self):
        self._count = 1
        self.seconds_per_step: float | None = None

    def next(self, remaining: int) -> int:
        """Steps of the next dispatch, at most `remaining`."""
        return min(self._count, remaining)

    def observe(self, count: int, seconds: float) -> None:
        """Learns that `count` steps took `seconds`."""
        latest = seconds / count
        self.seconds_per_step = latest if self.seconds_per_step is None else (self.seconds_per_step + latest) / 2
        # At most four times the last: one early measurement must not make a dispatch of minutes.
        self._count = max(1, min(int(_DISPATCH_SECONDS / self.seconds_per_step), 4 * count))
