"""The way to a node's door: its host name resolved, and its addresses tried in turn, as a dial does."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import gevent.socket

from ..errors import LinkTimeout
from ..link import faults
from ..link.deadline import Deadline
from ..names import Address, is_literal
from .steps import Failure, Finding

#: How many addresses of one host name are tried.
_MOST = 16
_CHECK_NODE = (
    "check that the node runs, and that this is its host and port: `snowgreen start` prints it as "
    "`listens on`, a program has it as `node.address`"
)
_ANSWERED_NOT = (
    "nothing has answered at all: check the address, routes, and firewalls in between, which often drop "
    "without a word; or allow more time with --timeout"
)
_REFUSED = (
    f"{_CHECK_NODE}; a node that listens on 127.0.0.1 is reached from its own machine only, and one in a "
    "container only on published ports"
)


class Place(NamedTuple):
    """Where a connection may be made to."""

    family: int
    #: As the socket module has it.
    sockaddr: tuple[Any, ...]

    def __str__(self) -> str:
        return str(Address(str(self.sockaddr[0]), int(self.sockaddr[1])))


def resolve(address: Address, timeout: float) -> tuple[list[Place], Finding]:
    """The places that `address` stands for.

    :raises Failure: if there is none.
    """
    if address.port == 0:
        raise Failure(
            "its port is 0: such a node only dials, and cannot be dialed",
            "let that node dial this one, or start it with a port of its own",
        )
    if is_literal(address.host):
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        places = [Place(family, (address.host, address.port))]
        return places, Finding(
            f"{address.host} is an address: nothing to resolve", facts={"addresses": [address.host]}
        )
    try:
        with Deadline(timeout, "resolving the host name"):
            found = gevent.socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    except LinkTimeout as error:
        raise Failure(error.problem, "the resolver does not answer: check /etc/resolv.conf") from None
    except (OSError, UnicodeError) as error:
        raise _unresolved(address.host, error) from None
    places = list(dict.fromkeys(Place(family, tuple(place)) for family, *_, place in found))[:_MOST]
    hosts = [str(place.sockaddr[0]) for place in places]
    return places, Finding(f"{address.host} is {', '.join(hosts)}", facts={"addresses": hosts})


def _unresolved(host: str, error: Exception) -> Failure:
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        return Failure(
            f"no name server could say what {host} is",
            "check this machine's network and /etc/resolv.conf, then try again",
        )
    return Failure(
        f"the host name {host} is not known on this machine",
        "check its spelling; look at DNS and /etc/hosts; in a container, both must be in one network. The "
        "node's address in place of the name shows whether the rest is well",
    )


def connect(
    places: list[Place], timeout: float, monotonic: Callable[[], float]
) -> tuple[gevent.socket.socket, Finding]:
    """A connection to the first place that takes one; the others stay untried.

    :param timeout: seconds for each place.
    :raises Failure: if none does.
    """
    tried: list[str] = []
    problem: OSError | None = None
    for place in places:
        began = monotonic()
        sock = gevent.socket.socket(place.family, socket.SOCK_STREAM)
        try:
            with Deadline(timeout, f"connecting to {place}"):
                sock.connect(place.sockaddr)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            local = sock.getsockname()
            return sock, _connected(place, Address(str(local[0]), int(local[1])), tried)
        except OSError as error:  # LinkTimeout is one, too
            sock.close()
            problem = error
            what = "no answer" if isinstance(error, LinkTimeout) else faults.connecting(error, None).problem
            tried.append(f"{place}: {what} ({monotonic() - began:.3f} s)")
        except BaseException:
            sock.close()
            raise
    assert problem is not None  # noqa: S101  # resolve() gives one place at least
    late = isinstance(problem, LinkTimeout)
    text = problem.problem if isinstance(problem, LinkTimeout) else faults.connecting(problem, None).problem
    if len(places) > 1:
        text = "none of its addresses takes a connection"
    advice = _ANSWERED_NOT if late else _REFUSED if problem.errno == errno.ECONNREFUSED else _CHECK_NODE
    raise Failure(text, advice, details=tuple(tried), facts={"tried": tried})


def _connected(place: Place, local: Address, tried: list[str]) -> Finding:
    facts = {"remote": str(place), "local": str(local), "tried": tried}
    if not tried:
        return Finding(f"connected to {place}, from {local}", facts=facts)
    return Finding(
        f"connected to {place}, from {local}, after other addresses did not take the connection",
        tuple(tried),
        facts,
        "a dial goes the same way, and loses that time: correct what the name resolves to, or let the "
        "node listen there, too",
    )
