"""The control socket: who can reach it, what it answers, and what it does not let anybody do."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from gevent import socket

import snowgreen
from snowgreen import forks, status
from snowgreen.control import Control, client, places, server
from snowgreen.control.messages import LONGEST_REQUEST, Answer
from snowgreen.events import LoopStalled
from tests.conftest import FAST, MakeNode
from tests.waiting import until

MakeControl = Callable[..., Control]


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of this test's own for control sockets, and one for what takes its place."""
    for name, variable in (("run", "XDG_RUNTIME_DIR"), ("tmp", "TMPDIR")):
        (tmp_path / name).mkdir(mode=0o700)
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr(tempfile, "tempdir", None)  # where it keeps what it found before
    return tmp_path / "run"


@pytest.fixture
def make_control(make_node: MakeNode) -> Iterator[MakeControl]:
    """A maker of open control sockets of nodes; they are closed before the nodes are."""
    controls: list[Control] = []

    def make(node: snowgreen.Node | None = None, path: Path | None = None) -> Control:
        control = Control(node or make_node(), path)
        controls.append(control)
        return control.start()

    yield make
    for control in controls:
        control.stop()


def asked(control: Control, what: str, **options: int) -> list[object]:
    """All that comes in answer."""
    assert control.path is not None
    with client.Connection(control.path) as connection:
        return list(connection.ask(what, **options))  # type: ignore[arg-type]


def said(control: Control, request: bytes, end: bool = False) -> bytes:
    """All that a raw request is answered, until the connection ends."""
    with socket.socket(socket.AF_UNIX) as raw, gevent.Timeout(10):
        raw.connect(str(control.path))
        with contextlib.suppress(BrokenPipeError):  # it had heard enough
            raw.sendall(request)
        if end:
            raw.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while received := raw.recv(65536):
                answer += received
        return answer


# The socket


def test_only_its_user_can_enter_the_directory_and_use_the_socket(make_control: MakeControl, runtime: Path):
    """The directory has mode 0700 and the socket 0600, whatever the umask, and the name is the node's."""
    before = os.umask(0)
    try:
        control = make_control()
    finally:
        os.umask(before)
    assert control.path == runtime / "snowgreen" / f"{control._node.name}.sock"
    assert stat.S_IMODE(control.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(control.path.stat().st_mode) == 0o600
    control.stop()
    assert control.path is None
    assert not list((runtime / "snowgreen").iterdir())
    control.stop()


def test_there_is_no_moment_with_another_mode(
    make_control: MakeControl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The file has mode 0600 from the beginning, before anything is corrected."""
    seen, chmod = [], os.chmod

    def corrected(path: Path, mode: int) -> None:
        seen.append(stat.S_IMODE(os.stat(path).st_mode))
        chmod(path, mode)

    monkeypatch.setattr(places.os, "chmod", corrected)
    before = os.umask(0)
    try:
        make_control(path=tmp_path / "it.sock")
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_another_user_cannot_connect(make_control: MakeControl):
    """A process of another user is kept out by the directory, and by the socket where that can be entered."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    code = """
        import os, socket, sys
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        socket.socket(socket.AF_UNIX).connect(sys.argv[1])
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as entered:
        os.chmod(entered, 0o711)
        for control in (make_control(), make_control(path=Path(entered) / "it.sock")):
            run = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(code), str(control.path)],
                capture_output=True,
                text=True,
            )
            assert run.returncode == 1
            assert "PermissionError" in run.stderr.splitlines()[-1]
            control.stop()


