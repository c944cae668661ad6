"""benchmarks/: what the peers have in common, what becomes of their figures, and one small run of all of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from benchmarks import bars, measures, pairs, plots
from benchmarks.bars import Bar
from benchmarks.pairs import Book, Case, Ended, Failed, Missing, Pair, Process, Run, Unsupported
from benchmarks.peers import PEERS, common
from benchmarks.peers.common import Count, Hello, obey, obey_async, percentile, round_trips, slices
from benchmarks.peers.crowd import Crowd
from snowgreen.names import parse_name
from tests.conftest import MakeNode
from tests.waiting import until

ROOT = Path(__file__).parents[1]
HELLO = Hello("a peer", "1", True, "for a test", ("other",))


class Role:
    """Does what a test needs of a peer."""

    def __init__(self) -> None:
        self._hidden = "secret"

    def add(self, one: int, other: int) -> dict[str, int]:
        return {"sum": one + other}

    def nothing(self) -> None:
        print("said by a library")

    def cannot(self) -> None:
        raise Unsupported("never could")

    def peer_cannot(self) -> None:
        raise common.Unsupported("not this one")

    def breaks(self) -> None:
        raise ValueError("of something")

    async def later(self, value: int) -> dict[str, int]:
        await asyncio.sleep(0)
        return {"value": value}


def order(do: str, **details: Any) -> str:
    return json.dumps({"do": do, **details})


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (order("add", one=1, other=2), {"sum": 3}),
        (order("nothing"), {}),
        (order("peer_cannot"), {"unsupported": "not this one"}),
        (order("fly"), {"unsupported": "it has no 'fly'"}),
        (order("_hidden"), {"unsupported": "it has no '_hidden'"}),
        (order("breaks"), {"failed": "ValueError: of something"}),
    ],
)
def test_an_order_is_a_method_and_whatever_comes_of_it_is_an_answer(line: str, answer: object) -> None:
    """A result, nothing, what is unsupported and what breaks: each has its answer, of both kinds of loop."""
    assert obey(HELLO, Role(), line) == answer
    assert asyncio.run(obey_async(HELLO, Role(), line)) == answer


def test_hello_is_answered_for_the_role() -> None:
    """Every peer says who it is without a method of its own."""
    answer = obey(HELLO, Role(), order("hello"))
    assert {"name": "a peer", "tls": True}.items() <= answer.items()
    assert tuple(answer["ways"]) == ("other",)


def test_a_coroutine_is_waited_for() -> None:
    """The asynchronous loop answers what the coroutine returns."""
    assert asyncio.run(obey_async(HELLO, Role(), order("later", value=7))) == {"value": 7}


def peer(program: str, *arguments: str, lines: str = "") -> subprocess.CompletedProcess[str]:
    """A peer that consists of `program`, and what it answers to `lines`."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        input=lines,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )


def test_what_a_library_prints_is_no_answer() -> None:
    """Only answers come through standard output; prints go elsewhere."""
    program = (
        "from tests.test_benchmarks import HELLO, Role\n"
        "from benchmarks.peers.common import main\n"
        "main(HELLO, {'server': Role})"
    )
    done = peer(program, "server", lines=order("nothing") + "\n" + order("add", one=1, other=1) + "\n")
    assert done.stdout.splitlines() == ["{}", '{"sum": 2}'], done.stderr
    assert "said by a library" in done.stderr


def test_a_peer_that_is_not_installed_says_so_and_ends() -> None:
    """It answers its first order with why, and its status is 0."""
    done = peer("from benchmarks.peers.common import missing\nmissing('no such thing')", lines=order("hello"))
    assert (done.returncode, done.stdout) == (0, '{"missing": "no such thing"}\n')


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([5.0], 99, 5.0), (range(1, 101), 50, 50), (range(1, 101), 99, 99), (range(1, 1001), 99.9, 999)],
)
def test_a_percentile_is_one_of_the_values(values: list[float], share: float, expected: float) -> None:
    """By the nearest rank, whatever the order they come in."""
    assert percentile(sorted(values, reverse=True), share) == expected


def test_round_trips_are_timed_one_by_one() -> None:
    """As many asks as were wanted, and two figures of them."""
    asked: list[int] = []
    answer = round_trips(lambda: asked.append(1), 20)
    assert len(asked) == 20
    assert 0 < answer["p50"] <= answer["p99"]


