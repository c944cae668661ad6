"""What has changed of a node since it was shown last."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

import snowgreen
from snowgreen import status
from snowgreen.events import LoopStalled
from snowgreen.web.picture import EVENTS, LINK, MISSING, MOVING, PAIRS, Change, Picture
from tests.staged import STARTED, Staged


class Page:
    """What a browser makes of the changes: the plainest reading of them."""

    def __init__(self) -> None:
        self.links: dict[int, dict[str, Any]] = {}
        self.columns: list[str] = []
        self.moving: list[str] = []

    def apply(self, change: Change) -> Page:
        change = msgspec.json.decode(msgspec.json.encode(change))
        if change.get("reset"):
            self.columns, self.moving = change["columns"], change["moving"]
            self.links, self.node, self.failures, self.mesh, self.events = {}, {}, {}, {}, []
        for serial in change.get("down", ()):
            del self.links[serial]
        for row in change.get("up", ()):
            link = dict(zip(self.columns, row, strict=True))
            self.links[link["serial"]] = link
        for serial, *values in change.get("links", ()):
            self.links[serial].update(zip(self.moving, values, strict=True))
        self.node.update(change.get("node", {}))
        for key in change.get("forgotten", ()):
            del self.failures[key]
        for failure in change.get("failures", ()):
            self.failures[failure["id"]] = failure
        for peer, others in change.get("mesh", {}).items():
            self.mesh[peer] = others
            if others is None:
                del self.mesh[peer]
        self.events = [*self.events, *change.get("events", ())][-EVENTS:]
        return self

    def shown(self) -> dict[str, Any]:
        return {**vars(self), "failures": sorted(self.failures.values(), key=lambda failure: failure["id"])}


@pytest.fixture
def node() -> Staged:
    return Staged()


def whole(picture: Picture) -> Page:
    page = Page()
    for change in picture.whole():
        page.apply(change)
    return page


def test_the_first_change_is_everything(node: Staged):
    """The first look at a node shows it, its links, failures, events and mesh as its status does."""
    session = node.up("one@127.0.0.1:1", rtt=0.25, bytes_sent=7, bytes_waiting=3, state="waiting")
    node.fail(snowgreen.Unreachable("nobody is there"))
    node.told = {"one@127.0.0.1:1": frozenset({"c@127.0.0.1:1", "b@127.0.0.1:1"})}
    page = Page().apply(Picture(node).advance(STARTED))
    assert page.links == {session.serial: msgspec.to_builtins(status.link_status(session))}
    assert (page.node["name"], page.node["links"], page.node["failed"]) == (node.name, 1, 1)
    assert [event["kind"] for event in page.events] == ["up", "handshake_failed"]
    assert page.mesh == {"one@127.0.0.1:1": ["b@127.0.0.1:1", "c@127.0.0.1:1"]}
    (failure,) = page.failures.values()
    assert (failure["cause"], failure["host"], failure["count"]) == ("unreachable", "192.0.2.1", 1)


def test_nothing_new_is_nothing(node: Staged):
    """Where nothing has happened, a change holds the time alone."""
    node.up("one@127.0.0.1:1")
    node.fail(snowgreen.Unreachable("nobody is there"))
    picture = Picture(node)
    picture.advance(STARTED)
    assert picture.advance(STARTED + 1) == {"at": STARTED + 1, "full": True}
    assert picture.advance(STARTED + 2, full=False) == {"at": STARTED + 2, "full": False}


def test_only_the_rows_that_moved_are_told(node: Staged):
    """Of 500 links, the one that carried something is told, and of it only what can change."""
    sessions = [node.up(f"n{number}@127.0.0.1:1") for number in range(500)]
    picture = Picture(node)
    picture.advance(STARTED)
    sessions[7].bytes_received, sessions[7].rtt = 12, 0.5
    change = picture.advance(STARTED + 1)
    assert change["links"] == [(sessions[7].serial, 0.5, 12, 0, 0, 0, 0, "up")]
    assert set(change) == {"at", "full", "links"}
    sessions[8].bytes_waiting = 1
    assert "links" not in picture.advance(STARTED + 2, full=False)
    assert [row[0] for row in picture.advance(STARTED + 3)["links"]] == [sessions[8].serial]


def test_the_columns_are_those_of_the_status():
    """What moves is read off a session in the order that is announced."""
    assert set(MOVING) < set(LINK)
    node = Staged()
    session = node.up("one@127.0.0.1:1")
    picture = Picture(node)
    picture.advance(STARTED)
    for number, name in enumerate(MOVING, 1):
        setattr(
            session, {"waiting": "bytes_waiting"}.get(name, name), f"s{number}" if name == "state" else number
        )
    (row,) = picture.advance(STARTED + 1)["links"]
    assert dict(zip(MOVING, row[1:], strict=True)) == {
        name: getattr(status.link_status(session), name) for name in MOVING
    }


@pytest.mark.parametrize("seed", range(8))
def test_the_changes_add_up_to_what_there_is(node: Staged, seed: int):
    """After any ups, downs, failures and reports, changes one by one and the whole at once show the same."""
    dice = random.Random(seed)
    pause = lambda: act(dice, node) if dice.random() < 0.2 else None  # noqa: E731  # shown where it is used
    picture, page = Picture(node, pause), Page()
    for step in range(60):
        for _ in range(dice.randrange(8)):
            act(dice, node)
        change = picture.advance(STARTED + step, full=step == 0 or dice.random() < 0.5)
        page.apply(change)
        if dice.random() < 0.3:
            assert whole(picture).shown() == page.shown()
    picture = Picture(node)
    page.apply(picture.advance(STARTED))
    assert {link["peer"] for link in page.links.values()} == set(node.sessions)
    assert list(page.links.values()) == [
        msgspec.to_builtins(status.link_status(node.sessions[link["peer"]])) for link in page.links.values()
    ]


def act(dice: random.Random, node: Staged) -> None:
    """Something happens."""
    peer = f"n{dice.randrange(250)}@127.0.0.1:1"
    kind = dice.randrange(8)
    if kind == 0:
        node.fail(
            snowgreen.Unreachable("nobody"), address=f"192.0.2.{dice.randrange(200)}:1", at=dice.random()
        )
    elif kind == 1:
        node.told[peer] = frozenset(f"n{dice.randrange(99)}@127.0.0.1:1" for _ in range(3))
    elif kind == 2:
        node.told.pop(peer, None)
    elif kind == 3:
        node.life = dice.choice([node.life] * 20 + [None, 2**60])
    elif peer in node.sessions and kind == 4:
        node.down(peer)
    elif peer in node.sessions:
        session: Any = node.sessions[peer]
        session.bytes_sent += dice.randrange(100)
        session.rtt = dice.random()
    else:
        node.up(peer)


def test_a_viewer_in_the_middle_of_a_look_gets_what_fits_the_change(node: Staged):
    """A look at many links pauses; who joins meanwhile is shown what was before, and the change goes on it."""
    for number in range(250):
        node.up(f"n{number}@127.0.0.1:1")
    joined: list[Page] = []
    picture = Picture(node, lambda: joined.append(whole(picture)))
    picture.advance(STARTED)
    for number in range(250, 500):
        node.up(f"n{number}@127.0.0.1:1")
    node.down("n3@127.0.0.1:1")
    joined.clear()
    change = picture.advance(STARTED + 1)
    assert len(joined) > 3
    assert {len(page.links) for page in joined} == {250}
    for page in joined:
        assert page.apply(change).shown() == whole(picture).shown()


def test_a_new_life_begins_anew(node: Staged):
    """When the node stops, and when it starts again, everything is told again; events and failures stay."""
    node.up("one@127.0.0.1:1")
    node.fail(snowgreen.Unreachable("nobody"))
    picture, page = Picture(node), Page()
    page.apply(picture.advance(STARTED))
    node.life, before = None, len(page.events)
    node.down("one@127.0.0.1:1")
    change = picture.advance(STARTED + 1, full=False)
    page.apply(change)
    assert change["reset"]
    assert (page.node["incarnation"], page.links, len(page.events)) == (None, {}, before + 1)
    assert page.failures
    node.life = 2**60
    assert page.apply(picture.advance(STARTED + 2)).node["incarnation"] == str(2**60)


def test_a_viewer_in_the_middle_of_a_new_life_sees_the_old_one(node: Staged):
    """While a new life is looked at, who joins is shown the old one whole, and the new one with the change."""
    for number in range(300):
        node.up(f"n{number}@127.0.0.1:1")
    joined: list[Page] = []
    picture = Picture(node, lambda: joined.append(whole(picture)))
    picture.advance(STARTED)
    node.down("n3@127.0.0.1:1")
    node.life = 2**60
    joined.clear()
    change = picture.advance(STARTED + 1)
    assert [(len(page.links), page.node["name"]) for page in joined][:2] == [(300, node.name)] * 2
    assert {len(page.apply(change).links) for page in joined} == {299}
    assert joined[0].shown() == whole(picture).shown()


def test_a_flood_of_events_is_cut(node: Staged):
    """Of a thousand events since the last look the newest are told, and afterwards none of them twice."""
    picture, page = Picture(node), Page()
    page.apply(picture.advance(STARTED))
    for number in range(1000):
        node.fail(snowgreen.Unreachable(f"number {number}"), address=f"192.0.2.{number % 256}:1")
    change = picture.advance(STARTED + 1)
    assert len(change["events"]) == EVENTS
    assert change["events"][-1]["text"].endswith("number 999")
    assert "events" not in picture.advance(STARTED + 2)
    node.fail(snowgreen.Unreachable("one more"))
    assert [event["text"][-8:] for event in picture.advance(STARTED + 3)["events"]] == ["one more"]


def test_forgotten_failures_are_told(node: Staged):
    """Failures that the journal gave up, for newer ones of other addresses, are taken off the page."""
    picture, page = Picture(node), Page()
    page.apply(picture.advance(STARTED))
    for wave in range(4):
        for number in range(100):
            node.fail(snowgreen.Unreachable("nobody"), address=f"192.0.{wave}.{number}:1")
        page.apply(picture.advance(STARTED + wave))
    assert sorted(failure["host"] for failure in page.failures.values()) == sorted(
        failure.host for failure in status.failures(node)
    )


def test_long_texts_are_cut(node: Staged):
    """No text of one event or failure fills the page."""
    node.fail(snowgreen.Unreachable("y" * 100_000), claimed="z" * 100_000)
    page = Page().apply(Picture(node).advance(STARTED))
    (failure,) = page.failures.values()
    assert len(failure["problem"]) == len(failure["claimed"]) == len(page.events[0]["text"]) == 500
    assert failure["problem"].endswith("y…")


def test_what_peers_report_has_a_bound(node: Staged):
    """However much peers report, so much of it is shown, and all of it is counted."""
    for number in range(100):
        node.told[f"n{number}@h"] = frozenset(f"x{other}@h" for other in range(50))
    page = Page().apply(Picture(node).advance(STARTED))
    assert sum(map(len, page.mesh.values())) == PAIRS
    assert page.node["mesh"] == 5000


def test_missing_peers_are_told(node: Staged):
    """Kept peers without a link are named, up to a bound, and counted."""
    for number in range(MISSING + 10):
        node.keep(f"kept{number}@127.0.0.1:1")
    node.up("kept0@127.0.0.1:1")
    picture = Picture(node)
    about = picture.advance(STARTED)["node"]
    assert (about["kept"], about["missing_count"], len(about["missing"])) == (
        MISSING + 10,
        MISSING + 9,
        MISSING,
    )
    assert about["missing"][0] == "kept1@127.0.0.1:1"
    node.up("kept1@127.0.0.1:1")
    assert picture.advance(STARTED + 1)["node"]["missing"][0] == "kept2@127.0.0.1:1"


def test_stalls_are_told(node: Staged):
    """A stall of the loop changes the counts of the node, and those alone."""
    picture = Picture(node)
    picture.advance(STARTED)
    node._bus.publish(LoopStalled(1.5, STARTED))
    assert picture.advance(STARTED + 1)["node"] == {"stalls": 1, "stalled": 1.5}
