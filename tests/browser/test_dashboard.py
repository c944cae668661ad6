"""The dashboard in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.pywsgi import WSGIServer

import snowgreen
from snowgreen import web
from snowgreen.events import LoopStalled
from tests.browser.conftest import Browser
from tests.conftest import COOKIE, FAST
from tests.staged import STARTED, Staged
from tests.test_web_access import TOKEN
from tests.waiting import until

HOSTILE = "<img src=x onerror=\"document.title='taken over'\"><script>document.title='taken over'</script>"


@pytest.fixture
def serve(browser: Browser) -> Iterator[Callable[..., str]]:
    """A maker of served dashboards; returns the URL."""
    servers: list[WSGIServer] = []

    def make(node: snowgreen.Node, **options: Any) -> str:
        servers.append(web.serve(node, "127.0.0.1:0", **options))
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield make
    browser.open("about:blank")  # before the server goes away, which is an error to a browser
    for server in servers:
        server.stop(timeout=0)


def live(browser: Browser) -> None:
    browser.until("return document.getElementById('pulse').textContent === 'live'", "the page is live")


def crowd(node: Staged, number: int) -> list[Any]:
    """Links of all kinds, whose order by name, by round trip and by bytes differ."""
    return [
        node.up(
            f"peer-{at}@10.0.{at // 250}.{at % 250}:9000",
            rtt=((at * 7919) % number + 1) / 1e4,
            bytes_waiting=(at * 31) % number,
            initiated=at % 3 == 0,
            form="classic" if at % 10 == 9 else "bound",
        )
        for at in range(number)
    ]


def test_real_links_come_and_go_before_ones_eyes(browser: Browser, serve: Any):
    """The page shows a real node; a link is seen up, and seen down with its reason, within two seconds."""
    node = snowgreen.Node("shown@127.0.0.1:0", cookie=COOKIE, config=FAST, peers=["absent@127.0.0.1:1"])
    peer = snowgreen.Node("peer@127.0.0.1:0", cookie=COOKIE, config=FAST)
    with node, peer:
        browser.open(serve(node))
        live(browser)
        assert browser.texts("h1") == [node.name]
        assert str(node.incarnation) in browser.texts("#life")[0]
        assert node.address in browser.texts("#life")[0]
        assert browser.texts("#facts .main")[0].endswith(" s")
        assert "absent@127.0.0.1:1" in browser.texts("#missing")[0]
        browser.until(
            "return document.querySelectorAll('.failures li').length === 1", "the failed dial is shown"
        )
        assert browser.peers() == []
        peer.connect(node.name)
        until(lambda: browser.peers() == [peer.name], "the link is seen", timeout=2)
        assert browser.texts("#links-size .row:not([hidden]) .state .value") == ["up"]
        name = peer.name
        peer.stop()
        seen = "return [...document.querySelectorAll('#links-size .state .value')].some(e => e.textContent === 'down')"
        browser.until(seen, "its end is seen", timeout=2)
        assert f"{name} has left: the peer said goodbye: it was stopped" in browser.texts("#events .text")
        node.stop()
        browser.until("return document.body.dataset.state === 'stopped'", "it is seen to stop", timeout=2)
        assert "stopped" in browser.texts("#notice")[0]
        node.start()
        live(browser)
        assert browser.texts("#notice") == []


def test_the_table_sorts_by_mouse_and_keyboard_and_filters(browser: Browser, serve: Any):
    """Each header sorts, both ways, and says so; a filter leaves what has all its words."""
    node = Staged()
    sessions = crowd(node, 30)
    browser.open(serve(node))
    until(lambda: len(browser.peers()) >= 10, "the links are shown")
    by_name = [session.peer for session in sessions]  # peer-2 before peer-10
    assert browser.peers() == by_name[: len(browser.peers())]

    def sorted_by(header: str) -> tuple[str, list[str]]:
        state = f"return document.querySelector('#links-head .{header}').getAttribute('aria-sort')"
        gevent.sleep(0.1)
        return browser.run(state), browser.peers()

    def expected(key: Callable[[Any], Any], reverse: bool) -> list[str]:
        return [session.peer for session in sorted(sessions, key=key, reverse=reverse)]

    browser.click("#links-head .rtt button")
    for word, reverse in (("descending", True), ("ascending", False)):
        how, shown = sorted_by("rtt")
        assert (how, shown) == (word, expected(lambda s: s.rtt, reverse)[: len(shown)])
        browser.press("#links-head .rtt button", "\ue007")  # Enter
    browser.press("#links-head .waiting button", " ")
    how, shown = sorted_by("waiting")
    assert (how, shown) == ("descending", expected(lambda s: s.bytes_waiting, True)[: len(shown)])
    assert (
        browser.run("return document.querySelector('#links-head .rtt').getAttribute('aria-sort')") == "none"
    )

    browser.type("#links-filter", "CLASSIC dialed")
    wanted = {session.peer for session in sessions if session.form == "classic" and session.initiated}
    until(lambda: set(browser.peers()) == wanted, "the filter holds")
    assert browser.texts("#links-count") == [f"{len(wanted)} of 30"]
    browser.type("#links-filter", "no such peer")
    until(lambda: browser.peers() == [], "nothing is left")
    assert browser.texts("#links-none") == ["None of 30 links fits the filter."]


def test_hostile_text_stays_text(browser: Browser, serve: Any):
    """Names, reasons and problems with markup in them are shown as they are, and do nothing."""
    node = Staged()
    node.up(f"{HOSTILE}@h", remote_address=HOSTILE, form=HOSTILE, state=HOSTILE)
    node.up("leaver@h")
    node.down("leaver@h", HOSTILE)
    node.fail(snowgreen.AuthenticationError(HOSTILE), claimed=HOSTILE, address=f"{HOSTILE}:1")
    node.told = {f"{HOSTILE}@h": frozenset({f"{HOSTILE}2@h"})}
    browser.open(serve(node))
    until(lambda: browser.peers() == [f"{HOSTILE}@h"], "the link is shown")
    browser.until("return document.querySelectorAll('#mesh title').length >= 3", "the mesh is drawn")
    assert browser.texts(".failures .problem") == [HOSTILE]
    assert HOSTILE in browser.texts(".failures .from")[0]
    assert len([text for text in browser.texts("#events .text") if HOSTILE in text]) == 3
    assert f"{HOSTILE}2@h" in browser.run(
        "return [...document.querySelectorAll('#mesh title')].map(e => e.textContent)"
    )
    assert browser.run("return document.querySelectorAll('img:not(header img), main script').length") == 0
    assert browser.run("return document.title") == f"{node.name} · snowgreen"


def test_a_hostile_handshake_stays_text(browser: Browser, serve: Any):
    """What a stranger sends to a real node's port is on the page in words, and harmless."""
    with snowgreen.Node("shown@127.0.0.1:0", cookie=COOKIE, config=FAST) as node:
        browser.open(serve(node))
        live(browser)
        host, _, port = str(node.address).rpartition(":")
        stranger = gevent.socket.create_connection((host, int(port)))
        stranger.sendall(f"GET /{HOSTILE} HTTP/1.1\r\n\r\n".encode())
        browser.until(
            "return document.querySelectorAll('.failures li').length === 1", "it is shown", timeout=4
        )
        stranger.close()
        assert browser.texts(".failures .cause") == ["not tls"]
        assert browser.run("return document.title") == f"{node.name} · snowgreen"