def test_a_count_waits_for_what_is_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """It returns at the number asked for, and gives up when that does not come."""
    count = Count()

    def sleep(_seconds: float) -> None:
        count.take(10)

    assert count.wait(3, sleep)["seconds"] >= 0
    assert count.as_answer() == {"messages": 3, "bytes": 30}
    monkeypatch.setattr(common, "PATIENCE", -1.0)
    with pytest.raises(TimeoutError, match="3 of 9 messages"):
        count.wait(9, lambda _seconds: None)


@pytest.mark.parametrize(("count", "parts"), [(0, []), (3, [3]), (4, [4]), (10, [4, 4, 2])])
def test_slices_add_up(count: int, parts: list[int]) -> None:
    """Parts of four at most, and all of them together are the whole."""
    assert list(slices(count, 4)) == parts


def test_what_a_process_has_started_counts_as_its_own() -> None:
    """A child's memory and CPU are in its parent's figures."""
    alone = common.usage(os.getpid())
    program = "import sys; sum(range(10**6)); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in common.family(os.getpid())
        assert common.cpu(child.pid) > 0
        assert common.usage(os.getpid()).rss > alone.rss
        child.communicate()


# What becomes of the figures.


def book_of(**peers: list[float]) -> Book:
    book = Book()
    for name, values in peers.items():
        for value in values:
            book.add(name, {"speed": value})
    return book


def test_a_bar_compares_medians_and_shows_the_rounds() -> None:
    """Six is three times two, though within one round it was twice and in another four times."""
    bar = Bar("a", ("speed", "fast"), ("speed", "slow"), at_least=3)
    book = book_of(fast=[6.0, 4.0, 12.0], slow=[2.0, 2.0, 3.0])
    assert (bar.value(book), bar.spread(book), bar.verdict(book), bar.bound) == (3, (2, 4), "pass", "≥ 3")


@pytest.mark.parametrize(("at_most", "verdict"), [(5.0, "pass"), (4.9, "not yet")])
def test_a_bar_may_be_a_figure_that_must_not_be_more(at_most: float, verdict: str) -> None:
    """The bound itself passes, what is above it does not yet."""
    assert Bar("a", ("speed", "slow"), at_most=at_most).verdict(book_of(slow=[5.0])) == verdict


def test_a_bar_of_what_is_not_there_is_not_measured() -> None:
    """A missing peer makes no verdict, and neither does a missing figure."""
    book = book_of(fast=[1.0])
    for bar in (Bar("a", ("speed", "fast"), ("speed", "no"), at_most=1), Bar("b", ("x", "fast"), at_most=1)):
        assert (bar.value(book), bar.spread(book), bar.verdict(book)) == (None, None, "not measured")


def test_every_bar_is_of_a_peer_that_there_is() -> None:
    """No bar is never measured because of a slip in a name."""
    floors = {"OpenSSL alone", "bare writes", "snowgreen frames", "snowgreen unsparing", "snowgreen asleep"}
    for bar in bars.BARS:
        names = {of[1] for of in (bar.of, bar.over) if of is not None}
        assert names <= floors | set(PEERS)
    assert all(verdict["verdict"] == "not measured" for verdict in bars.as_json(Book()))


def test_pictures_are_drawn_of_what_is_there(tmp_path: Path) -> None:
    """Bars for single figures and lines for those by size, well-formed, with every peer's name."""
    book = Book()
    for name in ("snowgreen", "a & b"):
        book.add(name, {"RTT p50, µs": 80.0, "64 B: messages/s": 1e6, "1 KiB: messages/s": 2e5})
    drawn = plots.draw(book, tmp_path / "plots")
    assert [path.name for path in drawn] == ["rtt.svg", "messages.svg"]
    for path in drawn:
        texts = [item.text for item in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]
        assert {"snowgreen", "a & b"} <= set(texts)


def test_figures_by_size_are_in_the_order_of_the_sizes() -> None:
    """A line goes through 64 B, 1 KiB and 1 MiB, however they were noted."""
    book = Book()
    for size in ("1 MiB", "64 B", "1 KiB"):
        book.add("snowgreen", {f"{size}: messages/s": 5.0})
    assert plots.by_size(book, "", ": messages/s") == {"snowgreen": [(64, 5), (1024, 5), (1024**2, 5)]}


def fails(error: Failed) -> Callable[[], dict[str, float]]:
    def once() -> dict[str, float]:
        raise error

    return once


