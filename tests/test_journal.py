"""What a node remembers: counts, the newest events, failures by cause and address, all with a bound."""

from __future__ import annotations

import gc
import weakref

import pytest

import snowgreen
from snowgreen import errors
from snowgreen.events import (
    ConnectionsRefused,
    HandshakeFailed,
    LoopStalled,
    MessagesDropped,
    NodeDown,
    NodeUp,
)
from snowgreen.link.journal import CAUSES, KINDS, RECENT, Histogram, Journal, cause, host_of
from tests.conftest import MakeNode
from tests.waiting import until


def failed(number: int, problem: str = "it did not answer", *, initiated: bool = False) -> HandshakeFailed:
    """A failed handshake with an address of its own."""
    return HandshakeFailed(
        None, f"10.0.{number // 256}.{number % 256}:7", initiated, errors.LinkTimeout(problem), 5.0
    )


def test_the_newest_events_are_remembered_and_no_more():
    """However many there are, the last 500 stay, in order."""
    journal = Journal()
    for number in range(RECENT + 7):
        journal.record(LoopStalled(1.0, float(number)))
    assert [event.at for event in journal.recent] == [float(number) for number in range(7, RECENT + 7)]
    assert journal.stalls == RECENT + 7
    assert journal.stalled == RECENT + 7.0


def test_failures_are_counted_by_cause_and_address_the_newest_last():
    """A second failure of one kind counts up, replaces the words, and moves behind the others."""
    journal = Journal()
    journal.record(failed(1, "first"))
    journal.record(failed(2))
    journal.record(failed(1, "second"))
    journal.record(failed(1, initiated=True))
    kinds = list(journal.failures.values())
    assert [(kind.host, kind.initiated, kind.count) for kind in kinds] == [
        ("10.0.0.2", False, 1),
        ("10.0.0.1", False, 2),
        ("10.0.0.1", True, 1),
    ]
    assert kinds[1].last.error.problem == "second"
    assert journal.failed == {("link_timeout", False): 3, ("link_timeout", True): 1}


def test_addresses_of_an_attack_push_each_other_out_and_are_still_counted():
    """Of more addresses than are remembered the newest stay, and the count by cause is of all."""
    journal = Journal()
    for number in range(KINDS + 3):
        journal.record(failed(number))
    assert len(journal.failures) == KINDS
    assert next(iter(journal.failures))[1] == "10.0.0.3"
    assert journal.failed["link_timeout", False] == KINDS + 3


def test_an_ipv6_address_is_kept_whole():
    """What is cut off an address is its port."""
    journal = Journal()
    error = errors.TLSError("no")
    journal.record(HandshakeFailed(None, "[::1]:5", False, error, 0.0))
    assert [key[:2] for key in journal.failures] == [("tls", "[::1]")]


def test_what_events_count_is_counted():
    """Downs by whether they were meant, refusals and dropped messages by their number."""
    journal = Journal()
    journal.record(NodeUp("a@h", 1, "bound", True, 0.0))
    journal.record(NodeDown("a@h", 1, "gone", 0.0, lost=True))
    journal.record(NodeDown("a@h", 1, "left", 0.0, lost=False))
    journal.record(ConnectionsRefused(5, "1.2.3.4:5", "too many", 0.0))
    journal.record(MessagesDropped("a@h", "box", 3, "full", sent=True, at=0.0))
    assert (journal.lost[True], journal.lost[False]) == (1, 1)
    assert journal.refused == 5
    assert journal.messages_dropped == {True: 3}


def test_a_value_is_counted_at_the_first_bound_that_it_does_not_exceed():
    """A bound holds the values up to and with itself, the last count those above all."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.total == 14.0


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (errors.AuthenticationError("x"), "authentication"),
        (errors.NotTLSError("x"), "not_tls"),
        (errors.LinkTimeout("x"), "link_timeout"),
        (errors.Rejected("x", code=3), "rejected"),
    ],
)
def test_a_cause_is_a_word(error: errors.LinkError, word: str):
    """The kind of an error, as labels and tables have it."""
    assert cause(error) == word


def test_the_causes_are_those_of_all_errors_of_a_link():
    """Whoever counts by cause knows all of them beforehand."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    linking = [kind for kind in kinds if issubclass(kind, errors.LinkError) and kind is not errors.LinkError]
    assert set(CAUSES) == {cause(kind.__new__(kind)) for kind in linking}
    assert len(CAUSES) == len(linking) == 11


@pytest.mark.parametrize(
    ("address", "host"),
    [("1.2.3.4:5", "1.2.3.4"), ("[::1]:5", "[::1]"), ("h.example:5", "h.example"), ("x", "x")],
)
def test_the_host_of_an_address(address: str, host: str):
    """What is cut off is the port."""
    assert host_of(address) == host


def test_a_total_that_was_shown_does_not_go_down():
    """Each total for itself: what was shown once is the least that is shown from then on."""
    journal = Journal()
    assert [journal.risen("a", total) for total in (-3, 5, 4, 6)] == [0, 5, 5, 6]
    assert journal.risen("b", 1) == 1


def test_a_node_counts_what_its_links_do(make_node: MakeNode):
    """Dials, links by form, times of handshakes, round trips, and what the links had carried when they ended."""
    server, client = make_node(), make_node(listen=False)
    session = client.connect(server.name)
    session.ping()
    accepted = server.sessions[client.name]
    assert (client.journal.dials, server.journal.dials) == (1, 0)
    assert client.journal.links == {("bound", True): 1}
    assert server.journal.links == {("bound", False): 1}
    assert sum(client.journal.handshakes[True].counts) == sum(server.journal.handshakes[False].counts) == 1
    assert 0 < client.journal.handshakes[True].total < 10
    assert sum(client.journal.rtts.counts) == 1
    assert client.journal.rtts.total == session.rtt
    session.close()
    until(lambda: accepted.closed, "the link ends")
    assert client.journal.bytes_sent == session.bytes_sent > 0
    assert client.journal.frames_sent == session.frames_sent == 2  # PING and GOODBYE
    assert server.journal.bytes_received == accepted.bytes_received == session.bytes_sent
    assert server.journal.frames_received == 2
    assert server.journal.lost == {False: 1}


def test_a_journal_goes_on_through_a_restart(make_node: MakeNode):
    """Stopping a node and starting it again forgets nothing."""
    node = make_node()
    with pytest.raises(snowgreen.LinkError):
        node.connect("gone@127.0.0.1:1")
    node.stop()
    node.start()
    assert node.journal.failed == {("unreachable", True): 1}
    assert [type(event) for event in node.journal.recent] == [HandshakeFailed]


def test_what_is_remembered_of_a_failure_keeps_nothing_alive(make_node: MakeNode):
    """Neither the handshake, which has keys, nor what whoever dialed was at, hangs on the remembered error."""
    node = make_node()
    target = f"nobody@{make_node().address}"

    class Held:
        pass

    def dials() -> weakref.ref[Held]:
        held = Held()
        with pytest.raises(errors.NameMismatch):
            node.connect(target)
        return weakref.ref(held)

    held = dials()
    until(lambda: gc.collect() >= 0 and held() is None, "nothing holds it")
    event = node.journal.recent[-1]
    assert isinstance(event, HandshakeFailed)
    assert isinstance(event.error, errors.NameMismatch)
    assert event.error.peer == target
    assert event.error.__traceback__ is None
