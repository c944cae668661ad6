"""Prometheus metrics: every name, label and value, by Prometheus' own parser, and the dashboard that draws them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import prometheus_client
import pytest
from gevent._hub_local import get_hub_if_exists
from prometheus_client.parser import text_string_to_metric_families

import snowgreen
from snowgreen import metrics
from snowgreen._version import __version__
from snowgreen.errors import Rejected
from snowgreen.events import ConnectionsRefused, HandshakeFailed, LoopStalled, MessagesDropped
from snowgreen.link.journal import CAUSES
from snowgreen.link.outbox import Outbox
from snowgreen.link.session import Session
from snowgreen.protocol.lanes import Lanes
from tests.conftest import COOKIE, MakeNode
from tests.waiting import until

ROOT = Path(__file__).parents[1]
DASHBOARD = json.loads((ROOT / "docs" / "grafana.json").read_text())
PAGE = (ROOT / "docs" / "metrics.md").read_text()

#: Name → the labels of its series beside `node`, `le` of histograms left out.
EXPECTED = {
    "snowgreen_node_info": {"version", "incarnation"},
    "snowgreen_node_started": set(),
    "snowgreen_node_start_time_seconds": set(),
    "snowgreen_links": {"form", "direction"},
    "snowgreen_links_waiting": set(),
    "snowgreen_links_established_total": {"form", "direction"},
    "snowgreen_links_ended_total": {"lost"},
    "snowgreen_handshakes_total": {"outcome", "form", "direction"},
    "snowgreen_handshake_duration_seconds": {"direction"},
    "snowgreen_rtt_seconds": set(),
    "snowgreen_received_bytes_total": set(),
    "snowgreen_sent_bytes_total": set(),
    "snowgreen_received_frames_total": set(),
    "snowgreen_sent_frames_total": set(),
    "snowgreen_outbox_bytes": set(),
    "snowgreen_outbox_largest_bytes": set(),
    "snowgreen_loop_stalls_total": set(),
    "snowgreen_loop_stalled_seconds_total": set(),
    "snowgreen_dials_total": set(),
    "snowgreen_redials_total": set(),
    "snowgreen_connections_refused_total": set(),
    "snowgreen_messages_dropped_total": {"direction"},
    "snowgreen_kept_peers": set(),
    "snowgreen_kept_peers_linked": set(),
}

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(*nodes: snowgreen.Node) -> Series:
    """Sample name and labels → value, as Prometheus reads them. No series is there twice."""
    body, _ = metrics.exposition(*nodes)
    found: Series = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def value(node: snowgreen.Node, name: str, **labels: str) -> float:
    """One series of `node`."""
    return scraped(node)[f"snowgreen_{name}", tuple(sorted({"node": node.name, **labels}.items()))]


def stand_in(node: snowgreen.Node, number: int, *, size: int = 7, waiting: int = 0) -> Session:
    """A session without a connection, which has carried `size` bytes each way, in the table of `node`."""
    session, outbox = Session.__new__(Session), Outbox.__new__(Outbox)
    outbox._lanes, outbox._sending, outbox._sent = Lanes(), bytes(waiting), 0
    outbox.blocked, outbox.bytes_sent, outbox.frames_sent = bool(waiting), size, 2
    outbox._flight = None
    for slot in set(Session.__slots__) - {"__weakref__"}:
        setattr(session, slot, None)
    session._outbox = outbox
    session.bytes_received, session.frames_received = size, 3
    session.form, session.initiated, session.lost = "bound", bool(number % 2), True
    session.peer, session.incarnation, session.serial, session.node_id = f"p{number}@h", 1, number, number
    node._sessions[session.peer] = session
    return session


def end(node: snowgreen.Node, session: Session) -> None:
    """The session ends as every one does."""
    session.reason = "over"
    node._endpoint.session_ended(session)


@pytest.fixture
def node(make_node: MakeNode) -> Iterator[snowgreen.Node]:
    """A node whose table a test may fill with stand-ins."""
    made = make_node("node@127.0.0.1:0")
    yield made
    made._sessions.clear()


def families(*nodes: snowgreen.Node) -> dict[str, Any]:
    """Name → metric, counters with their suffix."""
    body, _ = metrics.exposition(*nodes)
    return {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(body.decode())
    }


def labels_of(family: Any) -> set[str]:
    """All labels of a metric's series but the node, and the bound of a bucket."""
    found = {frozenset(sample.labels) - {"node", "le"} for sample in family.samples}
    assert all("node" in sample.labels for sample in family.samples)
    (labels,) = found
    return set(labels)