def test_what_fails_is_noted_and_the_others_go_on() -> None:
    """A case that cannot ends alone; one whose process has ended takes its pair's other cases with it."""
    run, dead, alive = Run(["x"], rounds=2, quick=False), object.__new__(Pair), object.__new__(Pair)
    run.in_turn(
        "something",
        [
            Case("able", lambda: {"speed": 1.0}, pair=alive),
            Case("able", fails(Unsupported("not so")), "unable", pair=alive),
            Case("dead", fails(Ended("it has ended")), pair=dead),
            Case("dead", lambda: {"speed": 2.0}, pair=dead),
        ],
    )
    assert run.book.figures == {"speed": {"able": [1.0, 1.0]}}
    assert [(note.peer, note.why) for note in run.book.notes] == [
        ("unable", "not so"),
        ("dead", "it has ended"),
    ]


def test_what_a_bar_goes_by_has_more_turns_in_each_round() -> None:
    """A close case has all of them, any other one; the round before the first counts for neither."""
    run, turns = Run(["x"], rounds=2, quick=False), []

    def once(name: str) -> dict[str, float]:
        turns.append(name)
        return {"speed": float(len(turns))}

    run.in_turn(
        "something",
        [Case("close", lambda: once("close"), close=True), Case("other", lambda: once("other"))],
        often=3,
    )
    assert turns == ["close", "other", *["close", "other", "close", "close"] * 2]
    assert run.book.figures == {"speed": {"close": [3.0, 5.0, 6.0, 7.0, 9.0, 10.0], "other": [4.0, 8.0]}}
    assert (run.book.turns, run.book.disturbed) == (8, 0)


def test_a_turn_in_which_the_processors_went_to_others_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first calm one counts; where none is, the calmest of a few does, and is told as disturbed."""
    taken = iter([0.0, 60.0, 0.0, 0.0, *[0.0, 60.0, 0.0, 30.0, 0.0, 20.0, 0.0, 50.0]])
    clock = iter(range(1000))
    monkeypatch.setattr(pairs, "stolen", lambda: next(taken))
    monkeypatch.setattr(pairs, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    run, speeds = Run(["x"], rounds=2, quick=False), iter([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    run.in_turn("something", [Case("one", lambda: {"speed": next(speeds)})])
    assert run.book.figures == {"speed": {"one": [2.0, 5.0]}}
    assert (run.book.turns, run.book.disturbed) == (2, 1)


def test_what_goes_to_others_is_read_where_it_is_told() -> None:
    """It never goes back, and reading it is no error."""
    before = pairs.stolen()
    assert 0.0 <= before <= pairs.stolen()


def test_a_bar_names_whom_it_goes_by() -> None:
    """Both sides of every bar on a figure, and nobody of another's."""
    assert bars.contested(bars.ACCEPT) == {"snowgreen", "OpenSSL alone", "erlang"}
    assert bars.contested("64 KiB: messages/s", "64 KiB: MB/s") == {"snowgreen frames", "erlang"}
    assert bars.contested("no such figure") == set()


class Fake(Process):
    """A process that runs a program of a test's instead of a peer."""

    def __init__(self, program: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )


@pytest.mark.parametrize(
    ("answer", "kind", "why"),
    [
        ({"missing": "not here"}, Missing, "not here"),
        ({"unsupported": True}, Unsupported, "it cannot do that"),
        ({"failed": "OSError: no"}, Failed, "OSError: no"),
        (None, Ended, "its process has ended"),
    ],
)
def test_an_answer_that_is_none_raises(answer: object, kind: type[Failed], why: str) -> None:
    """Each way of not obeying is its own error."""
    line = "" if answer is None else json.dumps(answer)
    program = f"import sys; sys.stdin.readline(); print({line!r}, end='')"
    with Fake(program) as process, pytest.raises(Failed) as caught:
        process.order("start")
    assert (type(caught.value), str(caught.value)) == (kind, why)


def test_a_peer_that_does_not_answer_is_ended_with_what_it_has_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the time for an order neither the process nor its own child is left."""
    monkeypatch.setattr(pairs, "PATIENCE", 0.1)
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()"
    )
    with Fake(program) as process:
        stdout = process._process.stdout
        assert stdout is not None
        child = int(stdout.readline())
        with pytest.raises(Ended, match="no answer"):
            process.order("start")
        process._process.wait(10)
    until(lambda: not running(child), "the child has ended")


def running(pid: int) -> bool:
    """Whether a process is there, and more than what its parent has not looked at yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# All of it.


