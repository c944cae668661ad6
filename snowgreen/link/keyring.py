"""A node's cookies while it runs: derived off the hub, changed in one go, re-read from where they came.

scrypt takes a tenth of a second by design, so keys are made once per cookie and process.
"""

from __future__ import annotations

import logging

import gevent
from gevent.lock import RLock

from .. import cookie as cookies
from ..cookie import Cookie
from ..errors import ConfigurationError, CookieError
from ..protocol.keyring import Keyring
from ..protocol.keys import LinkKeys, prehash
from .runtime import say

log = logging.getLogger("snowgreen.keyring")

_derived: dict[bytes, LinkKeys] = {}
_lock = RLock()


def forked() -> None:
    """In a child of a fork: whoever held the lock at that moment runs in the parent."""
    global _lock
    _lock = RLock()


def link_keys(cookie: Cookie) -> LinkKeys:
    """The keys of `cookie`. The first call for a cookie waits, in this greenlet only, about 0.1 s."""
    with _lock:  # greenlets that start nodes together share one derivation
        # The hash of a cookie is never named: should scrypt fail, the traceback must not show it.
        keys = _derived.get(prehash(cookie.reveal()))
        if keys is None:
            keys = gevent.get_hub().threadpool.apply(_derive, (cookie,))
            _derived[prehash(cookie.reveal())] = keys
        return keys


def _derive(cookie: Cookie) -> LinkKeys:
    return LinkKeys.derive(cookie.reveal())


class Keychain:
    """One node's cookies over all of its lives, and the keyring they make.

    Each change first derives what it needs, and is then made without a switch to another greenlet. Changes
    are made in the order in which they were asked for.

    :param given: the primary cookie, None to look for it at each start.
    :param accepted: further cookies, the newest first.
    :param weak: whether a cookie that is read again may be short.
    """

    def __init__(self, given: Cookie | None, accepted: tuple[Cookie, ...], *, weak: bool) -> None:
        #: As it is now, without keys before :meth:`open`. A handshake keeps the one it began with.
        self.ring = Keyring()
        self._given = given
        self._accepted = accepted  # what open() has still to derive
        self.weak = weak
        self._primary = given
        self._turn = RLock()

    def forked(self) -> None:
        """In a child of a fork: whoever was making a change at that moment makes it in the parent."""
        self._turn = RLock()

    def open(self) -> None:
        """Find the primary cookie and derive all keys, for a life that begins.

        :raises CookieError: if no usable cookie is found.
        """
        with self._turn:
            primary = cookies.find(self._given, weak=self.weak)
            key = link_keys(primary)
            accepted = [link_keys(cookie) for cookie in self._accepted]
            self.ring = Keyring.of(key, (*self.ring.accepted, *accepted))
            self._primary, self._accepted = primary, ()

    def rotate(self, cookie: Cookie, *, keep: bool) -> None:
        """Make `cookie` the primary, for later lives, too."""
        with self._turn:
            key = link_keys(cookie)
            self._change(self.ring.rotated(key, keep=keep))
            self._given = self._primary = cookie

    def accept(self, cookie: Cookie) -> None:
        """Accept `cookie`, too."""
        with self._turn:
            key = link_keys(cookie)
            self._change(self.ring.accepting(key))

    def forget(self, cookie: Cookie | None) -> bool:
        """Stop accepting `cookie`, or all but the primary; whether there was anything to forget.

        :raises ConfigurationError: if it is the primary.
        """
        with self._turn:
            before = self.ring
            if cookie is None:
                self._change(Keyring.of(before.primary))
            else:
                key = link_keys(cookie)
                if key == before.primary:
                    raise ConfigurationError("cookie", "it is the primary one; rotate to another first")
                self._change(before.without(key))
            return self.ring != before

    def reload(self) -> bool:
        """Read the primary cookie's file again and rotate to what it holds; whether that is another cookie.

        :raises ConfigurationError: if it came from no file.
        :raises CookieError: if the file holds no usable cookie, or is gone. The keyring stays as it is.
        """
        with self._turn:
            path = None if self._primary is None else self._primary.path
            if path is None:
                source = "nowhere yet" if self._primary is None else self._primary.source
                raise ConfigurationError(
                    "cookie", f"it came from no file ({source}), and there is nothing to read again"
                )
            try:
                cookie = cookies.load(path, weak=self.weak)
            except FileNotFoundError:
                raise CookieError("cookie", f"{path} is gone") from None
            key = link_keys(cookie)
            if key == self.ring.primary:
                return False
            self._change(self.ring.rotated(key))
            self._primary = cookie
            if self._given is not None:  # where it is None, the next start looks for it anew
                self._given = cookie
            return True

    def _change(self, ring: Keyring) -> None:
        if ring == self.ring:
            return
        self.ring = ring
        primary, *accepted = ring.fingerprints
        say(
            log,
            logging.INFO,
            "the primary cookie is %s; also accepted: %s",
            primary,
            ", ".join(accepted) or "none",
        )