def test_every_metric_is_there_with_its_labels_before_anything_happened(node: snowgreen.Node):
    """A counter that only appeared with its first event would hide that event from rate()."""
    assert {name: labels_of(family) for name, family in families(node).items()} == EXPECTED
    outcomes = {dict(labels).get("outcome") for (_, labels) in scraped(node)} - {None}
    assert outcomes == {"ok", *CAUSES}
    assert len(CAUSES) == 11


def test_names_follow_the_conventions(node: snowgreen.Node):
    """Base units at the end, _total for counters and nothing else, a sentence as help, plain label names."""
    for name, family in families(node).items():
        assert re.fullmatch(r"snowgreen(_[a-z]+)+", name)
        assert (family.type == "counter") == name.endswith("_total")
        assert re.fullmatch(r"[A-Z][^\n]*\.", family.documentation)
        assert family.type in ("counter", "gauge", "histogram")
        assert not re.search(r"_(count|sum|bucket|created)$", name)
        assert not re.search(r"milli|micro|kilo|minute|percent", name)
        if family.type == "histogram" or "time" in name or "duration" in name:
            assert name.endswith("_seconds")
        if "bytes" in name:
            assert re.search(r"_bytes(_total)?$", name)
        assert all(re.fullmatch("[a-z]+", label) for label in labels_of(family))


def test_the_page_is_plain_text_that_ends_in_a_line_break(node: snowgreen.Node):
    """The content type is that of Prometheus' text format, and every metric has its HELP and its TYPE once."""
    body, kind = metrics.exposition(node)
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    assert body.endswith(b"\n")
    text = body.decode()
    for name in EXPECTED:
        assert len(re.findall(rf"^# HELP {name} .+$", text, re.MULTILINE)) == 1
        assert len(re.findall(rf"^# TYPE {name} \w+$", text, re.MULTILINE)) == 1


def test_what_links_do_is_counted(make_node: MakeNode):
    """Links, handshakes of both outcomes, dials, round trips, and every byte, on both ends alike."""
    server, client = make_node(), make_node(listen=False)
    session = client.connect(server.name)
    session.ping()
    stranger = make_node(cookie="another cookie altogether", listen=False)
    with pytest.raises(snowgreen.AuthenticationError):
        stranger.connect(server.name)
    until(lambda: server.journal.failed, "the server knows")
    here, there = scraped(client), scraped(server)

    def of(found: Series, node: snowgreen.Node, name: str, **labels: str) -> float:
        return found[f"snowgreen_{name}", tuple(sorted({"node": node.name, **labels}.items()))]

    assert of(here, client, "links", form="bound", direction="outbound") == 1
    assert of(here, client, "links", form="bound", direction="inbound") == 0
    assert of(there, server, "links", form="bound", direction="inbound") == 1
    assert of(there, server, "links_established_total", form="bound", direction="inbound") == 1
    assert of(there, server, "handshakes_total", outcome="ok", form="bound", direction="inbound") == 1
    failed = {"outcome": "authentication", "form": "unknown"}
    assert of(there, server, "handshakes_total", **failed, direction="inbound") == 1
    assert value(stranger, "handshakes_total", **failed, direction="outbound") == 1
    assert of(here, client, "dials_total") == 1
    assert of(here, client, "handshake_duration_seconds_count", direction="outbound") == 1
    assert 0 < of(here, client, "handshake_duration_seconds_sum", direction="outbound") < 10
    assert of(here, client, "rtt_seconds_count") == 1
    assert of(here, client, "rtt_seconds_sum") == session.rtt
    assert of(here, client, "sent_bytes_total") == of(there, server, "received_bytes_total") > 0
    assert of(here, client, "received_bytes_total") == of(there, server, "sent_bytes_total") > 0
    assert of(here, client, "sent_frames_total") == of(there, server, "received_frames_total") == 1


