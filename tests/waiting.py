"""Waiting for a condition, with a deadline that fails the test instead of hanging it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gevent.event import Event

_never = Event()


def until(
    condition: Callable[[], Any], what: str, *, timeout: float = 10.0, detail: Callable[[], Any] = lambda: ""
) -> Any:
    """Return what `condition` returns as soon as it is true; fail the test if that takes too long."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what} {detail()}")
        _never.wait(0.002)


def event_of(subscription: Any, kind: type, *, timeout: float = 10.0) -> Any:
    """The next event of `kind` on `subscription`, those of other kinds passed over."""
    deadline = time.monotonic() + timeout
    while True:
        event = subscription.get(max(0.0, deadline - time.monotonic()))
        if isinstance(event, kind):
            return event
        assert event is not None or time.monotonic() < deadline, f"no {kind.__name__} within {timeout:g} s"
