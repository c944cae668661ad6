"""The node: what a user holds."""

from __future__ import annotations

import datetime
import errno
import os
import re
import sys
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from . import cookie as cookies
from .config import Config
from .cookie import Cookie
from .errors import ConfigurationError, CookieError, NodeStateError
from .link import tls
from .link.bus import Bus, Subscription
from .link.dialer import Dialer
from .link.endpoint import ANY_PEER, Endpoint
from .link.heart import heart
from .link.keyring import link_keys
from .link.listener import Listener
from .link.runtime import Runtime, hub_state
from .names import Address, NodeName, is_loopback, parse_address, parse_name

if TYPE_CHECKING:
    from .link.session import Session


class Node:
    """This process, or a part of it, as a named node.

    :param name: ``name@host`` or ``name@host:port``. Port 0 takes a free one, and :attr:`name` then
        carries it. Default: ``<program>-<6 hex digits>@127.0.0.1:0``.
    :param cookie: the shared secret, str or bytes, at least 16 characters. Default: the environment
        variable ``SNOWGREEN_COOKIE``, else the file ``cookie`` in the user's config directory, made
        with 256 random bits on first use.
    :param listen: where to bind, if not at the name's own host and port: ``"host:port"``, ``"host"``
        (with the name's port), or ``False`` for a node that only dials. Default: the name's host if it
        is a loopback one; a name with any other host needs the choice to be made here.
    :param config: times and limits.
    :param classic: peers allowed to use the classic handshake, which a man in the middle can take
        over: ``{"snow@127.0.0.1:9000": "a cookie of its own"}``, or ``"*"`` as the name for any peer.
    :raises ConfigurationError: naming the argument that cannot be used.

    Nothing is opened before :meth:`start`. A node belongs to the thread (the gevent hub) it was
    started in.
    """

    # On the class, so that a node whose arguments were refused can still be shown.
    _endpoint: Endpoint | None = None
    _dialer: Dialer | None = None
    _listener: Listener | None = None

    def __init__(
        self,
        name: str | None = None,
        *,
        cookie: str | bytes | Cookie | None = None,
        listen: str | bool | None = None,
        config: Config | None = None,
        classic: Mapping[str, str | bytes | Cookie] | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        # Secrets first, and unnamed at once: an error below must not show them in its traceback.
        weak = isinstance(config, Config) and config.allow_weak_cookie
        secret, problem = _wrap(cookie, "cookie", weak=weak)
        classics, classic_problem = _wrap_classic(classic)
        del cookie, classic
        if problem or classic_problem:
            raise (problem or classic_problem)  # type: ignore[misc]  # one of them is an error
        if config is not None and not isinstance(config, Config):
            raise ConfigurationError("config", f"must be a snowgreen.Config, not {type(config).__name__}")
        if runtime is not None and not isinstance(runtime, Runtime):
            raise ConfigurationError("runtime", f"must be a Runtime, not {type(runtime).__name__}")
        self._config = config or Config()
        self._runtime = runtime or Runtime()
        self._requested = parse_name(_default_name(self._runtime) if name is None else name)
        self._bind = _bind_address(self._requested, listen)
        self._cookie = secret
        self._classic = classics
        self._bus = Bus(self._config.event_queue)

    # Life.

    def start(self) -> Node:
        """Bind, and be ready to link. A started node is left as it is; a stopped one begins a new life.

        :returns: the node itself.
        :raises ConfigurationError: if the address cannot be bound.
        :raises CookieError: if no usable cookie is found.
        """
        if self._endpoint is not None:
            return self
        cookie = cookies.find(self._cookie, weak=self._config.allow_weak_cookie)
        keys = (link_keys(cookie),)
        name, listener = self._requested, None
        if self._bind is not None:
            listener = self._listen(self._bind)
            if name.port == 0:
                name = name.with_port(listener.bound.port)
        endpoint = Endpoint(
            name,
            keys=keys,
            classic=self._classic,
            config=self._config,
            runtime=self._runtime,
            hub=hub_state(),
            bus=self._bus,
        )
        self._endpoint, self._dialer, self._listener = endpoint, Dialer(endpoint), listener
        heart().add(endpoint)
        if listener is not None:
            listener.serve(endpoint)
        return self

    def stop(self) -> None:
        """Stop accepting, end dials and sessions, and end the subscriptions. A second call does nothing."""
        endpoint, dialer, listener = self._endpoint, self._dialer, self._listener
        if endpoint is None or dialer is None:
            return
        self._endpoint = self._dialer = self._listener = None
        if listener is not None:
            listener.close()
        dialer.stop()
        heart().remove(endpoint)
        for session in list(endpoint.table.sessions.values()):
            session.close("this node was stopped")
        self._bus.close()

    def __enter__(self) -> Node:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Links.

    def connect(self, peer: str, timeout: float | None = 10.0) -> Session:
        """The session with `peer`: the one there is, or a new one.

        :param peer: a node name, or ``host:port`` to learn the name from whoever answers there.
        :param timeout: seconds in all, None to wait for as long as it takes the network to say no.
        :raises InvalidName: `peer` is neither.
        :raises Unreachable: no TCP connection came about.
        :raises LinkTimeout: `timeout`, or a deadline of the handshake, passed.
        :raises NotTLSError, TLSError: what answers does not speak TLS, or not as a node does.
        :raises AuthenticationError: the two nodes have different cookies; both say so.
        :raises PolicyError: the two sides allow no common form of handshake.
        :raises NameMismatch: another node than the one named answers.
        :raises SelfLinkError: it is this node.
        :raises ProtocolError: what answers breaks the protocol.
        :raises Rejected: the peer, having proved the cookie, declines.
        :raises NodeStateError: this node is not started, or is stopped meanwhile.
        """
        dialer = self._dialer
        if dialer is None:
            raise NodeStateError("the node is not started; call start() first")
        return dialer.connect(_target(peer), timeout)

    @property
    def sessions(self) -> Mapping[str, Session]:
        """Peer name → live session: read-only, and always as it is now."""
        return _NO_SESSIONS if self._endpoint is None else self._endpoint.table.sessions

    def subscribe(self) -> Subscription:
        """The node's events from now on: ``NodeUp``, ``NodeDown``, ``HandshakeFailed``, ``EventsDropped``."""
        return self._bus.subscribe()

    # Identity.

    @property
    def name(self) -> str:
        """The node's name; once started, with the port it got."""
        return (self._requested if self._endpoint is None else self._endpoint.name).text

    @property
    def incarnation(self) -> int | None:
        """This life of the node (u64), None while it is not started."""
        return None if self._endpoint is None else self._endpoint.identity.incarnation

    @property
    def address(self) -> str | None:
        """Where it is bound, as ``host:port``; None while it does not listen."""
        listener = self._listener
        return None if listener is None else str(listener.bound)

    @property
    def started(self) -> bool:
        """Whether the node lives."""
        return self._endpoint is not None

    def __repr__(self) -> str:
        if self._endpoint is None:
            return f"<Node {self.name if hasattr(self, '_requested') else 'without a name'} not started>"
        where = f"listening on {self.address}" if self._listener is not None else "dial-only"
        return f"<Node {self.name} {where}, {len(self.sessions)} sessions>"

    def _listen(self, address: Address) -> Listener:
        now = datetime.datetime.fromtimestamp(self._runtime.wall(), datetime.UTC)
        server = tls.server_tls(tls.ephemeral_certificate(now))
        listener = Listener((address.host, address.port), server, self._config.limits)
        try:
            # Bound here, so that the name can carry the port; connections are accepted once the
            # endpoint stands.
            listener.init_socket()
            listener.start()
            listener.stop_accepting()
        except OSError as error:
            listener.close()
            what = "is taken by another process" if error.errno == errno.EADDRINUSE else _reason(error)
            raise ConfigurationError("listen", f"{address} cannot be bound: it {what}") from error
        return listener


_NO_SESSIONS: Mapping[str, Any] = MappingProxyType({})


def _target(peer: str) -> NodeName | Address:
    if isinstance(peer, str) and "@" not in peer and ":" in peer:
        return parse_address(peer, argument="peer")
    return parse_name(peer)


def _default_name(runtime: Runtime) -> str:
    program = os.path.basename(sys.argv[0] if sys.argv else "") or "python"
    program = re.sub(r"\.py$", "", program) if program not in ("-c", "-m") else "python"
    if program == "__main__":
        program = "python"
    program = re.sub(r"[^A-Za-z0-9_.-]", "-", program).lstrip("_.-")[:48] or "python"
    return f"{program}-{runtime.entropy(3).hex()}@127.0.0.1:0"


def _bind_address(name: NodeName, listen: str | bool | None) -> Address | None:
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


def _wrap(value: object, source: str, *, weak: bool) -> tuple[Cookie | None, CookieError | None]:
    """The cookie or what is wrong with it; returned, so that no frame that raises holds `value`."""
    try:
        return (None if value is None else Cookie.wrap(value, source, weak=weak)), None
    except CookieError as error:
        return None, error.with_traceback(None)


def _wrap_classic(classic: object) -> tuple[dict[str, Cookie], ConfigurationError | None]:
    if classic is None:
        return {}, None
    if not isinstance(classic, Mapping):
        kind = type(classic).__name__
        return {}, ConfigurationError("classic", f"must map peer names to cookies, and is a {kind}")
    wrapped = {}
    for peer, value in classic.items():
        try:
            if peer != ANY_PEER:
                parse_name(peer)
        except ConfigurationError as error:
            return {}, ConfigurationError("classic", error.problem)
        cookie, problem = _wrap(value, f"classic[{peer!r}]", weak=True)
        if cookie is None:
            return {}, problem
        wrapped[peer] = cookie
    return wrapped, None


def _reason(error: OSError) -> str:
    return f"failed with: {error.strerror or error}"
