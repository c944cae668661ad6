"""What the processes of the demo tell the demo: one JSON object a line."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a report is about."""

    #: The node has started: ``name`` and ``incarnation`` are its own.
    READY = "ready"
    #: A link is up; ``incarnation`` is the peer's.
    UP = "up"
    #: A link is down; ``text`` says why.
    DOWN = "down"
    #: A handshake failed; ``error`` is the class of the error, ``text`` its problem.
    FAILED = "failed"
    #: A ping was answered in ``seconds``.
    RTT = "rtt"
    #: The process wrote something that is no report. Said by the demo, as the next one is.
    SAID = "said"
    #: The process is over, with the exit status ``status``.
    EXIT = "exit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One thing that was observed in, or of, one process."""

    kind: Kind
    #: Wall-clock time, seconds since the epoch.
    at: float
    #: The process, by its role in the demo; put in by the demo.
    role: str = ""
    pid: int = 0
    #: The node's own name.
    name: str = ""
    #: The other node's name; of a failed handshake from outside, what it claims to be.
    peer: str = ""
    incarnation: int | None = None
    initiated: bool = False
    #: Of a link that ended: whether nobody meant it to.
    lost: bool = True
    error: str = ""
    text: str = ""
    seconds: float = 0.0
    status: int = 0

    def to_line(self) -> str:
        """This report as a line, without what has its default value."""
        return json.dumps(
            {
                field.name: getattr(self, field.name)
                for field in dataclasses.fields(self)
                if getattr(self, field.name) != field.default
            }
        )

    @classmethod
    def from_line(cls, line: str, *, role: str, pid: int, at: float) -> Report:
        """Read a line that the process `role` wrote at the time `at`."""
        try:
            fields = json.loads(line)
            return cls(**{**fields, "kind": Kind(fields["kind"]), "role": role, "pid": pid})
        except (ValueError, TypeError, KeyError):
            return cls(kind=Kind.SAID, at=at, role=role, pid=pid, text=line.rstrip())


def role_of(name: str) -> str:
    """The part of a node name before its ``@``."""
    return name.partition("@")[0]
