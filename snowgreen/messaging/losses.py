"""Messages that nobody got, counted and told of together, so that losses do not become a storm of reports."""

from __future__ import annotations

from collections.abc import Callable

import gevent

#: Seconds between two reports. The first of a series comes at the end of the loop's turn.
_PAUSE = 1.0
#: Different mailboxes and reasons in one report; a peer chooses both, in part.
_MOST = 16
_OTHERS = ("…", "there are more mailboxes and reasons than are told apart")


class Losses:
    """What was lost since the last report.

    :param report: gets each mailbox and reason with their number, in the loop's callbacks or in a greenlet
        of its own. It must not wait.
    """

    __slots__ = ("_counts", "_later", "_report", "_soon")

    def __init__(self, report: Callable[[dict[tuple[str, str], int]], None]) -> None:
        self._report = report
        self._counts: dict[tuple[str, str], int] = {}
        self._soon = False
        self._later: gevent.Greenlet[..., None] | None = None

    def add(self, mailbox: str, reason: str) -> None:
        """A message for `mailbox` was lost. Never waits."""
        key = (mailbox, reason)
        if key not in self._counts and len(self._counts) >= _MOST:
            key = _OTHERS
        self._counts[key] = self._counts.get(key, 0) + 1
        if not self._soon and self._later is None:
            self._soon = True
            gevent.get_hub().loop.run_callback(self._tell)

    def close(self) -> None:
        """Report what is left now, and nothing after it."""
        if self._later is not None:
            self._later.kill(block=False)
            self._later = None
        self._flush()

    def _tell(self) -> None:
        self._soon = False
        if self._counts:
            self._later = gevent.spawn_later(_PAUSE, self._again)
            self._flush()

    def _again(self) -> None:
        self._later = None
        self._tell()

    def _flush(self) -> None:
        counts, self._counts = self._counts, {}
        if counts:
            self._report(counts)
