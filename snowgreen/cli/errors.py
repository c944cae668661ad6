"""How a command fails: one line that says what is wrong and what to do about it."""

from __future__ import annotations

from typing import IO, Any

import click

from ..errors import (
    AuthenticationError,
    CertificateError,
    LinkTimeout,
    NameMismatch,
    NotTLSError,
    SnowgreenError,
    Unreachable,
)

#: What to do about an error, where the error alone does not say it. The first that fits is used.
_ADVICE: tuple[tuple[type[SnowgreenError], str], ...] = (
    (AuthenticationError, "give both the same one; `snowgreen cookie` shows its fingerprint on either side"),
    (CertificateError, "`snowgreen certs show FILE` prints whom a certificate is for, and until when"),
    (Unreachable, "check that the node runs and that this is its host and port, as `snowgreen start` prints"),
    (LinkTimeout, "check the host and port, and firewalls in between, or allow more time with --timeout"),
    (NameMismatch, "dial the node by the name that it prints when it starts"),
    (NotTLSError, "check the port: something else than a node listens there"),
)


class Failure(click.ClickException):
    """Ends a command with status 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the one line."""
        click.echo(f"error: {self.message}", file=file, err=file is None)


def explained(error: SnowgreenError) -> str:
    """The error in one line, with what to do."""
    text = " ".join(str(error).split())
    for kind, advice in _ADVICE:
        if isinstance(error, kind):
            return f"{text}; {advice}"
    return text
