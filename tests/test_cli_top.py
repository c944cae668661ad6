"""``snowgreen top``: keys and lines by themselves, and the whole of it in a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyte
import pytest
from click.testing import CliRunner

from snowgreen import status
from snowgreen.cli import group, shown
from snowgreen.cli.top.keys import Keys
from snowgreen.cli.top.picture import COLUMNS, Picture, View, missing, rows
from snowgreen.cli.top.screen import render, share
from snowgreen.control import Control
from snowgreen.cookie import VARIABLE
from snowgreen.status import EventStatus, FailureStatus, LinkStatus, NodeStatus
from tests.conftest import MakeNode
from tests.terminals import start_in
from tests.test_cli import COOKIE, PATIENCE, CommandLine
from tests.waiting import until

NODE = NodeStatus(
    name="alice@127.0.0.1:9000", incarnation="7", started_at=1000.0, address="127.0.0.1:9000", pid=5,
    version="0.1.0", links=0, kept=(), stalls=0, stalled=0.0, failed=0, refused=0, messages_dropped=0,
)  # fmt: skip


def link(serial: int, **fields: Any) -> LinkStatus:
    """A link like any other."""
    given = {
        "peer": f"n{serial:04}@10.0.0.1:9000", "incarnation": "1", "form": "bound", "initiated": True,
        "address": "10.0.0.1:9000", "since": 1000.0, "rtt": serial / 1000, "bytes_received": 1000 * serial,
        "bytes_sent": 0, "frames_received": 0, "frames_sent": 0, "waiting": 0, "state": "up",
    }  # fmt: skip
    return LinkStatus(**{**given, **fields}, serial=serial)


def picture(at: float = 0.0, *links: LinkStatus, node: NodeStatus = NODE, troubles: int = 0) -> Picture:
    """A node at a moment, with so many causes of failures, and as many events."""
    return Picture(
        at,
        1060.0,
        node,
        list(links),
        [FailureStatus("policy", "10.9.9.9", False, 3, 1.0, "eve@x", f"no {n}") for n in range(troubles)],
        [EventStatus("down", 1.0, "eve@x", True, f"it is down {n}") for n in range(troubles)],
    )


def lines(it: Picture, view: View | None = None, **options: Any) -> list[str]:
    """The picture as it would be on a screen."""
    given = {"width": 100, "height": 24, **options}
    return [line.plain for line in render(it, rows(it, None), view or View(), **given)]


# Keys


def test_keys_are_told_apart_however_they_come():
    """Letters, arrows and a lone escape, in one piece or cut anywhere; what is none of ours is swallowed."""
    sent = b"s\x1b[C\x1bOD/\xc3\xa9\x7f\r\x1b[15~\x1b[1;5Cr\x04"
    expected = ["s", "right", "left", "/", "é", "backspace", "enter", "r", "eof"]
    assert Keys().feed(sent) == expected
    keys = Keys()
    assert [key for at in (b"s\x1b[", b"C\x1bO", b"D/\xc3", sent[9:]) for key in keys.feed(at)] == expected
    assert Keys().feed(b"\x1b") == ["escape"]
    assert Keys().feed(b"\x1bq") == ["escape", "q"]
    assert Keys().feed(b"\x01\x9b\x00") == ["\ufffd"]
    keys = Keys()
    assert keys.feed(b"\x1b[" + b"1" * 1000) == ["1"] * (1000 - 14)
    assert keys.feed(b"q") == ["q"]


def test_keys_change_what_is_shown():
    """They walk through the columns both ways, turn the order round, type a filter, drop it, and end it all."""
    view = View()
    for key, title in (
        ("s", "state"),
        ("right", "rtt"),
        ("left", "state"),
        ("S", "peer"),
        ("left", "address"),
        ("s", "peer"),
    ):
        assert not view.press(key)
        assert view.sort.title == title
    assert not view.press("r")
    assert view.backwards
    for key in ("/", "q", "N", "x", "backspace", "left", "enter"):
        assert not view.press(key)
    assert (view.filter, view.typing, view.sort.title) == ("qN", False, "peer")
    assert not view.press("escape")
    assert view.filter == ""
    for key in ("/", "a", "escape"):
        view.press(key)
    assert (view.filter, view.typing) == ("", False)
    assert [View().press(key) for key in ("q", "Q", "eof", "x")] == [True, True, True, False]
    view.press("/")
    assert view.press("eof")


# Pictures


def test_rates_are_what_a_link_carried_between_two_pictures():
    """By link and life: one that is new, or that has the number of one of an earlier life, has none yet."""
    before = picture(10.0, link(1), link(2))
    after = picture(12.0, link(1, bytes_received=5000, bytes_sent=100), link(3))
    first, new = rows(after, before)
    assert (first.received, first.sent) == (2000.0, 50.0)
    assert (new.received, new.sent) == (None, None)
    other_life = picture(12.0, link(1), node=NodeStatus(**{**as_fields(NODE), "incarnation": "8"}))
    assert rows(other_life, before)[0].received is None
    assert rows(before, None)[0].received is None


def as_fields(node: NodeStatus) -> dict[str, Any]:
    """The fields of a status."""
    return {field: getattr(node, field) for field in node.__struct_fields__}


def test_links_are_sorted_by_any_column_and_filtered():
    """Texts from A, numbers from the largest, the other way round if asked; what has no value comes last."""
    three = [shown.Row(link(1, rtt=None)), shown.Row(link(2, rtt=0.2)), shown.Row(link(3, rtt=0.3))]

    def order(view: View) -> list[int]:
        return [row.link.serial for row in view.chosen(three)]

    rtt = next(column for column in COLUMNS if column.title == "rtt")
    assert order(View()) == [1, 2, 3]
    assert order(View(backwards=True)) == [3, 2, 1]
    assert order(View(rtt)) == [3, 2, 1]
    assert order(View(rtt, backwards=True)) == [2, 3, 1]
    assert order(View(filter="N0002")) == [2]
    assert order(View(filter="10.0.0.1")) == [1, 2, 3]
    assert order(View(filter="parting")) == []
    for column in COLUMNS:
        assert sorted(order(View(column))) == [1, 2, 3]


def test_kept_peers_without_a_link_are_named():
    """Those known by a name, and not the node itself."""
    node = NodeStatus(
        **{**as_fields(NODE), "kept": ("bob@x:1", "carol@x:1", "10.0.0.1:9000", NODE.name, link(1).peer)}
    )
    assert missing(picture(0.0, link(1), node=node)) == ["bob@x:1", "carol@x:1"]
    assert "5 kept, but not bob@x:1 and 1 more" in lines(picture(0.0, link(1), node=node))[1]


# Lines


@pytest.mark.parametrize("links", [0, 1, 10, 2000])
@pytest.mark.parametrize("troubles", [0, 1, 50])
def test_a_screen_is_filled_and_never_overflows(links: int, troubles: int):
    """Whatever there is to show, and whatever the terminal's size, there are as many lines as it has, none wider."""
    it = picture(0.0, *(link(serial) for serial in range(links)), troubles=troubles)
    for height in (1, 2, 5, 8, 12, 24, 60):
        for width in (1, 8, 20, 40, 80, 200):
            found = lines(it, width=width, height=height)
            assert len(found) == height
            assert max(map(len, found)) <= width
    assert share(24, links, troubles, troubles).links >= min(links, 9)


