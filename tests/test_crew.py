"""Greenlets that do one piece of work after another, and hold on to none of it."""

from __future__ import annotations

import contextvars
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from greenlet import getcurrent, greenlet

from snowgreen.link.crew import Crew


@pytest.fixture
def crew() -> Iterator[Crew]:
    """Two may wait for work."""
    made = Crew(spare=2)
    yield made
    made.dismiss()


class Thing:
    """What can be seen to be gone."""

    def work(self) -> None:
        """Nothing."""


def test_work_is_done_in_a_greenlet_of_its_own_in_its_turn(crew: Crew) -> None:
    """It begins when the loop comes to it, in the greenlet that was returned, and may wait."""
    done: list[Any] = []
    gate = Event()

    def work() -> None:
        done.append(getcurrent())
        gate.wait()
        done.append("end")

    member = crew.begin(work)
    assert done == []
    gevent.sleep(0)
    assert done == [member]
    assert getcurrent() is not member
    gate.set()
    gevent.sleep(0)
    assert done == [member, "end"]


def test_a_greenlet_is_used_again_and_only_so_many_wait(crew: Crew) -> None:
    """Of three that worked at once two are used again, one at a time; the third has ended."""
    gate = Event()
    first = [crew.begin(gate.wait) for _ in range(3)]
    gevent.sleep(0)
    gate.set()
    gevent.sleep(0)
    assert [member.dead for member in first] == [False, False, True]
    again = [crew.begin(lambda: None) for _ in range(3)]
    assert set(again[:2]) == set(first[:2])
    assert again[2] not in first
    gevent.sleep(0)


def test_work_that_was_ended_from_outside_leaves_a_greenlet_for_more(crew: Crew) -> None:
    """What is thrown in goes to the work alone, which may catch it."""
    seen: list[object] = []

    def work() -> None:
        try:
            gevent.get_hub().switch()
        except gevent.GreenletExit as error:
            seen.append(error)

    member, reason = crew.begin(work), gevent.GreenletExit()
    gevent.sleep(0)
    gevent.get_hub().loop.run_callback(member.throw, reason)
    gevent.sleep(0)
    assert seen == [reason]
    assert crew.begin(lambda: seen.append("more")) is member
    gevent.sleep(0)
    assert seen == [reason, "more"]


@pytest.mark.parametrize("before", [0, 1])
def test_nothing_of_the_work_stays_with_its_greenlet(crew: Crew, before: int) -> None:
    """Neither of the first piece of work nor of a later one, while the greenlet waits for the next."""
    for _ in range(before):
        crew.begin(lambda: None)
        gevent.sleep(0)
    thing = Thing()
    seen = weakref.ref(thing)
    member = crew.begin(thing.work)
    gevent.sleep(0)
    del thing
    assert seen() is None
    assert not member.dead


def test_a_greenlet_that_has_ended_is_not_used(crew: Crew) -> None:
    """Something was thrown into it while it waited: the next work gets another one."""
    member = crew.begin(lambda: None)
    gevent.sleep(0)
    member.parent = getcurrent()
    member.throw(gevent.GreenletExit)
    assert member.dead
    done: list[int] = []
    assert crew.begin(lambda: done.append(1)) is not member
    gevent.sleep(0)
    assert done == [1]


def test_a_context_variable_is_seen_by_its_own_work_only(crew: Crew) -> None:
    """What one piece of work has set is not there for the next one of the same greenlet."""
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    def work() -> None:
        seen.append(variable.get())
        variable.set("set")
        seen.append(variable.get())

    assert crew.begin(work) is not None
    gevent.sleep(0)
    crew.begin(work)
    gevent.sleep(0)
    assert seen == ["unset", "set", "unset", "set"]


def test_a_crew_that_is_dismissed_leaves_no_greenlet() -> None:
    """Those who wait end at once and without a search for garbage, the others with their work."""
    crew, gate = Crew(), Event()
    waiting, busy = crew.begin(lambda: None), crew.begin(gate.wait)
    gevent.sleep(0)
    gone = weakref.ref(waiting)
    del waiting
    gc.disable()
    try:
        crew.dismiss()
        assert gone() is None
        assert isinstance(busy, greenlet)
        assert not busy.dead
        gate.set()
        gevent.sleep(0)
        assert busy.dead
    finally:
        gc.enable()
