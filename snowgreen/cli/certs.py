"""``snowgreen certs``: a small certificate authority for an operator who has none."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from .. import authority
from ..names import parse_name
from .options import fact

_directory_option = click.option(
    "--dir",
    "directory",
    metavar="DIR",
    default="snowgreen-ca",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the CA and the certificates are.",
)


@click.group()
def certs() -> None:
    """Make a certificate authority (CA), and certificates for your nodes.

    With them, a node can show that it is the one of its name, and no other member of the cluster can take
    that name: see docs/operator-ca.md. The CA's key can make a certificate for any name. Keep it away from
    the machines that nodes run on.
    """


@certs.command()
@_directory_option
@click.option(
    "--days",
    type=click.IntRange(1, 36_500),
    default=3650,
    show_default=True,
    help="How long the CA is valid.",
)
@click.option("--force", is_flag=True, help="Replace the CA that is there, and with it all it has issued.")
def init(directory: Path, days: int, force: bool) -> None:
    """Make a CA: DIR/ca.pem, which every node gets, and DIR/ca.key, which none does."""
    made = authority.make_ca(directory, days, _now(), force=force)
    fact("CA", made.certificate)
    fact("key", f"{made.key} (keep it to yourself)")
    fact("valid until", _shown(made.expires))


@certs.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_directory_option
@click.option(
    "--days",
    type=click.IntRange(1, 36_500),
    default=365,
    show_default=True,
    help="How long the certificates are valid; no longer than the CA.",
)
@click.option("--renew", is_flag=True, help="Replace the certificates, and their keys, that are there.")
def issue(names: tuple[str, ...], directory: Path, days: int, renew: bool) -> None:
    """Issue a certificate, with a key of its own, for each node NAME.

    NAME is the node's name to the letter, name@host or name@host:port, and its port is fixed: 9000, where it
    gives none. For a node that only dials, such as `snowgreen ping`, write port 0.
    """
    for name in [parse_name(name) for name in names]:
        made = authority.issue(directory, name, days, _now(), renew=renew)
        fact("node", name)
        fact("certificate", made.certificate)
        fact("key", made.key)
        fact("valid until", _shown(made.expires))


@certs.command()
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Print what the certificates in FILE say."""
    for number, found in enumerate(authority.summaries(file)):
        if number:
            click.echo()
        fact("subject", found.subject)
        fact("issuer", found.issuer)
        for name in found.names:
            fact("name", name)
        fact("valid from", _shown(found.begins))
        fact("valid until", _shown(found.expires) + ("" if found.expires > _now() else " (expired)"))
        fact("fingerprint", found.fingerprint)
        fact("is a CA", "yes" if found.is_authority else "no")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _shown(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
