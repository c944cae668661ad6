"""Prometheus metrics of nodes, for the extra ``snowgreen[metrics]``.

Nothing is counted here: a scrape reads what the nodes count anyway, and between two scrapes nothing happens.
Labels never hold what a peer chose, such as its name or address, so that the number of series has a bound
that no peer can move. ``docs/metrics.md`` lists them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, TypeAlias

import gevent

from ._version import __version__
from .link.journal import CAUSES, Histogram, Journal

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.registry import Collector as _Collector
except ImportError as error:
    raise ImportError(
        "snowgreen.metrics needs the package prometheus-client: pip install 'snowgreen[metrics]'",
        name=error.name,
    ) from error

if TYPE_CHECKING:
    from .link.session import Session
    from .node import Node

#: What :func:`exposition` returns beside the body.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

#: Links looked at before the loop gets a turn: about half a millisecond.
_SLICE = 1000
#: What sessions and the journal count alike.
_TOTALS = ("bytes_received", "bytes_sent", "frames_received", "frames_sent")
_FORMS = ("bound", "classic")
_WAYS = {False: "inbound", True: "outbound"}
_YES = {False: "no", True: "yes"}

_COUNTER, _GAUGE, _HISTOGRAM = CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

#: Name without its prefix, kind, help, and the labels beside ``node``.
_METRICS: tuple[tuple[str, type[_Family], str, tuple[str, ...]], ...] = (
    ("node_info", _GAUGE, "The node: always 1; the incarnation is empty while it is not started.",
     ("version", "incarnation")),
    ("node_started", _GAUGE, "Whether the node is started (1) or not (0).", ()),
    ("node_start_time_seconds", _GAUGE, "When the node was started, since the epoch.", ()),
    ("links", _GAUGE, "Links that are up.", ("form", "direction")),
    ("links_waiting", _GAUGE, "Links on which sending waits for the peer to read.", ()),
    ("links_established_total", _COUNTER, "Links that came up.", ("form", "direction")),
    ("links_ended_total", _COUNTER, "Links that ended: lost, or meant to end by one of the two sides.",
     ("lost",)),
    ("handshakes_total", _COUNTER, "Handshakes that ended, by outcome: ok, or the cause of the failure.",
     ("outcome", "form", "direction")),
    ("handshake_duration_seconds", _HISTOGRAM, "Time from accept, or from the start of a dial, to a link.",
     ("direction",)),
    ("rtt_seconds", _HISTOGRAM, "Round trips of answered pings.", ()),
    ("received_bytes_total", _COUNTER, "Payload bytes received on links.", ()),
    ("sent_bytes_total", _COUNTER, "Payload bytes sent on links.", ()),
    ("received_frames_total", _COUNTER, "Frames received on links.", ()),
    ("sent_frames_total", _COUNTER, "Frames sent on links.", ()),
    ("outbox_bytes", _GAUGE, "Bytes that wait to be sent, on all links together.", ()),
    ("outbox_largest_bytes", _GAUGE, "Bytes that wait to be sent on the link with most of them.", ()),
    ("loop_stalls_total", _COUNTER, "How often the event loop was blocked for a second or more.", ()),
    ("loop_stalled_seconds_total", _COUNTER, "For how long the event loop was blocked in these stalls.", ()),
    ("dials_total", _COUNTER, "TCP connections that were begun.", ()),
    ("redials_total", _COUNTER, "Dials of kept peers that were put off, to be tried again.", ()),
    ("connections_refused_total", _COUNTER, "Connections that were closed at the door, before TLS.", ()),
    ("messages_dropped_total", _COUNTER, "Messages that were not delivered.", ("direction",)),
    ("kept_peers", _GAUGE, "Peers that a link is kept with.", ()),
    ("kept_peers_linked", _GAUGE, "Kept peers that are linked.", ()),
)  # fmt: skip


class Collector(_Collector):
    """Gives a registry of prometheus_client the metrics of some nodes.

    ::

        prometheus_client.REGISTRY.register(snowgreen.metrics.Collector(node))

    Every series has the label ``node``, the node's name. A registry takes one such collector, which takes any
    number of nodes: at the beginning, or later by :meth:`add`. It holds on to them until :meth:`discard`.

    A scrape belongs into the thread (the gevent hub) of the nodes, where it gives way to other greenlets. One
    from another thread works, too; a link that ends in that very moment may then be missing from it.
    """

    def __init__(self, *nodes: Node) -> None:
        self._nodes = dict.fromkeys(nodes)

    def add(self, node: Node) -> None:
        """Tell of `node`, too."""
        self._nodes[node] = None

    def discard(self, node: Node) -> None:
        """Tell of `node` no longer."""
        self._nodes.pop(node, None)

    def describe(self) -> list[_Family]:
        """The metrics without their series: a registry asks whether it has them already."""
        return list(_Page().families.values())

    def collect(self) -> Iterator[_Family]:
        """The metrics as they are now."""
        page = _Page()
        taken: Counter[str] = Counter()
        for node in list(self._nodes):
            name = node.name
            taken[name] += 1  # as two nodes have it that are not started, or that only dial
            _write(page, node, name if taken[name] == 1 else f"{name} #{taken[name]}")
        yield from page.families.values()


def exposition(*nodes: Node) -> tuple[bytes, str]:
    """The metrics of `nodes`, as a page for Prometheus.

    :returns: the body, in Prometheus' text format, and the value of its ``Content-Type``.
    """
    registry = CollectorRegistry()
    registry.register(Collector(*nodes))
    return generate_latest(registry), CONTENT_TYPE


class _Page:
    """The families of one scrape."""

    def __init__(self) -> None:
        self.families = {
            name: kind(f"snowgreen_{name}", text, labels=("node", *labels))
            for name, kind, text, labels in _METRICS
        }

    def put(self, name: str, value: float, *labels: str) -> None:
        """Add a series to a counter or a gauge. The first label is the node."""
        family = self.families[name]
        assert not isinstance(family, HistogramMetricFamily)  # noqa: S101  # _write knows its metrics
        family.add_metric(labels, value)

    def spread(self, name: str, histogram: Histogram, *labels: str) -> None:
        """Add a series to a histogram."""
        family = self.families[name]
        assert isinstance(family, HistogramMetricFamily)  # noqa: S101  # the same
        bounds = (*map(str, histogram.bounds), "+Inf")
        counts = accumulate(list(histogram.counts))
        family.add_metric(labels, list(zip(bounds, counts, strict=True)), histogram.total)


def _write(page: _Page, node: Node, label: str) -> None:
    """Put all series of `node` on `page`."""
    incarnation, journal, sessions = node.incarnation, node.journal, list(node.sessions.values())
    # First the sums of the journal are taken, at once with the sessions: it is the only part that waits.
    _write_links(page, journal, label, sessions)
    page.put("node_info", 1, label, __version__, "" if incarnation is None else str(incarnation))
    page.put("node_started", int(incarnation is not None), label)
    if node.started_at is not None:
        page.put("node_start_time_seconds", node.started_at, label)
    kept, linked = node.keeping
    page.put("kept_peers", kept, label)
    page.put("kept_peers_linked", linked, label)
    _write_events(page, journal, label)


def _write_events(page: _Page, journal: Journal, label: str) -> None:
    """What has happened to a node: its journal has it ready."""
    page.put("loop_stalls_total", journal.stalls, label)
    page.put("loop_stalled_seconds_total", journal.stalled, label)
    page.put("dials_total", journal.dials, label)
    page.put("redials_total", journal.redials, label)
    page.put("connections_refused_total", journal.refused, label)
    page.spread("rtt_seconds", journal.rtts, label)
    for lost, word in _YES.items():
        page.put("links_ended_total", journal.lost[lost], label, word)
    failed = dict(journal.failed)
    causes = sorted({*CAUSES, *(why for why, _ in failed)})  # a counter is to be there before it first counts
    for initiated, way in _WAYS.items():
        page.put("messages_dropped_total", journal.messages_dropped[initiated], label, way)
        page.spread("handshake_duration_seconds", journal.handshakes[initiated], label, way)
        for form in _FORMS:
            made = journal.links[form, initiated]
            page.put("links_established_total", made, label, form, way)
            page.put("handshakes_total", made, label, "ok", form, way)
        for why in causes:
            page.put("handshakes_total", failed.get((why, initiated), 0), label, why, "unknown", way)


def _write_links(page: _Page, journal: Journal, label: str, sessions: list[Session]) -> None:
    """What the live links do, and what all links have carried.

    :param sessions: as they were when the journal had counted every other link that ever was, and none of
        these. One that ends meanwhile keeps what it had carried, so that it is counted once all the same.
    """
    totals = [getattr(journal, name) for name in _TOTALS]
    links: Counter[tuple[str, bool]] = Counter()
    waiting, most, blocked = 0, 0, 0
    for start in range(0, len(sessions), _SLICE):
        if start and isinstance(gevent.getcurrent(), gevent.Greenlet):
            gevent.sleep(0)  # never in a thread without gevent, where it would make a hub, and leave it there
        some = sessions[start : start + _SLICE]
        totals = [
            total + sum(map(of, some)) for total, of in zip(totals, map(attrgetter, _TOTALS), strict=True)
        ]
        links.update(map(attrgetter("form", "initiated"), some))
        sizes = list(map(attrgetter("bytes_waiting"), some))
        waiting, most = waiting + sum(sizes), max(most, *sizes)
        blocked += sum(session.state == "waiting" for session in some)
    for name, total in zip(_TOTALS, totals, strict=True):
        what, way = name.split("_")
        page.put(f"{way}_{what}_total", journal.risen(name, total), label)
    for form in _FORMS:
        for initiated, way in _WAYS.items():
            page.put("links", links[form, initiated], label, form, way)
    page.put("links_waiting", blocked, label)
    page.put("outbox_bytes", waiting, label)
    page.put("outbox_largest_bytes", most, label)
