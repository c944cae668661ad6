"""Deadlines: total, translated only when they are one's own, and gone when the block is."""

from __future__ import annotations

import threading
import time

import gevent
import pytest
from gevent.event import Event

from snowgreen import LinkTimeout
from snowgreen.link.deadline import Deadline, Deadlines
from tests.waiting import until


def test_expiry_names_the_step_and_the_peer() -> None:
    """The error says what took too long, whom it concerned, and is a TimeoutError, too."""
    with pytest.raises(LinkTimeout) as caught, Deadline(0.01, "starting", "p@h") as deadline:
        deadline.step = "waiting for nothing"
        Event().wait()
    assert str(caught.value) == "p@h: waiting for nothing took longer than 0.01 s"
    assert isinstance(caught.value, TimeoutError)


def test_progress_does_not_extend_it() -> None:
    """A block that does a little again and again is ended all the same."""
    turns = 0
    with pytest.raises(LinkTimeout), Deadline(0.03, "dripping"):
        while True:
            gevent.sleep(0)
            turns += 1
    assert turns > 1


def test_others_pass_through() -> None:
    """An outer gevent.Timeout, GreenletExit and errors of the block leave it as they are."""
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.01) as outer, Deadline(5, "x"):
        Event().wait()
    assert caught.value is outer
    with pytest.raises(gevent.GreenletExit), Deadline(5, "x"):
        raise gevent.GreenletExit
    with pytest.raises(KeyError), Deadline(5, "x"):
        raise KeyError


def test_an_inner_deadline_does_not_answer_for_an_outer_one() -> None:
    """Of two nested deadlines each reports its own step."""
    with pytest.raises(LinkTimeout, match="outer"), Deadline(0.01, "outer"), Deadline(5, "inner"):
        Event().wait()


def test_nothing_fires_after_the_block() -> None:
    """A block that ends in time leaves no timer behind to hit what comes after it."""
    with Deadline(0.01, "x") as deadline:
        pass
    assert not deadline._timer.active
    assert Event().wait(0.03) is False


# Of many, all of one length.


def test_each_of_many_has_its_time_in_full() -> None:
    """They are late in the order they were put; one that came halfway is not ended with those before it."""
    put: dict[str, float] = {}
    late: dict[str, float] = {}

    def put_in(name: str) -> None:
        put[name] = time.monotonic()
        deadlines.put(name)

    deadlines = Deadlines(0.04, lambda name: late.setdefault(name, time.monotonic()))
    halfway = Deadlines(0.02, put_in)
    put_in("first")
    put_in("beside it")
    halfway.put("halfway")
    until(lambda: len(late) == 3, "all are late")
    assert list(late) == ["first", "beside it", "halfway"]
    assert all(late[name] - put[name] >= 0.04 for name in put)
    assert late["beside it"] < put["halfway"] + 0.04
    assert not deadlines._since
    assert deadlines._timer is None  # no timer runs for nobody


def test_who_is_dropped_is_not_late() -> None:
    """Neither who was dropped nor anyone after close() is called late, and what is put afterwards is timed anew."""
    late: list[str] = []
    deadlines = Deadlines(0.01, late.append)
    for name in ("dropped", "late", "closed"):
        deadlines.put(name)
    deadlines.drop("dropped")
    deadlines.drop("never put")
    deadlines.drop("closed")
    until(lambda: late == ["late"], "the one that stayed is late")
    deadlines.put("closed")
    deadlines.close()
    assert deadlines._timer is None
    deadlines.put("anew")
    until(lambda: late == ["late", "anew"], "the one that came after close() is late")


def test_the_late_may_be_put_and_dropped_by_the_late() -> None:
    """Whoever is told may put itself in anew, and drop others: those who were late with it are told all the same."""
    told: list[str] = []

    def late(name: str) -> None:
        told.append(name)
        deadlines.drop("second")
        if told.count(name) < 2:
            deadlines.put(name)

    deadlines = Deadlines(0.01, late)
    deadlines.put("first")
    deadlines.put("second")
    until(lambda: told == ["first", "second", "first", "second"], "each was told twice")


def test_deadlines_keep_no_loop_from_its_end() -> None:
    """A hub whose last work is done ends at once, although some timer for that work is still to come."""
    ended: list[bool] = []

    def work() -> None:
        deadlines = Deadlines(60, print)
        deadlines.put("who is in time")
        ended.append(gevent.get_hub().join(timeout=10))
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]
