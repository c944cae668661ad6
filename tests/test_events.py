"""Events: frozen values, each with a text that a person can read."""

import dataclasses
import pickle
import typing

import pytest

from snowgreen.errors import AuthenticationError
from snowgreen.events import (
    CertificateProblem,
    ConnectionsRefused,
    Event,
    EventsDropped,
    HandshakeFailed,
    LoopStalled,
    MessagesDropped,
    NodeDown,
    NodeUp,
    PeerListRefused,
)

ERROR = AuthenticationError("the cookies differ", peer="bob@h:1")

EVENTS = [
    (NodeUp("bob@h:1", 7, "bound", True, 1.5), "bob@h:1 is up (dialed, bound)"),
    (NodeUp("bob@h:1", None, "classic", False, 1.5), "bob@h:1 is up (accepted, classic)"),
    (NodeDown("bob@h:1", 7, "no answer to a ping", 1.5), "bob@h:1 is down: no answer to a ping"),
    (HandshakeFailed(None, "h:1", True, ERROR, 1.5), "the link to h:1 failed: the cookies differ"),
    (
        HandshakeFailed("bob@h:1", "10.0.0.1:7", False, ERROR, 1.5),
        "the link from 10.0.0.1:7, which claims to be bob@h:1, failed: the cookies differ",
    ),
    (
        ConnectionsRefused(12, "10.0.0.1:7", "its source connects too often", 1.5),
        "12 connections were refused at the door, the last from 10.0.0.1:7: its source connects too often",
    ),
    (LoopStalled(2.34, 1.5), "this process's event loop was blocked for 2.3 s"),
    (NodeDown("bob@h:1", 7, "it said goodbye", 1.5, lost=False), "bob@h:1 has left: it said goodbye"),
    (
        CertificateProblem("tls.key: /k does not exist", 1.5),
        "the renewed certificate cannot be used, and the former one stays in force: tls.key: /k does not exist",
    ),
    (
        MessagesDropped("bob@h:1", "jobs", 3, "it is full", True, 1.5),
        "3 messages to bob@h:1 for 'jobs' were not delivered: it is full",
    ),
    (
        MessagesDropped("bob@h:1", "jobs", 1, "it is full", False, 1.5),
        "1 message from bob@h:1 to 'jobs' was not delivered: it is full",
    ),
    (PeerListRefused("bob@h:1", 2, "odd", 1.5), "2 names in the peer list of bob@h:1 refused: odd"),
    (PeerListRefused("bob@h:1", 1, "odd", 1.5), "1 name in the peer list of bob@h:1 refused: odd"),
    (EventsDropped(3), "3 events were dropped: this subscriber reads too slowly"),
]
every_event = pytest.mark.parametrize(("event", "text"), EVENTS)


@every_event
def test_an_event_reads_as_a_sentence(event, text):
    """str() says who, what and why, and marks what was only claimed."""
    assert str(event) == text


@every_event
def test_an_event_is_frozen_and_closed(event, text):
    """A subscriber cannot change what the next one sees, nor hang anything on it."""
    for item in dataclasses.fields(event):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(event, item.name, None)
    assert not hasattr(event, "__dict__")


@every_event
def test_an_event_is_a_value(event, text):
    """Equal content is an equal event, usable in a set."""
    twin = dataclasses.replace(event)
    assert twin == event
    assert hash(twin) == hash(event)
    assert twin is not event


@pytest.mark.parametrize("event", [event for event, _ in EVENTS if not isinstance(event, HandshakeFailed)])
def test_an_event_survives_pickling(event):
    """Events can be handed to another process."""
    assert pickle.loads(pickle.dumps(event)) == event


@pytest.mark.parametrize("event", [event for event, _ in EVENTS if isinstance(event, HandshakeFailed)])
def test_a_failure_survives_pickling_with_its_error(event):
    """Exceptions have no equality, so it is the error's type, text and peer that must come back."""
    back = pickle.loads(pickle.dumps(event))
    assert type(back.error) is AuthenticationError
    assert str(back.error) == str(event.error)
    assert back.error.peer == "bob@h:1"
    assert dataclasses.replace(back, error=ERROR) == event


def test_the_union_names_every_event():
    """A match over `Event` that a type checker calls complete is complete."""
    assert set(typing.get_args(Event)) == {type(event) for event, _ in EVENTS}
