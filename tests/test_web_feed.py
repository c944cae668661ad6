"""The live part of the dashboard: who gets which changes, when, and who is let go."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import gevent
import pytest

from snowgreen.web import feed as feeds
from snowgreen.web.feed import QUEUE, Feed, Viewer
from snowgreen.web.picture import Picture
from tests.conftest import MakeNode
from tests.staged import Staged
from tests.test_web_picture import Page
from tests.waiting import until


@pytest.fixture
def node() -> Staged:
    return Staged()


class Reader:
    """A viewer who reads everything at once, and the page that he sees."""

    def __init__(self, feed: Feed) -> None:
        self.page = Page()
        self.changes: list[dict[str, Any]] = []
        self.viewer = feed.join()
        self.first = next(self.viewer)
        self.greenlet = gevent.spawn(self._read)

    def _read(self) -> None:
        for message in self.viewer:
            kind, data, *rest = message.split(b"\n")
            assert (kind, rest) == (b"event: change", [b"", b""])
            self.changes.append(json.loads(data.removeprefix(b"data: ")))
            self.page.apply(self.changes[-1])

    @property
    def peers(self) -> set[str]:
        return {link["peer"] for link in self.page.links.values()}

    def end(self) -> None:
        self.viewer.close()
        self.greenlet.join(5)
        assert self.greenlet.dead


@pytest.fixture
def reader(node: Staged) -> Any:
    readers: list[Reader] = []

    def make(feed: Feed) -> Reader:
        readers.append(Reader(feed))
        return readers[-1]

    yield make
    for made in readers:
        made.end()
    until(lambda: not any(made.viewer._feed.watched for made in readers), "the feeds have ended")


def test_ups_and_downs_come_at_once(node: Staged, reader: Any, monkeypatch: pytest.MonkeyPatch):
    """A link that comes up or goes down is told within a moment, not with the next look at everything."""
    monkeypatch.setattr(feeds, "PERIOD", 30.0)
    node.up("one@127.0.0.1:1")
    it = reader(Feed(node))
    assert it.first == b"retry: 1000\n\n"
    until(lambda: it.peers == {"one@127.0.0.1:1"}, "the first link is told")
    node.up("two@127.0.0.1:1")
    until(lambda: "two@127.0.0.1:1" in it.peers, "the up is told", timeout=1)
    node.down("one@127.0.0.1:1", "its cable was cut")
    until(lambda: it.peers == {"two@127.0.0.1:1"}, "the down is told", timeout=1)
    assert it.page.events[-1]["text"].endswith("its cable was cut")
    monkeypatch.undo()
    node.up("three@127.0.0.1:1")  # so that it looks around, and ends soon


def test_counts_come_every_second(node: Staged, reader: Any, monkeypatch: pytest.MonkeyPatch):
    """What links carry is told once in a period, and something is told in each."""
    monkeypatch.setattr(feeds, "PERIOD", 0.05)
    session = node.up("one@127.0.0.1:1")
    it = reader(Feed(node))
    until(lambda: it.peers, "the link is told")
    session.bytes_sent = 4711
    until(lambda: it.page.links[session.serial]["bytes_sent"] == 4711, "the count is told")
    told = len(it.changes)
    until(lambda: len(it.changes) > told + 3, "there is a sign of life in each period")


def test_all_viewers_see_the_same(node: Staged, reader: Any, monkeypatch: pytest.MonkeyPatch):
    """Those who join early and late end up with the same page, and the node is looked at once for all."""
    monkeypatch.setattr(feeds, "PERIOD", 0.05)
    looks = []
    advance = Picture.advance
    monkeypatch.setattr(
        Picture, "advance", lambda self, *a, **k: (looks.append(1), advance(self, *a, **k))[1]
    )
    feed, readers = Feed(node), []
    for number in range(350):
        node.up(f"n{number}@127.0.0.1:1")
        if number % 50 == 0:
            readers.append(reader(feed))
            gevent.sleep(0.02)
        if number % 3 == 0:
            node.down(f"n{number}@127.0.0.1:1")
    until(lambda: all(it.peers == set(node.sessions) for it in readers), "all see all links")
    assert all(it.page.shown() == readers[0].page.shown() for it in readers)
    seen, before = len(readers[0].changes), len(looks)
    until(lambda: len(readers[0].changes) >= seen + 5, "some time goes by")
    assert len(looks) - before <= len(readers[0].changes) - seen + 1


def test_nobody_looks_while_nobody_watches(node: Staged, reader: Any, monkeypatch: pytest.MonkeyPatch):
    """The greenlet begins with the first viewer and ends after the last, and begins again with the next."""
    monkeypatch.setattr(feeds, "PERIOD", 0.05)
    feed = Feed(node)
    assert not feed.watched
    it = reader(feed)
    until(lambda: it.changes, "something is told")
    assert feed.watched
    it.end()
    until(lambda: not feed.watched, "the greenlet has ended")
    assert not node._bus._subscriptions
    again = reader(feed)
    until(lambda: again.changes, "something is told again")
    assert again.changes[0]["reset"]


def test_who_does_not_read_is_let_go(node: Staged, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    """A viewer stuck in a write is ended when too much waits for him, and holds up nobody."""
    monkeypatch.setattr(feeds, "PERIOD", 0.01)
    feed = Feed(node)
    slow, quick = feed.join(), Reader(feed)

    def stuck() -> None:
        next(slow)
        gevent.sleep(60)  # as in a write that nobody takes

    greenlet = gevent.spawn(stuck)
    with caplog.at_level(logging.INFO, "snowgreen.web"):
        until(lambda: greenlet.dead, "the slow one is ended")
    assert "reads too slowly" in caplog.text
    assert list(slow) == []
    assert len(quick.changes) >= QUEUE
    assert feed.watched
    quick.end()
    until(lambda: not feed.watched, "the feed has ended")


def test_who_never_begins_to_read_is_let_go(node: Staged, monkeypatch: pytest.MonkeyPatch):
    """A server that took a stream and forgot it keeps no place for ever."""
    monkeypatch.setattr(feeds, "PERIOD", 0.01)
    feed = Feed(node, viewers=1)
    feed.join()
    assert feed.full
    until(lambda: not feed.full, "its place is free")
    until(lambda: not feed.watched, "the feed has ended")


def test_a_restart_is_seen(make_node: MakeNode, reader: Any):
    """A real node stops and starts again: the page says so each time, and then shows the new links."""
    node, peer = make_node(), make_node()
    node.connect(peer.name)
    it = reader(Feed(node))
    until(lambda: it.peers == {peer.name}, "the link is told")
    began = time.monotonic()
    node.stop()
    until(
        lambda: it.page.node["incarnation"] is None and not it.peers, "it is told that it stopped", timeout=2
    )
    assert "events" in vars(it.page)
    node.start()
    until(
        lambda: it.page.node["incarnation"] == str(node.incarnation), "it is told that it started", timeout=2
    )
    node.connect(peer.name)
    until(lambda: it.peers == {peer.name}, "the new link is told", timeout=2)
    assert time.monotonic() - began < 10


def test_a_flood_of_events_does_not_multiply_the_looks(node: Staged, reader: Any):
    """Two thousand links that come up at once are told in a few changes."""
    it = reader(Feed(node))
    until(lambda: it.changes, "something is told")
    for number in range(2000):
        node.up(f"n{number}@127.0.0.1:1")
        if number % 100 == 0:
            gevent.sleep(0)
    until(lambda: len(it.peers) == 2000, "all are told", timeout=3)
    assert len(it.changes) < 10


def test_a_look_that_fails_ends_the_streams(node: Staged, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    """A fault is logged and ends the streams, which browsers open anew, instead of leaving them silent."""
    feed = Feed(node)
    viewer = feed.join()
    monkeypatch.setattr(Picture, "advance", lambda *a, **k: 1 / 0)
    assert list(viewer) == [b"retry: 1000\n\n"]
    assert "ZeroDivisionError" in caplog.text
    assert not feed.watched
    monkeypatch.undo()
    it = Reader(feed)
    until(lambda: it.changes, "the next one is served")
    it.end()
    until(lambda: not feed.watched, "the feed has ended")


def test_a_look_does_not_hold_up_the_loop(node: Staged, reader: Any, monkeypatch: pytest.MonkeyPatch):
    """While 2,000 links move and are told, others run in between every few milliseconds."""
    monkeypatch.setattr(feeds, "PERIOD", 0.05)
    sessions = [node.up(f"n{number}@127.0.0.1:1") for number in range(2000)]
    it = reader(Feed(node))
    until(lambda: len(it.peers) == 2000, "all are told")
    turns = []
    advance = Picture.advance

    def counted(self: Picture, *arguments: Any, **options: Any) -> Any:
        for session in sessions:
            session.bytes_sent += 1
        before = len(turns)
        change = advance(self, *arguments, **options)
        assert len(turns) - before >= 15
        return change

    other = gevent.spawn(lambda: [(turns.append(1), gevent.sleep(0)) for _ in iter(int, 1)])
    monkeypatch.setattr(Picture, "advance", counted)
    seen = len(it.changes)
    until(lambda: len(it.changes) > seen + 3, "some changes are told")
    other.kill()
    assert it.page.links[sessions[0].serial]["bytes_sent"] >= 3


def test_a_viewer_may_be_closed_twice_and_before_he_began(node: Staged):
    """Servers close what they were given, whatever has happened before."""
    feed = Feed(node)
    viewer = feed.join()
    viewer.close()
    viewer.close()
    assert list(viewer) in ([], [b"retry: 1000\n\n"])
    assert isinstance(viewer, Viewer)
    until(lambda: not feed.watched, "the feed has ended")
