"""What the dashboard answers with, and the headers that every answer has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: On every answer, whatever it is.
_ALWAYS = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_REASONS = {
    200: "OK",
    303: "See Other",
    304: "Not Modified",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    501: "Not Implemented",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer.

    :param status: the HTTP status.
    :param body: all of it, or an iterator of its pieces, of which the server then does not know the length.
    :param kind: its content type; None for an answer without one.
    :param headers: more headers.
    :param keep: whether a browser may keep it, asking each time whether it is still the same.
    """

    status: int
    body: bytes | Iterator[bytes] = b""
    kind: str | None = TEXT
    headers: tuple[tuple[str, str], ...] = ()
    keep: bool = False

    @property
    def line(self) -> str:
        """Status and reason, as WSGI wants them."""
        return f"{self.status} {_REASONS[self.status]}"

    def all_headers(self) -> list[tuple[str, str]]:
        """Every header of the answer."""
        headers = [*_ALWAYS, ("Cache-Control", "no-cache" if self.keep else "no-store"), *self.headers]
        if self.kind is not None:
            headers.append(("Content-Type", self.kind))
        if isinstance(self.body, bytes) and self.status != 304:
            headers.append(("Content-Length", str(len(self.body))))
        return headers

    def pieces(self, head: bool) -> Iterable[bytes]:
        """The body, or nothing of it if only the head was asked for."""
        if not isinstance(self.body, bytes):
            return self.body
        return [] if head or not self.body else [self.body]


def words(status: int, text: str, *headers: tuple[str, str]) -> Reply:
    """An answer in a sentence, for whoever asked."""
    return Reply(status, f"{text}\n".encode(), headers=headers)