def test_who_connects_all_the_same_is_asked_who_he_is(
    make_control: MakeControl, monkeypatch: pytest.MonkeyPatch
):
    """The kernel's word on the user at the other end decides, and another one gets no answer."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert server._user(ours) == os.geteuid()
    control = make_control()
    monkeypatch.setattr(server, "_user", lambda connection: os.geteuid() + 1)
    with pytest.raises(client.NoAnswer, match=rf"answers the user it runs as, of id {os.geteuid()}, and not"):
        asked(control, "status")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda place: place.mkdir(mode=0o755), "can be entered by others; run: chmod 700"),
        (lambda place: place.symlink_to("/"), "is a symbolic link"),
        (lambda place: place.write_text(""), "is no directory"),
    ],
)
def test_a_directory_that_is_not_ours_alone_is_refused(
    make_node: MakeNode, runtime: Path, spoil: Callable[[Path], None], problem: str
):
    """Both who opens a socket there and who looks for one are told what is wrong with it."""
    spoil(runtime / "snowgreen")
    with pytest.raises(snowgreen.ConfigurationError, match=problem):
        Control(make_node(start=False)).start()
    with pytest.raises(snowgreen.ConfigurationError, match=problem):
        client.running()


def test_without_a_runtime_directory_the_temporary_one_serves(
    make_control: MakeControl, runtime: Path, tmp_path: Path
):
    """Where the runtime directory can be written to by others, sockets go to a directory in the temporary one."""
    runtime.chmod(0o777)
    control = make_control()
    assert control.path.parent == tmp_path / "tmp" / f"snowgreen-{os.geteuid()}"
    assert stat.S_IMODE(control.path.parent.stat().st_mode) == 0o700
    (found,) = client.running()
    assert found.path == control.path
    runtime.chmod(0o700)
    assert client.running() == [found]


def test_the_directory_of_another_user_in_the_temporary_one_is_refused(
    make_node: MakeNode, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Somebody who was there first with the name of ours gets no sockets of ours."""
    runtime.chmod(0o777)
    user = os.geteuid() + 1
    (tmp_path / "tmp" / f"snowgreen-{user}").mkdir(mode=0o700)
    (tmp_path / "tmp").chmod(0o1777)
    monkeypatch.setattr(places.os, "geteuid", lambda: user)
    monkeypatch.setattr(places, "_check_above", lambda path: None)  # as it is with /tmp, which is root's
    with pytest.raises(snowgreen.ConfigurationError, match=rf"belongs to another user, of id {user - 1}"):
        Control(make_node(start=False)).start()


def test_a_place_that_others_can_write_to_is_refused(make_node: MakeNode, tmp_path: Path):
    """In a directory where another user could put a socket of his own in its place, none is opened."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(snowgreen.ConfigurationError, match="can be written to by others"):
        Control(make_node(start=False), tmp_path / "open" / "it").start()


def test_dead_sockets_are_removed_and_live_ones_never(
    make_control: MakeControl, make_node: MakeNode, runtime: Path
):
    """What a killed process has left goes; a living node of the same name keeps its socket, and both are found."""
    first = make_control(make_node("twin@127.0.0.1:0", listen=False))
    dead = runtime / "snowgreen" / "dead.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(dead))
        listening.listen()
    other = runtime / "snowgreen" / "note.sock"
    other.write_text("not a socket")
    second = make_control(make_node("twin@127.0.0.1:0", listen=False))
    assert (first.path.name, second.path.name) == ("twin@127.0.0.1:0.sock", "twin@127.0.0.1:0.2.sock")
    assert not dead.exists()
    assert other.exists()
    assert [node.path for node in client.running()] == [second.path, first.path]
    first.stop()
    assert [node.path for node in client.running()] == [second.path]


def test_a_socket_at_a_path_of_the_users_choice(
    make_control: MakeControl, make_node: MakeNode, tmp_path: Path
):
    """A dead one there is replaced; a file, or a living one, is left alone, and the error says which."""
    path = tmp_path / "it.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
    control = make_control(path=path)
    assert asked(control, "status")
    with pytest.raises(snowgreen.ConfigurationError, match="another node of this one, listens"):
        Control(make_node(), path).start()
    assert asked(control, "status")
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(snowgreen.ConfigurationError, match="exists, and is no socket"):
        Control(make_node(), file).start()
    assert file.read_text() == "precious"
    with pytest.raises(snowgreen.ConfigurationError, match=r"has \d+ bytes, and a socket's path 107 at most"):
        Control(make_node(), tmp_path / ("x" * 108)).start()
    with pytest.raises(snowgreen.ConfigurationError, match=r"cannot be opened: No such file"):
        Control(make_node(), tmp_path / "nowhere" / "it").start()


def test_a_socket_that_took_our_place_is_not_removed(make_control: MakeControl, tmp_path: Path):
    """What is removed at the end is the file that was made at the beginning, and no other."""
    path = tmp_path / "it.sock"
    first = make_control(path=path)
    path.unlink()
    second = make_control(path=path)
    first.stop()
    assert asked(second, "status")


def test_long_names_and_directories_find_room(
    make_control: MakeControl, make_node: MakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A name that does not fit is hashed; a runtime directory that leaves no room for one is passed over."""
    long = "n" * 60 + "@" + "h" * 60 + ":0"
    control = make_control(make_node(long, listen=False))
    assert len(control.path.stem) == 16
    assert [node.status.name for node in client.running()] == [long]
    deep = tmp_path / ("d" * 80)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    assert make_control().path.is_relative_to(tmp_path / "tmp")


