"""The table: numbers, identity, and how much of the past it keeps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from snowgreen.link.table import MAX_NODE_ID, NodeIds, Table
from snowgreen.protocol import pairing
from snowgreen.protocol.pairing import Admit, Candidate, Pair


def table(remembered: int = 16) -> Table:
    return Table("m@h", {}, remembered=remembered, commit_timeout=3.0)


def register(target: Table, peer: str, epoch: int = 1) -> Any:
    """Admit and install a stand-in for an inbound session."""
    serial = target.serial()
    decision = target.proved(peer, Candidate(serial, 1, epoch, True, 1), 0.0)
    assert isinstance(decision, Admit)
    session = SimpleNamespace(peer=peer, serial=serial)
    target.install(session)
    return session


def test_numbers_run_from_1_to_65535_and_come_back() -> None:
    """Every number is given once, the lowest released one next, and then there is none."""
    ids = NodeIds()
    assert [ids.take() for _ in range(MAX_NODE_ID)] == list(range(1, MAX_NODE_ID + 1))
    assert ids.take() is None
    for number in (500, 7, 65535):
        ids.release(number)
    assert [ids.take(), ids.take(), ids.take(), ids.take()] == [7, 500, 65535, None]


def test_cleanup_goes_by_identity() -> None:
    """The end of a replaced connection takes neither its successor's session nor its place in the rule."""
    target = table()
    old = register(target, "p@h", epoch=1)
    new = register(target, "p@h", epoch=2)
    target.ended("p@h", old.serial)
    assert target.sessions["p@h"] is new
    assert target.pair("p@h").link.token == new.serial
    target.ended("p@h", new.serial)
    target.ended("p@h", new.serial)
    assert not target.sessions
    assert target.pair("p@h") == Pair(epoch=2)


def test_the_smaller_name_is_smaller_as_bytes() -> None:
    """The tiebreak compares bytes: capitals before small letters, a prefix before the longer name."""
    target = table()
    assert target.smaller("n@h")
    assert target.smaller("m@h2")
    assert not target.smaller("M@h")
    assert not target.smaller("m@H")


def test_the_past_is_bounded_and_the_oldest_goes_first() -> None:
    """Counters of peers that are gone are kept up to a number; live peers never fall out of it."""
    target = table(remembered=2)
    alive = register(target, "alive@h")
    for name in "abc":
        session = register(target, f"{name}@h", epoch=5)
        target.ended(session.peer, session.serial)
    assert [target.pair(f"{name}@h").epoch for name in "abc"] == [0, 5, 5]
    again = register(target, "b@h", epoch=6)
    for name in "de":
        session = register(target, f"{name}@h")
        target.ended(session.peer, session.serial)
    assert target.pair("b@h").link.token == again.serial
    assert target.pair("alive@h").link.token == alive.serial


def test_a_dial_is_begun_once() -> None:
    """While a dial is in progress a second waits for it, and with a link there is nothing to dial."""
    target = table()
    serial = target.serial()
    assert target.dial("p@h", serial) == pairing.Dial(1, 1)
    assert isinstance(target.dial("p@h", target.serial()), pairing.AwaitDial)
    target.ended("p@h", serial)
    register(target, "p@h")
    assert isinstance(target.dial("p@h", target.serial()), pairing.UseLink)
