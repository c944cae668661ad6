"""Node names: ``name@host`` or ``name@host:port``, checked once and never normalised.

Two names are the same node only if they are the same bytes, so nothing here changes case, strips
a port or rewrites an address: what is not exactly a name is refused with its defect.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from .errors import ConfigurationError, InvalidName

DEFAULT_PORT = 9000
#: Stands for every peer, where a setting is made per peer.
ANY_PEER = "*"
MAX_NAME_BYTES = 255
_MAX_PORT = 65535

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
# RFC 1123 labels, and the underscore that container names have.
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0[xX][0-9A-Fa-f]*)\Z")
_PORT = re.compile(r"(?:0|[1-9][0-9]{0,4})\Z")
_BLANK = re.compile(r"[\x00-\x20\x7f]")
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}\Z")
# Nearly every name there is: its host is an IPv4 address, or ends in a label that begins with a letter. Each
# link has one to check; the pieces are looked at only to say what is wrong, or of what is rare.
_USUAL = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9_.-]{0,63})@("
    rf"(?:{_OCTET}\.){{3}}{_OCTET}|"
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    r")(?::(0|[1-9][0-9]{0,4}))?\Z"
)


class Address(NamedTuple):
    """A host (IPv6 without its brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class NodeName(NamedTuple):
    """A checked node name and its parts; ``text`` alone is its identity.

    Port 0 in an announced name says that the node only dials and cannot be dialed.
    """

    text: str
    name: str
    host: str
    port: int

    @property
    def address(self) -> Address:
        """Where the node is dialed."""
        return Address(self.host, self.port)

    def with_port(self, port: int) -> NodeName:
        """This name as announced from `port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return parse_name(f"{self.name}@{host}:{port}")  # the port may have made it too long

    def __str__(self) -> str:
        return self.text


def printable(text: str, limit: int = 80) -> str:
    """`text` safe to print or log: ASCII, control characters escaped, cut to `limit` characters."""
    shown = ascii(text[: limit + 1])[1:-1]
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def parse_name(text: str, *, argument: str = "name") -> NodeName:
    """Check `text` as a node name.

    :raises InvalidName: naming the first defect.
    """
    if not isinstance(text, str):
        raise InvalidName(argument, f"a node name is a str, not {type(text).__name__}")
    usual = _USUAL.match(text) if len(text) <= MAX_NAME_BYTES else None
    if usual is not None:
        name, host, digits = usual.groups()
        port = DEFAULT_PORT if digits is None else int(digits)
        if port <= _MAX_PORT:
            return NodeName(text, name, host, port)
    return _by_pieces(text, argument)


def _by_pieces(text: str, argument: str) -> NodeName:
    def refuse(defect: str) -> InvalidName:
        return InvalidName(argument, f"'{printable(text)}' is no node name: {defect}")

    if not text.isascii():
        raise refuse("it has characters outside ASCII")
    if len(text) > MAX_NAME_BYTES:
        raise refuse(f"it is {len(text)} bytes long, at most {MAX_NAME_BYTES} are allowed")
    if _BLANK.search(text):
        raise refuse("it has spaces or control characters")
    name, at, place = text.partition("@")
    if not at:
        raise refuse("it has no '@'; write name@host or name@host:port")
    if not _NAME.match(name):
        raise refuse(
            "the part before '@' must be 1 to 64 letters, digits, '_', '.' or '-', "
            "and begin with a letter or digit"
        )
    try:
        host, port = _split_address(place, DEFAULT_PORT)
    except ValueError as defect:
        raise refuse(str(defect)) from None
    return NodeName(text, name, host, port)


def is_name(text: str) -> bool:
    """Whether `text` is a node name."""
    usual = _USUAL.match(text) if len(text) <= MAX_NAME_BYTES else None
    if usual is not None and (usual[3] is None or int(usual[3]) <= _MAX_PORT):
        return True
    try:
        _by_pieces(text, "name")
    except InvalidName:
        return False
    return True


def parse_address(text: str, *, argument: str = "address", default_port: int = DEFAULT_PORT) -> Address:
    """Check ``host``, ``host:port`` or ``[ipv6]:port``.

    :raises ConfigurationError: naming `argument` and the defect.
    """
    if not isinstance(text, str):
        raise ConfigurationError(argument, f"an address is a str, not {type(text).__name__}")
    try:
        return Address(*_split_address(text, default_port))
    except ValueError as defect:
        raise ConfigurationError(argument, f"'{printable(text)}' is no address: {defect}") from None


def is_ipv4(host: str) -> bool:
    """Whether `host` is an IPv4 address: four numbers without leading zeros, as :mod:`ipaddress` has it."""
    return _IPV4.match(host) is not None


def is_literal(host: str) -> bool:
    """Whether `host` is an IP address, which needs no resolver."""
    if is_ipv4(host):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether `host` can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split_address(place: str, default_port: int) -> tuple[str, int]:
    if place.startswith("["):
        inner, bracket, tail = place[1:].partition("]")
        if not bracket:
            raise ValueError("the bracket before the IPv6 address is not closed")
        try:
            if "%" in inner:
                raise ValueError
            ipaddress.IPv6Address(inner)
        except ValueError:
            raise ValueError("what stands in the brackets is no IPv6 address") from None
        if tail and not tail.startswith(":"):
            raise ValueError("after the bracket only ':port' may follow")
        return inner, _port(tail[1:]) if tail else default_port
    host, colon, port = place.partition(":")
    if ":" in port:
        raise ValueError("an IPv6 address needs brackets, as in [::1]:9000")
    if not host:
        raise ValueError("the host is missing")
    labels = host.split(".")
    if not all(_LABEL.match(label) for label in labels) or len(host) > 253:
        raise ValueError("the host is neither a host name, nor an IPv4 address, nor a bracketed IPv6 address")
    # Resolvers take such a host for an IPv4 address, in hexadecimal, too.
    if _NUMBER.match(labels[-1]) and not is_ipv4(host):
        raise ValueError("the host looks like an IPv4 address but is none")
    return host, _port(port) if colon else default_port


def _port(text: str) -> int:
    if not _PORT.match(text) or int(text) > _MAX_PORT:
        raise ValueError("the port must be a number from 0 to 65535 without leading zeros")
    return int(text)
