"""The world outside, as values that can be passed: clocks and entropy, and what one hub's nodes share."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import gevent

READ_BUFFER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where time and randomness come from; a test passes its own."""

    #: Seconds, never going back: what deadlines and liveness are measured on.
    monotonic: Callable[[], float] = time.monotonic
    #: Seconds since the epoch: what people are shown.
    wall: Callable[[], float] = time.time
    #: Bytes from the operating system's generator.
    entropy: Callable[[int], bytes] = os.urandom


class HubState:
    """What all sessions on one hub share: its loop, and the buffer each of them reads into in turn.

    One buffer serves any number of sessions, because a callback of the loop runs to its end before
    the next begins and takes what it wants to keep out of the buffer.
    """

    __slots__ = ("buffer", "loop", "view")

    def __init__(self, hub: gevent.hub.Hub) -> None:
        self.loop: Any = hub.loop
        self.buffer = bytearray(READ_BUFFER_BYTES)
        self.view = memoryview(self.buffer)


def say(
    log: logging.Logger, level: int, text: str, *args: object, error: BaseException | None = None
) -> None:
    """Log from a greenlet of its own.

    Logging handlers are the user's: they may wait, and may raise. Neither may happen in a callback of the
    loop, nor between a decision and its record.
    """
    if log.getEffectiveLevel() <= level:  # unlike isEnabledFor(), takes no lock
        gevent.spawn(log.log, level, text, *args, exc_info=error)


_states: WeakKeyDictionary[gevent.hub.Hub, HubState] = WeakKeyDictionary()


def hub_state() -> HubState:
    """The state of the calling thread's hub."""
    hub = gevent.get_hub()
    state = _states.get(hub)
    if state is None or state.loop is not hub.loop:
        state = _states[hub] = HubState(hub)
    return state
