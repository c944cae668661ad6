"""The log: lines that say what failed and what to check, bounded under attack, and no matter of any link."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.event import Event as Flag

import snowgreen
from snowgreen import errors, events
from snowgreen.events import HandshakeFailed, LoopStalled
from snowgreen.link.logs import KINDS, WAITING, FailedHandshakes, Line, Scribe, facts_of, one_line
from snowgreen.link.runtime import say
from snowgreen.protocol.quiet import BURST
from tests import raw
from tests.conftest import MakeNode
from tests.waiting import until

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "logging.md").read_text()
EVIL = "x\r\nCRITICAL all is lost\x1b[31m\u202e\u2028\x00"
LOG = logging.getLogger("snowgreen.test")

#: One of each kind of event, with hostile text wherever there is text.
EVENTS: dict[type, Any] = {
    kind: kind(
        **{
            field.name: errors.AuthenticationError(EVIL)
            if field.name == "error"
            else {"str": EVIL, "str | None": EVIL, "int": 7, "int | None": 2**63, "float": 1.5, "bool": True}[
                str(field.type)
            ]
            for field in fields(kind)
        }
    )
    for kind in typing.get_args(events.Event)
}


class Keeper(logging.Handler):
    """Keeps the records, and may be told what to do at each."""

    def __init__(self, do: Callable[[logging.LogRecord], object] = lambda _: None) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.do = do

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.do(record)

    @property
    def texts(self) -> list[str]:
        """What was said."""
        return [record.getMessage() for record in self.records]


@pytest.fixture
def keep() -> Iterator[Callable[..., Keeper]]:
    """A maker of handlers of everything that snowgreen says."""
    log, made = logging.getLogger("snowgreen"), []
    level = log.level

    def make(do: Callable[[logging.LogRecord], object] = lambda _: None, at: int = logging.DEBUG) -> Keeper:
        handler = Keeper(do)
        made.append(handler)
        log.addHandler(handler)
        log.setLevel(at)
        return handler

    yield make
    for handler in made:
        log.removeHandler(handler)
    log.setLevel(level)


def facts(record: logging.LogRecord) -> dict[str, Any]:
    """What a record has beside its words."""
    found = record.snowgreen  # type: ignore[attr-defined]
    assert type(found) is dict
    assert json.loads(json.dumps(found)) == found
    return found


# What a line says.


def test_a_failed_handshake_is_one_line_with_everything(make_node: MakeNode, keep: Callable[..., Keeper]):
    """Who claimed to be whom, from where, what failed and what to check: on both sides, in words and in parts."""
    kept = keep(at=logging.WARNING)
    server = make_node()
    client = make_node(cookie="another cookie altogether", listen=False)
    with pytest.raises(snowgreen.AuthenticationError):
        client.connect(server.name)
    until(lambda: len(kept.records) == 2, "both sides have said so")
    lines = {facts(record)["node"]: record for record in kept.records}
    inbound, outbound = lines[server.name], lines[client.name]
    assert re.fullmatch(
        rf"{server.name}: the link from 127\.0\.0\.1:\d+, which claims to be {client.name}, failed: "
        r"the peer could not prove the cookie: the two nodes have different cookies .*; "
        r"compare the fingerprints that `snowgreen cookie` prints .*",
        inbound.getMessage(),
    )
    assert re.fullmatch(
        rf"{client.name}: the link to {server.name} at {server.address} failed: .* different cookies.*; "
        r"compare the fingerprints that `snowgreen cookie` prints .*",
        outbound.getMessage(),
    )
    for record, initiated in ((inbound, False), (outbound, True)):
        told = facts(record)
        assert record.levelno == logging.WARNING
        assert record.name == "snowgreen.link"
        assert told["kind"] == "handshake_failed"
        assert told["cause"] == "authentication"
        assert told["initiated"] is initiated
        assert told["problem"] in record.getMessage()
        assert record.getMessage().endswith(told["advice"])
    assert facts(inbound)["peer"] == client.name
    assert facts(inbound)["address"].startswith("127.0.0.1:")
    assert (facts(outbound)["peer"], facts(outbound)["address"]) == (server.name, server.address)


def test_starts_links_and_stops_are_told_with_their_parts(make_node: MakeNode, keep: Callable[..., Keeper]):
    """At INFO the log of a node is its life, in order, and a program need not read the words."""
    kept = keep(at=logging.INFO)
    server = make_node()
    client = make_node(listen=False)
    session = client.connect(server.name)
    name, incarnation = server.name, str(server.incarnation)
    client.stop()
    until(lambda: session.closed and not server.sessions, "the link is gone")
    server.stop()
    until(lambda: any("has stopped" in text for text in kept.texts if name in text), "all is told")
    here = [facts(record) for record in kept.records if facts(record)["node"] == client.name]
    assert [told["kind"] for told in here] == ["started", "up", "down", "stopped"]
    assert (here[1]["peer"], here[1]["incarnation"]) == (name, incarnation)
    assert (here[1]["form"], here[1]["initiated"]) == ("bound", True)
    assert (here[2]["lost"], here[2]["reason"]) == (False, "this node was stopped")
    there = [facts(record) for record in kept.records if facts(record)["node"] == name]
    assert there[0] == {"kind": "started", "node": name, "address": name.partition("@")[2]}


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_event_is_one_line_whatever_is_in_it(kind: type, keep: Callable[..., Keeper]):
    """Line breaks, terminal escapes and the like from a peer end no line, and the parts are plain values."""
    kept = keep()
    say(LOG, logging.WARNING, "%s: %s; %s", "node@h", EVENTS[kind], "see")
    until(lambda: kept.records, "it is written")
    (record,) = kept.records
    text, told = record.getMessage(), facts(record)
    assert text.isprintable()
    assert (told["kind"], told["node"]) == (KINDS[kind], "node@h")
    for value in told.values():
        assert not isinstance(value, str) or value.isprintable()
    names = {field.name for field in fields(kind)} - {"error"}
    assert {"peer" if name == "claimed" else name for name in names} <= set(told)
    if "CRITICAL" in str(EVENTS[kind]):
        assert r"x\r\nCRITICAL all is lost\x1b[31m\u202e\u2028\x00" in text


def test_every_event_is_known():
    """No event is without a kind, and none is told of by two names."""
    assert set(KINDS) == set(EVENTS)
    assert len(set(KINDS.values())) == len(KINDS)


def test_what_is_harmless_is_left_as_it_is():
    """Only what is not printable is escaped; a name in any script is shown."""
    assert one_line("Grüße aus 東京 \\n") == "Grüße aus 東京 \\n"
    assert one_line("a\tb\x7f\ud800") == r"a\tb\x7f\ud800"


def test_a_line_without_an_event_has_no_parts():
    """The attribute is there all the same: a format may name it."""
    assert facts_of(("a", 1)) == {}
    assert facts_of((LoopStalled(1.0, 2.0),)) == {
        "kind": "loop_stalled",
        "node": None,
        "seconds": 1.0,
        "at": 2.0,
    }


def test_what_is_not_wanted_costs_nothing(keep: Callable[..., Keeper], monkeypatch: pytest.MonkeyPatch):
    """A line below the level is not even put together."""
    kept = keep(at=logging.WARNING)
    monkeypatch.setattr("snowgreen.link.runtime.facts_of", lambda _: pytest.fail("it was"))
    say(LOG, logging.INFO, "%s", "quiet")
    gevent.sleep(0)
    assert kept.records == []


# Handlers that are slow, or raise.


def line(number: int) -> Line:
    """A line with a number in it."""
    return Line(LOG, logging.INFO, "line %d", (number,), None, {"number": number})


def test_lines_are_written_in_turn_by_one_greenlet_that_then_ends(keep: Callable[..., Keeper]):
    """However a handler waits, the order is that of what happened, and nothing stays behind."""
    kept = keep(lambda _: gevent.sleep(0))
    scribe = Scribe()
    for number in range(50):
        scribe.put(line(number))
    assert kept.records == []
    until(lambda: len(kept.records) == 50, "all are written")
    assert kept.texts == [f"line {number}" for number in range(50)]
    until(lambda: not scribe._busy, "the greenlet ends")


def test_a_handler_that_raises_costs_its_own_line_only(
    keep: Callable[..., Keeper], monkeypatch: pytest.MonkeyPatch
):
    """What it raises is reported as gevent reports it, and the next line is written."""
    reported: list[Any] = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *about: reported.append(about[1]))

    def fail(record: logging.LogRecord) -> None:
        if facts(record)["number"] % 2:
            raise RuntimeError("a handler of the user's")

    kept = keep(fail)
    scribe = Scribe()
    for number in range(6):
        scribe.put(line(number))
    until(lambda: len(kept.records) == 6, "all are tried")
    until(lambda: not scribe._busy, "the greenlet ends")
    assert reported == [RuntimeError] * 3


def test_lines_that_wait_have_a_bound_and_what_is_lost_is_counted(keep: Callable[..., Keeper]):
    """While a handler hangs, ten thousand lines wait; the others are told of by their number, once it goes on."""
    go_on = Flag()
    kept = keep(lambda _: go_on.wait(10))
    scribe = Scribe()
    scribe.put(line(0))
    until(lambda: kept.records, "the handler hangs")
    for number in range(1, WAITING + 3001):
        scribe.put(line(number))
    assert len(scribe._lines) == WAITING
    go_on.set()
    until(lambda: not scribe._busy, "all is written")
    assert kept.texts[: WAITING + 1] == [f"line {number}" for number in range(WAITING + 1)]
    assert kept.texts[WAITING + 1 :] == [
        "3000 log lines were lost: they came faster than the handlers of logging write them"
    ]
    assert facts(kept.records[-1]) == {"kind": "lines_lost", "count": 3000}


def test_a_loss_is_told_of_also_when_every_line_raises(
    keep: Callable[..., Keeper], monkeypatch: pytest.MonkeyPatch
):
    """The greenlet that the last line ends does not take the number of the lost ones with it."""
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *_: None)
    monkeypatch.setattr("snowgreen.link.logs.WAITING", 10)
    go_on = Flag()

    def fail(record: logging.LogRecord) -> None:
        go_on.wait(10)
        if "number" in facts(record):
            raise RuntimeError("a handler of the user's")

    kept = keep(fail)
    scribe = Scribe()
    for number in range(15):
        scribe.put(line(number))
    go_on.set()
    until(lambda: not scribe._busy, "all is tried")
    assert len(kept.records) == 11
    assert facts(kept.records[-1]) == {"kind": "lines_lost", "count": 5}


def test_after_a_loss_lines_are_taken_again_once_there_is_room(keep: Callable[..., Keeper]):
    """Not at the first free place, or every other line would be one that says that a line was lost."""
    turn = Flag()
    kept = keep(lambda _: turn.wait(10))
    scribe = Scribe()
    for number in range(WAITING + 5):
        scribe.put(line(number))
    until(lambda: kept.records, "the handler hangs")
    scribe.put(line(-1))  # there is a place, and not half of all
    scribe._lines = type(scribe._lines)(list(scribe._lines)[: WAITING // 2])
    scribe.put(line(-2))
    turn.set()
    until(lambda: not scribe._busy, "all is written")
    assert kept.texts[-2:] == [
        "6 log lines were lost: they came faster than the handlers of logging write them",
        "line -2",
    ]
    assert "line -1" not in kept.texts


def test_writing_many_lines_gives_way(keep: Callable[..., Keeper]):
    """A thousand lines are no stall of the loop."""
    kept = keep()
    scribe = Scribe()
    for number in range(500):
        scribe.put(line(number))
    seen = []
    while len(kept.records) < 500:
        gevent.sleep(0)
        seen.append(len(kept.records))
    assert max(after - before for before, after in zip([0, *seen], seen, strict=False)) <= 64


# Under attack.


class Timers:
    """Timers of a loop that fire when the test says so."""

    def __init__(self) -> None:
        self.running: list[Any] = []

    def __call__(self, after: float, *, ref: bool) -> Any:
        assert (after, ref) == (5.0, False)
        timers = self

        class Timer:
            def start(self, callback: Callable[[], None]) -> None:
                self.callback = callback
                timers.running.append(self)

            def close(self) -> None:
                timers.running.remove(self)

        return Timer()


@pytest.fixture
def failing(keep: Callable[..., Keeper]) -> Any:
    """A log of failed handshakes on a clock that the test sets, and what it says."""
    keep()

    class Failing:
        now = 0.0
        port = 1024
        timers = Timers()
        said: typing.ClassVar[list[tuple[str, Any]]] = []

        def fail(self, host: str = "10.0.0.1", error: errors.LinkError | None = None) -> None:
            self.port += 1  # as every connection comes from a port of its own
            address = f"{host}:{self.port}"
            event = HandshakeFailed("x@h", address, False, error or errors.TLSError("no"), 0.0)
            self.log.tell(event)

    made = Failing()
    made.said = []

    def note(_log: Any, _level: int, text: str, *args: object, facts: Any = None) -> None:
        made.said.append((text % args, facts))

    made.log = FailedHandshakes("node@h", note, lambda: made.now, made.timers)
    return made


def test_after_a_burst_the_rest_is_summed_up_after_five_seconds(failing: Any):
    """So many lines, then one with the number of the others by cause; and it begins anew."""
    for _ in range(BURST + 40):
        failing.fail()
    failing.fail(error=errors.ProtocolError("odd"))
    assert len(failing.said) == BURST + 1
    (timer,) = failing.timers.running
    failing.now = 5.0
    timer.callback()
    text, told = failing.said[-1]
    assert text == "node@h: 40 more failed handshakes within 5.0 s were not logged (tls: 40)"
    assert told == {
        "kind": "handshakes_not_logged",
        "node": "node@h",
        "count": 40,
        "seconds": 5.0,
        "causes": {"tls": 40},
    }
    assert failing.timers.running == []
    failing.fail()
    assert failing.timers.running == []  # it had its line
    assert len(failing.said) == BURST + 3


def test_what_was_held_back_is_told_when_the_node_stops(failing: Any):
    """Nothing is lost with the timer; and afterwards no timer is begun that nobody ends."""
    for _ in range(BURST + 2):
        failing.fail()
    failing.log.close()
    assert failing.said[-1][0].startswith("node@h: 2 more failed handshakes within 0.0 s")
    assert failing.timers.running == []
    failing.fail()
    assert failing.timers.running == []


def test_a_child_of_a_fork_says_nothing_of_what_its_parent_held_back(failing: Any):
    """The parent has the same count, and tells it."""
    for _ in range(BURST + 2):
        failing.fail()
    failing.log.let_go()
    assert failing.timers.running == []
    assert len(failing.said) == BURST


def test_one_address_cannot_silence_another_nor_our_own_dials(failing: Any):
    """A flood from one place leaves lines to others, and to what this node dials."""
    for _ in range(1000):
        failing.fail("10.0.0.66")
    failing.fail("10.0.0.7")
    failing.log.tell(HandshakeFailed("a@h", "10.0.0.66:1", True, errors.Unreachable("no"), 0.0))
    assert len(failing.said) == BURST + 2
    assert "from 10.0.0.7:2025" in failing.said[-2][0]
    assert "to a@h at 10.0.0.66:1" in failing.said[-1][0]


def test_a_flood_of_strangers_writes_few_lines_and_every_one_is_counted(
    make_node: MakeNode, keep: Callable[..., Keeper]
):
    """Sixty connections that speak no TLS: a handful of lines, a sum, and nothing missing from the journal."""
    kept = keep(at=logging.WARNING)
    node = make_node()
    for _ in range(60):
        with gevent.socket.create_connection(raw.split(node.address), timeout=10) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                sock.recv(100)
    until(lambda: node.journal.failed.total() == 60, "all have failed")
    node.stop()
    until(
        lambda: any(facts(record)["kind"] == "handshakes_not_logged" for record in kept.records),
        "the sum, at the stop rather than five seconds after the first",
        timeout=3,
    )
    lines = [record for record in kept.records if facts(record)["kind"] == "handshake_failed"]
    sums = [facts(record) for record in kept.records if facts(record)["kind"] == "handshakes_not_logged"]
    assert BURST <= len(lines) < 40
    assert len(lines) + sum(told["count"] for told in sums) == 60
    assert all("something else than a node" in record.getMessage() for record in lines)


# Forks, the end of a process, and the page.


def test_the_last_lines_of_a_process_are_written():
    """A program that ends right behind a line has it in its log, unless a handler hangs that was before it."""
    code = """
