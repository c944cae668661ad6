"""``--dashboard`` of ``snowgreen start``: where to serve the page that shows the node, and to whom."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from .. import cookie as cookies
from ..errors import ConfigurationError, CookieError
from ..names import Address
from ..node import Node
from .options import fact

_Command = TypeVar("_Command", bound=Callable[..., Any])
_ADDRESS, _TOKEN = "--dashboard", "--dashboard-token-file"


class Dashboard:
    """Where it was asked for; the token is taken out of it only to be passed on."""

    def __init__(self, address: Address, token: cookies.Cookie | None) -> None:
        self.address = address
        self._token = token

    @contextlib.contextmanager
    def of(self, node: Node) -> Iterator[None]:
        """Serve the page of `node` within the block.

        :raises ConfigurationError: if the address cannot be bound.
        """
        from .. import web

        try:
            server = web.serve(
                node,
                str(self.address),
                token=None if self._token is None else self._token.reveal().decode(),
            )
        except ConfigurationError as error:
            raise ConfigurationError(_ADDRESS, error.problem) from error
        try:
            fact("dashboard", f"http://{Address(self.address.host, server.server_port or 0)}/")
            yield
        finally:
            server.stop(timeout=0)


def dashboard_options(command: _Command) -> _Command:
    """``--dashboard`` and ``--dashboard-token-file``, which the command gets as one value, `dashboard`.

    It is checked there and then: what cannot be served is refused before a node starts.
    """

    @functools.wraps(command)
    def with_dashboard(
        *args: Any, dashboard: str | None, dashboard_token_file: Path | None, **options: Any
    ) -> Any:
        if dashboard is None and dashboard_token_file is not None:
            raise click.UsageError(f"{_TOKEN} goes with {_ADDRESS}")
        asked = None if dashboard is None else _checked(dashboard, dashboard_token_file)
        return command(*args, dashboard=asked, **options)

    with_token = click.option(
        _TOKEN,
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Show the dashboard only to those who have the token in FILE (mode 0600).",
    )(with_dashboard)
    return click.option(
        _ADDRESS,
        metavar="ADDR",
        help="Serve a page that shows this node at host:port, such as 127.0.0.1:9180; beyond loopback only "
        "with a token.",
    )(with_token)  # type: ignore[return-value]  # wraps() made it look the same


def _checked(address: str, file: Path | None) -> Dashboard:
    from ..web.access import defect
    from ..web.server import check_address

    where = check_address(address, protected=file is not None, argument=_ADDRESS)
    if file is None:
        return Dashboard(where, None)
    try:
        token = cookies.load(file, weak=True)
    except FileNotFoundError:
        advice = f"make it with `snowgreen cookie --new --cookie-file '{file}'`"
        raise ConfigurationError(_TOKEN, f"{file} does not exist; {advice}") from None
    except CookieError as error:
        raise ConfigurationError(_TOKEN, error.problem.replace("this cookie", "this token")) from None
    problem = defect(token.reveal().decode("utf-8", "replace"))
    if problem is not None:
        raise ConfigurationError(_TOKEN, f"{file}: {problem}")
    return Dashboard(where, token)
