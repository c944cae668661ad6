"""What is said over a control socket: lines of JSON, a request and then its answer.

A request is a line such as ``{"version":1,"ask":"links"}``. Its answer is a line for each item, under a key
that says what it is, such as ``{"link":{...}}``, and a last line ``{"end":true}``; or ``{"error":"..."}`` and
the end of the connection. On the same connection more can be asked, each after the answer before it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ..link.journal import RECENT
from ..status import EventStatus, FailureStatus, LinkStatus, NodeStatus

#: What this version of snowgreen speaks.
VERSION = 1
#: Bytes of a request, with its newline.
LONGEST_REQUEST = 4096
#: Bytes of a line of an answer, with its newline.
LONGEST_ANSWER = 1 << 20

What = Literal["status", "links", "failures", "events", "mesh"]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question to a node."""

    version: int
    ask: What
    #: For events: stay connected, and tell those that come.
    follow: bool = False
    #: For events: how many of those that the node remembers.
    newest: Annotated[int, msgspec.Meta(ge=0, le=RECENT)] = RECENT


class Reported(msgspec.Struct, frozen=True):
    """Whom a peer says it is linked with."""

    peer: str
    others: list[str]


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of an answer: one of these, and the others None."""

    status: NodeStatus | None = None
    #: By peer name.
    link: LinkStatus | None = None
    #: The newest first.
    failure: FailureStatus | None = None
    #: The oldest first.
    event: EventStatus | None = None
    #: By peer name.
    mesh: Reported | None = None
    #: All was said.
    end: bool = False
    #: Why it was not.
    error: str | None = None
