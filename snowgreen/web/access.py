"""Who may look at the dashboard: whoever has its token, or, where it has none, this machine alone.

A page of another site can make a browser ask a loopback address, or a name of its own that it points there.
So without a token the Host has to be a loopback one as well, and what such a page asks for is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import Any
from urllib.parse import parse_qs

from ..errors import ConfigurationError
from ..names import is_loopback, parse_address, printable
from .reply import Reply, words

#: Of the token, in characters.
_SHORTEST, _LONGEST = 16, 256
_LONGEST_HEADER = 4096
#: What a proxy adds, which is one of these or begins with it.
_FORWARDED = ("HTTP_FORWARDED", "HTTP_X_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA")


class Guard:
    """Lets requests in or refuses them.

    :param token: what a request has to prove to have; None for requests from this machine only.
    :raises ConfigurationError: if the token can be guessed, or cannot stand in a URL. It is never shown.
    """

    def __init__(self, token: str | None) -> None:
        problem = None if token is None else defect(token)
        if problem is not None:
            del token  # a traceback must not show it
            raise ConfigurationError("token", problem)
        self._open = token is None
        secret = (token or "").encode()
        del token
        # What is kept and compared, and what the browser gets, are no use for finding the token again.
        self._expected = _digest(secret)
        self._session = hmac.new(secret, b"snowgreen dashboard: session", hashlib.sha256).hexdigest()
        mark = hmac.new(secret, b"snowgreen dashboard: name", hashlib.sha256).hexdigest()
        # Cookies know no ports: two dashboards of one machine must not overwrite each other's.
        self._cookie = f"snowgreen-{mark[:8]}"

    def refusal(self, environ: dict[str, Any]) -> Reply | None:
        """Why this request is not answered; None if it is."""
        if environ.get("HTTP_SEC_FETCH_SITE") in ("cross-site", "same-site") and not _follows_link(environ):
            return words(403, "The dashboard does not answer what a page of another site asks for.")
        if self._open:
            return _unless_local(environ)
        if self._bearer(environ) or self._has_session(environ):
            return None
        return words(
            401,
            "This dashboard wants its token. In a browser, open its page once with ?token=THE-TOKEN behind "
            "the address; a program sends the header 'Authorization: Bearer THE-TOKEN'.",
            ("WWW-Authenticate", 'Bearer realm="snowgreen"'),
        )

    def admission(self, environ: dict[str, Any]) -> str | None:
        """The Set-Cookie header for a request that has the right token in its URL; None for any other."""
        given = asked_token(environ)
        if self._open or given is None or not self._right(given):
            return None
        path = environ.get("SCRIPT_NAME") or "/"
        if not path.isascii() or any(c in path for c in ';, \\"') or not path.isprintable():
            path = "/"
        secure = "; Secure" if environ.get("wsgi.url_scheme") == "https" else ""
        return f"{self._cookie}={self._session}; Path={path}; HttpOnly; SameSite=Strict{secure}"

    def _bearer(self, environ: dict[str, Any]) -> bool:
        kind, _, given = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
        return kind.lower() == "bearer" and len(given) <= _LONGEST and self._right(given.strip())

    def _has_session(self, environ: dict[str, Any]) -> bool:
        header = str(environ.get("HTTP_COOKIE", ""))
        if len(header) > _LONGEST_HEADER:
            return False
        pairs = [pair.strip().partition("=") for pair in header.split(";")]
        given = [value for name, _, value in pairs if name == self._cookie]
        return any(
            hmac.compare_digest(_digest(_bytes(value)), _digest(_bytes(self._session))) for value in given
        )

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(_digest(_bytes(given)), self._expected)


def defect(token: object) -> str | None:
    """What is wrong with `token` as a dashboard's token, in words that do not show it; None if nothing is."""
    if not isinstance(token, str):
        return f"must be a str or None, not {type(token).__name__}"
    if len(token) < _SHORTEST:
        return (
            f"it is shorter than {_SHORTEST} characters and could be guessed; "
            "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    if len(token) > _LONGEST:
        return f"it is longer than {_LONGEST} characters"
    if not token.isascii() or not token.isprintable() or " " in token:
        return "it has spaces, control characters or characters outside ASCII"
    return None


def asked_token(environ: dict[str, Any]) -> str | None:
    """The token in the URL of a request, None if there is none."""
    try:
        fields = parse_qs(str(environ.get("QUERY_STRING", "")), max_num_fields=8)
    except ValueError:
        return None
    return fields["token"][0] if "token" in fields else None


def _follows_link(environ: dict[str, Any]) -> bool:
    """Whether a browser asks for a page of its own, and for no frame in another one."""
    frame = environ.get("HTTP_SEC_FETCH_DEST", "document") != "document"
    return environ.get("HTTP_SEC_FETCH_MODE") == "navigate" and not frame


def _unless_local(environ: dict[str, Any]) -> Reply | None:
    source, host = str(environ.get("REMOTE_ADDR", "")), str(environ.get("HTTP_HOST", ""))
    if not _is_loopback_address(source):
        problem = f"this one came from {printable(source) or 'an unknown address'}"
    elif not _is_loopback_host(host):
        problem = f"this one asked for the host '{printable(host)}'"
    elif any(name.startswith(_FORWARDED) for name in environ):
        problem = "this one was passed on by a proxy"
    else:
        return None
    return words(
        403,
        "Without a token, this dashboard answers only requests made on this machine, for localhost or a "
        f"loopback address; {problem}. To look at it from elsewhere, give it a token: "
        "dashboard(node, token=...), or `snowgreen start --dashboard-token-file FILE`.",
    )


def _is_loopback_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _is_loopback_host(text: str) -> bool:
    try:
        return is_loopback(parse_address(text).host.lower())
    except ConfigurationError:
        return False


def _digest(value: bytes) -> bytes:
    # Of equal length, so that a comparison tells nothing of the token's.
    return hashlib.sha256(value).digest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
