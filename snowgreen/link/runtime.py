"""The world outside, as values that can be passed: clocks and entropy, and what one hub's nodes share."""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import gevent

from ..events import Event
from ..names import Address
from .busywait import BusyWait
from .logs import Line, Scribe, facts_of, one_line
from .secured import Plain
from .turns import Turns

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
    #: Connects to an address, or raises OSError; None: over TCP. :mod:`snowgreen.testing` has its own.
    reach: Callable[[Address], Plain] | None = None


class HubState:
    """What all sessions on one hub share: its loop, and the buffer each of them reads into in turn.

    One buffer serves any number of sessions, because a callback of the loop runs to its end before
    the next begins and takes what it wants to keep out of the buffer.
    """

    __slots__ = ("buffer", "busy_wait", "loop", "scribe", "turns", "view")

    def __init__(self, hub: gevent.hub.Hub) -> None:
        self.loop: Any = hub.loop
        self.buffer = bytearray(READ_BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.scribe = Scribe()
        #: For the steps of TLS handshakes.
        self.turns = Turns(hub)
        self.busy_wait = BusyWait(self.loop)


def say(
    log: logging.Logger,
    level: int,
    text: str,
    *args: object,
    error: BaseException | None = None,
    facts: Mapping[str, object] | None = None,
) -> None:
    """Log from another greenlet, after the lines before it. Never waits.

    Where `args` hold an event, with the name of its node before it, the record has its parts as well.

    :param facts: what the record is to have as its attribute ``snowgreen``, for a line without an event.
    """
    if log.getEffectiveLevel() <= level:  # unlike isEnabledFor(), takes no lock
        about = facts_of(args) if facts is None else facts
        shown = tuple(one_line(str(arg)) if isinstance(arg, Event) else arg for arg in args)
        hub_state().scribe.put(Line(log, level, text, shown, error, about))


_states: WeakKeyDictionary[gevent.hub.Hub, HubState] = WeakKeyDictionary()


def hub_state() -> HubState:
    """The state of the calling thread's hub."""
    hub = gevent.get_hub()
    state = _states.get(hub)
    if state is None or state.loop is not hub.loop:
        state = _states[hub] = HubState(hub)
    return state


def _in_child() -> None:
    for state in list(_states.values()):
        inherited, state.scribe = state.scribe, Scribe()
        inherited.forget()


def _at_exit() -> None:
    for hub, state in list(_states.items()):
        if hub.main_hub:
            state.scribe.finish()


os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