import logging, sys
import gevent
from gevent.event import Event
from snowgreen.link.runtime import say
class Handler(logging.StreamHandler):
    def emit(self, record):
        super().emit(record)
        if record.getMessage() == "hang":
            Event().wait()
log = logging.getLogger("snowgreen.test")
log.addHandler(Handler(sys.stdout))
log.setLevel("INFO")
for text in sys.argv[1:]:
    say(log, logging.INFO, text)
if "hang" in sys.argv:
    gevent.sleep(0.01)
"""
    for texts, written in ((["one", "two"], ["one", "two"]), (["one", "hang", "two"], ["one", "hang"])):
        command = [sys.executable, "-c", code, *texts]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.splitlines() == written


def test_the_last_lines_are_written_though_their_handler_waits():
    """While the first is written at the end of the process, nobody else begins with the second and keeps it."""
    code = """
import logging, sys
import gevent
from snowgreen.link.runtime import say
class Handler(logging.StreamHandler):
    def emit(self, record):
        gevent.sleep(0.001)
        super().emit(record)
log = logging.getLogger("snowgreen.test")
log.addHandler(Handler(sys.stdout))
log.setLevel("INFO")
for number in range(5):
    say(log, logging.INFO, "%d", number)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.split() == ["0", "1", "2", "3", "4"]


