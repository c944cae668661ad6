"""What a node can be told about time and size: two frozen values, checked when they are made."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from .errors import ConfigurationError
from .names import printable

MIB = 1024 * 1024


class _Checked:
    """Refuses, at construction, a field that is no number, not finite, or out of its range."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, item.name)
            low = item.metadata.get("low")
            if low is None or (value is None and item.default is None):
                continue
            whole = item.type == "int"
            fitting = isinstance(value, int) if whole else isinstance(value, int | float)
            # An int is finite, and may be too large for isfinite().
            if not fitting or isinstance(value, bool) or not (isinstance(value, int) or math.isfinite(value)):
                kind = "a whole number" if whole else "a number"
                raise ConfigurationError(
                    item.name, f"must be {kind} of {item.metadata['unit']}, not {_shown(value)}"
                )
            high = item.metadata["high"]
            if not low <= value <= high:
                bounds = f"from {_shown(low)} to {_shown(high)} {item.metadata['unit']}"
                raise ConfigurationError(item.name, f"must be {bounds}, not {_shown(value)}")


def _shown(value: object) -> str:
    try:
        return printable(repr(value), 40)
    except ValueError:  # Python writes no int of more than 4300 digits
        return "a number of thousands of digits"


def _seconds(default: float, low: float = 0.001, high: float = 86_400.0) -> float:
    return field(default=default, metadata={"low": low, "high": high, "unit": "seconds"})


def _rate(default: float) -> float:
    return field(default=default, metadata={"low": 0.01, "high": 1e6, "unit": "connections a second"})


def _count(default: int, unit: str, low: int, high: int) -> int:
    return field(default=default, metadata={"low": low, "high": high, "unit": unit})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits(_Checked):
    """How much peers may cost. ``Limits()`` is for a port that strangers can reach.

    :meth:`trusted` is the profile for a network, or a machine, where many honest nodes share an address.
    Single values can be changed in either: ``Limits(pending=256)``, ``Limits.trusted(pending=256)``.

    :param tls_timeout: seconds for TLS alone, from accept or TCP connect; a total, whatever trickles in
        meanwhile.
    :param handshake_timeout: seconds for TLS and the four messages together; a total.
    :param pending: handshakes under way at once, from everywhere. Each holds a descriptor and about 30 KB.
    :param pending_per_source: handshakes under way at once from one source: an IPv4 address, or an IPv6 /64.
    :param reserved_share: the share of `pending` kept for configured peers, so that strangers cannot keep
        them out.
    :param pending_grace: seconds for which a handshake is safe. When all places are taken, one that is older
        may be ended in favour of a newcomer: an honest one takes milliseconds.
    :param connections_per_second: new connections a second from one source, on average. Failures lower it
        for that source.
    :param connections_burst: new connections from one source at once, after a quiet time.
    :param max_frame: bytes in one frame after the handshake. 16 MiB is the protocol's own bound; what is
        larger comes in fragments, which always fit.
    :param max_message: bytes in the encoded body of one message, call or result.
    :param max_depth: how deep a body without a type may nest.
    :param frame_timeout: seconds a peer may pause inside one frame before the link is given up.
    :param outbox_bytes: bytes that wait for one peer to read before senders wait. Small messages and calls,
        which go ahead of large ones, wait only once there is as much of small ones.
    :param outbox_frames: frames that wait for one peer to read before senders wait.
    :param handlers: calls of peers that are worked on at once, shared among them; beyond, callers wait.
    :param known_peers: nodes that a mesh remembers. Those that cannot be reached are forgotten first.
    :param dials: dials to kept peers in progress at once, so that a return of all does not become a storm;
        and as many to nodes that the mesh has learnt of.
    :param remembered_peers: peers whose dial history (two counters) is remembered after their link ended.
    :raises ConfigurationError: naming the field that is out of its range.
    """

    tls_timeout: float = _seconds(5.0)
    handshake_timeout: float = _seconds(10.0)
    pending: int = _count(128, "handshakes", 1, 100_000)
    pending_per_source: int = _count(16, "handshakes", 1, 100_000)
    reserved_share: float = field(default=0.25, metadata={"low": 0.0, "high": 0.9, "unit": "of the whole"})
    pending_grace: float = _seconds(1.0)
    connections_per_second: float = _rate(20.0)
    connections_burst: int = _count(40, "connections", 1, 1_000_000)
    max_frame: int = _count(16 * MIB, "bytes", 128 * 1024, 16 * MIB)
    max_message: int = _count(128 * MIB, "bytes", MIB, 1024 * MIB)
    max_depth: int = _count(64, "levels", 1, 500)
    frame_timeout: float = _seconds(30.0)
    outbox_bytes: int = _count(8 * MIB, "bytes", 1024, 1024 * MIB)
    outbox_frames: int = _count(10_000, "frames", 16, 10_000_000)
    handlers: int = _count(1024, "calls", 1, 1_000_000)
    known_peers: int = _count(1024, "nodes", 1, 60_000)
    dials: int = _count(4, "dials", 1, 10_000)
    remembered_peers: int = _count(4096, "peers", 16, 1_000_000)

    @classmethod
    def trusted(cls, **changes: Any) -> Limits:
        """The profile for many nodes behind one address that are all ours.

        The total deadlines and every bound after authentication stay as they are; what grows is how many
        handshakes may be under way, and how fast they may come.
        """
        return cls(**{**_TRUSTED, **changes})


