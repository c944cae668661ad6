"""The node: what a user holds."""

from __future__ import annotations

import datetime
import errno
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType, TracebackType

from gevent.lock import RLock

from . import arguments, forks, patching
from .allowing import AllowList
from .certificates import TLSConfig
from .config import Config, check_timeout
from .cookie import Cookie, wrapped
from .errors import ConfigurationError, NodeStateError
from .link import tls
from .link.bus import Bus, Monitor, Subscription
from .link.credentials import CredentialWatch
from .link.dialer import Dialer
from .link.endpoint import Endpoint
from .link.heart import heart
from .link.journal import Journal
from .link.keeper import Keeper
from .link.keyring import Keychain
from .link.listener import Listener
from .link.runtime import Runtime, hub_state, say
from .link.session import STOPPED, Session
from .mesh import Mesher
from .messaging.codec import Codec
from .messaging.facade import Messaging
from .names import Address, parse_name
from .protocol.frames import Farewell
from .rotation import Rotation, wrapped_accept

log = logging.getLogger("snowgreen.node")


class Node(Rotation, Messaging):
    """This process, or a part of it, as a named node.

    :param name: ``name@host`` or ``name@host:port``. Port 0 takes a free one, and :attr:`name` then
        carries it. ``{pid}``, ``{worker}`` and ``{host}`` in it are filled in at each start, also in a forked
        child: with the process id, with ``SNOWGREEN_WORKER``, which :mod:`snowgreen.gunicorn` sets, and with
        the machine's short name. Default: ``<program>-<6 hex digits>@127.0.0.1:0``.
    :param cookie: the shared secret, str or bytes, at least 16 characters. Default: the environment
        variable ``SNOWGREEN_COOKIE``, else the file ``cookie`` in the user's config directory, made
        with 256 random bits on first use.
    :param accept: at most two more cookies, the newest first, to let others in with while secrets change;
        see :meth:`rotate`. Default: none.
    :param listen: where to bind, if not at the name's own host and port: ``"host:port"``, ``"host"``
        (with the name's port), or ``False`` for a node that only dials. Default: the name's host if it
        is a loopback one; a name with any other host needs the choice to be made here.
    :param peers: names, or ``host:port``, of peers to keep a link with: see :meth:`keep`. The node's own
        name among them does no harm, so that all nodes can be given the same list.
    :param allow: the only peers to link with, whoever dials: node names; ``*@host`` or ``*@host:port`` for
        any name there; ``name@*`` for that name anywhere. Default: every node that proves the cookie. It goes
        by what a peer calls itself, and who has the cookie can take any name, unless there is ``tls``.
    :param config: times and limits.
    :param classic: peers allowed to use the classic handshake, which a man in the middle can take
        over: ``{"snow@127.0.0.1:9000": "a cookie of its own"}``, or ``"*"`` as the name for any peer.
    :param tls: the operator's CA and this node's certificate of it. Links are then made only with nodes that
        have one, too, each for its own name; the default for `name` is the one in the certificate.
    :param mesh: with ``mesh=True``, tells the peers it links with whom else it is linked with, and dials
        those that they tell of. Default False: a hub of thousands should not make them all dial each other
        unasked.
    :param codec: what encodes the bodies that are not bytes: see :class:`snowgreen.Codec`; give the same to
        all nodes. Default: MessagePack.
    :raises ConfigurationError: naming the argument that cannot be used.

    Nothing is opened before :meth:`start`. A node belongs to the thread (the gevent hub) it was
    started in.
    """

    # On the class, so that a node whose arguments were refused can still be shown.
    _endpoint: Endpoint | None = None
    _dialer: Dialer | None = None
    _listener: Listener | None = None
    _keeper: Keeper | None = None
    _mesher: Mesher | None = None
    _forked = False

    def __init__(
        self,
        name: str | None = None,
        *,
        cookie: str | bytes | Cookie | None = None,
        accept: Sequence[str | bytes | Cookie] = (),
        listen: str | bool | None = None,
        peers: Iterable[str] = (),
        allow: Iterable[str] | None = None,
        config: Config | None = None,
        classic: Mapping[str, str | bytes | Cookie] | None = None,
        tls: TLSConfig | None = None,
        mesh: bool = False,
        codec: Codec | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        # Secrets first, and unnamed at once: an error below must not show them in its traceback.
        weak = isinstance(config, Config) and config.allow_weak_cookie
        secret, problem = (None, None) if cookie is None else wrapped(cookie, "cookie", weak=weak)
        accepted, accept_problem = wrapped_accept(accept, weak=weak)
        classics, classic_problem = arguments.wrapped_classic(classic)
        del cookie, accept, classic
        for found in (problem, accept_problem, classic_problem):
            if found is not None:
                raise found
        if config is not None and not isinstance(config, Config):
            raise ConfigurationError("config", f"must be a snowgreen.Config, not {type(config).__name__}")
        if runtime is not None and not isinstance(runtime, Runtime):
            raise ConfigurationError("runtime", f"must be a Runtime, not {type(runtime).__name__}")
        if not isinstance(mesh, bool):
            raise ConfigurationError("mesh", f"must be True or False, not {type(mesh).__name__}")
        self._mesh = mesh
        self._config = config or Config()
        self._runtime = runtime or Runtime()
        self._requested = arguments.requested_name(name, tls, self._runtime.entropy)
        self._named_by_us = name is None and tls is None
        self._template, self._listen_at = arguments.template(name), listen
        self._bind = arguments.bind_address(self._requested, listen)
        if self._bind is not None and self._requested.port == 0:
            self._requested.with_port(65535)  # refused now, rather than when the port is known
        self._tls = arguments.checked_tls(
            tls, self._requested, listens=self._bind is not None, classic=bool(classics)
        )
        self._peers = {str(target): target for target in arguments.listed(peers)}
        self._allow = AllowList(allow)
        self._allow.check(self._peers.values(), "peers", self._requested.text)
        self._keychain = Keychain(secret, accepted, weak=weak)
        self._classic = classics
        #: What this node remembers of what happened to it, through all its lives.
        self.journal = Journal()
        self._bus = self._new_bus()
        self._sessions: dict[str, Session] = {}
        #: Peer name → live session: read-only, and always as it is now.
        self.sessions: Mapping[str, Session] = MappingProxyType(self._sessions)
        self._turn = RLock()  # of those who start and stop it: both wait in the middle
        self._prepare_messaging(codec)
        forks.watch(self)

    # Life.

    def start(self) -> Node:
        """Bind, and be ready to link. A started node is left as it is; a stopped one begins a new life.

        :returns: the node itself.
        :raises ConfigurationError: if the address cannot be bound, or the files of ``tls`` cannot be used.
        :raises CookieError: if no usable cookie is found.
        :raises InvalidName: if ``{worker}`` is in the name, and it is not known which one this is.
        """
        with self._turn:
            if self._endpoint is None:
                self._begin()
        return self

    def _begin(self) -> None:
        forks.settle()
        patching.check()
        if self._template is not None:  # this may be another process than the one that made the node
            self._requested = parse_name(arguments.filled(self._template))
            self._bind = arguments.bind_address(self._requested, self._listen_at)
        self._keychain.open()
        name, listener, watch = self._requested, None, None
        if self._tls is not None:
            watch = CredentialWatch(self._tls, name.text, self._runtime, self._bus)
        if self._bind is not None:
            listener = self._listen(self._bind, watch)
            if name.port == 0:
                name = name.with_port(listener.bound.port)
        endpoint = Endpoint(
            name,
            keychain=self._keychain,
            classic=self._classic,
            config=self._config,
            runtime=self._runtime,
            hub=hub_state(),
            bus=self._bus,
            journal=self.journal,
            sessions=self._sessions,
            client_end=tls.client_end if watch is None else watch.client_end,
            allows=self._allow.allows,
        )
        self._endpoint, self._dialer, self._listener = endpoint, Dialer(endpoint), listener
        self._keeper = Keeper(endpoint, self._dialer, set() if listener is None else listener.configured)
        self._begin_messaging(endpoint, self._dialer)
        if self._mesh:
            self._mesher = Mesher(
                endpoint, self._dialer, lambda name: name not in endpoint.left and endpoint.allows(name)
            )
        heart().add(endpoint)
        if listener is not None:
            listener.serve(endpoint)
        for target in self._peers.values():
            self._keeper.keep(target)
        self._forked = False
        where = f"on {listener.bound}" if listener is not None else "dial-only"
        facts = {"kind": "started", "node": name.text, "address": self.address}
        say(log, logging.INFO, "%s has started, %s", name, where, facts=facts)

    def stop(self, timeout: float = 5.0) -> None:
        """End this life of the node: accept and dial no more, say goodbye to the peers, and close.

        What waits to be sent is sent first; a peer that does not take it within `timeout` seconds is closed
        all the same. The peers see that the node left, and do not dial it again at once. The subscriptions
        end. A second call does nothing.
        """
        check_timeout(timeout)
        with self._turn:
            endpoint, dialer, listener, keeper = self._endpoint, self._dialer, self._listener, self._keeper
            if endpoint is None or dialer is None or keeper is None:
                return
            self._endpoint = self._dialer = self._listener = self._keeper = None
            mesher, self._mesher = self._mesher, None
            self._bus = self._new_bus()  # each life ends its own subscriptions
            endpoint.stopped = True
            try:
                keeper.stop()
                if mesher is not None:
                    mesher.stop()
                if listener is not None:
                    listener.close()
                dialer.stop()
                self._end_messaging()
                endpoint.part(STOPPED, timeout)
            finally:
                heart().remove(endpoint)
                for session in list(endpoint.table.sessions.values()):
                    session.close(STOPPED)
                endpoint.bus.close()
            facts = {"kind": "stopped", "node": endpoint.name.text}
            say(log, logging.INFO, "%s has stopped", endpoint.name, facts=facts)

    def let_go(self) -> None:
        """In a child of a fork, called before anything else: what is open belongs to the parent.

        The node is then not started, and a default name is drawn anew, so that two children differ.
        """
        endpoint, dialer, listener, keeper = self._endpoint, self._dialer, self._listener, self._keeper
        if self._named_by_us:
            self._requested = parse_name(arguments.default_name(self._runtime.entropy))
        self._keychain.forked()
        self.journal = Journal()
        inherited, self._bus = self._bus, self._new_bus()
        inherited.close()
        self._turn = RLock()  # whoever held it runs in the parent
        self._forget_messaging()
        if endpoint is None or dialer is None or keeper is None:
            return
        self._endpoint = self._dialer = self._listener = self._keeper = None
        mesher, self._mesher = self._mesher, None
        self._forked = endpoint.stopped = True
        keeper.stop()
        if mesher is not None:
            mesher.stop()
        if listener is not None:
            listener.close()
        dialer.let_go()
        heart().remove(endpoint)
        endpoint.let_go()

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
        :raises NotTLSError: what answers does not speak TLS.
        :raises TLSError: it does, but not as a node does.
        :raises CertificateError: with ``tls`` on either side, a certificate is missing, or for another name.
        :raises AuthenticationError: the two nodes have different cookies; both say so.
        :raises PolicyError: the two sides allow no common form of handshake, or ``allow`` has not that name.
        :raises NameMismatch: another node than the one named answers.
        :raises SelfLinkError: it is this node.
        :raises ProtocolError: what answers breaks the protocol.
        :raises Rejected: the peer, having proved the cookie, declines.
        :raises NodeStateError: this node is not started, or is stopped meanwhile.
        """
        dialer = self._dialer
        if dialer is None:
            raise NodeStateError(_FORKED if self._forked else "the node is not started; call start() first")
        check_timeout(timeout)
        session = dialer.connect(arguments.target(peer), timeout)
        dialer.endpoint.left.discard(session.peer)
        return session

    def keep(self, peer: str) -> None:
        """Keep a link with `peer` from now on: dial it, and whenever the link ends dial it again.

        A lost link is dialed again after a random delay that doubles with every failure, up to
        ``Config.redial_ceiling``; after a goodbye, only once ``Config.rejoin_wait`` has passed. What comes
        of it :meth:`subscribe` tells. Before :meth:`start`, it is remembered.

        :param peer: a node name, or ``host:port`` to learn the name from whoever answers there.
        :raises InvalidName: `peer` is neither.
        :raises ConfigurationError: ``allow`` has not that name.
        """
        target = arguments.target(peer)
        self._allow.check([target], "peer", self.name)
        self._peers[str(target)] = target
        if self._keeper is not None and self._endpoint is not None:
            self._endpoint.left.discard(str(target))
            self._keeper.keep(target)

    def leave(self, peer: str) -> None:
        """Part from `peer` and stay apart: keep it no longer, end the link, and decline its dials.

        That lasts until :meth:`connect` or :meth:`keep` asks for it again, or the node is stopped.

        :param peer: its node name, or the ``host:port`` it was kept by.
        :raises InvalidName: `peer` is neither.
        """
        key = str(arguments.target(peer))
        self._peers.pop(key, None)
        if self._keeper is None or self._endpoint is None:
            return
        name = self._keeper.leave(key) or key
        self._endpoint.left.add(name)
        if self._mesher is not None:
            self._mesher.leave(name)
        session = self._endpoint.table.sessions.get(name)
        if session is not None:
            session.leave(Farewell.LEAVING, f"{self.name} left")

    @property
    def kept(self) -> tuple[str, ...]:
        """The peers that are kept, as they were given."""
        return tuple(self._peers)

    @property
    def keeping(self) -> tuple[int, int]:
        """How many peers it keeps a link with, itself not counted, and with how many there is one now.

        Neither while it is not started.
        """
        return (0, 0) if self._keeper is None else (len(self._keeper.peers), self._keeper.linked)

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the nodes that can be reached now: this one, then those it is linked with, sorted.

        Empty while the node is not started.
        """
        return (self.name, *sorted(self.sessions)) if self.started else ()

    def subscribe(self) -> Subscription:
        """The node's events from now on: see ``snowgreen.Event`` for their kinds."""
        return self._bus.subscribe()

    def monitor(self, peer: str) -> Monitor:
        """The ups and downs of `peer`, of which none is missed: see :class:`~snowgreen.Monitor`.

        It begins with the NodeUp of the present link, if there is one. Before :meth:`start`, it is for the
        life that follows. It dials nobody: :meth:`keep` does.

        :param peer: its node name, as it announces it.
        :raises InvalidName: `peer` is none. A ``host:port`` will not do: who answers there may change.
        """
        return self._bus.monitor(arguments.named(peer, wanted_by="a monitor").text)

    # Identity.

    @property
    def name(self) -> str:
        """The node's name; once started, with the port it got, and with its placeholders filled in."""
        return self._template or self._requested.text if self._endpoint is None else self._endpoint.name.text

    @property
    def incarnation(self) -> int | None:
        """This life of the node (u64), None while it is not started."""
        return None if self._endpoint is None else self._endpoint.identity.incarnation

    @property
    def started_at(self) -> float | None:
        """When this life began, in seconds since the epoch; None while it is not started."""
        return None if self._endpoint is None else self._endpoint.started_at

    @property
    def address(self) -> str | None:
        """Where it is bound, as ``host:port``; None while it does not listen."""
        listener = self._listener
        return None if listener is None else str(listener.bound)

    @property
    def reported(self) -> Mapping[str, frozenset[str]]:
        """Peer name → other nodes that this peer says it is linked with; empty without ``mesh``.

        Nobody has proved any of that, and peers tell of those only that may be news.
        """
        return {} if self._mesher is None else self._mesher.reported

    @property
    def started(self) -> bool:
        """Whether the node lives."""
        return self._endpoint is not None

    def __repr__(self) -> str:
        if self._endpoint is None:
            return f"<Node {self.name if hasattr(self, '_requested') else 'without a name'} not started>"
        where = f"listening on {self.address}" if self._listener is not None else "dial-only"
        return f"<Node {self.name} {where}, {len(self.sessions)} sessions>"

    def _listen(self, address: Address, watch: CredentialWatch | None) -> Listener:
        listener: Listener | None = None
        try:
            server = self._ephemeral() if watch is None else watch.server_end
            listener = Listener((address.host, address.port), server, self._config.limits)
            # Bound here, so that the name can carry the port; connections are accepted once the
            # endpoint stands.
            listener.init_socket()
            listener.start()
            listener.stop_accepting()
        except OSError as error:
            if listener is not None:
                listener.close()
            what = "is taken by another process" if error.errno == errno.EADDRINUSE else _reason(error)
            raise ConfigurationError("listen", f"{address} cannot be bound: it {what}") from error
        return listener

    def _new_bus(self) -> Bus:
        return Bus(self._config.event_queue, self.journal.record)

    def _ephemeral(self) -> Callable[[], tls.End]:
        now = datetime.datetime.fromtimestamp(self._runtime.wall(), datetime.UTC)
        end = tls.server_end(tls.ephemeral_certificate(now))
        return lambda: end


_FORKED = (
    "this process was forked from the one that started the node, and the links are that one's; "
    "call start() here, too, for a node of this process's own"
)


def _reason(error: OSError) -> str:
    return f"failed with: {error.strerror or error}"