def test_a_histogram_counts_up_to_each_bound(node: snowgreen.Node):
    """Buckets hold all values up to their bound, the last one all there are."""
    for rtt in (0.0001, 0.002, 0.002, 9.0):
        node.journal.rtts.observe(rtt)
    assert value(node, "rtt_seconds_bucket", le="0.0001") == 1
    assert value(node, "rtt_seconds_bucket", le="0.0025") == 3
    assert value(node, "rtt_seconds_bucket", le="2.5") == 3
    assert value(node, "rtt_seconds_bucket", le="+Inf") == value(node, "rtt_seconds_count") == 4
    assert value(node, "rtt_seconds_sum") == pytest.approx(9.0041)


def test_what_events_tell_is_counted(node: snowgreen.Node):
    """Stalls, refusals, messages that nobody got, and links by whether they were lost."""
    record = node.journal.record
    record(LoopStalled(1.5, 0.0))
    record(LoopStalled(2.0, 0.0))
    record(ConnectionsRefused(5, "1.2.3.4:5", "too many", 0.0))
    record(MessagesDropped("a@h", "box", 3, "full", sent=True, at=0.0))
    record(MessagesDropped("a@h", "box", 4, "full", sent=False, at=0.0))
    node.journal.redials = 6
    end(node, stand_in(node, 1))
    expected = {
        ("loop_stalls_total", ()): 2,
        ("loop_stalled_seconds_total", ()): 3.5,
        ("connections_refused_total", ()): 5,
        ("messages_dropped_total", (("direction", "outbound"),)): 3,
        ("messages_dropped_total", (("direction", "inbound"),)): 4,
        ("redials_total", ()): 6,
        ("links_ended_total", (("lost", "yes"),)): 1,
        ("links_ended_total", (("lost", "no"),)): 0,
    }
    assert {key: value(node, key[0], **dict(key[1])) for key in expected} == expected


def test_outboxes_are_summed_and_the_fullest_is_told(node: snowgreen.Node):
    """Bytes that wait, on all links and on the worst, and how many links wait for their peer."""
    assert value(node, "outbox_largest_bytes") == 0
    for number, waiting in enumerate((100, 0, 300)):
        stand_in(node, number, waiting=waiting)
    for number in range(3, metrics._SLICE * 2):
        stand_in(node, number)
    assert value(node, "outbox_bytes") == 400
    assert value(node, "outbox_largest_bytes") == 300
    assert value(node, "links_waiting") == 2


def test_kept_peers_are_counted_without_the_node_itself(make_node: MakeNode):
    """The same list of peers can be given to all nodes, and those that are missing are the difference."""
    server = make_node()
    client = make_node("kept@127.0.0.1:0", peers=[server.name, "127.0.0.1:1"], listen=False)
    client.keep(client.name)
    until(lambda: value(client, "kept_peers_linked") == 1, "the peer is linked")
    assert value(client, "kept_peers") == 2
    client.stop()
    assert value(client, "kept_peers") == value(client, "kept_peers_linked") == 0


def test_a_node_that_is_not_started_says_so(make_node: MakeNode):
    """Info, start and start time of a node in its lives, and between them."""
    node = make_node("early@127.0.0.1:0", start=False)
    assert value(node, "node_started") == 0
    assert value(node, "node_info", version=__version__, incarnation="") == 1
    assert not any(name == "snowgreen_node_start_time_seconds" for name, _ in scraped(node))
    node.start()
    assert value(node, "node_started") == 1
    assert value(node, "node_info", version=__version__, incarnation=str(node.incarnation)) == 1
    assert value(node, "node_start_time_seconds") == node.started_at


def test_no_counter_goes_down_when_a_node_stops_and_starts(make_node: MakeNode):
    """Through links that end, a stop and a new life, every counter only grows."""
    server = make_node()
    client = make_node(f"fixed@127.0.0.1:{free_port()}")
    counters = {name for name in EXPECTED if name.endswith("_total")}
    before: Series = {}

    def look() -> Series:
        nonlocal before
        now = {key: found for key, found in scraped(client).items() if key[0] in counters}
        assert all(now[key] >= old for key, old in before.items()), (before, now)
        before = now
        return now

    look()
    client.connect(server.name).ping()
    look()
    client.sessions[server.name].close()
    look()
    client.connect(server.name).ping()
    client.stop()
    stopped = look()
    client.start()
    assert look() == stopped
    client.connect(server.name).ping()
    assert look()["snowgreen_sent_frames_total", (("node", client.name),)] > 4


