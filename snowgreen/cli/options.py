"""What several commands share: their options, the cookie these lead to, and how events are printed."""

from __future__ import annotations

import datetime
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .. import certificates
from .. import cookie as cookies
from ..certificates import TLSConfig
from ..cookie import Cookie
from ..errors import CookieError
from ..events import Event, HandshakeFailed, NodeDown, NodeUp

_Command = TypeVar("_Command", bound=Callable[..., Any])

_COLOURS: dict[type, str] = {NodeUp: "green", NodeDown: "red", HandshakeFailed: "yellow"}


def seconds_option(*names: str, about: str, default: float | None = None) -> Callable[[_Command], _Command]:
    """An option that takes a number of seconds, from a hundredth to a day."""
    return click.option(
        *names,
        type=float,
        metavar="SECONDS",
        default=default,
        show_default=default is not None,
        callback=_check_seconds,
        help=about,
    )


def _check_seconds(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    # click's own range would let "nan" through.
    if value is not None and not 0.01 <= value <= 86_400:
        raise click.BadParameter(f"{value} is not from 0.01 to 86400 seconds")
    return value


def cookie_file_option(command: _Command) -> _Command:
    """``--cookie-file``, the only way to name another cookie on the command line."""
    return click.option(
        "--cookie-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Take the cookie from FILE (mode 0600) instead of SNOWGREEN_COOKIE or your config directory. "
        "There is no --cookie: `ps` would show it to everybody on this machine.",
    )(command)


def find_cookie(file: Path | None) -> Cookie:
    """The cookie of `file` if that is given, else the one a node takes by itself."""
    if file is None:
        return cookies.find()
    try:
        return cookies.load(file)
    except FileNotFoundError:
        advice = f"make it with `snowgreen cookie --new --cookie-file '{file}'`"
        raise CookieError("cookie", f"{file} does not exist; {advice}") from None


def tls_options(command: _Command) -> _Command:
    """``--tls-ca``, ``--tls-cert`` and ``--tls-key``, which the command gets as one value, `tls`."""

    @functools.wraps(command)
    def with_tls(
        *args: Any, tls_ca: str | None, tls_cert: str | None, tls_key: str | None, **options: Any
    ) -> Any:
        given = {"--tls-ca": tls_ca, "--tls-cert": tls_cert, "--tls-key": tls_key}
        missing = [option for option, value in given.items() if value is None]
        if 0 < len(missing) < len(given):
            raise click.UsageError(f"the three --tls-... go together: {' and '.join(missing)} missing")
        tls = None
        if tls_ca is not None and tls_cert is not None and tls_key is not None:
            tls = TLSConfig(ca=tls_ca, cert=tls_cert, key=tls_key)
        return command(*args, tls=tls, **options)

    return _file_options(with_tls)  # type: ignore[return-value]  # wraps() made it look the same


def _file_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option, about in (
        ("--tls-key", "The private key of --tls-cert (mode 0600)."),
        ("--tls-cert", "This node's certificate. Without --name, it also names the node."),
        ("--tls-ca", "Link only with nodes that have a certificate of this CA (docs/operator-ca.md)."),
    ):
        command = click.option(option, metavar="FILE", help=about)(command)
    return command


def passing_name(command: str, tls: TLSConfig | None = None) -> str:
    """The name of a node that only dials and is gone with its command: its certificate's, if it has one."""
    if tls is not None:
        return certificates.own_name(tls).text
    return f"{command}-{os.urandom(3).hex()}@127.0.0.1:0"


def fact(label: str, value: object) -> None:
    """Print one fact."""
    click.echo(f"{label:<12} {value}")


def print_event(event: Event) -> None:
    """Print an event as one line, with its time."""
    text = click.style(str(event), fg=_COLOURS.get(type(event)))
    click.echo(f"{clock(getattr(event, 'at', None))}  {text}")


def clock(at: float | None = None) -> str:
    """Local time to the millisecond; now, if no time is given."""
    moment = datetime.datetime.fromtimestamp(time.time() if at is None else at)
    return f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"
