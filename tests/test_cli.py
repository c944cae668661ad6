"""The command line, as its users meet it: real processes, their output, their exit status, their ends."""

import contextlib
import io
import os
import pty
import queue
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from gevent.queue import Queue

from snowgreen.cli.demo.board import Board
from snowgreen.cli.demo.reports import Kind, Report
from snowgreen.cli.demo.stage import Expectation, Stage, StepFailed
from snowgreen.cli.demo.troupe import Troupe
from snowgreen.cli.demo.views import LiveView
from snowgreen.cookie import VARIABLE, Cookie

PATIENCE = 20.0
COOKIE = "a cookie that is in no output"
OTHER_COOKIE = "another one, not in outputs, either"
MARKER = "SNOWGREEN_TEST_MARKER"


class Running:
    """A command under way: its lines as they come, with a deadline for each wait."""

    def __init__(self, arguments, environ):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "snowgreen", *arguments],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out, self.err = [], []
        self._lines = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.out, self._lines.put)),
            threading.Thread(target=self._read, args=(self.process.stderr, self.err, lambda line: None)),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream, kept, tell):
        with stream:
            for line in stream:
                kept.append(line)
                tell(line)
        tell(None)

    def line(self, pattern):
        """The match of the next line of stdout that fits."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"no line with {pattern!r} in time, but {self.out} {self.err}")
            if line is None:
                pytest.fail(f"the command ended without a line with {pattern!r}: {self.out} {self.err}")
            found = re.search(pattern, line)
            if found:
                return found

    def signal(self, number):
        self.process.send_signal(number)

    def end(self, number=None):
        """Wait for the end, after a signal if one is given: (status, stdout, stderr)."""
        if number is not None:
            self.signal(number)
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return status, "".join(self.out), "".join(self.err)

    def abandon(self):
        if self.process.poll() is None:
            self.process.kill()
        self.end()


class CommandLine:
    """Runs commands in a home of their own, and remembers all they said."""

    def __init__(self, home):
        self.home = home
        self.cookie_file = home / ".config" / "snowgreen" / "cookie"
        self.environ = {
            **{key: value for key, value in os.environ.items() if key != VARIABLE},
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "XDG_RUNTIME_DIR": str(home / ".run"),
            "TMPDIR": str(home / ".run"),
            MARKER: uuid.uuid4().hex,
        }
        (home / ".run").mkdir(
            exist_ok=True
        )  # and not home itself, where a folder "snowgreen" would be found as a package
        self.started = []
        self.said = []

    def start(self, *arguments, **environ):
        running = Running(arguments, {**self.environ, **environ})
        self.started.append(running)
        return running

    def run(self, *arguments, stdin="", **environ):
        """Run a command to its end: (status, stdout, stderr)."""
        done = subprocess.run(
            [sys.executable, "-m", "snowgreen", *arguments],
            env={**self.environ, **environ},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        self.said.append(done.stdout + done.stderr)
        return done.returncode, done.stdout, done.stderr

    def run_all(self, *commands):
        """Run commands side by side: the result of each, as of :meth:`run`."""
        return [running.end() for running in [self.start(*command) for command in commands]]

    def node(self, *arguments, **environ):
        """A started node, and its name."""
        running = self.start("start", "--name", "alice@127.0.0.1:0", *arguments, **environ)
        return running, running.line(r"^name +(\S+)$")[1]

    def everything_said(self):
        return "".join(self.said) + "".join(line for it in self.started for line in (*it.out, *it.err))


@pytest.fixture
def cli(tmp_path):
    """The command line; afterwards no process is left, no cookie was shown, no traceback printed."""
    commands = CommandLine(tmp_path)
    yield commands
    for running in commands.started:
        running.abandon()
    said = commands.everything_said()
    secrets = [COOKIE, OTHER_COOKIE]
    with contextlib.suppress(FileNotFoundError):
        secrets.append(commands.cookie_file.read_text().strip())
    assert not [secret for secret in secrets if secret in said]
    assert "Traceback" not in said
    assert not marked(commands)


@pytest.fixture
def set_cookie(monkeypatch, cli):
    """All commands of this test use the same cookie, from the environment."""
    cli.environ[VARIABLE] = COOKIE


def marked(cli):
    """The processes that descend from the commands of `cli`: pid → command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{MARKER}={cli.environ[MARKER]}".encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().decode()
    return found