def test_arguments_are_checked(make_node: MakeNode):
    """What is no node, and what is no path, is refused by its name."""
    with pytest.raises(snowgreen.ConfigurationError, match=r"^node: must be a snowgreen\.Node, not str"):
        Control("alice@127.0.0.1")  # type: ignore[arg-type]
    with pytest.raises(snowgreen.ConfigurationError, match=r"^path: must be a str or a Path, not int"):
        Control(make_node(start=False), 3)  # type: ignore[arg-type]


# What it answers


def test_everything_can_be_asked_for(make_control: MakeControl, make_node: MakeNode):
    """Each question is answered with what the node itself says, on one connection."""
    one, two, three = (make_node(mesh=True) for _ in range(3))
    two.connect(one.name)
    three.connect(one.name)
    until(lambda: len(one.sessions) == len(three.sessions) == 2, "the mesh is whole")
    stranger = make_node(listen=False, cookie="another cookie, long enough")
    with pytest.raises(snowgreen.AuthenticationError):
        stranger.connect(one.name)
    until(lambda: status.failures(one), "the node knows")
    with client.Connection(make_control(one).path) as connection:
        assert [answer.status for answer in connection.ask("status")] == [status.node_status(one)]
        assert [answer.link for answer in connection.ask("links")] == status.links(one)
        assert [answer.failure for answer in connection.ask("failures")] == status.failures(one)
        known = status.events(one)[::-1]
        assert [answer.event for answer in connection.ask("events")] == known
        assert [answer.event for answer in connection.ask("events", newest=2)] == known[-2:]
        assert list(connection.ask("events", newest=0)) == []
    told = {answer.mesh.peer: answer.mesh.others for answer in asked(make_control(three), "mesh")}
    assert told == status.mesh(three) != {}


def test_a_node_can_be_watched_through_all_its_lives(make_control: MakeControl, make_node: MakeNode):
    """The socket is there before the node starts and after it stops, and a follower misses nothing in between."""
    peer, node = make_node(), make_node(start=False, listen=False)
    control = make_control(node)
    (answer,) = asked(control, "status")
    assert answer.status.incarnation is None
    seen: list[str] = []

    def follow() -> None:
        with client.Connection(control.path) as connection:
            seen.extend(answer.event.kind for answer in connection.ask("events", follow=True))
        seen.append("end")

    follower = gevent.spawn(follow)
    for _ in range(2):
        node.start()
        node.connect(peer.name)
        until(lambda: seen[-1:] == ["up"], "it is told")
        node.stop()
        until(lambda: seen[-1:] == ["down"], "it is told")
    control.stop()
    follower.get(timeout=10)
    assert seen == ["up", "down", "up", "down", "end"]


def test_a_follower_who_is_slow_is_told_what_he_missed(make_control: MakeControl, make_node: MakeNode):
    """Events that nobody reads do not pile up: the newest are told, with how many are missing, and pings go on."""
    config = snowgreen.Config(event_queue=8, limits=FAST.limits)
    peer, node = make_node(), make_node(config=config)
    session = node.connect(peer.name)
    control = make_control(node)
    with client.Connection(control.path) as connection:
        answers = connection.ask("events", newest=0, follow=True)
        until(lambda: node._bus._subscriptions, "it is followed")
        for _ in range(40):
            for number in range(200):
                node._bus.publish(LoopStalled(float(number), 1.0))
            session.ping()
        total = 0
        for answer in answers:
            kind, text = answer.event.kind, answer.event.text
            total += int(text.split()[0]) if kind == "events_dropped" else 1
            if total == 8000:
                break
        assert kind == "loop_stalled"


