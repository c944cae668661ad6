"""snowgreen's handshake and frames for peers that are not snowgreen: its pure machines, which do no I/O."""

from __future__ import annotations

import functools
import os
import time
from typing import Final

from snowgreen.protocol import frames, heartbeat
from snowgreen.protocol.handshake import Acceptor, Identity, Initiator
from snowgreen.protocol.heartbeat import Pulse, Verdict
from snowgreen.protocol.keys import LinkKeys, Secrets

ALPN: Final = "snowgreen/1"
COOKIE: Final = "the nodes of one benchmark"
#: The tag of a message to the application.
MESSAGE: Final = 0x7F
#: As snowgreen's defaults.
PULSE: Final = Pulse(interval=60.0, timeout=15.0, frame_timeout=30.0)
#: Bytes read at once.
READ: Final = 64 * 1024


@functools.cache
def keys() -> LinkKeys:
    """What both ends prove."""
    return LinkKeys.derive(COOKIE.encode())


def acceptor(fingerprint: bytes) -> Acceptor:
    """The machine of a listener whose certificate has this `fingerprint`."""
    return Acceptor(_identity("server"), (keys(),), challenge=os.urandom(32), binding=fingerprint)


def initiator(number: int, fingerprint: bytes) -> Initiator:
    """The machine of a dialer, one of many, that was shown a certificate of this `fingerprint`.

    It dials an address: what answers there may have any name.
    """
    return Initiator(
        _identity(f"client-{number}"),
        Secrets((keys(),), None),
        challenge=os.urandom(32),
        expected=None,
        acceptor_binding=fingerprint,
    )


def _identity(name: str) -> Identity:
    return Identity(f"{name}@127.0.0.1:1", incarnation=time.time_ns() // 1_000_000 << 16)


class Life:
    """When one link was heard of, and when to ping it."""

    __slots__ = ("heard", "pinged")

    def __init__(self) -> None:
        self.heard = time.monotonic()
        self.pinged: float | None = None

    def look(self) -> Verdict:
        """What is to be done now; if it is to be pinged, it counts as pinged."""
        now = time.monotonic()
        verdict = heartbeat.poll(
            now, last_received=self.heard, pinged_at=self.pinged, mid_frame=False, pulse=PULSE
        )
        if verdict is Verdict.PING:
            self.pinged = now
        return verdict


def message(size: int) -> bytes:
    """The frame of a message of `size` bytes."""
    return frames.encode(MESSAGE, bytes(size))