def test_what_does_not_fit_is_counted():
    """Of 2,000 links a screen shows the first and says how many more there are, and without limit all of them."""
    it = picture(0.0, *(link(serial) for serial in range(2000)), troubles=5)
    found = lines(it)
    links = [line for line in found if line.startswith("n0")]
    (more,) = [line for line in found if line.startswith("and ")]
    assert more == f"and {2000 - len(links):,} more"
    assert "FAILED HANDSHAKES" in found
    assert "3 x policy from 10.9.9.9, claims to be eve@x: no 0" in "\n".join(found)
    assert "EVENTS" in found
    everything = lines(it, width=None, height=None)
    assert len([line for line in everything if line.startswith("n")]) == 2000
    assert len([line for line in everything if "it is down" in line]) == 5


def test_a_narrow_screen_keeps_what_matters():
    """Columns go from the right, then names are cut; the peer is there in any case."""
    found = lines(picture(0.0, link(1, peer="a-long-name-of-a-node@192.168.100.200:9000")), width=44)
    assert found[4].split() == ["PEER", "STATE", "RTT"]
    assert found[5].startswith("a-long-name-of")
    assert found[5].split()[-3:] == ["up", "1.00", "ms"]


def test_a_terminal_that_knows_only_ascii_gets_no_more():
    """What it lacks is written as an escape, and widths still hold."""
    it = picture(0.0, link(1, state="wärten…" * 20), troubles=1)
    found = lines(it, only_ascii=True)
    assert all(line.isascii() and len(line) <= 100 for line in found)


