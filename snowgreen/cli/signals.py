"""Ctrl-C and ``kill``: taken in the loop, and turned into an orderly end; and SIGHUP."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence

import gevent


class Interrupted(BaseException):
    """SIGINT or SIGTERM came. Not an Exception, as KeyboardInterrupt is none."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


@contextlib.contextmanager
def on_signal(
    action: Callable[[signal.Signals], None],
    numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
) -> Iterator[None]:
    """Within the block, the first of the signals calls `action` in a greenlet; later ones do nothing.

    An impatient second Ctrl-C must not cut short the clean end that the first has begun.
    """
    taken: list[signal.Signals] = []

    def take(number: signal.Signals) -> None:
        if not taken:
            taken.append(number)
            action(number)

    # Through the loop and not signal.signal, which would raise in the hub and print a traceback.
    watchers = [gevent.signal_handler(number, take, number) for number in numbers]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()


@contextlib.contextmanager
def on_hangup(action: Callable[[], None]) -> Iterator[None]:
    """Within the block, each SIGHUP calls `action` in a greenlet of its own."""
    watcher = gevent.signal_handler(signal.SIGHUP, action)
    try:
        yield
    finally:
        watcher.cancel()


@contextlib.contextmanager
def interruptible(*more: signal.Signals) -> Iterator[None]:
    """Within the block, SIGINT, SIGTERM and `more` raise :class:`Interrupted` in the calling greenlet."""
    caller = gevent.getcurrent()
    numbers = (signal.SIGINT, signal.SIGTERM, *more)
    with on_signal(lambda number: gevent.kill(caller, Interrupted(number)), numbers):
        yield