def wait_for_end(pids):
    """Wait until none of the processes is left; they need not be children of ours."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                assert select.select([descriptor], [], [], PATIENCE)[0], f"process {pid} lives on"
            finally:
                os.close(descriptor)


def one_error_line(stderr):
    assert re.fullmatch(r"error: [^\n]+\n", stderr), stderr
    return stderr


# start


def test_start_says_who_and_where_it_is_and_ends_cleanly_at_a_signal(cli):
    """It prints name, address and where the cookie is from; SIGTERM stops it with status 0, and it says so."""
    running, name = cli.node()
    assert running.line(r"^listens on +(\S+)$")[1] == name.partition("@")[2]
    assert running.line(r"^cookie from +(\S+)$")[1] == str(cli.cookie_file)
    status, out, err = running.end(signal.SIGTERM)
    assert (status, err) == (0, "")
    assert out.endswith("  stopped by SIGTERM\n")


@pytest.mark.usefixtures("set_cookie")
def test_connect_ping_and_start_meet(cli):
    """A node is linked with and pinged from the command line, and prints both links' beginnings and ends."""
    running, name = cli.node()
    running.line(rf"^cookie from +{VARIABLE}$")

    status, out, err = cli.run("connect", name)
    assert (status, err) == (0, "")
    facts = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert facts["peer"] == name
    assert facts["form"] == "bound"
    assert facts["remote"] == name.partition("@")[2]
    assert int(facts["incarnation"]) > 0
    assert re.fullmatch(r"\d+\.\d+ ms", facts["rtt"])
    visitor = running.line(r"^\d\d:\d\d:\d\d\.\d{3}  (connect-\S+) is up \(accepted, bound\)$")[1]
    running.line(rf"^\S+  {visitor} has left: the peer said goodbye: .*$")

    status, out, err = cli.run("ping", name, "-c", "3", "-i", "0.05")
    assert (status, err) == (0, "")
    for number in (1, 2, 3):
        assert re.search(rf"^answer from {name}: seq={number} time=\d+\.\d+ ms$", out, re.M)
    assert "3 sent, 3 answered, 0% lost" in out
    assert re.search(r"^rtt min/p50/max = [\d.]+/[\d.]+/[\d.]+ ms$", out, re.M)
    running.line(r"  ping-\S+ is up")
    assert running.end(signal.SIGTERM)[0] == 0


@pytest.mark.usefixtures("set_cookie")
def test_ping_counts_what_is_lost_and_fails_with_it(cli):
    """A frozen node answers nothing: each ping says so, Ctrl-C still gives the summary, and the status is 1."""
    running, name = cli.node()
    pinging = cli.start("ping", name, "-c", "0", "-i", "0.05", "--timeout", "1")
    pinging.line(r"seq=1 time=")
    running.signal(signal.SIGSTOP)
    try:
        pinging.line(r"^no answer from \S+: seq=\d+ within 1 s$")
        status, out, err = pinging.end(signal.SIGINT)
    finally:
        running.signal(signal.SIGCONT)
    assert (status, err) == (1, "")
    sent, answered = map(int, re.search(r"(\d+) sent, (\d+) answered", out).groups())
    assert sent == answered + 1


@pytest.mark.usefixtures("set_cookie")
def test_start_connect_links_with_a_running_node(cli):
    """`start --connect` dials its peers, and a dial that fails is an event and not the node's end."""
    alice, name = cli.node()
    nobody = f"nobody@127.0.0.1:{closed_port()}"
    bob = cli.start("start", "--no-listen", "--heartbeat", "0.5", "--connect", name, "--connect", nobody)
    bob.line(r"^listens on +nothing: it only dials$")
    either = rf"{name} is (up) \(dialed, bound\)|{nobody} at \S+ (failed): nothing listens there"
    assert {bob.line(either).groups(), bob.line(either).groups()} == {("up", None), (None, "failed")}
    alice.line(r"snowgreen-\w+@127.0.0.1:0 is up \(accepted, bound\)")
    status, _, err = alice.end(signal.SIGTERM)
    assert (status, err) == (0, "")
    bob.line(rf"{name} has left: the peer said goodbye: it was stopped")
    status, out, err = bob.end(signal.SIGINT)
    assert (status, err) == (0, "")
    assert out.endswith("stopped by SIGINT\n")