def test_sizes_and_times_are_short():
    """Values of any size keep to a few letters."""
    assert [shown.size(count) for count in (0, 999, 1000, 999_949, 999_950, 1.5e9, 2e15)] == [
        "0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "1.5 GB", "2000.0 TB",
    ]  # fmt: skip
    assert [shown.duration(seconds) for seconds in (-1, 59.9, 60, 3661, 90_000, 1e7)] == [
        "0s", "59s", "1m00s", "1h01m", "1d01h", "115d17h",
    ]  # fmt: skip
    assert shown.milliseconds(None) == "-"
    assert shown.milliseconds(0.0123) == "12.30 ms"


# In a terminal


class Terminal:
    """A terminal with a command in it."""

    def __init__(self, *arguments: str, environ: dict[str, str], width: int = 100, height: int = 30) -> None:
        self.ours, theirs = pty.openpty()
        self.resize(width, height)
        self.before = termios.tcgetattr(theirs)
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self.screen)
        self.sent = b""
        command = [sys.executable, "-m", "snowgreen", *arguments]
        self.process = start_in(theirs, command, {**environ, "TERM": "xterm-256color"})
        self.theirs = theirs

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def read(self, seconds: float = 0.05) -> None:
        if select.select([self.ours], [], [], seconds)[0]:
            data = os.read(self.ours, 65536)
            self.sent += data
            self._stream.feed(data)

    def until(self, condition: Callable[[str], Any], what: str) -> Any:
        """Read on until what is on the screen fulfils the condition."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.read()
            found = condition("\n".join(line.rstrip() for line in self.screen.display))
            if found:
                return found
        return pytest.fail(f"not in time: {what}; the screen:\n" + "\n".join(self.screen.display))

    def shows(self, pattern: str) -> re.Match[str]:
        return self.until(lambda text: re.search(pattern, text, re.M), pattern)

    def end(self) -> int:
        """Wait for the end; the terminal is then as it was."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read()
        code = self.process.wait(0)
        self.read(0)
        assert termios.tcgetattr(self.theirs) == self.before
        self.is_left()
        return code

    def is_left(self) -> None:
        """The screen is the one from before, and its cursor visible."""
        assert self.sent.rindex(b"\x1b[?1049l") > self.sent.rindex(b"\x1b[?1049h")
        assert self.sent.rindex(b"\x1b[?25h") > self.sent.rindex(b"\x1b[?25l")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    """The command line, for nodes to be watched."""
    commands = CommandLine(tmp_path)
    commands.environ[VARIABLE] = COOKIE
    yield commands
    for running in commands.started:
        running.abandon()
    assert "Traceback" not in commands.everything_said()


@pytest.fixture
def terminal(cli: CommandLine) -> Iterator[Callable[..., Terminal]]:
    """A maker of terminals in which a command runs."""
    made: list[Terminal] = []

    def make(*arguments: str, width: int = 100, height: int = 30, **environ: str) -> Terminal:
        made.append(Terminal(*arguments, environ={**cli.environ, **environ}, width=width, height=height))
        return made[-1]

    yield make
    for terminal in made:
        terminal.close()
        assert b"Traceback" not in terminal.sent


def test_a_node_is_watched_live(cli: CommandLine, terminal: Callable[..., Terminal]):
    """A link is seen to come and go; keys sort and filter; q ends it."""
    alice, name = cli.node()
    top = terminal("top", "--interval", "0.1")
    top.shows(rf"^{name}  up \d+s$")
    top.shows("^no links$")
    assert top.screen.display[-1].startswith("q quit")
    bob = cli.start("start", "--name", "bob@127.0.0.1:0", "--no-control", "--connect", name)
    bobs = bob.line(r"^name +(\S+)$")[1]
    top.shows(rf"^{bobs} +up .* accepted +bound")
    top.shows(rf"^\d\d:\d\d:\d\d  {bobs} is up \(accepted, bound\)$")
    top.shows(r"^1 link, 0 kept   in 0 B/s   out 0 B/s ")

    top.press(b"s\x1b[Cr")
    top.shows(r"sorted by rtt, reversed$")
    top.press(b"/nobody")
    top.shows(r"^filter: nobody_ ")
    top.press(b"\r")
    top.shows(r"^none that fits the filter$")
    top.press(b"\x1b")
    top.shows(rf"^{bobs} +up ")

    bob.end(signal.SIGTERM)
    top.shows(r"^no links$")
    top.press(b"q")
    assert top.end() == 0
    assert alice.end(signal.SIGTERM)[0] == 0


