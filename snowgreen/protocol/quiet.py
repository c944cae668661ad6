"""How many lines a log takes of failed handshakes, which strangers can bring about at any rate they like.

So many a second in all, of which some are kept for the failures of this node's own dials; and of one cause
with one address a few at first, then one a second. What is held back is counted.
"""

from __future__ import annotations

from collections import Counter, deque

#: Lines in any one second, and how many of them may be about connections that others made.
IN_ALL, OTHERS = 10, 8
#: Lines about one cause with one address at once; after them, one a second.
BURST = 5
#: Causes and addresses that are told apart. A forgotten one may burst anew, within the bound for all.
KINDS = 256

_SECOND = 1.0


class Quiet:
    """The bound on one node's lines. Times are seconds on one monotonic clock, passed in."""

    __slots__ = ("_all", "_held", "_kinds", "_others")

    def __init__(self) -> None:
        self._all: deque[float] = deque(maxlen=IN_ALL)
        self._others: deque[float] = deque(maxlen=OTHERS)
        # Cause, host and direction → how many lines were left then, the longest unused first.
        self._kinds: dict[tuple[str, str, bool], tuple[float, float]] = {}
        self._held: Counter[str] = Counter()

    def admit(self, cause: str, host: str, now: float, *, initiated: bool) -> bool:
        """Whether to write a line about a failure of `cause` with `host`. If not, it is counted.

        :param initiated: whether this node dialed.
        """
        written = [self._all] if initiated else [self._all, self._others]
        if all(map(_room, written, [now] * 2)) and self._has_line((cause, host, initiated), now):
            for times in written:
                times.append(now)
            return True
        self._held[cause] += 1
        return False

    def held(self) -> Counter[str]:
        """How many were held back since this was asked last, by cause."""
        held, self._held = self._held, Counter()
        return held

    def _has_line(self, kind: tuple[str, str, bool], now: float) -> bool:
        lines, at = self._kinds.pop(kind, (float(BURST), now))
        lines = min(BURST, lines + (now - at) / _SECOND)
        enough = lines >= 1
        self._kinds[kind] = (lines - enough, now)
        if len(self._kinds) > KINDS:
            del self._kinds[next(iter(self._kinds))]
        return enough


def _room(times: deque[float], now: float) -> bool:
    return len(times) < (times.maxlen or 0) or now - times[0] >= _SECOND
