"""Pairing rules that look right and are not: the explorer must find the interleaving that breaks each.

A :class:`Rule` is what ``snowgreen.protocol.pairing`` offers; the module itself is one. The classes
here change as little of it as it takes to be some simpler rule that others use or that one would
think of first. They exist so that a verdict of the explorer means something: it has been seen to fail.
"""

from __future__ import annotations

from typing import Final, Protocol

from snowgreen.protocol import pairing
from snowgreen.protocol.messages import RejectCode
from snowgreen.protocol.pairing import (
    COMMIT_TIMEOUT,
    Admit,
    AwaitDial,
    Candidate,
    Commit,
    Decline,
    Dial,
    Pair,
    Probe,
    UseLink,
)


class Rule(Protocol):
    """The five decisions of a pairing rule; see :mod:`snowgreen.protocol.pairing` for what each means."""

    def dial(self, pair: Pair, token: int, *, smaller: bool) -> tuple[Pair, Dial | UseLink | AwaitDial]:
        """We want a link."""

    def challenged(
        self, pair: Pair, token: int, incarnation: int | None, now: float
    ) -> tuple[Pair, Commit | UseLink | Decline]:
        """CHALLENGE arrived on our dial."""

    def proved(self, pair: Pair, candidate: Candidate, now: float) -> tuple[Pair, Admit | Decline | Probe]:
        """REPLY was verified on an inbound connection."""

    def acknowledged(self, pair: Pair, candidate: Candidate) -> tuple[Pair, Admit | Decline]:
        """ACK was verified on our dial."""

    def ended(self, pair: Pair, token: int) -> Pair:
        """A connection is over."""


class _Production:
    """The production rule, to be overridden in part."""

    dial = staticmethod(pairing.dial)
    challenged = staticmethod(pairing.challenged)
    acknowledged = staticmethod(pairing.acknowledged)
    ended = staticmethod(pairing.ended)

    @staticmethod
    def proved(pair: Pair, candidate: Candidate, now: float) -> tuple[Pair, Admit | Decline | Probe]:
        """As it is: the timeout is not for a rule to choose."""
        return pairing.proved(pair, candidate, now)


class FirstWins(_Production):
    """Whatever came first stays: a link, or our own dial once its proof is out, refuses every newcomer."""

    @staticmethod
    def proved(pair: Pair, candidate: Candidate, now: float) -> tuple[Pair, Admit | Decline]:
        """Refuse where there is anything already."""
        if pair.link is not None or _committed(pair, now):
            return pair, Decline(RejectCode.DUPLICATE)
        return _register(pair, candidate)

    @staticmethod
    def acknowledged(pair: Pair, candidate: Candidate) -> tuple[Pair, Admit | Decline]:
        """Drop our own dial where there is a link already."""
        if pair.link is not None:
            return pairing.ended(pair, candidate.token), Decline(RejectCode.DUPLICATE)
        return _register(pair, candidate)


class NewestWins(_Production):
    """Whatever comes last replaces what is there."""

    @staticmethod
    def proved(pair: Pair, candidate: Candidate, now: float) -> tuple[Pair, Admit]:
        """Replace."""
        return _register(pair, candidate)

    @staticmethod
    def acknowledged(pair: Pair, candidate: Candidate) -> tuple[Pair, Admit]:
        """Replace."""
        return _register(pair, candidate)


class SmallerName(_Production):
    """The smaller name's dial wins over the larger name's, registered or committed; among equals the last."""

    @staticmethod
    def proved(pair: Pair, candidate: Candidate, now: float) -> tuple[Pair, Admit | Decline]:
        """Replace unless the smaller name dialed what is there, and the larger name the newcomer."""
        registered = pair.link is not None and pair.link.smaller_initiates
        dialing = pair.own is not None and pair.own.smaller_initiates and _committed(pair, now)
        if (registered or dialing) and not candidate.smaller_initiates:
            return pair, Decline(RejectCode.DUPLICATE)
        return _register(pair, candidate)

    @staticmethod
    def acknowledged(pair: Pair, candidate: Candidate) -> tuple[Pair, Admit | Decline]:
        """Replace unless the smaller name dialed the link, and the larger name the newcomer."""
        if pair.link is not None and pair.link.smaller_initiates and not candidate.smaller_initiates:
            return pairing.ended(pair, candidate.token), Decline(RejectCode.DUPLICATE)
        return _register(pair, candidate)


class NoEpoch(_Production):
    """The production rule, but every dial carries the same epoch, as if the rank had none."""

    @staticmethod
    def dial(pair: Pair, token: int, *, smaller: bool) -> tuple[Pair, Dial | UseLink | AwaitDial]:
        """Forget what was registered before."""
        return pairing.dial(pair._replace(epoch=0), token, smaller=smaller)


class Snow(_Production):
    """Snow's own: a registered link stays if the smaller name dialed it, a dial holds nothing back.

    Links are kept in a table by name, and whichever connection to that name ends, the entry goes.
    """

    @staticmethod
    def challenged(
        pair: Pair, token: int, incarnation: int | None, now: float
    ) -> tuple[Pair, Commit | UseLink | Decline]:
        """Go on, whatever was registered meanwhile."""
        return pair, Commit()

    @staticmethod
    def proved(pair: Pair, candidate: Candidate, now: float) -> tuple[Pair, Admit | Decline]:
        """Keep a link that the smaller name dialed; replace another."""
        if pair.link is not None and pair.link.smaller_initiates:
            return pair, Decline(RejectCode.DUPLICATE)
        return _register(pair, candidate, own_stays=True)

    @staticmethod
    def acknowledged(pair: Pair, candidate: Candidate) -> tuple[Pair, Admit]:
        """Overwrite the entry."""
        return _register(pair, candidate)

    @staticmethod
    def ended(pair: Pair, token: int) -> Pair:
        """Remove the entry of that name."""
        own = None if pair.own is not None and pair.own.token == token else pair.own
        return pair._replace(link=None, own=own)


def _committed(pair: Pair, now: float) -> bool:
    own = pair.own
    return own is not None and own.committed_at is not None and now - own.committed_at < COMMIT_TIMEOUT


def _register(pair: Pair, candidate: Candidate, *, own_stays: bool = False) -> tuple[Pair, Admit]:
    close = [pair.link.token] if pair.link is not None else []
    own = pair.own
    if own is not None and own.token == candidate.token:
        own = None
    elif own is not None and not own_stays:
        close.append(own.token)
        own = None
    return Pair(candidate, own, max(pair.epoch, candidate.epoch), pair.attempt), Admit(tuple(close))


RULES: Final[dict[str, Rule]] = {
    "production": pairing,
    "first-wins": FirstWins(),
    "newest-wins": NewestWins(),
    "smaller-name": SmallerName(),
    "snow": Snow(),
    "no-epoch": NoEpoch(),
}
