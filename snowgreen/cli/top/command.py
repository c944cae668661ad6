"""The loop of ``snowgreen top``: pictures, keys, and a terminal that is left as it was found."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
import gevent
from gevent.queue import Queue

from ...control.client import NoAnswer
from ...errors import ConfigurationError
from ..errors import Failure
from ..options import seconds_option
from ..running import asking, find, node_argument
from ..signals import Interrupted, interruptible
from .keys import Keyboard
from .picture import COLUMNS, Picture, View, rows, take
from .screen import render

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

#: For how long it is said that a node has come back, in seconds.
_NEWS_SECONDS = 10.0


@click.command()
@node_argument
@seconds_option("--interval", default=1.0, about="From one picture to the next.")
@click.option(
    "--sort",
    type=click.Choice([column.title for column in COLUMNS]),
    default="peer",
    show_default=True,
    help="The column to sort the links by.",
)
@click.option("--once", is_flag=True, help="Print all of it once, after one interval, and end.")
def top(node: str | None, interval: float, sort: str, once: bool) -> None:
    """Watch your node NODE on this machine: its links, what failed, and its events, live.

    NODE is its name, the part of it before "@", its process id, or the path of its control socket. It may be
    left out where only one node of yours runs.

    Keys: q ends it, s and the arrows choose the column to sort by, r reverses the order, / filters the links
    by peer, address or state.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    view = View(next(column for column in COLUMNS if column.title == sort))
    path = find(node)
    if once:
        with asking():
            _print(console, path, view, interval)
        return
    if not console.is_terminal or console.is_dumb_terminal:
        raise click.UsageError(
            "the output is no terminal that can be drawn on; use --once, or `links --json`"
        )
    with asking():
        first = take(path)  # an error is one line, and not a screen that comes and goes
    try:
        with interruptible(signal.SIGHUP):  # whatever ends it, the terminal gets back what it was
            _Top(console, view, node, path, interval).run(first)
    except Interrupted as interruption:
        if interruption.number != signal.SIGINT:
            raise


def _print(console: Console, path: Path, view: View, interval: float) -> None:
    before = take(path)
    gevent.sleep(interval)
    picture = take(path)
    for line in render(
        picture, rows(picture, before), view, width=None, height=None, only_ascii=_only_ascii(console)
    ):
        console.print(line)


def _only_ascii(console: Console) -> bool:
    return not console.encoding.lower().startswith("utf")


class _Top:
    """What is on the screen, and what changes it."""

    def __init__(self, console: Console, view: View, wanted: str | None, path: Path, interval: float) -> None:
        self._console, self._view, self._interval = console, view, interval
        self._wanted, self._path = wanted, path
        self._queue: Queue[tuple[str, object]] = Queue()
        self._picture: Picture | None = None
        self._before: Picture | None = None
        self._missing: str | None = None
        self._news: tuple[float, str] | None = None

    def run(self, first: Picture) -> None:
        """Draw until a key says that it is enough."""
        self._take_in(first)
        looking = gevent.spawn(self._look)
        keyboard = Keyboard(lambda key: self._queue.put(("key", key)))
        try:
            with _signals(self._queue):
                while self._show(keyboard):
                    # The shell shows its own prompt now, until it is told to go on.
                    os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            looking.kill()

    def _show(self, keyboard: Keyboard) -> bool:
        """Hold the screen until the end, or until the user puts us in the background: whether that is so."""
        from rich.live import Live

        live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with live:
            try:
                keyboard.open()
                self._draw(live)
                while True:
                    what, value = self._queue.get()
                    if what == "suspend":
                        return True
                    if what == "key" and self._view.press(str(value)):
                        return False
                    if isinstance(value, Picture):
                        self._take_in(value)
                    elif what == "missing":
                        self._missing = str(value)
                    if self._queue.empty():
                        self._draw(live)
            finally:
                keyboard.close()

    def _look(self) -> None:
        """Take a picture each interval; when the node is gone, look for the one that comes in its place."""
        due = time.monotonic()
        while True:
            due = max(due + self._interval, time.monotonic())
            gevent.sleep(max(0.0, due - time.monotonic()))
            try:
                self._queue.put(("picture", take(self._path)))
            except NoAnswer as error:
                self._queue.put(("missing", self._lost(error)))

    def _lost(self, error: NoAnswer) -> str:
        name = self._picture.status.name if self._picture is not None else str(self._path)
        if not error.gone:
            return f"{name} does not answer: {error}"
        wanted = [self._wanted]
        if self._wanted is None or self._wanted.isdigit():  # it comes back as another process
            wanted = [name, name.partition("@")[0]]  # and maybe with another port
        for each in wanted:
            with suppress(Failure, ConfigurationError):
                self._path = find(each)
                break
        return f"{name} has ended; waiting for it to come back   q quit"

    def _take_in(self, picture: Picture) -> None:
        old = self._picture
        if old is not None and old.status.incarnation != picture.status.incarnation:
            self._news = (
                time.monotonic() + _NEWS_SECONDS,
                f"{picture.status.name} was started again, as process {picture.status.pid}"
                if picture.status.started_at is not None
                else f"{picture.status.name} was stopped; its process lives on",
            )
        self._before, self._picture, self._missing = old, picture, None

    def _draw(self, live: Live) -> None:
        from rich.console import Group

        picture = self._picture
        if picture is None:
            return
        notice = self._missing
        if notice is None and self._news is not None and time.monotonic() < self._news[0]:
            notice = self._news[1]
        size = self._console.size
        lines = render(
            picture,
            rows(picture, self._before),
            self._view,
            width=size.width,
            height=size.height,
            only_ascii=_only_ascii(self._console),
            notice=notice,
        )
        live.update(Group(*lines), refresh=True)


@contextmanager
def _signals(queue: Queue[tuple[str, object]]) -> Iterator[None]:
    """Within the block, a change of the terminal's size, and Ctrl-Z, go into `queue`."""
    watchers = [
        gevent.signal_handler(signal.SIGWINCH, queue.put, ("resized", None)),
        gevent.signal_handler(signal.SIGTSTP, queue.put, ("suspend", None)),
    ]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()
