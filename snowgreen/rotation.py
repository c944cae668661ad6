"""The part of a node that changes its secrets while it runs: see ``docs/rotation.md`` for the procedure."""

from __future__ import annotations

from .cookie import Cookie, wrapped
from .errors import ConfigurationError, CookieError, NodeStateError
from .link.endpoint import Endpoint
from .link.keyring import Keychain
from .protocol.keyring import MAX_ACCEPTED


class Rotation:
    """What :class:`~snowgreen.Node` inherits: one primary cookie, up to two accepted ones, and their changes.

    A node dials with the primary, and lets in who proves any of them. Links that are up stay up whatever
    becomes of their cookie, until :meth:`drain`. All of this asks for a started node; what was changed
    outlasts a stop and a new start.
    """

    _endpoint: Endpoint | None
    _keychain: Keychain

    def rotate(self, cookie: str | bytes | Cookie, keep: bool = True) -> None:
        """Make `cookie` the primary one: dials prove it from now on. This greenlet waits about 0.1 s.

        :param cookie: the new secret, str or bytes, as in ``Node(cookie=...)``.
        :param keep: go on accepting the old primary. It is then the newest of at most two accepted cookies;
            the oldest falls out. False forgets it; the other accepted one stays.
        :raises CookieError: the cookie cannot be used; nothing has changed.
        :raises NodeStateError: the node is not started.
        """
        secret, problem = wrapped(cookie, "cookie", weak=self._keychain.weak)
        del cookie  # as in Node(): no traceback from here on shows it
        self._living()
        self._keychain.rotate(_certain(secret, problem), keep=keep)

    def accept(self, cookie: str | bytes | Cookie) -> None:
        """Let in who proves `cookie`, too; the first phase of a rotation. This greenlet waits about 0.1 s.

        It becomes the newest of at most two accepted cookies, and the oldest falls out. One that is in the
        keyring already is left where it is.

        :param cookie: the secret, str or bytes.
        :raises CookieError: the cookie cannot be used; nothing has changed.
        :raises NodeStateError: the node is not started.
        """
        secret, problem = wrapped(cookie, "cookie", weak=self._keychain.weak)
        del cookie
        self._living()
        self._keychain.accept(_certain(secret, problem))

    def forget(self, cookie: str | bytes | Cookie | None = None) -> bool:
        """Accept `cookie` no longer, not even from a handshake under way. Links made with it stay up.

        :param cookie: one of the accepted ones. Default: all of them; only the primary is left.
        :returns: whether there was anything to forget.
        :raises ConfigurationError: it is the primary: rotate first.
        :raises CookieError: it could never have been a cookie.
        :raises NodeStateError: the node is not started.
        """
        if cookie is None:
            self._living()
            return self._keychain.forget(None)
        secret, problem = wrapped(cookie, "cookie", weak=True)
        del cookie
        self._living()
        return self._keychain.forget(_certain(secret, problem))

    def reload_cookie(self) -> bool:
        """Read again the file that the primary cookie came from; if it holds another now, rotate to that.

        The old one stays accepted, as with :meth:`rotate`.

        :returns: whether it has changed.
        :raises ConfigurationError: the cookie came from the environment or an argument, not from a file.
        :raises CookieError: the file is gone, or what it holds cannot be used. The old cookie stays in force.
        :raises NodeStateError: the node is not started.
        """
        self._living()
        return self._keychain.reload()

    def drain(self, reason: str = "its cookie is no longer accepted") -> int:
        """Close every bound session that was made with a cookie not accepted any more.

        :param reason: what ``NodeDown`` and ``Session.reason`` will say.
        :returns: how many there were.
        :raises NodeStateError: the node is not started.
        """
        return self._living().drain(reason)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of the cookies in the keyring, the primary's first: 48 bits each, as ``snowgreen cookie`` prints.

        Empty while the node is not started.
        """
        return () if self._endpoint is None else self._keychain.ring.fingerprints

    def _living(self) -> Endpoint:
        if self._endpoint is None:
            raise NodeStateError("the node is not started; call start() first")
        return self._endpoint


def wrapped_accept(values: object, *, weak: bool) -> tuple[tuple[Cookie, ...], ConfigurationError | None]:
    """The cookies of ``Node(accept=...)``, or what is wrong with them: see :func:`.cookie.wrapped`."""
    if not isinstance(values, list | tuple):
        kind = type(values).__name__
        return (), ConfigurationError("accept", f"must be a list or tuple of cookies, and is a {kind}")
    if len(values) > MAX_ACCEPTED:
        problem = f"{len(values)} cookies are too many: at most {MAX_ACCEPTED} besides the primary one"
        return (), ConfigurationError("accept", problem)
    cookies = []
    for index, value in enumerate(values):
        cookie, defect = wrapped(value, f"accept[{index}]", weak=weak)
        if cookie is None:
            return (), defect
        cookies.append(cookie)
    return tuple(cookies), None


def _certain(cookie: Cookie | None, problem: CookieError | None) -> Cookie:
    if cookie is None:
        assert problem is not None  # noqa: S101  # wrapped() gives one of the two
        raise problem
    return cookie