def free_port() -> int:
    """A port that nothing listens on."""
    with gevent.socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_links_that_end_during_a_scrape_are_counted_once(node: snowgreen.Node, monkeypatch: Any):
    """Ended before or after the scrape came to them: what they carried is in it, and not twice."""
    sessions = [stand_in(node, number) for number in range(metrics._SLICE * 3)]
    monkeypatch.setattr(node._endpoint.table.ids, "release", lambda _: None)

    def ending() -> None:
        for session in (sessions[0], sessions[-1]):  # one that was looked at already, one that was not
            end(node, session)
        stand_in(node, 100_000)  # too late for this scrape, as a whole

    scraping = gevent.spawn(scraped, node)
    interfering = gevent.spawn(ending)
    gevent.joinall([scraping, interfering], timeout=10, raise_error=True)
    key = ("snowgreen_received_bytes_total", (("node", node.name),))
    assert scraping.value[key] == len(sessions) * 7
    assert scraped(node)[key] == (len(sessions) + 1) * 7


def test_a_scrape_of_many_links_gives_way(node: snowgreen.Node):
    """Between two slices of links the loop has its turn."""
    for number in range(metrics._SLICE * 4):
        stand_in(node, number)
    turns = 0

    def count() -> None:
        nonlocal turns
        while not scraping.dead:
            turns += 1
            gevent.sleep(0)

    scraping = gevent.spawn(metrics.exposition, node)
    counting = gevent.spawn(count)
    gevent.joinall([scraping, counting], timeout=10, raise_error=True)
    assert turns >= 3


def test_a_scrape_from_another_thread_makes_no_hub_there(node: snowgreen.Node):
    """prometheus_client's own server answers each request in a new thread: none must leave a loop behind."""
    for number in range(metrics._SLICE * 2):
        stand_in(node, number)
    seen: list[Any] = []

    def scrape() -> None:
        seen.append(scraped(node)["snowgreen_sent_bytes_total", (("node", node.name),)])
        seen.append(get_hub_if_exists())

    thread = threading.Thread(target=scrape)
    thread.start()
    thread.join(10)
    assert seen == [metrics._SLICE * 2 * 7, None]


def test_a_session_that_was_missed_takes_nothing_back(node: snowgreen.Node):
    """Seen from another thread, a link may be gone and not counted yet: the total stays where it was."""
    session = stand_in(node, 1, size=50)
    assert value(node, "sent_bytes_total") == 50
    del node._sessions[session.peer]
    assert value(node, "sent_bytes_total") == 50
    node.journal.bytes_sent += 60
    assert value(node, "sent_bytes_total") == 60


def test_no_label_holds_what_a_peer_chose(make_node: MakeNode):
    """A thousand strangers, addresses, names and codes make no new series."""
    node = make_node()
    before = set(scraped(node))
    for number in range(1000):
        error = Rejected("no", code=number, peer=f"evil{number}@h")
        node.journal.record(HandshakeFailed(f"evil{number}@h", f"10.1.{number}.9:5", False, error, 0.0))
    client = make_node("evil0@127.0.0.1:0")
    client.connect(node.name)
    assert set(scraped(node)) == before
    assert len(before) < 110
    assert value(node, "handshakes_total", outcome="rejected", form="unknown", direction="inbound") == 1000
    assert b"evil" not in metrics.exposition(node)[0]


def test_several_nodes_are_told_apart_by_their_label(make_node: MakeNode):
    """One collector takes any number of nodes, also such as have the same name while they are not started."""
    one, two = make_node(), make_node()
    twins = [make_node("twin@127.0.0.1:0", start=False) for _ in range(2)]
    nodes = {dict(labels)["node"] for _, labels in scraped(one, two, *twins)}
    assert nodes == {one.name, two.name, "twin@127.0.0.1:0", "twin@127.0.0.1:0 #2"}


def test_a_collector_goes_into_a_registry_of_prometheus_client(make_node: MakeNode):
    """It can be registered, is refused twice, and nodes come and go."""
    one, two = make_node(), make_node()
    registry = prometheus_client.CollectorRegistry(auto_describe=True)
    collector = metrics.Collector(one)
    registry.register(collector)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(metrics.Collector(two))
    collector.add(two)
    for node in (one, two):
        assert registry.get_sample_value("snowgreen_node_started", {"node": node.name}) == 1
    collector.discard(one)
    assert registry.get_sample_value("snowgreen_node_started", {"node": one.name}) is None
    assert registry.get_sample_value("snowgreen_node_started", {"node": two.name}) == 1
    registry.unregister(collector)
    assert list(registry.collect()) == []


