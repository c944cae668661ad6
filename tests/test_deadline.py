"""Deadlines: total, translated only when they are one's own, and gone when the block is."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from snowgreen import LinkTimeout
from snowgreen.link.deadline import Deadline


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