def test_a_child_of_a_fork_does_not_repeat_the_lines_of_its_parent(tmp_path: Path):
    """What waits at the fork is written once; the child's own lines are written, too."""
    code = """
import logging, os, sys
import gevent
from snowgreen.link.runtime import say
logging.basicConfig(stream=sys.stdout, format="%(message)s", level="INFO")
log = logging.getLogger("snowgreen.test")
say(log, logging.INFO, "of the parent")
pid = os.fork()
if pid == 0:
    gevent.reinit()
    say(log, logging.INFO, "of the child")
    gevent.sleep(0.01)
    sys.stdout.flush()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
gevent.sleep(0.01)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert sorted(run.stdout.splitlines()) == ["of the child", "of the parent"]


def test_the_code_of_the_page_runs(tmp_path: Path):
    """The program of docs/logging.md writes what the page shows: JSON, a line for each event."""
    code = "".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    env = {"PATH": "", "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    found = [json.loads(text) for text in run.stdout.splitlines()]
    (shown,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for text, real in zip(shown.splitlines(), found, strict=True):
        wanted = json.loads(text)
        assert list(wanted) == list(real)
        assert (wanted["kind"], wanted.get("cause")) == (real["kind"], real.get("cause"))


def test_the_page_lists_every_kind():
    """The table of docs/logging.md has each kind of record, and none that there is not."""
    listed = re.findall(r"^\| `(\w+)` \| [A-Z]", PAGE, re.MULTILINE)
    kinds = set(KINDS.values()) - {"events_dropped"}  # which is told to subscribers alone
    assert sorted(listed) == sorted(kinds | {"started", "stopped", "handshakes_not_logged", "lines_lost"})
