"""The verdict on one silent session, at every moment of its silence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snowgreen.protocol.heartbeat import Pulse, Rounds, Verdict, look_again, poll, sweep_interval

PULSE = Pulse(60.0, 15.0, 30.0)
TIMES = st.floats(0, 1000)


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


class Item:
    """Something to look at."""

    def __init__(self) -> None:
        self.round: int | None = None


@given(
    last=TIMES,
    pinged=st.none() | TIMES,
    mid_frame=st.booleans(),
    spread=st.floats(0, 1),
    ahead=st.floats(0, 1, exclude_max=True),
    later=st.floats(0, 1),
    pulse=st.sampled_from([PULSE, Pulse(0.1, 10.0, 30.0), Pulse(10.0, 10.0, 1.0)]),
)
def test_before_the_next_look_there_is_nothing_to_say(
    last: float,
    pinged: float | None,
    mid_frame: bool,
    spread: float,
    ahead: float,
    later: float,
    pulse: Pulse,
) -> None:
    """Until then every verdict is QUIET, also if bytes come; from then on none is, but of who may answer yet."""
    state = {"last_received": last, "pinged_at": pinged, "mid_frame": mid_frame, "spread": spread}
    due = look_again(**state, pulse=pulse)
    start = last if pinged is None else max(last, pinged)
    if start < due:
        before = start + (due - start) * ahead
        if before < due - 1e-6:
            assert poll(before, **state, pulse=pulse) is Verdict.QUIET
            answered = {**state, "last_received": before - (before - start) * later, "mid_frame": False}
            assert poll(before, **answered, pulse=pulse) is Verdict.QUIET
    if pinged is None or pinged <= last or pulse.timeout <= pulse.interval / 2:
        assert poll(due + 1e-6, **state, pulse=pulse) is not Verdict.QUIET


@given(
    tick=st.sampled_from([0.005, 0.1, 3.75]),
    steps=st.lists(st.tuples(st.integers(0, 4), st.floats(0, 100), st.booleans()), max_size=30),
)
def test_rounds_give_back_whoever_is_due_once(tick: float, steps: list[tuple[int, float, bool]]) -> None:
    """Against a plain dict of dues: nobody is late, nobody more than a tick early, nobody comes twice."""
    rounds: Rounds[Item] = Rounds(tick)
    items, dues, now = [Item() for _ in range(5)], dict[Item, float](), 0.0
    for number, seconds, look in steps:
        item = items[number]
        if look:
            now += seconds / 10
            found = rounds.due(now)
            assert len(found) == len(set(found))
            assert {item for item, due in dues.items() if due <= now} <= set(found)
            assert all(dues.pop(item) <= now + tick for item in found)
            assert all(item.round is None for item in found)
        elif seconds < 5:
            rounds.drop(item)
            dues.pop(item, None)
        else:
            rounds.put(item, now + seconds)
            dues[item] = min(now + seconds, dues.get(item, now + seconds))
    assert sorted(map(id, rounds.due(1e9))) == sorted(map(id, dues))
    assert not rounds._rounds
