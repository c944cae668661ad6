"""Which of two links between the same two nodes survives: one decision, the same on both sides.

Per peer a node holds a :class:`Pair`. Each function takes it with what just happened and returns the
pair as it is then, and what the shell must do. Nothing here waits, sends or closes; connections are
known by a `token`, a number of the shell's own choosing, so that cleanup goes by identity and a
connection that lost can never take away the one that won. Specification: section 5, with the
invariants I1 to I5; ``tools/explore.py`` drives these same functions through their interleavings.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from .messages import RejectCode

#: Seconds for which a dial that sent its proof holds back the same peer's inbound link.
COMMIT_TIMEOUT = 3.0
MAX_COUNTER = 2**32 - 1


class Candidate(NamedTuple):
    """A connection whose peer has proved the cookie."""

    token: int
    #: The peer's incarnation; None for a classic peer, which has none and sends no counters.
    incarnation: int | None
    epoch: int
    #: Whether the node with the smaller name (compared as bytes) is the one that dialed.
    smaller_initiates: bool
    attempt: int

    @property
    def rank(self) -> tuple[int, int, bool, int]:
        """What decides between two bound connections, compared left to right; the greater stays."""
        return (self.incarnation or 0, self.epoch, self.smaller_initiates, self.attempt)


class Own(NamedTuple):
    """Our dial in progress. `committed_at` is None (PRE) until its REPLY is sent, then the time of that."""

    token: int
    epoch: int
    smaller_initiates: bool
    attempt: int
    incarnation: int | None = None
    committed_at: float | None = None

    def against(self, incarnation: int | None) -> Candidate:
        """This dial as a connection to the peer's life `incarnation`."""
        return Candidate(self.token, incarnation, self.epoch, self.smaller_initiates, self.attempt)


class Pair(NamedTuple):
    """All that one node knows of its links with one peer."""

    #: The registered link.
    link: Candidate | None = None
    #: The dial in progress.
    own: Own | None = None
    #: E: the highest epoch of any link registered so far.
    epoch: int = 0
    attempt: int = 0

    @property
    def idle(self) -> bool:
        """Whether neither a link nor a dial is there."""
        return self.link is None and self.own is None


class Dial(NamedTuple):
    """Connect, and send NAME with these counters."""

    epoch: int
    attempt: int


class UseLink(NamedTuple):
    """There is a link already: close this dial, if it began, and use that link."""


class AwaitDial(NamedTuple):
    """A dial is in progress already: wait for what becomes of it."""


class Commit(NamedTuple):
    """Send the REPLY."""


class Admit(NamedTuple):
    """Register the connection; then close the connections named, by token."""

    close: tuple[int, ...]


_ADMIT = Admit(())


class Decline(NamedTuple):
    """Do not register. An acceptor sends REJECT(code); on `probe` it pings the registered link."""

    code: RejectCode
    probe: bool = False


class Probe(NamedTuple):
    """Ping the registered link with a deadline; if it stays silent, end it. Then ask again."""


Decision: TypeAlias = Dial | UseLink | AwaitDial | Commit | Admit | Decline | Probe


def dial(pair: Pair, token: int, *, smaller: bool) -> tuple[Pair, Dial | UseLink | AwaitDial]:
    """We want a link. `smaller`: our name is the smaller of the two."""
    if pair.link is not None:
        return pair, UseLink()
    if pair.own is not None:
        return pair, AwaitDial()
    attempt = min(pair.attempt + 1, MAX_COUNTER)
    own = Own(token, min(pair.epoch + 1, MAX_COUNTER), smaller, attempt)
    return pair._replace(own=own, attempt=attempt), Dial(own.epoch, attempt)


def challenged(
    pair: Pair, token: int, incarnation: int | None, now: float
) -> tuple[Pair, Commit | UseLink | Decline]:
    """CHALLENGE arrived on our dial `token`, from the peer's life `incarnation`."""
    if pair.link is not None:
        return ended(pair, token), UseLink()
    if pair.own is None or pair.own.token != token:
        return pair, Decline(RejectCode.DUPLICATE)  # superseded while its CHALLENGE was on the way
    return pair._replace(own=pair.own._replace(incarnation=incarnation, committed_at=now)), Commit()


def proved(
    pair: Pair, candidate: Candidate, now: float, *, commit_timeout: float = COMMIT_TIMEOUT
) -> tuple[Pair, Admit | Decline | Probe]:
    """REPLY was verified on the inbound connection `candidate`."""
    link, own = pair.link, pair.own
    committed = own is not None and own.committed_at is not None and now - own.committed_at < commit_timeout
    if candidate.incarnation is None:
        if link is not None:
            return pair, Probe()
        if committed and not candidate.smaller_initiates:
            return pair, Decline(RejectCode.DUPLICATE)
        return _register(pair, candidate, also_own=True)
    if link is not None and candidate.rank <= link.rank:
        if candidate.rank[0] < link.rank[0]:
            # Either a ghost of the peer's earlier life or a peer whose clock went back: then our
            # link is the dead one, and the probe finds that out.
            return pair, Decline(RejectCode.STALE_INCARNATION, probe=True)
        return pair, Decline(RejectCode.DUPLICATE)
    if (
        own is not None
        and committed
        and own.incarnation == candidate.incarnation
        and own.against(candidate.incarnation).rank > candidate.rank
    ):
        return pair, Decline(RejectCode.DUPLICATE)
    return _register(pair, candidate, also_own=True)


def acknowledged(pair: Pair, candidate: Candidate) -> tuple[Pair, Admit | Decline]:
    """ACK was verified on our dial, which is now `candidate`."""
    link = pair.link
    if candidate.incarnation is None:
        loses = link is not None and not candidate.smaller_initiates
    else:
        loses = link is not None and candidate.rank <= link.rank
    if loses:
        return ended(pair, candidate.token), Decline(RejectCode.DUPLICATE)
    return _register(pair, candidate, also_own=False)


def ended(pair: Pair, token: int) -> Pair:
    """The connection `token` is over. Whatever else is registered or in progress stays."""
    if pair.link is not None and pair.link.token == token:
        pair = pair._replace(link=None)
    if pair.own is not None and pair.own.token == token:
        pair = pair._replace(own=None)
    return pair


def _register(pair: Pair, candidate: Candidate, *, also_own: bool) -> tuple[Pair, Admit]:
    own, link = pair.own, pair.link
    close: tuple[int, ...] = ()
    if own is not None:
        if own.token == candidate.token:
            own = None
        elif also_own:
            close, own = (own.token,), None
    if link is not None:
        close += (link.token,)
    epoch = candidate.epoch if candidate.epoch > pair.epoch else pair.epoch
    return Pair(candidate, own, epoch, pair.attempt), Admit(close) if close else _ADMIT
