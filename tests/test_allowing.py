"""The operator's allow-list: who is in it, whoever dials; and nobody learns of it who has not proved the cookie."""

from __future__ import annotations

import hmac
from typing import Any

import gevent
import pytest

import snowgreen
from snowgreen import HandshakeFailed, NodeUp, RejectCode
from snowgreen.allowing import AllowList
from snowgreen.protocol import messages
from snowgreen.protocol.handshake import Refused
from snowgreen.protocol.wire import pack
from tests import raw
from tests.conftest import COOKIE, MakeNode
from tests.test_keeper import QUICK
from tests.waiting import event_of, until

FRIEND = "friend@127.0.0.1:0"
STRANGER = "stranger@127.0.0.1:0"


def answer(node: snowgreen.Node, name: str, cookie: str = COOKIE) -> tuple[Any, bytes]:
    """Dial `node` as `name`; what the machine made of its last message, and that message itself."""
    sock = raw.client(node.address)
    machine = raw.initiator(sock, name, cookie=cookie)
    sock.sendall(machine.start().send)
    machine.feed(raw.read_message(sock))
    sock.sendall(machine.prove().send)
    message = raw.read_message(sock)
    step = machine.feed(message)
    sock.close()
    return step, message


# The list itself.


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        (
            "w@10.0.0.6:9100",
            ["w@10.0.0.6:9100"],
            ["w@10.0.0.6", "w@10.0.0.6:9101", "v@10.0.0.6:9100", "W@10.0.0.6:9100"],
        ),
        ("w@h", ["w@h"], ["w@h:9000", "w@H", "ww@h", "w@h.example"]),
        ("*@h", ["w@h", "v@h:9000", "v@h:1", "v@h:0"], ["w@hh", "w@H", "w@h.example", "h@w"]),
        ("*@h:9100", ["w@h:9100", "v@h:9100"], ["w@h", "w@h:9101", "w@i:9100"]),
        ("*@h:9000", ["w@h", "w@h:9000"], ["w@h:9001"]),
        ("*@[::1]", ["w@[::1]", "w@[::1]:7"], ["w@[::2]", "w@[0:0:0:0:0:0:0:1]"]),
        ("*@[::1]:7", ["w@[::1]:7"], ["w@[::1]", "w@[::1]:8"]),
        ("w@*", ["w@h", "w@i:1", "w@[::1]"], ["v@h", "ww@h", "W@h"]),
    ],
)
def test_what_an_entry_allows(entry: str, inside: list[str], outside: list[str]) -> None:
    """Each kind of entry takes in exactly what it says, byte by byte, and no more."""
    allow = AllowList([entry])
    assert {name: allow.allows(name) for name in inside + outside} == {
        **dict.fromkeys(inside, True),
        **dict.fromkeys(outside, False),
    }


def test_entries_add_up_and_no_list_is_no_limit() -> None:
    """One entry is enough to be allowed; an empty list allows nobody, and None everybody."""
    several = AllowList(entry for entry in ["a@h", "*@i", "b@*", "*@i:1"])
    assert [several.allows(name) for name in ("a@h", "x@i:5", "b@z:1", "c@h")] == [True, True, True, False]
    assert not AllowList([]).allows("a@h")
    assert AllowList(None).allows("a@h")


@pytest.mark.parametrize("wrong", ["w@h", b"w@h", 7, True])
def test_allow_must_be_a_list(wrong: Any) -> None:
    """A single name in place of a list would be read letter by letter: it is refused."""
    with pytest.raises(snowgreen.ConfigurationError, match="must be a list of names") as caught:
        snowgreen.Node("a@127.0.0.1:0", cookie=COOKIE, allow=wrong)
    assert caught.value.argument == "allow"


