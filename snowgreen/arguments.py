"""A node's arguments, checked: each that cannot be used is refused by its name, with what to do about it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import certificates
from .certificates import TLSConfig
from .cookie import Cookie, wrapped
from .errors import ConfigurationError, InvalidName
from .names import ANY_PEER, Address, NodeName, is_loopback, parse_address, parse_name, printable

#: The environment variable that ``{worker}`` in a node's name stands for.
WORKER_VARIABLE = "SNOWGREEN_WORKER"
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_WORKER = re.compile(r"[A-Za-z0-9_.-]{1,32}\Z")


def target(peer: str, *, argument: str = "peer") -> NodeName | Address:
    """A peer to dial: a node name, or a bare ``host:port``."""
    if isinstance(peer, str) and "@" not in peer and ":" in peer:
        return parse_address(peer, argument=argument)
    return parse_name(peer, argument=argument)


def named(peer: str, *, wanted_by: str) -> NodeName:
    """A peer by its name, for what cannot do with an address."""
    if isinstance(found := target(peer), Address):
        raise InvalidName(
            "peer",
            f"'{found}' is an address, and {wanted_by} needs a name: name@{found}, as the node announces it",
        )
    return found


def items(values: object, argument: str) -> Iterable[Any]:
    """A list of names; a single text would be read letter by letter, and is refused."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ConfigurationError(argument, f"must be a list of names, and is a {type(values).__name__}")
    return values


def listed(peers: object) -> Iterable[NodeName | Address]:
    """A list of peers to dial."""
    return [target(peer, argument="peers") for peer in items(peers, "peers")]


def default_name(entropy: Callable[[int], bytes]) -> str:
    """A name nobody else is likely to have: the program, and chance."""
    program = os.path.basename(sys.argv[0] if sys.argv else "") or "python"
    program = re.sub(r"\.py$", "", program) if program not in ("-c", "-m") else "python"
    if program == "__main__":
        program = "python"
    program = re.sub(r"[^A-Za-z0-9_.-]", "-", program).lstrip("_.-")[:48] or "python"
    return f"{program}-{entropy(3).hex()}@127.0.0.1:0"


def template(name: object) -> str | None:
    """`name`, if it has placeholders, which every start fills in anew."""
    return name if isinstance(name, str) and _PLACEHOLDER.search(name) else None


def filled(name: str, *, draft: bool = False) -> str:
    """`name` with its placeholders filled in, as is true of this process.

    :param draft: whether it is looked at only for its form, so that a worker's number need not be known yet.
    :raises InvalidName: if a placeholder is unknown, or what it stands for.
    """

    def value(found: re.Match[str]) -> str:
        match found[1]:
            case "pid":
                return str(os.getpid())
            case "host":
                short = os.uname().nodename.partition(".")[0]
                return re.sub(r"[^A-Za-z0-9_-]", "-", short).strip("_-") or "localhost"
            case "worker":
                return "1" if draft else _worker(name)
        raise InvalidName(
            "name",
            f"'{printable(name)}' has the placeholder {{{printable(found[1])}}}, which is none: there are "
            "{pid}, {worker} and {host}",
        )

    return _PLACEHOLDER.sub(value, name)


def _worker(name: str) -> str:
    number = os.environ.get(WORKER_VARIABLE, "")
    if _WORKER.match(number):
        return number
    state = f"is '{printable(number)}', which no name can hold" if number else "is not set"
    raise InvalidName(
        "name",
        f"'{printable(name)}' has the number of this worker in it, and the environment variable "
        f"{WORKER_VARIABLE} {state}: snowgreen.gunicorn sets it (gunicorn -c python:snowgreen.gunicorn), and "
        "under another server it is yours to set; {pid} is always known",
    )


def requested_name(name: str | None, tls_config: object, entropy: Callable[[int], bytes]) -> NodeName:
    """The name that was given, that the certificate holds, or the default."""
    if template(name) is not None:
        return parse_name(filled(str(name), draft=True))
    if name is not None:
        return parse_name(name)
    if isinstance(tls_config, TLSConfig):
        return certificates.own_name(tls_config)
    return parse_name(default_name(entropy))


def checked_tls(given: object, name: NodeName, *, listens: bool, classic: bool) -> TLSConfig | None:
    """The operator's CA, if it fits the other arguments."""
    if given is None:
        return None
    if not isinstance(given, TLSConfig):
        raise ConfigurationError("tls", f"must be a snowgreen.TLSConfig, not {type(given).__name__}")
    if classic:
        raise ConfigurationError(
            "classic",
            "a classic peer has no certificate, so its name would be the one anybody can take: "
            "tls and classic exclude each other",
        )
    if listens and name.port == 0:
        raise ConfigurationError(
            "name",
            f"{name} takes a free port, which no certificate can know beforehand: with tls, name a fixed "
            "one, or pass listen=False",
        )
    return given


def bind_address(name: NodeName, listen: str | bool | None) -> Address | None:
    """Where to bind, None to not listen."""
    if listen is False:
        return None
    if listen is None or listen is True:
        if not is_loopback(name.host):
            raise ConfigurationError(
                "listen",
                f"the name announces {name.host}, which may be reached from outside, and binding beyond "
                f"loopback is a choice: pass listen='{Address(name.host, name.port)}', "
                f"listen='0.0.0.0:{name.port}' or listen='127.0.0.1:{name.port}'",
            )
        return Address("127.0.0.1" if name.host == "localhost" else name.host, name.port)
    if not isinstance(listen, str):
        raise ConfigurationError(
            "listen", f"must be 'host:port', 'host' or False, not {type(listen).__name__}"
        )
    return parse_address(listen, argument="listen", default_port=name.port)


def wrapped_classic(classic: object) -> tuple[dict[str, Cookie], ConfigurationError | None]:
    """The cookies of classic peers, or what is wrong with them; see :func:`~snowgreen.cookie.wrapped`."""
    if classic is None:
        return {}, None
    if not isinstance(classic, Mapping):
        kind = type(classic).__name__
        return {}, ConfigurationError("classic", f"must map peer names to cookies, and is a {kind}")
    cookies = {}
    for peer, value in classic.items():
        try:
            if peer != ANY_PEER:
                parse_name(peer)
        except ConfigurationError as error:
            return {}, ConfigurationError("classic", error.problem)
        cookie, problem = wrapped(value, f"classic[{peer!r}]", weak=True)
        if cookie is None:
            return {}, problem
        cookies[peer] = cookie
    return cookies, None