def test_a_follower_who_reads_nothing_is_dropped(
    make_control: MakeControl, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
):
    """Whoever takes nothing of what he asked for, for long enough, is disconnected, and leaves no greenlet."""
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.1)
    node = make_node()
    control = make_control(node)
    with client.Connection(control.path) as connection:
        connection.ask("events", newest=0, follow=True)
        until(lambda: node._bus._subscriptions, "it is followed")

        def crowded_out() -> bool:
            for _ in range(500):
                node._bus.publish(LoopStalled(1.0, 1.0))
            return not control._talks

        until(crowded_out, "the follower is dropped")
        assert not node._bus._subscriptions


def test_a_follower_who_goes_is_noticed_at_once(make_control: MakeControl, make_node: MakeNode):
    """On a node where nothing happens, too, a follower who has gone leaves nothing behind."""
    node = make_node()
    control = make_control(node)
    with client.Connection(control.path) as connection:
        follower = gevent.spawn(list, connection.ask("events", follow=True))
        until(lambda: node._bus._subscriptions, "it is followed")
        follower.kill()
    until(lambda: not control._talks, "it is noticed")
    assert not node._bus._subscriptions


# What it does not let anybody do


@pytest.mark.parametrize(
    ("request_line", "problem"),
    [
        (b"", b"that is no request"),
        (b"\xff\xfe", b"that is no request"),
        (b"null", b"that is no request"),
        (b"[" * 4000, b"that is no request"),
        (b'{"version":1}', b"missing required field `ask`"),
        (b'{"version":1,"ask":"cookie"}', b"Invalid enum value"),
        (b'{"version":1,"ask":"links","then":"stop"}', b"unknown field"),
        (b'{"version":1,"ask":"events","newest":-1}', b">= 0"),
        (b'{"version":1,"ask":"events","newest":1e99}', b"that is no request"),
        (b'{"version":1,"ask":"events","follow":1}', b"Expected `bool`"),
        (b'{"version":2,"ask":"links"}', b"speaks version 1 of the control protocol, not 2"),
        (b'{"version":1,"ask":"links","follow":true}', b"only events can be followed, not links"),
        (b'{"version":1,"ask":"\\u001b[2J"}', b"that is no request"),
        (b"x" * LONGEST_REQUEST, b"a request has 4096 bytes at most"),
    ],
)
def test_what_is_no_request_is_refused(make_control: MakeControl, request_line: bytes, problem: bytes):
    """Each defect is answered with one line that says what it is, and the end of the connection."""
    control = make_control()
    answer = said(control, request_line + b"\n")
    assert problem in answer
    assert answer.startswith(b'{"error":"')
    assert answer.count(b"\n") == 1
    assert all(byte >= 0x20 for byte in answer[:-1])
    assert asked(control, "status")


def test_a_request_that_does_not_come_is_not_waited_for(
    make_control: MakeControl, monkeypatch: pytest.MonkeyPatch
):
    """Silence, and a request that drips in, run into one deadline; half a request and an end are no request."""
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.1)
    control = make_control()
    assert said(control, b"") == b""
    assert said(control, b'{"version":1,') == b""
    assert said(control, b'{"version":1,"ask":"status"}', end=True) == b""
    until(lambda: not control._talks, "all of them have ended")


def test_connections_are_bounded(make_control: MakeControl, monkeypatch: pytest.MonkeyPatch):
    """One more than there may be is told so at once, and can come in when another has gone."""
    monkeypatch.setattr(server, "CONNECTIONS", 3)
    control = make_control()
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(client.Connection(control.path))
            assert list(connection.ask("status"))
        with pytest.raises(client.NoAnswer, match="3 connections are open already"):
            asked(control, "status")
    until(lambda: not control._talks, "they have gone")
    assert asked(control, "status")


