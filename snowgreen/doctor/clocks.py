"""What can be told of a peer's clock, without asking it: only when it says that it started.

A node's incarnation holds the time of its start by its own clock, and so does the certificate that it makes
for itself. A start that has not come yet by our clock proves a difference. One in the past proves nothing: a
node that started an hour ago by a clock half an hour ahead looks like one that started half an hour ago.
"""

from __future__ import annotations

import datetime

from .steps import Finding
from .words import CLOCKS

#: Seconds by which a node's own certificate is valid before it was made.
BACKDATED = 86_400.0
#: Seconds below which a difference is not spoken of: what clocks kept by NTP may differ by.
_TOLERANCE = 1.0
#: By a clock that is right no node started before there was a snowgreen: 2024-01-01, in seconds.
_EARLIEST = 1_704_067_200.0
_PUT_BACK = (
    "the later of the two may be from an earlier start in the same process, before its clock was put back; "
    f"or the certificate is not its own; {CLOCKS}"
)
#: Seconds between the certificate and the incarnation of one start that need no explanation.
_APART = 60.0


def compare(incarnation: int, now: float, certificate_from: datetime.datetime | None) -> Finding:
    """What a peer's `incarnation` tells at `now`.

    :param now: seconds since the epoch, by our clock.
    :param certificate_from: from when on the certificate that it made for itself is valid, None without one.
    """
    started = (incarnation >> 16) / 1000
    shown = _shown(started)
    facts: dict[str, float | None] = {"started": started, "ahead_by_at_least": None}
    if started < _EARLIEST:
        return Finding(
            f"its clock stood at {shown} when it started, and was not set",
            facts=facts,
            advice=CLOCKS,
        )
    if certificate_from is not None:
        made = certificate_from.timestamp() + BACKDATED
        if abs(made - started) > _APART:
            return Finding(
                f"it started at {shown} by its incarnation, and at {_shown(made)} by its certificate",
                facts=facts,
                advice=_PUT_BACK,
            )
    if started - now > _TOLERANCE:
        facts["ahead_by_at_least"] = round(started - now, 3)
        return Finding(
            f"its clock is ahead of this machine's by {_lasting(started - now)} at least: "
            f"it says that it started at {shown}",
            facts=facts,
            advice=f"{CLOCKS}: if the other's is put back, it may be refused as an earlier life of itself",
        )
    return Finding(
        f"it started {_lasting(max(0.0, now - started))} ago, at {shown} by its clock; no difference shows",
        ("a clock that is behind, or ahead by less than that, cannot be told from here",),
        facts,
    )


def _shown(moment: float) -> str:
    try:
        at = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    except (ValueError, OverflowError, OSError):  # a peer may say any number
        return "a time beyond the year 9999"
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _lasting(seconds: float) -> str:
    for unit, size in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