@pytest.mark.parametrize(
    ("entry", "defect"),
    [
        ("*", "the host is missing"),
        ("*@*", "the host is neither"),
        ("w", "has no '@'"),
        ("h:9000", "has no '@'"),
        ("w@*:9000", "the host is neither"),
        ("w*@h", "the part before '@'"),
        ("*@h*", "the host is neither"),
        ("*@10.0.*", "the host is neither"),
        ("*@h:99999", "the port must be"),
        ("*@[::1", "not closed"),
        ("?@h", "the part before '@'"),
        ("w\n@*", "spaces or control characters"),
        ("", "has no '@'"),
    ],
)
def test_an_entry_of_no_known_kind_is_refused(entry: str, defect: str) -> None:
    """Whatever else has a star in it, or is no name, is a ConfigurationError with the defect and the kinds."""
    with pytest.raises(snowgreen.ConfigurationError) as caught:
        snowgreen.Node("a@127.0.0.1:0", cookie=COOKIE, allow=["ok@h", entry])
    assert caught.value.argument == "allow"
    assert defect in str(caught.value)
    assert "'*@host', '*@host:port' or 'name@*'" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("entry", [b"w@h", 7, None])
def test_an_entry_that_is_no_text_is_refused(entry: Any) -> None:
    """Entries are str."""
    with pytest.raises(snowgreen.ConfigurationError, match="an entry is a str") as caught:
        snowgreen.Node("a@127.0.0.1:0", cookie=COOKIE, allow=[entry])
    assert caught.value.argument == "allow"


# Who dials in.


def test_a_name_that_is_not_allowed_is_declined(make_node: MakeNode) -> None:
    """Its dialer is Rejected with NAME_NOT_ALLOWED; here it is one failure, and never up."""
    node = make_node(allow=[FRIEND])
    other = make_node("other@127.0.0.1:0")
    with node.subscribe() as events, other.subscribe() as at_other:
        with pytest.raises(snowgreen.Rejected, match="operator does not allow") as caught:
            other.connect(node.name)
        assert caught.value.code == RejectCode.NAME_NOT_ALLOWED
        failed = events.get(5)
        assert isinstance(failed, HandshakeFailed)
        assert failed.claimed == other.name
        assert "is not in this node's allow-list" in str(failed)
        assert not node.sessions
        assert node._endpoint.table.pair(other.name).idle
        assert isinstance(at_other.get(5), HandshakeFailed)
        assert [events.get(0), at_other.get(0)] == [None, None]


def test_a_name_that_is_allowed_gets_in(make_node: MakeNode) -> None:
    """Exact names and patterns link as ever, while others are declined beside them."""
    node = make_node(allow=[FRIEND, "worker@*"])
    for name in (FRIEND, "worker@127.0.0.1:0"):
        make_node(name, listen=False).connect(node.name)
    until(lambda: set(node.sessions) == {FRIEND, "worker@127.0.0.1:0"}, "both are registered")
    step, _ = answer(node, STRANGER)
    assert isinstance(step, Refused)
    assert step.code == RejectCode.NAME_NOT_ALLOWED
    assert len(node.sessions) == 2


def test_without_the_cookie_nobody_learns_of_the_list(make_node: MakeNode) -> None:
    """Who cannot prove the cookie gets the same bytes, whatever name it claims, and the list is not asked."""
    node, asked = make_node(allow=[FRIEND]), []
    node._endpoint.allows = lambda name: bool(asked.append(name))
    answers = set()
    for name in (FRIEND, STRANGER):
        step, message = answer(node, name, cookie="not the cookie of this cluster")
        assert step.code == RejectCode.AUTH_FAILED
        answers.add(message)
    assert len(answers) == 1
    assert messages.decode_reject(answers.pop()[4:]).mac is None
    assert not asked


def test_a_classic_peer_is_held_to_the_list_too(make_node: MakeNode) -> None:
    """A classic peer that is not in the list is cut off once it has proved its cookie, and never up."""
    classic = {"*": "a cookie for the snow side"}
    node = make_node(allow=[FRIEND], classic=classic)
    sock = raw.client(node.address, alpn=None)
    with node.subscribe() as events:
        sock.sendall(_classic_name(STRANGER))
        challenge = messages.decode_challenge(raw.read_message(sock)[4:])
        sock.sendall(_classic_reply(classic["*"], challenge.challenge))
        assert raw.read_exactly(sock, 1) == b""
        failed = event_of(events, HandshakeFailed)
        assert failed.error.code == RejectCode.NAME_NOT_ALLOWED
        assert events.get(0) is None
    sock.close()


