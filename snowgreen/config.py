"""What a node can be told about time and size: two frozen values, checked when they are made."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from .errors import ConfigurationError

MIB = 1024 * 1024


class _Checked:
    """Refuses, at construction, a field that is no number, not finite, or out of its range."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, item.name)
            low = item.metadata.get("low")
            if low is None:
                continue
            whole = item.type == "int"
            fitting = isinstance(value, int) if whole else isinstance(value, int | float)
            if not fitting or isinstance(value, bool) or not math.isfinite(value):
                kind = "a whole number" if whole else "a number"
                raise ConfigurationError(
                    item.name, f"must be {kind} of {item.metadata['unit']}, not {value!r}"
                )
            high = item.metadata["high"]
            if not low <= value <= high:
                raise ConfigurationError(
                    item.name, f"must be from {low:g} to {high:g} {item.metadata['unit']}, not {value!r}"
                )


def _seconds(default: float, low: float = 0.001, high: float = 86_400.0) -> float:
    return field(default=default, metadata={"low": low, "high": high, "unit": "seconds"})


def _count(default: int, unit: str, low: int, high: int) -> int:
    return field(default=default, metadata={"low": low, "high": high, "unit": unit})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits(_Checked):
    """How much one peer may cost. Every peer, proved or not, is held to these."""

    #: Seconds for TLS alone, from accept or TCP connect; a total, whatever trickles in meanwhile.
    tls_timeout: float = _seconds(5.0)
    #: Seconds for TLS and the four messages together; a total.
    handshake_timeout: float = _seconds(10.0)
    #: Bytes in one frame after the handshake. 16 MiB is the protocol's own bound.
    max_frame: int = _count(16 * MIB, "bytes", 1024, 16 * MIB)
    #: Seconds a peer may pause inside one frame before the link is given up.
    frame_timeout: float = _seconds(30.0)
    #: Bytes that wait for one peer to read before senders wait.
    outbox_bytes: int = _count(8 * MIB, "bytes", 1024, 1024 * MIB)
    #: Frames that wait for one peer to read before senders wait.
    outbox_frames: int = _count(10_000, "frames", 16, 10_000_000)
    #: Peers whose dial history (two counters) is remembered after their link ended.
    remembered_peers: int = _count(4096, "peers", 16, 1_000_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(_Checked):
    """How a node behaves; give it as ``Node(config=Config(heartbeat_interval=10))``."""

    #: Seconds of silence from a peer after which it is pinged.
    heartbeat_interval: float = _seconds(60.0, low=0.01)
    #: Seconds after an unanswered ping at which the link counts as dead.
    heartbeat_timeout: float = _seconds(15.0, low=0.01)
    #: Seconds an existing link is given to answer when a peer's conduct suggests that it is dead.
    probe_timeout: float = _seconds(2.0, low=0.01)
    #: Seconds for which a dial that has sent its proof holds back the same peer's inbound link.
    commit_timeout: float = _seconds(3.0, low=0.01)
    #: Seconds, about, to wait for a peer's link after it declined ours as a duplicate; then dial again.
    duplicate_wait: float = _seconds(1.0, low=0.01)
    #: Events kept for a subscriber that does not read; beyond, the oldest are dropped and counted.
    event_queue: int = _count(1024, "events", 1, 10_000_000)
    #: Accept a cookie of fewer than 16 characters: it can be guessed, and with it the whole cluster.
    allow_weak_cookie: bool = False
    #: The bounds on what a peer may cost.
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        # The short form of super() has no class cell under slots=True.
        _Checked.__post_init__(self)
        if not isinstance(self.limits, Limits):
            raise ConfigurationError("limits", f"must be a Limits, not {type(self.limits).__name__}")
        if not isinstance(self.allow_weak_cookie, bool):
            raise ConfigurationError("allow_weak_cookie", "must be True or False")