@pytest.mark.usefixtures("set_cookie")
def test_connect_stay_keeps_the_link_until_interrupted(cli):
    """--stay prints events; Ctrl-C ends it with 0, and the end of the link with an error that says why."""
    running, name = cli.node()
    one, other = cli.start("connect", name, "--stay"), cli.start("connect", name, "--stay")
    for staying in (one, other):
        staying.line(r"^rtt ")
        staying.line(rf"{name} is up \(dialed, bound\)")
    status, out, err = one.end(signal.SIGINT)
    assert (status, err) == (0, "")
    assert out.endswith("stopped by SIGINT\n")
    running.end(signal.SIGTERM)
    status, _, err = other.end()
    assert status == 1
    assert "is closed: the peer said goodbye: it was stopped" in one_error_line(err)


def test_start_reads_its_cookie_again_at_sighup(cli):
    """The file's new cookie is the primary then, the old one still accepted, and the links stay up."""
    running, name = cli.node()
    old = running.line(r"^fingerprint +(\S+)$")[1]
    staying = cli.start("connect", name, "--stay")
    staying.line(rf"{name} is up")
    old_file = cli.home / "old"
    shutil.copy(cli.cookie_file, old_file)

    running.signal(signal.SIGHUP)
    running.line(rf"^\d\d:\d\d:\d\d\.\d{{3}}  the cookie was read again, and is {old} as before$")

    out = cli.run("cookie", "--new", "--yes")[1]
    assert "SIGHUP" in out
    assert "node.reload_cookie()" in out
    new = re.search(r"^fingerprint +(\S+)$", out, re.M)[1]
    assert new != old
    status, _, err = cli.run("connect", name)
    assert status == 1
    assert "different cookies" in one_error_line(err)

    running.signal(signal.SIGHUP)
    running.line(rf"the cookie was read again, and is {new} now; also accepted: {old}$")
    for option in ([], ["--cookie-file", str(old_file)]):
        status, _, err = cli.run("connect", name, *option)
        assert (status, err) == (0, "")
    assert staying.end(signal.SIGINT)[0] == 0
    status, out, err = running.end(signal.SIGTERM)
    assert (status, err) == (0, "")
    for file in (old_file, cli.cookie_file):
        assert file.read_text().strip() not in cli.everything_said()


def test_start_keeps_its_cookie_when_the_file_is_spoilt(cli):
    """At SIGHUP with an unusable file, or without one, the node says what is wrong and goes on as before."""
    running, name = cli.node()
    fingerprint = running.line(r"^fingerprint +(\S+)$")[1]
    cookie = cli.cookie_file.read_text()
    cli.cookie_file.chmod(0o644)
    running.signal(signal.SIGHUP)
    running.line(rf"the cookie was not read again, and stays {fingerprint}: cookie: .*run: chmod 600")
    cli.cookie_file.unlink()
    running.signal(signal.SIGHUP)
    running.line(rf"the cookie was not read again, and stays {fingerprint}: cookie: \S+ is gone$")
    assert cli.run("connect", name, SNOWGREEN_COOKIE=cookie.strip())[0] == 0
    assert running.end(signal.SIGTERM)[0] == 0


@pytest.mark.usefixtures("set_cookie")
def test_start_survives_sighup_with_nothing_to_read_again(cli):
    """A cookie from the environment cannot change: the node says so and lives on."""
    running, name = cli.node()
    running.line("^fingerprint")
    running.signal(signal.SIGHUP)
    running.line(rf"the cookie was not read again, and stays \S+: cookie: .*no file \({VARIABLE}\)")
    assert cli.run("connect", name)[0] == 0
    assert running.end(signal.SIGTERM)[0] == 0


