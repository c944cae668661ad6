"""A node's two ends of TLS under an operator's CA, and keeping them up with the files they come from."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import ssl
from typing import NamedTuple, TypeAlias

import gevent
import gevent.ssl
from gevent.lock import RLock

from .. import certificates
from ..certificates import Material, TLSConfig
from ..errors import ConfigurationError
from ..events import CertificateProblem
from . import tls
from .bus import Bus
from .runtime import Runtime, say

log = logging.getLogger("snowgreen.credentials")

#: Seconds between two looks at the files.
_INTERVAL = 1.0
#: Seconds that a renewal has, between the one file and the other, before what does not fit is a problem.
_SETTLE = 0.25
#: Seconds after which files that could not be used are tried again, though they are the same: a certificate
#: may have become valid meanwhile.
_RETRY = 60.0

#: What changes when a file does: modification time, inode and size, for each file; None if it is not there.
_State: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class Credentials(NamedTuple):
    """What a node shows and demands, when it is dialed and when it dials."""

    server: tls.End
    client: tls.End
    expires: datetime.datetime


class CredentialWatch:
    """A node's credentials, from files that may change while it runs.

    :param name: the name that the certificate must be for.
    :raises ConfigurationError: if the files cannot be used.
    """

    def __init__(self, config: TLSConfig, name: str, runtime: Runtime, bus: Bus) -> None:
        self._config = config
        self._name = name
        self._runtime = runtime
        self._bus = bus
        self._lock = RLock()
        # Looked at before they are read: what changes in between is noticed later, and not missed.
        self._in_force = _state(config)
        self._credentials = self._load()
        self._looked_at = runtime.monotonic()
        self._refused: _State | None = None
        self._refused_at = 0.0

    def current(self) -> Credentials:
        """The credentials for a new link. Waits while changed files are read: never call it in the loop."""
        with self._lock:  # who comes meanwhile needs the new ones, too
            now = self._runtime.monotonic()
            if now - self._looked_at >= _INTERVAL:
                self._looked_at = now
                self._look(now)
            return self._credentials

    def server_end(self) -> tls.End:
        """What to accept a new link with."""
        return self.current().server

    def client_end(self) -> tls.End:
        """What to dial a new link with."""
        return self.current().client

    def _look(self, now: float) -> None:
        state = _state(self._config)
        if state == self._in_force:
            self._refused = None
            return
        again = state == self._refused
        if again and now - self._refused_at < _RETRY:
            return
        try:
            try:
                self._take_over(state)
            except ConfigurationError:
                if again:
                    raise
                gevent.sleep(_SETTLE)
                state = _state(self._config)
                self._take_over(state)
        except ConfigurationError as error:
            self._refused, self._refused_at = state, now
            if not again:
                self._tell(error)

    def _take_over(self, state: _State) -> None:
        self._credentials = self._load()
        self._in_force, self._refused = state, None
        say(
            log,
            logging.INFO,
            "new certificate of %s in force, until %s",
            self._name,
            self._credentials.expires,
        )

    def _tell(self, error: ConfigurationError) -> None:
        event = CertificateProblem(str(error), self._runtime.wall())
        say(log, logging.WARNING, "%s: %s", self._name, event)
        self._bus.publish(event)

    def _load(self) -> Credentials:
        now = datetime.datetime.fromtimestamp(self._runtime.wall(), datetime.UTC)
        # In a thread: a disk may be slow, and so is checking a large RSA key.
        made = gevent.get_hub().threadpool.apply(_loaded, (self._config, self._name, now))
        if isinstance(made, ConfigurationError):
            raise made
        return made

    def __repr__(self) -> str:
        return f"<CredentialWatch of {self._name}>"


def load(config: TLSConfig, name: str, now: datetime.datetime) -> Credentials:
    """Both ends of TLS for the node `name`, proved to work with each other.

    :raises ConfigurationError: if the files do not allow that.
    """
    material = certificates.load(config, now)
    certificates.check_name(material, name)
    made = _contexts(material)
    if isinstance(made, str):
        raise ConfigurationError(certificates.argument("cert"), f"OpenSSL does not take it: {made}")
    server, client = made
    _rehearse(server, client)
    return Credentials(
        tls.End(server, material.fingerprint, certified=True),
        tls.End(client, material.fingerprint, certified=True),
        material.expires,
    )


def _loaded(config: TLSConfig, name: str, now: datetime.datetime) -> Credentials | ConfigurationError:
    # Returned, because gevent prints the traceback of what is raised in its threads.
    try:
        return load(config, name, now)
    except ConfigurationError as error:
        return error.with_traceback(None)


def _contexts(material: Material) -> tuple[gevent.ssl.SSLContext, gevent.ssl.SSLContext] | str:
    """Server's and client's, or what is wrong: returned, so that no frame that raises holds the key."""
    pem = material.chain + material.key
    try:
        server = tls.server_context(pem)
        client = tls.context(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False  # who is there the SAN URI says, not the address
        tls.load_chain(client, pem)
    except ssl.SSLError as error:
        return error.reason or "for an unnamed reason"
    for context in (server, client):
        context.verify_mode = ssl.CERT_REQUIRED
        # The operator's file is the end of the matter: an intermediate CA in it needs no root beside it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=material.ca.decode())
    return server, client


def _rehearse(server: gevent.ssl.SSLContext, client: gevent.ssl.SSLContext) -> None:
    """Let the two ends shake hands in memory: what fails here would fail with every peer."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    dialing = client.wrap_bio(down, up, server_hostname=tls.SNI)
    accepting = server.wrap_bio(up, down, server_side=True)
    try:
        for _ in range(3):
            for end in (dialing, accepting):
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", None) or error.reason or "for an unnamed reason"
        raise ConfigurationError(
            certificates.argument("cert"),
            f"under this CA, a peer would not accept this certificate both as a server's and as a client's: "
            f"{reason}",
        ) from None


def _state(config: TLSConfig) -> _State:
    return tuple(_file_state(path) for path in (config.ca, config.cert, config.key))


def _file_state(path: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