def _classic_name(name: str) -> bytes:
    return pack(messages.encode_name(messages.Name(name, 1, None)))


def _classic_reply(cookie: str, challenge: bytes) -> bytes:
    proof = hmac.digest(cookie.encode(), challenge, "sha256")
    return pack(messages.encode_reply(messages.Reply(proof, bytes(32))))


# Whom this node dials.


def test_connect_to_a_name_that_is_not_allowed_dials_nobody(make_node: MakeNode) -> None:
    """PolicyError comes before any connection, whether or not somebody is there."""
    node = make_node(allow=[FRIEND])
    connections: list[Any] = []
    with raw.server(lambda _, sock: connections.append(sock)) as peer:
        with pytest.raises(snowgreen.PolicyError, match="allow-list") as caught:
            node.connect(peer.name())
        assert caught.value.peer == peer.name()
        gevent.idle()
    assert not connections
    assert not node._dialer._all()


def test_an_address_is_dialed_and_its_name_looked_up(make_node: MakeNode) -> None:
    """Behind an address an allowed node links; another is PolicyError, and nothing is registered or told as up."""
    other = make_node("other@127.0.0.1:0")
    node = make_node(allow=["friend@*"])
    friend = make_node("friend@127.0.0.1:0")
    with node.subscribe() as events:
        with pytest.raises(snowgreen.PolicyError, match=f"{other.name} answers there") as caught:
            node.connect(other.address)
        assert caught.value.peer == other.address
        failed = events.get(5)
        assert isinstance(failed, HandshakeFailed)
        assert failed.error is caught.value
        assert not node.sessions
        assert node.connect(friend.address).peer == friend.name
        assert isinstance(events.get(5), NodeUp)
    until(lambda: not other.sessions, "the other one noticed")


def test_an_unproved_name_is_not_looked_up(make_node: MakeNode) -> None:
    """Who answers at an address without the cookie gets the same treatment under any name."""
    node, replies = make_node(allow=["friend@*"]), []

    def script(server: raw.RawServer, sock: Any) -> None:
        machine = server.acceptor(server.name(names.pop()), cookie="not the cookie of this cluster")
        sock.sendall(machine.feed(raw.read_message(sock)).send)
        replies.append(raw.read_message(sock)[4:5])
        sock.sendall(pack(messages.encode_ack(messages.Ack(bytes(32)))))

    errors = []
    names = ["stranger", "friend"]
    with raw.server(script) as evil:
        for _ in range(2):
            with pytest.raises(snowgreen.AuthenticationError) as caught:
                node.connect(str(evil.address))
            errors.append(str(caught.value))
    assert errors[0] == errors[1]
    assert replies == [b"\x03", b"\x03"]


def test_a_name_proved_by_a_rejects_mac_is_looked_up(make_node: MakeNode) -> None:
    """A DUPLICATE from behind an address proves a name, which is not dialed if it is not allowed."""
    node, connections = make_node(allow=["friend@*"]), []

    def script(server: raw.RawServer, sock: Any) -> None:
        connections.append(sock)
        machine = server.acceptor()
        sock.sendall(machine.feed(raw.read_message(sock)).send)
        machine.feed(raw.read_message(sock))
        sock.sendall(machine.reject(RejectCode.DUPLICATE, "test").send)

    with raw.server(script) as peer:
        with pytest.raises(snowgreen.PolicyError, match="answers there"):
            node.connect(str(peer.address))
        assert len(connections) == 1
        assert not node._dialer._all()


