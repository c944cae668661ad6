"""When to ping a silent peer, and when to give it up (specification, section 4).

Any byte received counts as life. All times are seconds on one monotonic clock, passed in.
"""

from __future__ import annotations

import enum
from typing import Generic, NamedTuple, Protocol, TypeVar


class Verdict(enum.Enum):
    """What a look at one session says."""

    QUIET = "nothing to do"
    PING = "ping it"
    SILENT = "no answer to a ping"
    STUCK = "no progress inside a frame"


class Pulse(NamedTuple):
    """The three durations a node is configured with, in seconds."""

    interval: float
    timeout: float
    frame_timeout: float


def poll(
    now: float,
    *,
    last_received: float,
    pinged_at: float | None,
    mid_frame: bool,
    pulse: Pulse,
    spread: float = 0.0,
    grace: bool = False,
) -> Verdict:
    """Judge one session.

    :param last_received: when its last byte came, or when it was established.
    :param pinged_at: when it was last pinged for its silence, None if it was not.
    :param mid_frame: whether a frame has begun and not ended.
    :param spread: from 0 to 1, how much earlier than after the whole interval to ping, at most by a quarter
        of it: sessions that fell silent together are then not pinged together.
    :param grace: our own loop was stalled, so that bytes may have come that we did not read yet:
        nobody is given up for it, but pinged once more.
    """
    silent = now - last_received
    if mid_frame and silent >= pulse.frame_timeout:
        return Verdict.QUIET if grace else Verdict.STUCK
    if pinged_at is not None and pinged_at > last_received:
        if now - pinged_at < pulse.timeout:
            return Verdict.QUIET
        return Verdict.PING if grace else Verdict.SILENT
    return Verdict.PING if silent >= pulse.interval * (1.0 - spread / 4.0) else Verdict.QUIET


def look_again(
    *,
    last_received: float,
    pinged_at: float | None,
    mid_frame: bool,
    pulse: Pulse,
    spread: float = 0.0,
) -> float:
    """When :func:`poll` may have something to say next; until then it has nothing, whatever is received."""
    silence = pulse.interval * (1.0 - spread / 4.0)
    if pinged_at is not None and pinged_at > last_received:
        due = pinged_at + min(pulse.timeout, silence)  # by then it may be answered, and silent again
    else:
        due = last_received + silence
    return min(due, last_received + pulse.frame_timeout) if mid_frame else due


class Looked(Protocol):
    """What :class:`Rounds` notes on whatever it is to give back."""

    #: The round it is due in, None if it is in none.
    round: int | None


L = TypeVar("L", bound=Looked)


class Rounds(Generic[L]):
    """Who is to be looked at when: a look costs those who are due, however many there are.

    Nobody is looked at late; they may be a tick early, and are then put back.

    :param tick: seconds that one round stands for.
    """

    __slots__ = ("_rounds", "_tick")

    def __init__(self, tick: float) -> None:
        self._tick = tick
        self._rounds: dict[int, set[L]] = {}

    def put(self, looked: L, due: float) -> None:
        """Have `looked` looked at by `due`, or earlier if it was to be already."""
        number = int(due // self._tick)
        if looked.round is not None:
            if looked.round <= number:
                return
            self.drop(looked)
        looked.round = number
        self._rounds.setdefault(number, set()).add(looked)

    def drop(self, looked: L) -> None:
        """Have `looked` looked at no more."""
        number, looked.round = looked.round, None
        if number is not None:
            members = self._rounds[number]
            members.discard(looked)
            if not members:
                del self._rounds[number]

    def due(self, now: float) -> list[L]:
        """Take out who is due at `now`, the longest due first."""
        until = int(now // self._tick)
        found: list[L] = []
        for number in sorted(number for number in self._rounds if number <= until):
            found += self._rounds.pop(number)
        for looked in found:
            looked.round = None
        return found


def sweep_interval(pulse: Pulse) -> float:
    """How often to look, in seconds: often enough to be late by no more than a quarter, at most every 5 s."""
    return max(0.005, min(5.0, pulse.interval / 4, pulse.timeout / 4, pulse.frame_timeout / 4))
