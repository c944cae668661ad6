"""tools/flood.py, run as its users run it: what it reports is held against what can be seen from outside."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import gevent
import gevent.subprocess as subprocess
import pytest

from snowgreen import Config, Limits, Node, NodeDown, NodeUp

FLOOD = Path(__file__).parents[1] / "tools" / "flood.py"
COOKIE = "a cookie for the flooded node"
OPEN = Config(limits=Limits.trusted())
ENDED = 60


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The tool, started; what it prints on either stream comes through stdout."""
    command = [sys.executable, str(FLOOD), *map(str, arguments)]
    pipe, merged = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(command, stdout=pipe, stderr=merged, text=True, **options)


def run(*arguments: object, **options: Any) -> tuple[int, str]:
    """The tool's exit status and output; as this waits under gevent, a node of the test is served meanwhile."""
    with start(*arguments, **options) as flood:
        output, _ = flood.communicate(timeout=ENDED)
    return flood.returncode, output


def until_it_dials(flood: subprocess.Popen[str]) -> int:
    """Wait for the tool to begin; the process id of its server."""
    assert flood.stdout is not None
    begun = re.search(
        r"^making \d+ links with flooded@127.0.0.1:\d+ \(process (\d+)\)", flood.stdout.readline()
    )
    assert begun is not None
    return int(begun[1])


def environment(cookie: str) -> dict[str, str]:
    return {**os.environ, "SNOWGREEN_COOKIE": cookie}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "figures.json"


def test_a_run_that_succeeds_reports_what_was_done(out: Path) -> None:
    """Forty links are made, held, counted alive on both sides, and gone, and the figures agree."""
    status, output = run("--links", 40, "--hold", 0.5, "--json", out)
    report = json.loads(out.read_text())
    assert (status, report["ok"], report["stopped_by"], report["failed"]) == (0, True, None, {}), output
    assert report["asked"] == report["attempted"] == report["made"] == 40
    assert report["live_on_client"] == report["live_on_server"] == 40
    assert (report["left_on_server"], report["pings_failed"]) == (0, 0)
    assert report["links_per_second"] == pytest.approx(40 / report["dial_seconds"])
    assert report["held_seconds"] >= 0.5
    assert report["pings"] > 1
    for spread in (report["handshake_ms"], report["rtt_ms"]):
        assert 0 < spread["p50"] <= spread["p99"] < 10_000
    assert report["handshake_ms"]["p99"] <= report["dial_seconds"] * 1000
    for side in (report["server_per_link"], report["client_per_link"]):
        assert 5 < side["rss_kb"] < 500
        assert side["cpu_ms"] >= 0
    assert "\x1b" not in output