def test_mounted_in_another_application_behind_a_token(browser: Browser):
    """Under a path of another application the page works, once its address had the token, which it then lacks."""
    node = Staged()
    node.up("one@127.0.0.1:1")
    board = web.dashboard(node, token=TOKEN)

    def shop(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if path.startswith("/ops/node"):
            return board({**environ, "SCRIPT_NAME": "/ops/node", "PATH_INFO": path[9:]}, start_response)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
        return [b""]

    server = WSGIServer(("127.0.0.1", 0), shop, log=None)
    server.start()
    url = f"http://127.0.0.1:{server.server_port}/ops/node"
    try:
        browser.open(url)
        assert "wants its token" in browser.texts("body")[0]
        assert any("401" in complaint for complaint in browser.complaints())
        browser.open(f"{url}?token={TOKEN}")
        until(lambda: browser.peers() == ["one@127.0.0.1:1"], "the link is shown")
        assert browser.run("return location.href") == f"{url}/"
        assert browser.run("return document.cookie") == ""
        browser.open(url)
        until(lambda: browser.peers() == ["one@127.0.0.1:1"], "the link is shown again")
        assert browser.run("return (await fetch('status.json')).status") == 200
    finally:
        server.stop(timeout=0)


def test_two_thousand_links_stay_smooth(browser: Browser, serve: Any):
    """With 2,000 links that all move each second few rows are in the page, and no task holds it up for long."""
    node = Staged()
    sessions = crowd(node, 2000)
    browser.open(serve(node))
    browser.until("return document.getElementById('links-count').textContent === '2,000'", "all are counted")
    browser.run(
        "window.long = []; new PerformanceObserver(l => l.getEntries().forEach(e => window.long.push(e.duration)))"
        ".observe({type: 'longtask'}); document.querySelector('#links-head .in button').click()"
    )
    before = browser.texts("#facts .main")
    for turn in range(1, 16):
        for at, session in enumerate(sessions):
            session.bytes_received += at * turn
            session.rtt = ((at * turn) % 997 + 1) / 1e4
        browser.run("document.getElementById('links-view').scrollTop = arguments[0]", turn * 3000)
        gevent.sleep(0.2)
    rows = browser.run("return document.querySelectorAll('#links-size .row').length")
    assert rows < 60
    shown = browser.peers()
    assert 10 < len(shown) <= rows
    assert len(set(shown)) == len(shown)
    assert browser.texts("#facts .main") != before
    tasks = browser.run("return window.long")
    assert sum(tasks) < 1500, tasks
    assert max(tasks, default=0) < 500, tasks
    assert browser.run("return document.querySelectorAll('#mesh circle').length") == 150
    assert "1,851 more nodes are not drawn" in browser.texts("#mesh-about")[0]


def test_rates_and_round_trips_follow_the_link(browser: Browser, serve: Any):
    """What a link carries is shown per second, is nothing again when it stops, and its round trips are drawn."""
    node = Staged()
    session, idle = node.up("busy@127.0.0.1:1"), node.up("idle@127.0.0.1:1")
    browser.open(serve(node))
    live(browser)
    # The page is live a frame before its rows are drawn.
    cell = "return document.querySelectorAll('#links-size .in .value')[arguments[0]]?.textContent ?? ''"

    def carried() -> str:
        session.bytes_received += 100_000
        session.rtt = (session.rtt or 0.01) + 0.001
        return browser.run(cell, 0)

    until(lambda: carried().endswith(("kB/s", "MB/s")), "the rate is shown", timeout=5)
    assert browser.run(cell, 1) == "0 B/s"
    assert browser.texts("#facts .fact:nth-child(3) .main")[0].endswith(("kB/s", "MB/s"))
    browser.until(f"{cell} === '0 B/s'", "the rate is gone", 0, timeout=5)
    drawn = "return [...document.querySelectorAll('.trend polyline')].map(e => e.points.length)"
    points = browser.run(drawn)
    assert points[0] >= 1
    assert points[1:] == [0]
    dots = "return [...document.querySelectorAll('.trend circle')].map(e => getComputedStyle(e).display !== 'none')"
    assert browser.run(dots) == [True, False]  # where there is no round trip, there is no dot
    session.rtt = 0.5
    until(lambda: browser.run(drawn)[0] == points[0] + 1, "the new round trip is drawn", timeout=5)
    assert browser.texts("#links-size .rtt .value") == ["500 ms", "–"]
    assert idle.rtt is None


def test_a_lost_stream_is_told_and_found_again(browser: Browser):
    """When the server goes away the page says so, and from when it is; when it is back the page goes on."""
    node = Staged()
    node.up("one@127.0.0.1:1")
    first = web.serve(node, "127.0.0.1:0")
    port = first.server_port
    browser.open(f"http://127.0.0.1:{port}/")
    live(browser)
    first.stop(timeout=0)
    browser.until("return document.body.dataset.state === 'lost'", "it is told", timeout=4)
    assert "is lost. What is shown is from" in browser.texts("#notice")[0]
    node.down("one@127.0.0.1:1")
    node.up("two@127.0.0.1:1")
    again = web.serve(node, f"127.0.0.1:{port}")
    try:
        live(browser)
        until(lambda: browser.peers() == ["two@127.0.0.1:1"], "it goes on with what is now")
        assert browser.texts("#notice") == []
        assert any("ERR_" in complaint for complaint in browser.complaints())
    finally:
        browser.open("about:blank")
        again.stop(timeout=0)


def test_events_can_be_sifted(browser: Browser, serve: Any):
    """The newest event is the first; problems alone, or those with a word, can be asked for."""
    node = Staged()
    for number in range(40):
        node.up(f"n{number}@127.0.0.1:1")
    node._bus.publish(LoopStalled(2.5, STARTED))
    node.down("n7@127.0.0.1:1", "the cable was cut")
    browser.open(serve(node))
    live(browser)
    until(lambda: len(browser.texts("#events li")) == 42, "all are there")
    assert "the cable was cut" in browser.texts("#events .text")[0]
    browser.click("#events-bad")
    until(lambda: len(browser.texts("#events li")) == 2, "problems only")
    browser.type("#events-filter", "cable")
    until(lambda: len(browser.texts("#events li")) == 1, "with a word only")
    node.up("late@127.0.0.1:1")
    browser.click("#events-bad")
    browser.type("#events-filter", "late")
    until(
        lambda: browser.texts("#events .text") == ["late@127.0.0.1:1 is up (dialed, bound)"],
        "the new one, too",
    )


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_it_fits_the_screen(browser: Browser, serve: Any, width: int, scheme: str):
    """Wide or narrow, light or dark: nothing sticks out sideways, and the scheme is the user's."""
    node = Staged()
    crowd(node, 40)
    node.up("a-name-that-is-as-long-as-it-may-be-" + "x" * 27 + "@" + "host." * 30 + "example:65535")
    node.fail(snowgreen.Unreachable("w" * 300), claimed="c" * 200)
    browser.open(serve(node), width=width, scheme=scheme)
    until(lambda: len(browser.peers()) > 5, "the links are shown")
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    lightness = browser.run(
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert (sum(lightness) > 384) == (scheme == "light")
    if width < 500:
        assert browser.run("return document.getElementById('links-sort').checkVisibility()")
        browser.run(
            "const sort = document.getElementById('links-sort'); sort.value = 'rtt';"
            "sort.dispatchEvent(new Event('change'))"
        )
        slowest = max(
            (session for session in node.sessions.values() if session.rtt), key=lambda s: s.rtt or 0
        )
        until(lambda: browser.peers()[0] == slowest.peer, "it is sorted")
