"""``snowgreen cookie``: which cookie nodes take here, without showing it, and how to make a new one."""

from __future__ import annotations

import os
from pathlib import Path

import click

from .. import cookie as cookies
from ..cookie import VARIABLE, Cookie
from ..link.keyring import link_keys
from .errors import Failure
from .options import cookie_file_option, fact


@click.command()
@click.option("--new", is_flag=True, help="Make a fresh one, 256 random bits, in the cookie file.")
@click.option("--yes", is_flag=True, help="With --new: replace the cookie that is there without asking.")
@click.option("--show", is_flag=True, help="Print the cookie itself, too. Mind who can see this screen.")
@click.option("--path", "only_path", is_flag=True, help="Print the path of the cookie file, and no more.")
@cookie_file_option
def cookie(new: bool, yes: bool, show: bool, only_path: bool, cookie_file: Path | None) -> None:
    """Show which cookie is in use: its source, length and fingerprint, but not the cookie.

    Two machines that print the same fingerprint have the same cookie. What counts is SNOWGREEN_COOKIE
    if it is set, else the cookie file.
    """
    if only_path and (new or show):
        raise click.UsageError("--path goes with neither --new nor --show")
    if yes and not new:
        raise click.UsageError("--yes is for --new")
    path = cookie_file or cookies.default_path()
    if only_path:
        click.echo(path)
        return
    from_variable = cookie_file is None and VARIABLE in os.environ
    if new:
        _renew(path, yes)
        if from_variable:
            click.echo(f"warning: {VARIABLE} is set, and comes before this file", err=True)
    if from_variable and not new:
        _report(cookies.find(), None, show)
        return
    try:
        _report(cookies.load(path), path, show)
    except FileNotFoundError:
        raise Failure(
            f"no cookie yet: {path} does not exist; `snowgreen cookie --new` makes it, with the same "
            "--cookie-file if you gave one; the first node to start makes the one in your config directory"
        ) from None


def _renew(path: Path, yes: bool) -> None:
    exists = os.path.lexists(path)
    if exists and not yes:
        click.echo(f"{path} exists. Nodes that do not have the new cookie yet will refuse those that dial")
        try:
            sure = click.confirm("with it. Replace it?", default=False)
        except click.Abort:  # nobody is there to answer
            click.echo()
            sure = False
        if not sure:
            raise Failure(f"{path} was left as it is; --yes replaces it without asking")
    try:
        cookies.create(path, replace=exists)
    except FileExistsError:
        raise Failure(f"{path} was made by another process just now, and was left as it is") from None
    if exists:
        click.echo("A new cookie is in place. Copy the file to every machine, then send SIGHUP to each")
        click.echo("`snowgreen start`: it takes the new cookie, and still accepts the old one. Programs of")
        click.echo("your own call node.reload_cookie(). Links that are up stay up; a node that does not have")
        click.echo("the new cookie yet refuses who dials with it (docs/rotation.md: how nobody is refused).")
    else:
        click.echo("A new cookie is in place. Nodes with another one are refused until they have this one.")


def _report(found: Cookie, path: Path | None, show: bool) -> None:
    fact("source", f"the variable {VARIABLE}" if path is None else "the cookie file")
    fact("path", "none: the variable comes before the file" if path is None else path)
    fact("length", f"{len(found.reveal())} bytes")
    fact("fingerprint", link_keys(found).fingerprint)
    if show:
        fact("cookie", found.reveal().decode("utf-8", "backslashreplace"))