@pytest.mark.usefixtures("set_cookie")
def test_start_ends_with_its_terminal(cli):
    """SIGHUP from a terminal that has gone ends the node in an orderly way: it is nobody's daemon."""
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "snowgreen", "start", "--name", "alice@127.0.0.1:0"],
        env=cli.environ,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(theirs)
    with running, open(ours, "rb") as screen:
        name = screen.readline().split()[1].decode()
        while not screen.readline().startswith(b"fingerprint"):
            pass
        staying = cli.start("connect", name, "--stay")
        staying.line(rf"{name} is up")
        # Seen before the terminal goes, lest it be this line that finds nobody there.
        assert b" is up" in screen.readline()
        screen.close()
        running.send_signal(signal.SIGHUP)
        try:
            assert running.wait(PATIENCE) == 1
        finally:
            running.kill()
    status, _, err = staying.end()
    assert status == 1
    assert "it was stopped" in one_error_line(err)


# Errors


@pytest.mark.usefixtures("set_cookie")
def test_another_cookie_is_refused_and_both_sides_say_so(cli):
    """The dialing command ends with one line and status 1, and the node prints who was refused."""
    running, name = cli.node()
    status, out, err = cli.run("connect", name, SNOWGREEN_COOKIE=OTHER_COOKIE)
    assert (status, out) == (1, "")
    assert "different cookies" in one_error_line(err)
    assert "`snowgreen cookie`" in err
    running.line(r"claims to be connect-\S+ failed: .*different cookies")


def closed_port():
    """A port of the loopback interface on which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.usefixtures("set_cookie")
def test_an_unreachable_node_is_one_line_with_advice(cli):
    """Nothing listens there: status 1, and the line says what to check."""
    peer = f"bob@127.0.0.1:{closed_port()}"
    for status, out, err in cli.run_all(["connect", peer], ["ping", peer]):
        assert (status, out) == (1, "")
        assert "nothing listens there" in one_error_line(err)
        assert "check that the node runs" in err


def test_what_cannot_work_is_refused_before_anything_starts(cli):
    """A bad name or address is one line and status 1, and no cookie file was made on the way."""
    cases = {
        "no node name: it has no '@'": ["connect", "bob"],
        "peer: 'host:70000' is no address": ["ping", "host:70000"],
        "no node name: it has spaces": ["start", "--name", "a b@localhost"],
        "binding beyond loopback is a choice: add --listen": ["start", "--name", "a@example.org"],
        "only dials and cannot be dialed": ["start", "--connect", "bob@127.0.0.1:0"],
        "nowhere does not exist; make it with `snowgreen cookie": ["start", "--cookie-file", "nowhere"],
    }
    for message, (status, out, err) in zip(cases, cli.run_all(*cases.values()), strict=True):
        assert (status, out) == (1, "")
        assert message in one_error_line(err)
    assert not cli.cookie_file.exists()


def test_a_taken_port_is_one_line(cli):
    """A second node on the same port is told that the port is taken."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = f"bob@127.0.0.1:{server.getsockname()[1]}"
        status, out, err = cli.run("start", "--name", name)
    assert (status, out) == (1, "")
    assert "is taken by another process" in one_error_line(err)


def test_wrong_usage_has_status_2(cli):
    """Options that do not exist, least of all one for the cookie, or do not go together are usage errors."""
    for status, out, err in cli.run_all(
        ["start", "--cookie", "secret"],
        ["start", "--listen", "127.0.0.1:0", "--no-listen"],
        ["ping", "bob@127.0.0.1", "--timeout", "nan"],
        ["nonsense"],
    ):
        assert (status, out) == (2, "")
        assert err.startswith("Usage: snowgreen")