def test_the_descriptor_limit_is_foreseen(out: Path) -> None:
    """With 64 descriptors it says before it dials how many links fit, makes those, and fails."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    status, output = run("--links", 100, "--hold", 0, "--json", out, preexec_fn=few)
    report = json.loads(out.read_text())
    assert (status, report["ok"], report["stopped_by"]) == (1, False, "the descriptor limit"), output
    assert output.index("FILE DESCRIPTOR LIMIT: ") < output.index("making ")
    assert re.search(r"client process may have 64 open, and has room for (\d+) of 100 links", output)
    assert 30 < report["made"] == report["live_on_client"] == report["live_on_server"] < 64
    assert (report["failed"], report["left_on_server"]) == ({}, 0)


def test_the_descriptor_limit_is_met_on_the_way(out: Path) -> None:
    """When the limit is lowered under a run, it says so, keeps the links it has, and dials no more."""
    with start("--links", 2000, "--concurrency", 4, "--hold", 0, "--json", out) as flood:
        until_it_dials(flood)
        resource.prlimit(flood.pid, resource.RLIMIT_NOFILE, (60, 60))
        output, _ = flood.communicate(timeout=ENDED)
    report = json.loads(out.read_text())
    assert (flood.returncode, report["stopped_by"]) == (1, "the descriptor limit"), output
    assert f"the client process has none left, with {report['made']} links made" in output
    assert set(report["failed"]) == {"Unreachable"}
    assert report["attempted"] == report["made"] + report["failed"]["Unreachable"] < 2000
    assert report["live_on_client"] == report["live_on_server"] == report["made"]


def test_a_wrong_cookie_is_counted_by_its_error(out: Path) -> None:
    """Every link that a running node refuses for its cookie counts as an AuthenticationError."""
    with Node("target@127.0.0.1:0", cookie=COOKIE, config=OPEN) as node:
        given = "--target", node.name, "--links", 20, "--hold", 0, "--json", out
        status, output = run(*given, env=environment("not the cookie of that node"))
        assert not node.sessions
    report = json.loads(out.read_text())
    assert (status, report["ok"], report["made"]) == (1, False, 0), output
    assert (report["attempted"], report["failed"]) == (20, {"AuthenticationError": 20})
    assert "cookie" in report["failures_say"]["AuthenticationError"]
    assert COOKIE not in output


def test_a_running_node_sees_the_links_that_are_reported(out: Path, tmp_path: Path) -> None:
    """The target has one link up and down for each that was made and the first one, and keeps none."""
    file = tmp_path / "cookie"
    file.touch(mode=0o600)
    file.write_text(COOKIE)
    with Node("target@127.0.0.1:0", cookie=COOKIE, config=OPEN) as node, node.subscribe() as events:
        given = "--target", node.name, "--links", 30, "--hold", 0.1, "--json", out
        status, output = run(*given, "--cookie-file", file, "--server-pid", os.getpid())
        with gevent.Timeout(5):
            seen = [type(event) for event in (events.get() for _ in range(62))]
        assert (seen.count(NodeUp), seen.count(NodeDown)) == (31, 31)
        assert not node.sessions
    report = json.loads(out.read_text())
    assert (status, report["ok"], report["made"], report["live_on_client"]) == (0, True, 30, 30), output
    assert report["server_per_link"]["rss_kb"] >= 0
    assert report["live_on_server"] is report["left_on_server"] is None


def test_ctrl_c_ends_both_processes(out: Path) -> None:
    """After SIGINT it reports what it had, ends its server, and exits with 130."""
    with start("--links", 2000, "--json", out) as flood:
        server = until_it_dials(flood)
        flood.send_signal(signal.SIGINT)
        output, _ = flood.communicate(timeout=ENDED)
    report = json.loads(out.read_text())
    assert (flood.returncode, report["ok"], report["stopped_by"]) == (130, False, "Ctrl-C"), output
    assert (report["live_on_client"], report["left_on_server"]) == (None, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


def test_a_server_that_dies_is_reported(out: Path) -> None:
    """When its server is killed under it, the run ends in a report that says so."""
    with start("--links", 200, "--concurrency", 4, "--timeout", 2, "--hold", 0, "--json", out) as flood:
        os.kill(until_it_dials(flood), signal.SIGKILL)
        output, _ = flood.communicate(timeout=ENDED)
    report = json.loads(out.read_text())
    assert (flood.returncode, report["ok"]) == (1, False), output
    assert report["stopped_by"] == "the server process ended by itself, with status -9"
    assert report["failed"]
    assert (report["live_on_client"], report["left_on_server"]) == (0, None)


def test_messages_are_all_counted_and_timed(out: Path) -> None:
    """Fifty messages of each size arrive, and there is a figure for each of them and for each round trip."""
    status, output = run("--messages", "--count", 50, "--hold", 0.2, "--json", out)
    report = json.loads(out.read_text())
    assert (status, report["ok"], report["stopped_by"], report["failure"]) == (0, True, None, None), output
    sizes = {"64 B": 64, "64 B dict": 64, "1 KiB": 1024, "64 KiB": 65_536}
    streamed = report["sent"].pop("1 MiB")
    assert 0 < streamed == report["received"].pop("1 MiB") <= 50
    assert report["sent"] == report["received"] == dict.fromkeys(sizes, 50)
    for name, size in sizes.items():
        figures = report["throughput"][name]
        assert figures["mb_per_second"] == pytest.approx(figures["messages_per_second"] * size / 1e6)
        assert figures["sender_cpu_us"] + figures["receiver_cpu_us"] >= 0
    besides = ["beside a stream", "beside another link's"]
    assert set(report["rtt_ms"]) == {f"{ask} {at}" for ask in ("ping", "call") for at in ("alone", *besides)}
    for name, figures in report["rtt_ms"].items():
        assert 0 < figures["p50"] <= figures["p99"] < 10_000
        alone = report["rtt_ms"][f"{name.partition(' ')[0]} alone"]
        if figures != alone:
            assert report["rtt_ratio"][name]["p99"] == pytest.approx(figures["p99"] / alone["p99"])
    assert report["left_on_server"] == 0
    assert "sending messages to flooded@127.0.0.1" in output


SPOILT = """
import sys
sys.path.insert(0, {tools!r})
import flood
import snowgreen

send, kept = snowgreen.Node.send, []

def spoilt(node, peer, mailbox, body, timeout=None):
    number = int.from_bytes(body[:8]) if type(body) is bytes else body["number"]
    if number == {number}:
        kept.append(body)
        return
    send(node, peer, mailbox, body, timeout)
    if {late} and kept:
        send(node, peer, mailbox, kept.pop(), timeout)

snowgreen.Node.send = spoilt
flood.main()
"""


@pytest.mark.parametrize(
    ("number", "late", "says"),
    [
        (49, False, "64 B: 50 messages were sent, and 49 came"),
        (7, False, "64 B: in place of message 7 came another"),
        (7, True, "64 B: in place of message 7 came another"),
    ],
    ids=["the last is lost", "one is lost", "one comes late"],
)
def test_a_message_that_is_lost_or_out_of_order_fails_the_run(
    out: Path, number: int, late: bool, says: str
) -> None:
    """What the reader did not get, or not in its turn, is said, and the exit status is 1."""
    program = SPOILT.format(tools=str(FLOOD.parent), number=number, late=late)
    command = [
        sys.executable,
        "-c",
        program,
        "--messages",
        "--count",
        "50",
        "--hold",
        "0.1",
        "--json",
        str(out),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=ENDED, check=False)
    report = json.loads(out.read_text())
    assert (ended.returncode, report["ok"], report["left_on_server"]) == (1, False, 0), ended.stderr
    assert report["failure"] == f"Wrong: {says}"
    assert says in ended.stdout


def test_a_receiver_that_dies_is_reported(out: Path) -> None:
    """When its server is killed under it, a run with messages ends in a report that says so."""
    with start("--messages", "--hold", 20, "--json", out) as flood:
        assert flood.stdout is not None
        begun = re.search(r"^sending messages to \S+ \(process (\d+)\)", flood.stdout.readline())
        assert begun is not None
        os.kill(int(begun[1]), signal.SIGKILL)
        output, _ = flood.communicate(timeout=ENDED)
    report = json.loads(out.read_text())
    assert (flood.returncode, report["ok"]) == (1, False), output
    assert report["stopped_by"] == "the server process ended by itself, with status -9"


def test_only_this_machine_is_flooded() -> None:
    """A target elsewhere is refused before anything is sent to it."""
    status, output = run("--target", "other@192.0.2.1:9000", env=environment(COOKIE))
    assert status == 2
    assert "only loopback is flooded" in output
