"""Where the demo is directed: each step says what must be reported, and by when, and nothing else will do.

A step succeeds when every one of its expectations was met by a report. A report that is neither expected
nor tolerated fails it at once: a link that goes down by itself must not pass for a success.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gevent.queue import Empty, Queue

from .board import Board
from .reports import Kind, Report
from .views import View

#: What may come at any time and proves nothing by its coming.
_HARMLESS = frozenset({Kind.RTT})


class Expectation(NamedTuple):
    """Something that must be reported."""

    text: str
    fits: Callable[[Report], bool]


class StepFailed(Exception):
    """A step of the demo was not observed as it should be."""


class Stage:
    """Runs the steps.

    :param inbox: where the reports come from.
    :param seconds: how long one step may take.
    """

    def __init__(self, inbox: Queue[Report], view: View, *, seconds: float = 10.0) -> None:
        self.board = Board()
        self._inbox = inbox
        self._view = view
        self._seconds = seconds
        self._number = 0
        self._title = ""
        self._deadline = 0.0
        self._tolerated: frozenset[Kind] = frozenset()
        self._said: dict[str, str] = {}  # role → the last thing it wrote that was no report

    @contextlib.contextmanager
    def step(self, title: str, *, tolerate: frozenset[Kind] = frozenset()) -> Iterator[None]:
        """One step: the block acts, and says with :meth:`expect` what must come of it.

        :raises StepFailed: if it did not.
        """
        self._number += 1
        self._title = title
        self._tolerated = tolerate
        began = time.monotonic()
        self._deadline = began + self._seconds
        self._view.show(self.board.begin(self._number, title))
        try:
            yield
        except StepFailed as failure:
            self._view.show(self.board.fail(str(failure)))
            raise
        self._view.show(self.board.succeed(time.monotonic() - began))

    def expect(self, *expected: Expectation) -> list[Report]:
        """Wait until all of `expected` is reported; return the reports in that order.

        :raises StepFailed: when the step's time is over first, or something else is reported.
        """
        met: dict[int, Report] = {}
        while len(met) < len(expected):
            report = self._next(self._deadline)
            if report is None:
                missing = [wanted.text for i, wanted in enumerate(expected) if i not in met]
                raise self._failure(f"within {self._seconds:g} s nothing showed that {' and '.join(missing)}")
            fitting = [i for i, wanted in enumerate(expected) if i not in met and wanted.fits(report)]
            if fitting:
                met[fitting[0]] = report
            self._see(report, surprising=not fitting)
        return [met[i] for i in range(len(expected))]

    def linger(self, seconds: float) -> None:
        """Leave the spectator time to read; what is reported meanwhile counts."""
        until = time.monotonic() + seconds
        while (report := self._next(until)) is not None:
            self._see(report, surprising=True)

    def _next(self, until: float) -> Report | None:
        left = until - time.monotonic()
        try:
            return self._inbox.get(timeout=left) if left > 0 else self._inbox.get_nowait()
        except Empty:
            return None

    def _see(self, report: Report, *, surprising: bool) -> None:
        if report.kind is Kind.SAID:
            self._said[report.role] = report.text
            surprising = False  # if it matters, the end of the process tells, too
        self._view.show(self.board.observe(report, awaited=not surprising))
        if surprising and report.kind not in _HARMLESS | self._tolerated:
            text = self.board.describe(report)
            said = self._said.get(report.role) if report.kind is Kind.EXIT else None
            raise self._failure(f"unexpectedly, {report.role} {text}" + (f": {said}" if said else ""))

    def _failure(self, problem: str) -> StepFailed:
        return StepFailed(f"step {self._number} ({self._title}) failed: {problem}")
