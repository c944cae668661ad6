"""The verdict on one silent session, at every moment of its silence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snowgreen.protocol.heartbeat import Pulse, Verdict, poll, sweep_interval

PULSE = Pulse(60.0, 15.0, 30.0)


def judge(now: float, **state: Any) -> Verdict:
    return poll(now, **{"last_received": 0.0, "pinged_at": None, "mid_frame": False, "pulse": PULSE, **state})


@pytest.mark.parametrize(
    ("now", "state", "verdict"),
    [
        (0, {}, Verdict.QUIET),
        (59.9, {}, Verdict.QUIET),
        (60, {}, Verdict.PING),
        (1000, {}, Verdict.PING),
        (60, {"pinged_at": 60.0}, Verdict.QUIET),
        (74.9, {"pinged_at": 60.0}, Verdict.QUIET),
        (75, {"pinged_at": 60.0}, Verdict.SILENT),
        (75, {"pinged_at": 60.0, "grace": True}, Verdict.PING),
        (100, {"pinged_at": 60.0, "last_received": 61.0}, Verdict.QUIET),
        (121, {"pinged_at": 60.0, "last_received": 61.0}, Verdict.PING),
        (29.9, {"mid_frame": True}, Verdict.QUIET),
        (30, {"mid_frame": True}, Verdict.STUCK),
        (30, {"mid_frame": True, "grace": True}, Verdict.QUIET),
        (45, {"spread": 1.0}, Verdict.PING),
        (44.9, {"spread": 1.0}, Verdict.QUIET),
        (52.5, {"spread": 0.5}, Verdict.PING),
    ],
)
def test_verdicts(now: float, state: dict[str, Any], verdict: Verdict) -> None:
    """Each border of the rule, from both sides."""
    assert judge(now, **state) is verdict


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.booleans())
def test_nobody_is_given_up_unasked(now: float, last: float, mid_frame: bool) -> None:
    """Without a ping that went unanswered, only a pause inside a frame ends a link, and in grace nothing does."""
    verdict = poll(now, last_received=last, pinged_at=None, mid_frame=mid_frame, pulse=PULSE)
    assert verdict is not Verdict.SILENT
    assert verdict is not Verdict.STUCK or mid_frame
    for pinged in (None, last, now):
        graced = poll(now, last_received=last, pinged_at=pinged, mid_frame=mid_frame, pulse=PULSE, grace=True)
        assert graced in (Verdict.QUIET, Verdict.PING)


def test_the_sweep_is_frequent_enough_and_not_more() -> None:
    """A quarter of the shortest duration, five seconds at most."""
    assert sweep_interval(PULSE) == 3.75
    assert sweep_interval(Pulse(600.0, 600.0, 600.0)) == 5.0
    assert sweep_interval(Pulse(0.4, 15.0, 30.0)) == 0.1
    assert sweep_interval(Pulse(1e-9, 1e-9, 1e-9)) > 0