def test_who_asks_a_lot_at_once_lets_others_have_their_turn(
    make_control: MakeControl, monkeypatch: pytest.MonkeyPatch
):
    """Between two answers to the same connection, which need not wait for anything, other greenlets run."""
    control, turns, seen = make_control(), [0], []

    def work() -> None:
        while True:
            turns[0] += 1
            gevent.sleep(0)

    def answers(node: snowgreen.Node, request: object) -> list[Answer]:
        seen.append(turns[0])
        return []

    monkeypatch.setattr(server, "_answers", answers)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(control.path))
        raw.sendall(b'{"version":1,"ask":"mesh"}\n' * 100)
        worker = gevent.spawn(work)
        until(lambda: len(seen) == 100, "all are answered")
        worker.kill()
    assert len(set(seen)) > 50


# Forks


def test_a_child_of_a_fork_leaves_the_socket_to_its_parent(runtime: Path):
    """The child has no part in the socket, can open one of its own, and the parent's goes on."""
    code = """
        import os, gevent, gevent.os, snowgreen
        from snowgreen.control import Control, client
        node = snowgreen.Node("p@127.0.0.1:0", cookie="correct horse battery staple").start()
        control = Control(node).start()
        path = control.path
        follower = client.Connection(path)
        answers = follower.ask("events", follow=True)
        waiting = gevent.spawn(next, answers)
        gevent.sleep(0.05)
        read, write = os.pipe()
        pid = gevent.os.fork_gevent()
        if pid == 0:
            try:
                assert control.path is None
                control.stop()
                assert path.exists()
                node.start()
                assert client.status_at(control.start().path).pid == os.getpid()
                assert control.path != path
                control.stop()
                node.stop()
                os.write(write, b"ok")
            finally:
                os._exit(0)
        os.close(write)
        gevent.sleep(0)
        assert gevent.os.tp_read(read, 2) == b"ok"
        os.waitpid(pid, 0)
        assert client.status_at(path).pid == os.getpid()
        peer = snowgreen.Node("q@127.0.0.1:0", cookie="correct horse battery staple").start()
        peer.connect(node.name)
        assert waiting.get(timeout=5).event.kind == "up"
        follower.__exit__(None, None, None)
        control.stop()
        peer.stop()
        node.stop()
        print("through", path.exists())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("through False\n", "")


def test_a_worker_opens_it_with_its_nodes(make_node: MakeNode):
    """What starts and stops the nodes of a forked process does so with their control sockets."""
    control = Control(make_node(start=False))
    assert control in forks.nodes()
    control.start()
    control.stop(0.1)
    assert repr(control).endswith(" closed>")


# The asker


def test_a_node_that_does_not_answer_is_told_from_one_that_is_gone(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nobody there, somebody silent, somebody who talks nonsense: each is said for what it is."""
    path = runtime / "it.sock"
    with pytest.raises(client.NoAnswer, match="no node listens there") as gone:
        client.status_at(path)
    assert gone.value.gone
    answers = iter([None, b"nonsense\n", b'{"end":true}\n', b'{"status":3}\n', b""])

    def serve() -> None:
        for answer in answers:
            connection, _ = listening.accept()
            connection.recv(100)
            if answer is None:
                silent.append(connection)
            else:
                connection.sendall(answer)
                connection.close()

    silent: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        serving = gevent.spawn(serve)
        for problem, is_gone in (
            ("it does not answer", False),
            ("cannot read its answer", False),
            ("did not say who it is", False),
            ("cannot read its answer", False),
            ("the node has ended", True),
        ):
            with pytest.raises(client.NoAnswer, match=problem) as caught:
                client.status_at(path, 0.1)
            assert caught.value.gone is is_gone
        serving.join(5)
        silent[0].close()


def test_an_answer_without_end_is_not_read_for_ever(runtime: Path, monkeypatch: pytest.MonkeyPatch):
    """A line that is longer than any answer ends the reading."""
    monkeypatch.setattr(client, "LONGEST_ANSWER", 100_000)
    path = runtime / "it.sock"

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            while True:
                connection.sendall(b"x" * 10_000)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        serving = gevent.spawn(serve)
        with pytest.raises(client.NoAnswer, match="a line of its answer is too long"):
            client.status_at(path)
        serving.join(5)
