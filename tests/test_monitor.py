"""Monitors: the ups and downs of one peer, from the link there is on, each told once and in order."""

from __future__ import annotations

import contextlib
import gc
import random
from typing import Any

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import snowgreen
from snowgreen import Event, EventsDropped, HandshakeFailed, Monitor, NodeDown, NodeUp
from snowgreen.link.bus import Bus
from tests import raw
from tests.conftest import COOKIE, MakeNode
from tests.waiting import until

PEERS = ["a@h", "b@h", "c@h"]


def up(number: int, peer: str = "a@h") -> NodeUp:
    return NodeUp(peer, number, "bound", True, float(number))


def down(number: int, peer: str = "a@h") -> NodeDown:
    return NodeDown(peer, number, "test", float(number))


def taking_turns(seen: list[Any]) -> bool:
    """Whether they are a NodeUp, its NodeDown, a NodeUp, and so on."""
    kinds = [type(event) for event in seen]
    lives = [event.incarnation for event in seen]
    pairs = list(zip(lives[::2], lives[1::2], strict=False))
    return kinds == ([NodeUp, NodeDown] * len(kinds))[: len(kinds)] and all(a == b for a, b in pairs)


# At the bus.


def test_of_a_linked_peer_the_first_item_is_the_event_that_was_published() -> None:
    """A monitor begins with the very NodeUp of the present link, and goes on with what follows."""
    bus, event = Bus(3), up(1)
    bus.publish(event)
    bus.publish(up(2, "b@h"))
    monitor = bus.monitor("a@h")
    bus.publish(down(1))
    bus.publish(down(2, "b@h"))
    assert monitor.get(0) is event
    assert monitor.get(0) == down(1)
    assert monitor.get(0) is None


def test_of_a_peer_that_is_not_linked_the_first_item_is_its_next_up() -> None:
    """Nothing is told of former links, of other peers, or of anything but ups and downs."""
    bus = Bus(3)
    bus.publish(up(1))
    bus.publish(down(1))
    monitor = bus.monitor("a@h")
    bus.publish(up(5, "b@h"))
    bus.publish(HandshakeFailed("a@h", "h:1", True, snowgreen.Unreachable("no"), 1.0))
    bus.publish(up(2))
    assert [monitor.get(0), monitor.get(0)] == [up(2), None]


def test_up_is_what_the_last_item_says() -> None:
    """`up` follows the reader: None before the first event and where events were lost, else what was read last."""
    bus = Bus(2)
    bus.publish(up(1))
    monitor = bus.monitor("a@h")
    assert (monitor.peer, monitor.up) == ("a@h", None)
    assert monitor.get(0) == up(1)
    assert monitor.get(0) is None
    assert monitor.up is True
    for number in range(1, 4):
        bus.publish(down(number))
        bus.publish(up(number + 1))
    assert monitor.up is True  # nothing of it was read
    assert monitor.get(0) == EventsDropped(4)
    assert monitor.up is None
    assert monitor.get(0) == down(3)
    assert monitor.up is False
    assert monitor.get(0) == up(4)
    assert monitor.up is True


def test_the_first_item_can_be_dropped_too() -> None:
    """The bound holds for the NodeUp that a monitor begins with, and it is counted with the others."""
    bus = Bus(1)
    bus.publish(up(1))
    monitor = bus.monitor("a@h")
    bus.publish(down(1))
    assert [monitor.get(0) for _ in range(3)] == [EventsDropped(1), down(1), None]


def test_a_monitor_is_closed_like_a_subscription() -> None:
    """Leaving the block ends it after what waits; others of the same peer go on, and the bus forgets it."""
    bus = Bus(3)
    other = bus.monitor("a@h")
    with bus.monitor("a@h") as monitor:
        assert type(monitor) is Monitor
        assert repr(monitor) == "<Monitor of a@h open, 0 waiting, 0 dropped>"
        bus.publish(up(1))
    bus.publish(down(1))
    assert list(monitor) == [up(1)]
    assert [other.get(0), other.get(0)] == [up(1), down(1)]
    assert len(bus._monitors["a@h"]) == 1


def test_the_end_of_the_bus_ends_monitors() -> None:
    """A consumer that waits for the next event of a peer is released when the node stops."""
    bus = Bus(3)
    jobs = [gevent.spawn(list, bus.monitor(peer)) for peer in PEERS for _ in range(2)]
    gevent.idle()
    bus.publish(up(1))
    bus.close()
    assert [job.get(timeout=5) for job in jobs] == [[up(1)], [up(1)], [], [], [], []]


def test_a_monitor_that_is_dropped_costs_nothing_more() -> None:
    """Monitors that nobody holds any more leave nothing behind, however many names there were."""
    bus = Bus(3)
    for number in range(100):
        bus.monitor(f"n{number}@h")
    kept = bus.monitor("kept@h")
    gc.collect()
    assert list(bus._monitors) == ["kept@h"]
    del kept
    gc.collect()
    assert not bus._monitors


def test_an_event_costs_those_who_wait_for_it() -> None:
    """Publishing for one peer does not touch the monitors of ten thousand others."""
    bus, touched = Bus(3), []

    class Watched(Monitor):
        def put(self, event: Event) -> None:
            touched.append(self.peer)
            super().put(event)

    monitors = [bus.monitor(f"n{number}@h") for number in range(10_000)]
    for monitor in monitors:
        monitor.__class__ = Watched
    bus.publish(up(1, "n7@h"))
    assert touched == ["n7@h"]


