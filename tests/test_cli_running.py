"""``snowgreen nodes``, ``links`` and ``events``: what they print of nodes that run here, and which node they take."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from gevent import socket

import snowgreen
from snowgreen import status
from snowgreen.cli import group
from snowgreen.cli.links import _COLUMNS
from snowgreen.control import Control, client
from snowgreen.cookie import VARIABLE
from tests.conftest import MakeNode
from tests.test_cli import COOKIE, CommandLine, one_error_line
from tests.waiting import until

HOSTILE = "\x1b[2J\x9b31m\x07\r\nerror:\u202e \U000e0041[red]{0}%s\x7f"

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of this test's own for control sockets."""
    (tmp_path / ".run").mkdir()  # which the commands use, too
    for variable in ("XDG_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.setenv(variable, str(tmp_path / ".run"))
    monkeypatch.setattr(tempfile, "tempdir", None)  # where it keeps what it found before


@pytest.fixture
def watched(make_node: MakeNode) -> Iterator[Callable[..., snowgreen.Node]]:
    """A maker of nodes with control sockets."""
    controls = []

    def make(*args: Any, **options: Any) -> snowgreen.Node:
        node = make_node(*args, **options)
        controls.append(Control(node).start())
        return node

    yield make
    for control in controls:
        control.stop()


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    """The command line in processes; afterwards none is left."""
    commands = CommandLine(tmp_path)
    commands.environ[VARIABLE] = COOKIE
    yield commands
    for running in commands.started:
        running.abandon()
    assert "Traceback" not in commands.everything_said()


def run(*arguments: str) -> Result:
    """Run a command in this process, beside the nodes."""
    return CliRunner().invoke(group, arguments, prog_name="snowgreen")


def lines(result: Result) -> list[dict[str, Any]]:
    """What a command printed as JSON, line by line."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


# As its users meet it


def test_a_started_node_is_seen_from_other_processes(cli: CommandLine, tmp_path: Path):
    """Two nodes, their links and their events, from their names to the goodbye that a follower sees."""
    alice, name = cli.node()
    bob = cli.start("start", "--name", "bob@127.0.0.1:0", "--connect", name)
    bobs = bob.line(r"^name +(\S+)$")[1]
    bob.line(rf"{name} is up")
    code, out, err = cli.run("links", "alice", "--json")
    assert (code, err) == (0, "")
    (link,) = [json.loads(line) for line in out.splitlines()]
    assert (link["peer"], link["initiated"], link["state"]) == (bobs, False, "up")
    assert [node["name"] for node in lines(run("nodes", "--json"))] == [name, bobs]
    (event,) = lines(run("events", bobs, "--json", "-n", "1"))
    assert (event["kind"], event["peer"]) == ("up", name)
    error = one_error_line(run("links").stderr)
    assert f"2 nodes fit; say which one, by name or process id: {name} (" in error

    following = cli.start("events", str(bob.process.pid), "-f")
    following.line(rf"{name} is up \(dialed, bound\)$")
    assert alice.end(signal.SIGTERM)[0] == 0
    following.line(rf"^\d\d:\d\d:\d\d  {name} has left: the peer said goodbye: it was stopped$")
    assert bob.end(signal.SIGTERM)[::2] == (0, "")
    assert following.end()[::2] == (0, "")
    assert not list((tmp_path / ".run" / "snowgreen").iterdir())


def test_a_node_that_was_killed_leaves_nothing_in_the_way(cli: CommandLine, tmp_path: Path):
    """Its socket is no node any more, a follower is told that it ended, and the next start removes it."""
    running, name = cli.node("--connect", "nobody@127.0.0.1:1")
    following = cli.start("events", "-f")
    following.line("nothing listens there")
    running.end(signal.SIGKILL)
    status, _, err = following.end()
    assert status == 1
    assert "the node has ended" in one_error_line(err)
    assert (tmp_path / ".run" / "snowgreen" / f"{name}.sock").exists()
    result = run("nodes")
    assert (result.exit_code, result.stdout.split()) == (0, ["NAME", "PID", "UP", "LINKS", "LISTENS", "ON"])
    _, other = cli.node()
    assert [path.name for path in (tmp_path / ".run" / "snowgreen").iterdir()] == [f"{other}.sock"]


def test_a_node_can_do_without(cli: CommandLine, tmp_path: Path):
    """With --no-control there is no socket; where none can be opened there is a warning, and the node runs."""
    cli.node("--no-control")
    result = run("links")
    assert result.exit_code == 1
    assert "none of your nodes runs on this machine, or it has no control socket" in one_error_line(
        result.stderr
    )
    (tmp_path / ".run" / "snowgreen").write_text("in the way")
    running, _ = cli.node()
    code, _, err = running.end(signal.SIGTERM)
    assert code == 0
    assert re.fullmatch(
        r"warning: control: \S+/snowgreen, where .* is no directory; remove it; `[^\n]*\n", err
    )


# Which node


def test_a_node_is_found_by_what_it_is_called(watched: Callable[..., snowgreen.Node]):
    """Its name, the part before the "@", its process, its socket's path, or being the only one: each will do."""
    node = watched("alice@127.0.0.1:0")
    (found,) = client.running()
    for wanted in ((), ("alice",), (node.name,), (str(os.getpid()),), (str(found.path),)):
        result = run("events", *wanted, "--json")
        assert result.exit_code == 0, result.output
    watched("alice@127.0.0.1:0", listen=False)
    for wanted in ((), ("alice",), (str(os.getpid()),)):
        result = run("links", *wanted)
        assert result.exit_code == 1
        assert "2 nodes fit; say which one" in one_error_line(result.stderr)
    assert run("links", "alice@127.0.0.1:0").exit_code == 0


def test_what_is_not_there_is_said_so(watched: Callable[..., snowgreen.Node], tmp_path: Path):
    """A name that no node has is answered with those that there are; a path with what is wrong with it."""
    names = sorted(watched(f"n{number:02}@127.0.0.1:0").name for number in range(12))
    result = run("links", "bob\x1b[2J")
    assert result.exit_code == 1
    error = one_error_line(result.stderr)
    assert f"no node bob\\x1b[2J runs on this machine, but: {names[0]} (" in error
    assert "and 2 more (`snowgreen nodes` lists them)" in error
    result = run("events", f"{tmp_path}/nowhere.sock")
    assert result.exit_code == 1
    assert "nowhere.sock: no node listens there" in one_error_line(result.stderr)


def test_a_node_that_is_frozen_is_listed_as_such(
    watched: Callable[..., snowgreen.Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A process that does not answer does not keep the others from view, and whoever asks for it is told."""
    node = watched("alice@127.0.0.1:0")
    monkeypatch.setattr(client.running, "__defaults__", (0.2,))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / ".run" / "snowgreen" / "frozen@127.0.0.1:9.sock"))
        silent.listen()
        result = run("nodes", "--json")
        assert [status["name"] for status in lines(result)] == [node.name]
        assert re.fullmatch(r"warning: \S+/frozen@127\.0\.0\.1:9\.sock: it does not answer\n", result.stderr)
        result = run("links", "frozen")
    assert result.exit_code == 1
    assert "frozen@127.0.0.1:9.sock: it does not answer; is its process stopped" in one_error_line(
        result.stderr
    )


# What is printed


def test_tables_show_what_json_says(watched: Callable[..., snowgreen.Node], make_node: MakeNode):
    """The same node, link and events, for people and for scripts."""
    node, peer = watched("alice@127.0.0.1:0"), make_node()
    session = node.connect(peer.name)
    session.ping()
    (shown,) = lines(run("nodes", "--json"))
    assert msgspec.convert(shown, status.NodeStatus) == status.node_status(node)
    table = run("nodes").stdout.splitlines()
    assert len(table) == 2
    assert re.fullmatch(rf"{node.name} +{os.getpid()} +\d+s +1 +{node.address}", table[1])
    (shown,) = lines(run("links", "--json"))
    assert msgspec.convert(shown, status.LinkStatus) == status.link_status(session)
    header, line = run("links").stdout.splitlines()
    assert header.split() == [column.title.upper() for column in _COLUMNS]
    assert re.fullmatch(
        rf"{peer.name} +up +dialed +bound +\d+s +[\d.]+ ms +\d+ B +\d+ B +0 B  {peer.address}", line
    )
    name = peer.name
    peer.stop()
    until(lambda: not node.sessions, "the link is down")
    assert [event["kind"] for event in lines(run("events", "--json"))] == ["up", "down"]
    assert [event["kind"] for event in lines(run("events", "--json", "-n", "1"))] == ["down"]
    assert lines(run("events", "--json", "-n", "0")) == []
    up, down = run("events").stdout.splitlines()
    assert up.endswith(f"  {name} is up (dialed, bound)")
    assert down.endswith("it was stopped")
    assert run("links").stdout.splitlines() == [
        "PEER   STATE   WAY   FORM    AGE   RTT   IN   OUT   WAITING  ADDRESS"
    ]
    assert run("links", "--json").stdout == ""


def test_what_a_hostile_peer_says_stays_text(
    watched: Callable[..., snowgreen.Node], make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
):
    """Control characters in any text of any answer reach no terminal, and --json still says what they were."""
    make_hostile(monkeypatch)
    watched().connect(make_node().name)
    for command in (["links"], ["events"], ["nodes"], ["top", "--once", "--interval", "0.05"]):
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert "[red]{0}%s\\x7f" in result.stdout
        assert all(letter.isprintable() or letter == "\n" for letter in result.output)
    for command in ("links", "events", "nodes"):
        result = run(command, "--json")
        assert len(result.stdout.splitlines()) == 1
        assert all(letter.isprintable() or letter == "\n" for letter in result.output)
        (shown,) = lines(result)
        assert HOSTILE in shown.values()


def make_hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every text that a node tells of its links and events be what a terminal must not get."""
    for name in ("node_status", "link_status", "event_status"):
        real = getattr(status, name)

        def spoilt(it: Any, real: Callable[[Any], msgspec.Struct] = real) -> msgspec.Struct:
            value = real(it)
            texts = {
                field: HOSTILE
                for field in value.__struct_fields__
                if isinstance(getattr(value, field), str) and field != "kind"
            }
            return msgspec.structs.replace(value, **texts)

        monkeypatch.setattr(status, name, spoilt)
    hostile = status.FailureStatus(HOSTILE, HOSTILE, False, 1, 0.0, HOSTILE, HOSTILE)
    monkeypatch.setattr(status, "failures", lambda node: [hostile])


# The guide


GUIDE = (Path(__file__).parents[1] / "docs" / "terminal.md").read_text("utf-8")


def test_the_guide_shows_what_is_printed(watched: Callable[..., snowgreen.Node], make_node: MakeNode):
    """Each command of docs/terminal.md prints what stands there, but for names, numbers and times."""
    alice = watched("alice@127.0.0.1:0")
    watched("bob@127.0.0.1:0").connect(alice.name).ping()
    next(iter(alice.sessions.values())).ping()
    eve = make_node("eve@127.0.0.1:0", listen=False, cookie="another cookie, long enough")
    with pytest.raises(snowgreen.AuthenticationError):
        eve.connect(alice.name)
    until(lambda: status.failures(alice), "alice knows")
    examples = re.findall(r"^```console\n\$ snowgreen (.*)\n((?:.*\n)*?)```$", GUIDE, re.MULTILINE)
    assert [command.split()[0] for command, _ in examples] == ["nodes", "links", "events", "top", "links"]
    for command, shown in examples:
        live = command.startswith("top")
        result = run(*command.split(), *(["--once", "--interval", "0.05"] if live else []))
        assert result.exit_code == 0, result.output
        found, expected = result.stdout.splitlines(), shown.splitlines()
        if live:
            expected = expected[:-2]  # the keys, which are not for --once
        assert len(found) == len(expected)
        for line, promise in zip(found, expected, strict=True):
            if promise.endswith("…"):  # as top cuts it
                assert skeleton(line).startswith(skeleton(promise[:-1]))
            else:
                assert skeleton(line) == skeleton(promise)


def skeleton(line: str) -> str:
    """A line of a table, fact or event without what differs from one run to the next."""
    line = re.sub(r"\d+(\.\d+)?", "0", line.strip())
    line = re.sub(r"\b(0[dhms])+\b", "0s", line)  # spans
    line = re.sub(r"\b0 [kM]?B\b", "0 B", line)
    line = re.sub(r" +", " ", line)
    return re.sub(r'"(\d+|null)"', '"0"', line)


def test_the_guides_pipelines_work(cli: CommandLine, tmp_path: Path):
    """The lines for a shell do what the text says, and end with the node."""
    counting, following = re.findall(r"^```sh\n(.*)\n```$", GUIDE, re.MULTILINE)
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    (bin_directory / "snowgreen").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m snowgreen "$@"\n')
    (bin_directory / "snowgreen").chmod(0o755)
    environ = {**cli.environ, "PATH": f"{bin_directory}:{os.environ['PATH']}"}
    alice, name = cli.node("--connect", "nobody@127.0.0.1:1")
    bob = cli.start("connect", name, "--stay")
    bob.line("is up")
    count = subprocess.run(counting, shell=True, env=environ, capture_output=True, text=True, timeout=20)
    assert (count.stdout, count.stderr) == ("1\n", "")
    with subprocess.Popen(following, shell=True, env=environ, stdout=subprocess.PIPE, text=True) as follower:
        assert json.loads(follower.stdout.readline())["kind"] == "handshake_failed"
        alice.end(signal.SIGTERM)
        assert follower.wait(20) == 0