def test_a_node_that_ends_is_waited_for(cli: CommandLine, terminal: Callable[..., Terminal]):
    """That it has ended is said, and that it was started again; Ctrl-C then ends it with 0."""
    alice, name = cli.node()
    top = terminal("top", "--interval", "0.1")
    top.shows(rf"^{name}  up ")
    alice.end(signal.SIGKILL)
    top.shows(rf"^{name} has ended; waiting for it to come back")
    again, other = cli.node()
    top.shows(rf"^{other} was started again, as process {again.process.pid}$")
    top.shows(rf"^{other}  up ")
    top.press(b"\x03")
    assert top.end() == 0


def test_the_terminal_is_restored_by_whatever_ends_it(cli: CommandLine, terminal: Callable[..., Terminal]):
    """SIGTERM ends it with 143; Ctrl-Z gives the terminal back until it goes on; size and colours are its own."""
    _, name = cli.node()
    top = terminal("top", "--interval", "600", NO_COLOR="1", PYTHONIOENCODING="ascii")
    top.shows(rf"^{name}  up ")
    attributes = termios.tcgetattr(top.theirs)
    assert attributes != top.before
    top.screen.resize(36, 120)
    top.resize(120, 36)
    top.until(lambda text: top.screen.display[-1].startswith("q quit"), "it fills the 36 lines")
    top.press(b"r")
    top.shows("sorted by peer, rev")
    top.press(b"\x1a")
    top.until(lambda text: state(top.process.pid) == "T", "it is suspended")
    top.read(0)
    top.is_left()
    assert termios.tcgetattr(top.theirs) == top.before
    top.process.send_signal(signal.SIGCONT)
    top.until(lambda text: termios.tcgetattr(top.theirs) == attributes, "it goes on")
    top.until(lambda text: top.sent.count(b"\x1b[?1049h") == 2, "it draws")
    top.process.send_signal(signal.SIGTERM)
    assert top.end() == 128 + signal.SIGTERM
    assert not re.search(rb"\x1b\[[0-9;]*\b[349][0-7]\b[0-9;]*m", top.sent)
    assert top.sent.isascii()


def test_a_hangup_leaves_the_terminal_as_it_was(cli: CommandLine, terminal: Callable[..., Terminal]):
    """SIGHUP, by hand or by a session that ends, ends it with 129, and nothing of its own stays on the screen."""
    _, name = cli.node()
    top = terminal("top", "--interval", "600")
    top.shows(rf"^{name}  up ")
    top.process.send_signal(signal.SIGHUP)
    assert top.end() == 128 + signal.SIGHUP
    top.is_left()
    assert termios.tcgetattr(top.theirs) == top.before


def state(pid: int) -> str:
    """The state of a process, as one letter."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_without_a_terminal_it_prints_once(make_node: MakeNode, tmp_path: Path):
    """With --once it is text like any other; without, it says what to use instead."""
    node = make_node(peers=["bob@127.0.0.1:1"])
    until(lambda: status.failures(node), "the dial has failed")
    with Control(node, tmp_path / "it.sock") as control:
        arguments = ["top", str(control.path)]
        printed = CliRunner().invoke(group, [*arguments, "--once", "--interval", "0.05", "--sort", "age"])
        refused = CliRunner().invoke(group, arguments)
    assert (printed.exit_code, printed.stderr) == (0, "")
    assert printed.stdout.startswith(f"{node.name}  up ")
    assert "0 links, 1 kept, but not bob@127.0.0.1:1 " in printed.stdout
    assert "\x1b" not in printed.stdout
    assert "unreachable to 127.0.0.1, bob@127.0.0.1:1: nothing listens there" in printed.stdout
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "use --once, or `links --json`" in refused.stderr