#: What happens next: to a peer, "monitor" it, have its link "change", or be "replaced"; or let consumers run.
steps = st.lists(
    st.tuples(st.sampled_from(["monitor", "change", "replace", "run"]), st.sampled_from(PEERS)), max_size=60
)


@given(steps)
@settings(max_examples=200, deadline=None)
def test_every_interleaving_is_told_once_and_in_order(script: list[tuple[str, str]]) -> None:
    """Monitors made at any point see exactly the ups and downs from there on, the present link's up first."""
    bus, clock = Bus(1000), iter(range(10_000))
    linked: dict[str, int] = {}
    history: dict[str, list[Any]] = {peer: [] for peer in PEERS}
    jobs: list[tuple[Any, str, int]] = []

    def publish(event: Any) -> None:
        history[event.peer].append(event)
        bus.publish(event)

    def rise(peer: str) -> None:
        linked[peer] = next(clock)
        publish(up(linked[peer], peer))

    for step, peer in script:
        if step == "monitor":
            since = len(history[peer]) - (peer in linked)
            jobs.append((gevent.spawn(list, bus.monitor(peer)), peer, since))
        elif step == "run":
            gevent.sleep(0)
        elif peer not in linked:
            rise(peer)
        else:
            publish(down(linked.pop(peer), peer))
            if step == "replace":
                rise(peer)
    bus.close()
    for job, peer, since in jobs:
        seen = job.get(timeout=5)
        assert seen == history[peer][since:]
        assert taking_turns(seen)


# At the node.


def test_links_made_and_lost_while_monitors_come_and_go(make_node: MakeNode) -> None:
    """With links made and ended from both sides at random, each monitor sees all of them from its call on."""
    a, b, chance = make_node(), make_node(), random.Random(5)
    log, events = a.subscribe(), []
    jobs: list[tuple[Any, int]] = []

    def drain() -> None:
        while (event := log.get(0)) is not None:
            if not isinstance(event, HandshakeFailed):  # of a dial that met the end of a link
                events.append(event)

    def monitoring() -> None:
        while len(jobs) < 40:
            drain()
            since = len(events) - (b.name in a.sessions)
            jobs.append((gevent.spawn(list, a.monitor(b.name)), since))
            gevent.sleep(chance.random() / 200)

    watching = gevent.spawn(monitoring)
    while not watching.ready():
        x, y = chance.sample([a, b], 2)
        with contextlib.suppress(snowgreen.LinkError):
            x.connect(y.name, timeout=10)
        gevent.sleep(chance.random() / 200)
        x, y = chance.sample([a, b], 2)
        if y.name in x.sessions:
            x.sessions[y.name].close()
    watching.get()
    a.stop()
    drain()
    assert len(events) > 10
    for job, since in jobs:
        seen = job.get(timeout=5)
        assert seen == events[since:]
        assert taking_turns(seen)


def test_two_monitors_of_one_peer_each_get_all(make_node: MakeNode) -> None:
    """One made before the link and one after see the same: the up as it was published, and the down."""
    a, b = make_node(), make_node()
    with a.monitor(b.name) as early, a.subscribe() as events:
        session = a.connect(b.name)
        with a.monitor(b.name) as late:
            published = events.get(5)
            assert published == NodeUp(b.name, b.incarnation, "bound", True, session.connected_at)
            session.close("enough")
            for monitor in (early, late):
                assert monitor.get(5) is published
                assert monitor.up is True
                gone = monitor.get(5)
                assert isinstance(gone, NodeDown)
                assert (gone.peer, gone.reason, monitor.up) == (b.name, "enough", False)


def test_a_link_that_is_replaced_goes_down_before_the_new_one_comes_up(make_node: MakeNode) -> None:
    """A new life of the peer, dialing in over a link that looks alive, is a NodeDown and then a NodeUp."""
    a = make_node()
    with a.monitor("raw@127.0.0.1:0") as monitor:
        old, _ = raw.link(a.address, incarnation=1 << 40)
        new, _ = raw.link(a.address, incarnation=2 << 40)
        seen = [monitor.get(5) for _ in range(3)]
    assert [type(event) for event in seen] == [NodeUp, NodeDown, NodeUp]
    assert [event.incarnation >> 40 for event in seen] == [1, 1, 2]
    old.close()
    new.close()


def test_a_monitor_lives_as_long_as_its_nodes_life(make_node: MakeNode) -> None:
    """Made before the start it is for the life that follows, and ends with it; the next life has its own."""
    a, b = make_node(start=False), make_node()
    for _ in range(2):
        monitor = a.monitor(b.name)
        assert monitor.get(0) is None
        a.start()
        a.connect(b.name)
        stopping = gevent.spawn(a.stop)
        until(lambda: not a.started, "it stops")
        following = a.monitor(b.name)  # though the last link may not have ended yet
        stopping.get(timeout=10)
        assert [type(event) for event in monitor] == [NodeUp, NodeDown]
        assert following.get(0) is None


@pytest.mark.parametrize("peer", ["127.0.0.1:9000", "[::1]:9000", "nonsense", "a@b@c", 7, None])
def test_a_monitor_needs_a_node_name(peer: Any) -> None:
    """What is no node name is refused as such; an address is told from it, since its name may change."""
    node = snowgreen.Node("a@127.0.0.1:0", cookie=COOKIE)
    with pytest.raises(snowgreen.InvalidName) as caught:
        node.monitor(peer)
    assert caught.value.argument == "peer"
    if isinstance(peer, str) and peer.endswith(":9000"):
        assert f"a monitor needs a name: name@{peer}" in str(caught.value)