def test_without_prometheus_client_the_error_says_what_to_install():
    """Everything else works; only this module wants the extra."""
    code = "import sys; sys.modules['prometheus_client'] = None; import snowgreen, snowgreen.metrics"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 1
    assert "ImportError: snowgreen.metrics needs the package prometheus-client: pip install" in run.stderr


# The dashboard.


def expressions() -> list[str]:
    """Every query of the dashboard."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    assert len(found) > 20
    return found


def named(text: str) -> str:
    """The metric that a series in a query belongs to."""
    return re.sub(r"_(bucket|sum|count)$", "", text)


def test_the_dashboard_asks_for_metrics_and_labels_that_there_are(node: snowgreen.Node):
    """Each name in its queries is exposed, and each label that is matched or grouped by is one of that metric."""
    shown = families(node)
    for expression in expressions():
        names = re.findall(r"snowgreen_\w+", expression)
        assert names, expression
        known = {"node", "le"} | set.union(*(EXPECTED[named(name)] for name in names))
        for name in names:
            family = shown[named(name)]
            assert (family.type == "histogram") == name.endswith("_bucket")
            assert (family.type != "gauge") == bool(re.search(rf"(rate|increase)\({name}\{{", expression))
        for name, matchers in re.findall(r"(snowgreen_\w+)\{([^}]*)\}", expression):
            for label in re.findall(r"(\w+)\s*=~?|(\w+)!=", matchers):
                assert (label[0] or label[1]) in {"node"} | EXPECTED[named(name)], expression
            assert 'node=~"$node"' in matchers
        for group in re.findall(r"by \(([^)]*)\)", expression):
            assert set(re.split(r",\s*", group)) <= known, expression
        assert expression.count("{") == len(names)


def test_a_legend_speaks_of_labels_that_its_query_keeps():
    """What stands in {{braces}} is a label that the query groups by, or a raw series has."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            groups = re.findall(r"by \(([^)]*)\)", target["expr"])
            kept = set(re.split(r",\s*", groups[0])) - {"le"} if groups else {"node"}
            assert wanted in (kept, set()), target


def test_every_metric_is_on_the_dashboard():
    """Nothing is exposed that one cannot look at."""
    drawn = {named(name) for expression in expressions() for name in re.findall(r"snowgreen_\w+", expression)}
    assert drawn == set(EXPECTED)


def test_the_dashboard_is_one_that_grafana_takes():
    """Its data source is a variable throughout, panels have numbers of their own, and none lies on another."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["node"]["query"]["query"] == "label_values(snowgreen_node_info, node)"
    assert variables["node"]["datasource"] == source
    assert DASHBOARD["id"] is None
    assert DASHBOARD["schemaVersion"] >= 39
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == source
            assert panel["description"]
            assert all(target["datasource"] == source for target in panel["targets"])
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


# The page.


def test_the_page_lists_every_metric_with_its_labels_and_nothing_else():
    """The table of docs/metrics.md is what the collector exposes."""
    rows = re.findall(r"^\| `(snowgreen_\w+)` \| (\w+) \| (.*?) ?\| (.*?) \|$", PAGE, re.MULTILINE)
    listed = {name: set(re.findall(r"`(\w+)`", labels)) for name, _, labels, _ in rows}
    assert listed == EXPECTED
    kinds = {f"snowgreen_{name}": kind for name, kind, _, _ in metrics._METRICS}
    for name, kind, _, _ in rows:
        assert kinds[name].__name__.lower().startswith(kind)


def test_the_code_of_the_page_runs(tmp_path: Path):
    """The program of docs/metrics.md prints what its comments promise, as its reader would run it."""
    code = "".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    env = {"PATH": "", "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "SNOWGREEN_COOKIE": COOKIE}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    shown = re.findall(r"^ *print\(.*\) +# (.*)$", code, re.MULTILINE)
    assert len(shown) == 3
    assert run.stdout.splitlines() == shown