@pytest.mark.parametrize("name", ["snowgreen", "asyncio", "threads"])
def test_a_peer_obeys_every_order(name: str) -> None:
    """Links are made, counted and dropped; what is sent arrives, by every way; a broadcast reaches all."""
    run = Run([name], rounds=1, quick=True)
    with contextlib.ExitStack() as stack:
        (pair,) = run.pairs(stack, "orders")
        pair.link(3)
        until(lambda: pair.server.order("links") == {"links": 3}, "the server has all links")
        assert 0 < pair.client.order("rtt", rounds=5)["p50"] < 10
        for way in ("", *run.hellos[name]["ways"]):
            before = pair.server.order("received")
            pair.client.order("send", size=100_000, count=5, **({"way": way} if way else {}))
            pair.server.order("wait", messages=before["messages"] + 5)
            if way != "values":
                assert pair.server.order("received")["bytes"] == before["bytes"] + 500_000
        for order in ("join", "freshen"):
            with contextlib.suppress(Unsupported):
                (pair.client if order == "join" else pair.server).order(order)
        until(lambda: pair.server.order("broadcast", size=256)["links"] == 3, "all have joined")
        assert pair.server.order("idle", seconds=0.01)["cpu"] >= 0
        pair.client.order("drop")
        until(lambda: pair.server.order("links") == {"links": 0}, "every link is gone")
        pair.link(1)
        until(lambda: pair.server.order("links") == {"links": 1}, "there are links again")
    assert run.book.notes == []


@pytest.mark.parametrize("name", ["snowgreen", "asyncio", "threads"])
def test_light_ends_are_let_in_and_leave(name: str) -> None:
    """A server counts them as any other links; they come again under new names, and are refused elsewhere."""
    run = Run([name], rounds=1, quick=True)
    with contextlib.ExitStack() as stack:
        (pair,) = run.pairs(stack, "orders")
        for _ in range(2):
            assert pair.link(5, at_once=3, light=True) > 0
            until(lambda: pair.server.order("links") == {"links": 5}, "the server has all links")
            pair.client.order("drop")
            until(lambda: pair.server.order("links") == {"links": 0}, "every link is gone")
    assert run.book.notes == []


def test_a_light_end_that_is_not_let_in_is_a_failure(make_node: MakeNode) -> None:
    """A node with another cookie lets none in; the answer says how many there are, and why."""
    node = make_node(cookie="another cookie than theirs")
    answer = gevent.get_hub().threadpool.apply(Crowd().knock, (parse_name(node.name).port, 2, 2))
    assert answer["made"] == 0
    assert "different cookies" in answer["why"]


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=ROOT,
    )


def test_a_quick_run_measures_two_peers(tmp_path: Path) -> None:
    """Every figure that both can give is there for both, the table of bars ends it, and nothing has failed."""
    out = tmp_path / "figures.json"
    done = benchmark(
        *("--quick", "--peers", "snowgreen,asyncio", "--measures", "accept,links,rtt,messages"),
        *("--json", str(out), "--plots", str(tmp_path / "plots")),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["notes"] == []
    assert 0 <= report["turns"]["disturbed"] <= report["turns"]["all"]
    both = {figure for figure, peers in report["figures"].items() if {"snowgreen", "asyncio"} <= set(peers)}
    assert {
        "server CPU per accepted link, µs",
        "links/s",
        "RSS per link at 100, bytes",
        "idle CPU at 100 links, % of a core",
        "RTT p50, µs",
        "64 B: messages/s",
        "64 KiB: MB/s",
    } <= both
    assert {"snowgreen values", "snowgreen frames"} <= set(report["figures"]["64 B: messages/s"])
    assert report["figures"]["server CPU per accepted link, µs"]["OpenSSL alone"]["median"] > 0
    verdicts = {bar["title"]: bar["verdict"] for bar in report["bars"]}
    assert verdicts["RTT p50 ÷ asyncio's"] in ("pass", "not yet")
    assert verdicts["RTT p50 ÷ Erlang's"] == "not measured"
    assert report["peers"]["asyncio"]["tls"] is True
    assert "What is to be reached" in done.stdout
    assert (tmp_path / "plots" / "accept.svg").exists()


def test_names_that_there_are_not_are_refused() -> None:
    """A slip is told with what there is."""
    for option, known in (("--peers", PEERS), ("--measures", measures.MEASURES)):
        done = benchmark(option, "snowgren")
        assert done.returncode == 2
        assert ",".join(known) in done.stderr.replace("\n", "")
