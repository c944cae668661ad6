"""What an examination finds: steps with an outcome, as values for printing and for scripts."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, NamedTuple


class Outcome(enum.StrEnum):
    """How a step came out."""

    OK = "ok"
    #: It works, and there is something to know about it.
    WARNING = "warning"
    FAILED = "failed"
    #: An earlier step failed.
    NOT_REACHED = "not reached"


class Step(NamedTuple):
    """One step of an examination."""

    name: str
    outcome: Outcome
    #: What was found, in a sentence. What a peer sent is escaped and cut.
    text: str
    #: What to do about it; empty where nothing is to be done.
    advice: str = ""
    #: Further lines for people.
    details: tuple[str, ...] = ()
    #: The same for scripts: numbers and texts by name.
    facts: Mapping[str, Any] = {}
    #: How long it took; None if it was not reached.
    seconds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The step for ``json.dumps``."""
        return {
            **self._asdict(),
            "outcome": str(self.outcome),
            "details": list(self.details),
            "facts": dict(self.facts),
        }


class Finding(NamedTuple):
    """What a step that did not fail has found."""

    text: str
    details: tuple[str, ...] = ()
    facts: Mapping[str, Any] = {}
    #: Given where there is something to know: the outcome is then a warning.
    advice: str = ""
    #: Where it is not the time since the step began.
    seconds: float | None = None


class Failure(Exception):  # it ends an examination, and is no error of a caller's
    """A step failed.

    :ivar text: what happened.
    :ivar advice: what to do about it.
    """

    def __init__(
        self,
        text: str,
        advice: str,
        *,
        details: tuple[str, ...] = (),
        facts: Mapping[str, Any] | None = None,
        seconds: float | None = None,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.advice = advice
        self.details = details
        self.facts = facts or {}
        self.seconds = seconds