@pytest.mark.usefixtures("set_cookie")
def test_ctrl_c_while_linking_ends_quietly(cli):
    """A dial to a silent listener is interrupted without a word and with the status of SIGINT."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        running = cli.start("connect", f"bob@127.0.0.1:{server.getsockname()[1]}")
        silent, _ = server.accept()
        with silent:
            silent.settimeout(PATIENCE)
            assert silent.recv(1)  # it is in the TLS handshake
            assert running.end(signal.SIGINT) == (130, "", "")


@pytest.mark.usefixtures("set_cookie")
def test_a_closed_pipe_ends_a_node_quietly(cli):
    """When nobody reads its output any more, the node stops at its next line, without a complaint."""
    running = subprocess.Popen(
        [sys.executable, "-m", "snowgreen", "start", "--name", "alice@127.0.0.1:0"],
        env=cli.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with running:
        name = running.stdout.readline().split()[1]
        assert running.stdout.readline().startswith("listens on")
        assert running.stdout.readline().startswith("cookie from")
        running.stdout.close()
        cli.run("connect", name)
        assert running.wait(PATIENCE) == 1
        assert running.stderr.read() == ""


def test_the_version_is_told_by_both_doors(cli):
    """The console script and `python -m snowgreen` are the same program."""
    status, out, _ = cli.run("--version")
    assert (status, out.split()[0]) == (0, "snowgreen")
    script = Path(sys.executable).with_name("snowgreen")
    if not script.exists():
        pytest.skip("the package is not installed here")
    assert subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout == out


# cookie


def test_cookie_new_makes_a_private_file_and_shows_only_its_fingerprint(cli):
    """The file has mode 0600, and what is printed tells it from its successor without showing either."""
    status, _, err = cli.run("cookie")
    assert status == 1
    assert f"no cookie yet: {cli.cookie_file} does not exist" in one_error_line(err)
    assert not cli.cookie_file.exists()

    status, out, err = cli.run("cookie", "--new")
    assert (status, err) == (0, "")
    assert "refused until they have this one" in out
    assert stat.S_IMODE(cli.cookie_file.stat().st_mode) == 0o600
    first = cli.cookie_file.read_text()
    assert first.strip() not in out
    assert re.search(rf"^path +{cli.cookie_file}$", out, re.M)
    assert re.search(r"^length +64 bytes$", out, re.M)
    fingerprint = re.search(r"^fingerprint +((?:[0-9a-f]{4}-?){3})$", out, re.M)[1]
    assert fingerprint in cli.run("cookie")[1]

    status, out, err = cli.run("cookie", "--new")  # nobody answers the question
    assert status == 1
    assert "was left as it is" in err
    assert cli.cookie_file.read_text() == first
    assert cli.run("cookie", "--new", stdin="n\n")[0] == 1
    assert cli.cookie_file.read_text() == first

    status, out, err = cli.run("cookie", "--new", "--yes")
    assert (status, err) == (0, "")
    assert cli.cookie_file.read_text() != first
    assert stat.S_IMODE(cli.cookie_file.stat().st_mode) == 0o600
    assert fingerprint not in out
    assert first.strip() not in out


def test_cookie_show_and_path_print_what_they_are_asked_for(cli):
    """--show is the one way to see the cookie, and --path prints the path alone."""
    done = subprocess.run(
        [sys.executable, "-m", "snowgreen", "cookie", "--show"],
        env={**cli.environ, VARIABLE: COOKIE},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(rf"^cookie +{COOKIE}$", done.stdout, re.M)
    assert f"source       the variable {VARIABLE}" in done.stdout
    assert cli.run("cookie", "--path") == (0, f"{cli.cookie_file}\n", "")
    status, out, _ = cli.run("cookie", SNOWGREEN_COOKIE=COOKIE)
    assert status == 0
    assert f"length       {len(COOKIE)} bytes" in out


def test_a_cookie_file_that_others_can_read_is_refused_with_the_command_that_helps(cli):
    """Mode 0644 stops every command that would use the file, and the line says chmod 600."""
    file = cli.home / "cookie"
    file.write_text(COOKIE)
    file.chmod(0o644)
    option = "--cookie-file", str(file)
    for status, out, err in cli.run_all(
        ["start", *option], ["connect", "bob@127.0.0.1", *option], ["cookie", *option]
    ):
        assert (status, out) == (1, "")
        assert f"run: chmod 600 '{file}'" in one_error_line(err)


# demo


def test_the_demo_shows_every_step_and_leaves_nothing(cli):
    """Piped, it is numbered lines: the links, the refusal on both sides, the loss, the return in a new life."""
    status, out, err = cli.run("demo")
    assert (status, err) == (0, ""), out
    steps = re.split(r"^\d\. ", out, flags=re.M)[1:]
    assert len(steps) == 7
    assert all(re.search(r"^   ok: observed in ", step, re.M) for step in steps)
    start, link, ping, refuse, kill, restart, end = steps
    assert len(re.findall(r"process \d+ on 127", start)) == 3
    assert link.count("the link is up") == 6
    assert ping.count("answered in") == 6
    assert "alice   refused mallory (AuthenticationError)" in refuse
    assert "mallory was refused by alice (AuthenticationError)" in refuse
    assert "carol   was ended by signal 9" in kill
    first, second = (
        re.search(r"carol +process (\d+) on (\S+), incarnation (\w+)", step).groups()
        for step in (start, restart)
    )
    assert (first[1], first[0] != second[0], first[2] != second[2]) == (second[1], True, True)
    for other in ("alice", "bob"):
        assert f"lost carol, incarnation {first[2]}" in kill
        assert re.search(rf"{other} +accepted carol, incarnation {second[2]}: the link is up", restart)
    assert end.count("ended with status 0") == 3
    assert "\x1b" not in out
    assert not marked(cli)


def test_the_demo_interrupted_ends_its_processes_first(cli):
    """Ctrl-C in the middle: status 130, a line and no traceback, and not one process left."""
    running = cli.start("demo", "--plain")
    running.line(r"^2\. ")
    assert len(marked(cli)) == 4
    status, _, err = running.end(signal.SIGINT)
    assert status == 130
    assert err == "interrupted; every process of the demo has been ended\n"
    assert not marked(cli)


def test_the_demo_killed_takes_its_processes_with_it(cli):
    """After SIGKILL nobody is left to clean up, and the nodes end all the same; no cookie was in sight."""
    running = cli.start("demo")
    running.line(r"^3\. ")
    descendants = marked(cli)
    assert len(descendants) == 4
    cookies = {
        re.search(rf"{VARIABLE}=([^\0]+)", Path(f"/proc/{pid}/environ").read_text())[1]
        for pid in descendants
        if pid != running.process.pid
    }
    assert len(cookies) == 1
    assert not [cookie for cookie in cookies if cookie in "".join(descendants.values())]
    running.end(signal.SIGKILL)
    wait_for_end(descendants)
    assert not marked(cli)
    assert not [cookie for cookie in cookies if cookie in cli.everything_said()]


# The demo's director


class Audience:
    """A view that remembers the lines it was shown."""

    def __init__(self):
        self.lines = []

    def show(self, line):
        if line is not None:
            self.lines.append(line)


@pytest.fixture
def stage():
    """A stage with a short patience."""
    inbox, audience = Queue(), Audience()
    stage = Stage(inbox, audience, seconds=0.2)
    stage.inbox, stage.lines = inbox, audience.lines
    return stage


def up(role, peer):
    return Report(kind=Kind.UP, at=0.0, role=role, peer=f"{peer}@127.0.0.1:1", incarnation=1)


def expected(text, report):
    return Expectation(text, lambda seen: seen == report)


def test_a_step_succeeds_when_all_was_reported_in_any_order(stage):
    """Expectations are met by reports as they come, and returned in the order they were asked for in."""
    one, other = up("alice", "bob"), up("bob", "alice")
    stage.inbox.put(other)
    stage.inbox.put(one)
    with stage.step("they link"):
        assert stage.expect(expected("one", one), expected("other", other)) == [one, other]
    assert [line.tone for line in stage.lines] == ["step", "good", "good", "done"]


def test_a_step_fails_when_something_was_not_reported_in_time(stage):
    """The error names the step and what is missing, and only that."""
    stage.inbox.put(up("alice", "bob"))
    wanted = expected("alice sees it", up("alice", "bob")), expected("bob sees it", up("bob", "alice"))
    message = r"^step 1 \(they link\) failed: within 0\.2 s nothing showed that bob sees it$"
    with pytest.raises(StepFailed, match=message), stage.step("they link"):
        stage.expect(*wanted)
    assert stage.lines[-1].tone == "failed"


def test_one_report_does_not_prove_two_things(stage):
    """A report counts for one expectation, even if it fits another."""
    report = up("alice", "bob")
    stage.inbox.put(report)
    with pytest.raises(StepFailed, match=r"nothing showed that it came twice$"), stage.step("twice"):
        stage.expect(expected("it came", report), expected("it came twice", report))


def test_a_step_fails_at_once_when_something_else_happens(stage):
    """A link that is lost when none should be is a failure, even if the expected comes next."""
    lost = Report(kind=Kind.DOWN, at=0.0, role="bob", peer="carol@127.0.0.1:1", text="cut")
    stage.inbox.put(lost)
    stage.inbox.put(up("alice", "bob"))
    with pytest.raises(StepFailed, match="unexpectedly, bob lost carol"), stage.step("they link"):
        stage.expect(expected("it", up("alice", "bob")))


def test_a_step_may_tolerate_what_another_may_not(stage):
    """What a step tolerates is shown and harms nothing; so do pings, at any time."""
    stage.inbox.put(Report(kind=Kind.RTT, at=0.0, role="bob", peer="alice@127.0.0.1:1", seconds=0.1))
    stage.inbox.put(Report(kind=Kind.DOWN, at=0.0, role="bob", peer="alice@127.0.0.1:1", text="cut"))
    stage.inbox.put(up("alice", "bob"))
    with stage.step("they end", tolerate=frozenset({Kind.DOWN})):
        stage.expect(expected("it", up("alice", "bob")))
    assert [line.tone for line in stage.lines] == ["step", "bad", "good", "done"]


def test_what_happens_between_two_steps_counts(stage):
    """While the spectator reads, a refused stranger or a lost link is noticed all the same."""
    with stage.step("one"):
        pass
    stage.inbox.put(up("alice", "mallory"))
    with pytest.raises(StepFailed, match=r"unexpectedly, alice .*mallory"):
        stage.linger(0.01)


def test_a_process_that_ends_by_itself_is_quoted_in_the_failure():
    """A real child that cannot bind its port fails the step at once, with its own last words."""
    with socket.create_server(("127.0.0.1", 0)) as server, Troupe() as troupe:
        stage = Stage(troupe.inbox, Audience(), seconds=PATIENCE)
        troupe.start("bob", f"bob@127.0.0.1:{server.getsockname()[1]}", Cookie.wrap(COOKIE, "test"))
        message = r"unexpectedly, bob ended with status 1: error: .* is taken"
        with pytest.raises(StepFailed, match=message), stage.step("bob starts"):
            stage.expect(expected("bob is ready", None))


def test_a_report_survives_its_journey():
    """A line that a child writes is read as the same report, and any other line as something said."""
    report = Report(kind=Kind.UP, at=1.5, peer="bob@127.0.0.1:1", incarnation=2**64 - 1, initiated=True)
    read = Report.from_line(report.to_line(), role="alice", pid=7, at=9.0)
    assert (read.role, read.pid) == ("alice", 7)
    assert (read.kind, read.at, read.peer, read.incarnation, read.initiated) == (
        Kind.UP,
        1.5,
        "bob@127.0.0.1:1",
        2**64 - 1,
        True,
    )
    for line in ("error: no\n", "{}\n", "[]\n", "1\n", '{"kind": "other"}\n', '{"kind": "up", "x": 1}\n'):
        said = Report.from_line(line, role="alice", pid=7, at=9.0)
        assert (said.kind, said.text, said.at) == (Kind.SAID, line.rstrip(), 9.0)


@pytest.mark.parametrize("width", [80, 110])
def test_the_live_view_fits_the_terminal_and_leaves_the_whole_story(width):
    """No frame is higher or wider than the terminal, and at the end nothing of the story is missing."""
    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=24, color_system=None)
    board = Board()
    with LiveView(console) as view:
        view.board = board
        for number in range(30):
            view.show(board.begin(number, f"the step number {number} of too many"))
            view.show(board.observe(up("alice", "bob"), awaited=True))
            frame = console.render_lines(view._live.get_renderable())
            assert len(frame) < 24
            assert all(sum(segment.cell_length for segment in line) <= width for line in frame)
    left = console.file.getvalue().rpartition("\x1b[2K")[2]
    assert all(f"the step number {number} of too many" in left for number in range(30))
    assert "● up" in left