_TRUSTED = {
    "pending": 4096,
    "pending_per_source": 4096,
    "reserved_share": 0.0,
    "connections_per_second": 5000.0,
    "connections_burst": 10_000,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(_Checked):
    """How a node behaves; give it as ``Node(config=Config(heartbeat_interval=10))``.

    :param heartbeat_interval: seconds of silence from a peer after which it is pinged.
    :param heartbeat_timeout: seconds after an unanswered ping at which the link counts as dead.
    :param probe_timeout: seconds an existing link is given to answer when a peer's conduct suggests that it
        is dead.
    :param commit_timeout: seconds for which a dial that has sent its proof holds back the same peer's
        inbound link.
    :param duplicate_wait: seconds, about, to wait for a peer's link after it declined ours as a duplicate;
        then dial again.
    :param redial_base: seconds: a kept peer that is lost is dialed again after a random delay up to this,
        which doubles with every failure.
    :param redial_ceiling: seconds up to which that delay grows.
    :param rejoin_wait: seconds, about, after which a kept peer that said goodbye is dialed again.
    :param mailbox_size: messages that a mailbox holds, unless it is made with another figure.
    :param mailbox_bytes: bytes of messages that a mailbox holds, unless it is made with another figure.
    :param mesh_patience: seconds for which a mesh goes on dialing a node that it has lost.
    :param event_queue: events kept for a subscriber that does not read; beyond, the oldest are dropped and
        counted.
    :param busy_wait: seconds for which this process does not sleep after something was sent or has come over
        a link of the node, but looks for more; 0: it sleeps at once. None: where exchanges follow each other
        closely it looks for each answer, for 0.0003 s at most, as long as it takes less CPU than sleeping
        and being woken, by measure.
    :param allow_weak_cookie: accept a cookie of fewer than 16 characters: it can be guessed, and with it the
        whole cluster.
    :param limits: the bounds on what a peer may cost.
    :raises ConfigurationError: naming the field that is out of its range.
    """

    heartbeat_interval: float = _seconds(60.0, low=0.01)
    heartbeat_timeout: float = _seconds(15.0, low=0.01)
    probe_timeout: float = _seconds(2.0, low=0.01)
    commit_timeout: float = _seconds(3.0, low=0.01)
    duplicate_wait: float = _seconds(1.0, low=0.01)
    redial_base: float = _seconds(0.5)
    redial_ceiling: float = _seconds(60.0)
    rejoin_wait: float = _seconds(10.0, low=0.01)
    mailbox_size: int = _count(4096, "messages", 1, 10_000_000)
    mailbox_bytes: int = _count(16 * MIB, "bytes", 1024, 1024 * MIB)
    mesh_patience: float = _seconds(600.0)
    event_queue: int = _count(1024, "events", 1, 10_000_000)
    busy_wait: float | None = field(
        default=None, metadata={"low": 0.0, "high": 0.1, "unit": "seconds, or None"}
    )
    allow_weak_cookie: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        # The short form of super() has no class cell under slots=True.
        _Checked.__post_init__(self)
        if not isinstance(self.limits, Limits):
            raise ConfigurationError("limits", f"must be a Limits, not {type(self.limits).__name__}")
        if not isinstance(self.allow_weak_cookie, bool):
            raise ConfigurationError("allow_weak_cookie", "must be True or False")


def check_timeout(timeout: object) -> None:
    """Seconds, or None for no limit."""
    if timeout is None:
        return
    # A tuple: int | float would be made anew each time, for every message.
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or not timeout >= 0:
        raise ConfigurationError("timeout", f"must be a number of seconds or None, not {_shown(timeout)}")