def test_keeping_a_name_that_is_not_allowed_is_refused() -> None:
    """keep() and Node(peers=...) say at once that it would come to nothing; what is allowed, and addresses, pass."""
    options: dict[str, Any] = {"cookie": COOKIE, "allow": ["friend@*", "*@10.0.0.6"]}
    node = snowgreen.Node("a@127.0.0.1:0", peers=["friend@h", "10.0.0.7:9000"], **options)
    node.keep("w@10.0.0.6:9100")
    with pytest.raises(snowgreen.ConfigurationError, match="allow-list") as caught:
        node.keep("other@h")
    assert caught.value.argument == "peer"
    assert node.kept == ("friend@h", "10.0.0.7:9000", "w@10.0.0.6:9100")
    with pytest.raises(snowgreen.ConfigurationError, match="allow-list") as caught:
        snowgreen.Node("a@127.0.0.1:0", peers=["friend@h", "other@h"], **options)
    assert caught.value.argument == "peers"


def test_the_nodes_own_name_needs_no_entry(make_node: MakeNode) -> None:
    """A list of peers that is the same for all nodes may hold this one, which the allow-list need not."""
    node = make_node("a@127.0.0.1:0", peers=["a@127.0.0.1:0", "friend@127.0.0.1:1"], allow=["friend@*"])
    node.keep(node.name)
    with pytest.raises(snowgreen.SelfLinkError):
        node.connect(node.name)


def test_a_kept_address_with_another_node_behind_it_is_left_in_peace(make_node: MakeNode) -> None:
    """It is not dialed again soon: what keeps the two apart is a setting, not the network."""
    other = make_node("other@127.0.0.1:0")
    node = make_node(allow=["friend@*"], config=QUICK)
    node.keep(other.address)
    (kept,) = node._keeper._kept.values()
    until(lambda: kept.failures, "it was dialed")
    assert kept.failures > 16  # by which the next delay is the longest there is
    assert other.address in node.kept
    assert not node.sessions


def test_it_works_together_with_leaving(make_node: MakeNode) -> None:
    """A peer that was left is declined though it is allowed, and welcome again once it is asked for."""
    node = make_node(allow=["friend@*"])
    friend = make_node("friend@127.0.0.1:0")
    friend.connect(node.name)
    until(lambda: node.sessions, "linked")
    node.leave(friend.name)
    until(lambda: not friend.sessions, "the friend noticed")
    with pytest.raises(snowgreen.Rejected) as caught:
        friend.connect(node.name)
    assert caught.value.code == RejectCode.NAME_NOT_ALLOWED
    assert node.connect(friend.name).ping() > 0
    node.leave("other@127.0.0.1:1")  # not allowed, and may be left
    with pytest.raises(snowgreen.PolicyError):
        node.connect("other@127.0.0.1:1")


def test_two_nodes_that_do_not_allow_each_other_stay_apart(make_node: MakeNode) -> None:
    """However they dial, by name or address, at once or in turn, neither ever registers the other."""
    a = make_node("a@127.0.0.1:0", allow=["x@*"])
    b = make_node("b@127.0.0.1:0", allow=["x@*"])
    with a.subscribe() as at_a, b.subscribe() as at_b:
        jobs = [
            gevent.spawn(x.connect, target)
            for x, y in ((a, b), (b, a))
            for target in (y.name, y.address)
            for _ in range(3)
        ]
        gevent.joinall(jobs, timeout=10)
        assert {type(job.exception) for job in jobs} <= {snowgreen.PolicyError, snowgreen.Rejected}
        assert not a.sessions
        assert not b.sessions
        for events in (at_a, at_b):
            while (event := events.get(0)) is not None:
                assert isinstance(event, HandshakeFailed)


def test_the_list_reaches_the_mesh(make_node: MakeNode) -> None:
    """A node of a mesh does not dial the nodes it is told of unless it allows them."""
    hub = make_node("hub@127.0.0.1:0", mesh=True)
    made = [make_node(f"{name}@127.0.0.1:0", mesh=True) for name in ("friend", "other")]
    node = make_node("a@127.0.0.1:0", mesh=True, allow=["hub@*", "friend@*"])
    for other in made:
        other.connect(hub.name)
    until(lambda: len(hub.sessions) == 2, "the hub has both")
    node.connect(hub.name)
    until(lambda: made[0].name in node.sessions, "the friend was dialed, or dialed")
    until(lambda: all(len(other.sessions) >= 2 for other in made), "the others have linked")
    assert made[1].name not in node.sessions
