"""How a command fails: one line that says what is wrong and what to do about it."""

from __future__ import annotations

from typing import IO, Any

import click

from ..errors import LinkError, SnowgreenError
from ..link.advice import advice


class Failure(click.ClickException):
    """Ends a command with status 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the one line."""
        click.echo(f"error: {self.message}", file=file, err=file is None)


def explained(error: SnowgreenError) -> str:
    """The error in one line, with what to do."""
    text = " ".join(str(error).split())
    return f"{text}; {advice(error, initiated=True)}" if isinstance(error, LinkError) else text
