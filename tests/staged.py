"""A node that shows what a test puts on it: links that are made up, thousands of them if wanted."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import snowgreen
from snowgreen.errors import LinkError
from snowgreen.events import HandshakeFailed, NodeDown, NodeUp
from tests.conftest import COOKIE

_serials = itertools.count(1)
STARTED = 1_700_000_000.0


@dataclass(eq=False)
class MadeUp:
    """What the dashboard reads of a session."""

    peer: str
    rtt: float | None = None
    initiated: bool = True
    form: str = "bound"
    state: str = "up"
    remote_address: str = "127.0.0.1:9000"
    incarnation: int | None = 2**63 + 1
    connected_at: float = STARTED
    bytes_received: int = 0
    bytes_sent: int = 0
    frames_received: int = 0
    frames_sent: int = 0
    bytes_waiting: int = 0
    closed: bool = False
    serial: int = field(default_factory=lambda: next(_serials))


class Staged(snowgreen.Node):
    """A node that opens nothing, and counts as started."""

    life: int | None = int(STARTED * 1000) << 16

    def __init__(self, name: str = "stage@127.0.0.1:9000", **options: Any) -> None:
        super().__init__(name, cookie=COOKIE, **options)
        self.told: dict[str, frozenset[str]] = {}

    @property
    def incarnation(self) -> int | None:
        return self.life

    @property
    def started_at(self) -> float | None:
        return None if self.life is None else STARTED

    @property
    def reported(self) -> dict[str, frozenset[str]]:
        return self.told

    def up(self, peer: str, **options: Any) -> Any:
        session: Any = MadeUp(peer, **options)
        self._sessions[peer] = session
        self._bus.publish(NodeUp(peer, session.incarnation, session.form, session.initiated, STARTED))
        return session

    def down(self, peer: str, reason: str = "it was lost", lost: bool = True) -> None:
        session: Any = self._sessions.pop(peer)
        session.closed, session.state = True, "closed"
        self._bus.publish(NodeDown(peer, session.incarnation, reason, STARTED, lost))

    def fail(
        self,
        error: LinkError,
        *,
        claimed: str | None = None,
        address: str = "192.0.2.1:5000",
        at: float = STARTED,
    ) -> None:
        self._bus.publish(HandshakeFailed(claimed, address, False, error, at))
