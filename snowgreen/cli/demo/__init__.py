"""``snowgreen demo``: what snowgreen is for, on this machine, with real processes, in a few seconds.

Three nodes link, a fourth with another cookie is refused, one is killed and comes back. Nothing is
claimed that no process has reported: see :mod:`.stage`.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import sys
from collections.abc import Iterator

import click

from ...cookie import Cookie
from ..errors import Failure
from ..signals import Interrupted, interruptible
from .child import demo_node
from .reports import Kind, Report, role_of
from .stage import Expectation, Stage, StepFailed
from .troupe import Actor, Troupe
from .views import LiveView, PlainView

__all__ = ["demo", "demo_node"]

_NODES = ("alice", "bob", "carol")
#: Seconds between two steps, for people to read; scripts need none.
_PAUSE = 0.6


@click.command()
@click.option("--plain", is_flag=True, help="Numbered lines, as when the output is no terminal.")
def demo(plain: bool) -> None:
    """Watch three nodes link, refuse a stranger, lose one of them and get it back.

    Real processes on the loopback interface, with a throw-away cookie. Takes about ten seconds; exits
    with 0 only if every step was observed.
    """
    try:
        with interruptible(), _view(plain) as view, Troupe() as troupe:
            stage = Stage(troupe.inbox, view)
            if isinstance(view, LiveView):
                view.board = stage.board
            _play(troupe, stage, _PAUSE if isinstance(view, LiveView) else 0.0)
    except StepFailed as failure:
        raise Failure(str(failure)) from failure
    except Interrupted:
        click.echo("interrupted; every process of the demo has been ended", err=True)
        raise
    click.echo("Every step was observed, and every process has ended.")


@contextlib.contextmanager
def _view(plain: bool) -> Iterator[LiveView | PlainView]:
    if plain or not sys.stdout.isatty():
        yield PlainView()
        return
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_dumb_terminal:
        yield PlainView()
        return
    with LiveView(console) as view:
        yield view


def _play(troupe: Troupe, stage: Stage, pause: float) -> None:
    """The story. Each step is one claim about snowgreen, and the reports that prove it."""
    cookie = Cookie.wrap(secrets.token_hex(32), "the demo")
    with stage.step("Three nodes start, each a process, all with one cookie"):
        actors = {role: troupe.start(role, f"{role}@127.0.0.1:0", cookie) for role in _NODES}
        ready = stage.expect(*(_ready(role) for role in _NODES))
        names = {report.role: report.name for report in ready}
        lives = {report.role: report.incarnation for report in ready}
    stage.linger(pause)

    with stage.step("They link in pairs; each proves that it knows the cookie"):
        for dialer, acceptor in (("alice", "bob"), ("bob", "carol"), ("carol", "alice")):
            actors[dialer].link_with(names[acceptor])
        stage.expect(*(_up(role, other, lives[other]) for role, other in _pairs()))
    stage.linger(pause)

    with stage.step("Pings cross every link, both ways"):
        stage.expect(*(_pinged(role, other) for role, other in _pairs()))
    stage.linger(pause)

    with stage.step("mallory, who has another cookie, dials alice: refused"):
        _intrude(troupe, stage, names["alice"])
    stage.linger(pause)

    with stage.step("carol is killed with SIGKILL; the others lose the link"):
        actors["carol"].kill()
        status = -int(signal.SIGKILL)
        stage.expect(
            _ended("carol", status),
            *(_down(role, "carol", lives["carol"]) for role in ("alice", "bob")),
        )
    stage.linger(pause)

    with stage.step("carol restarts, same name and port, and links again"):
        actors["carol"] = troupe.start("carol", names["carol"], cookie)
        _return(stage, actors["carol"], names, lives)
        stage.expect(*(_pinged(role, other) for role, other in _pairs() if "carol" in (role, other)))
    stage.linger(pause)

    with stage.step("The nodes are told to stop, and end cleanly", tolerate=frozenset({Kind.DOWN})):
        for actor in actors.values():
            actor.end()
        stage.expect(*(_ended(role, 0) for role in _NODES))


def _intrude(troupe: Troupe, stage: Stage, target: str) -> None:
    other_cookie = Cookie.wrap(secrets.token_hex(32), "the demo")
    mallory = troupe.start("mallory", "mallory@127.0.0.1:0", other_cookie, dial_only=True)
    stage.expect(_ready("mallory"))
    mallory.link_with(target)
    stage.expect(_refused("alice", "mallory", initiated=False), _refused("mallory", "alice", initiated=True))
    mallory.end()
    stage.expect(_ended("mallory", 0))


def _return(stage: Stage, carol: Actor, names: dict[str, str], lives: dict[str, int | None]) -> None:
    (ready,) = stage.expect(
        Expectation(
            f"carol is ready again as {names['carol']}, in a later life",
            lambda report: (
                _ready("carol").fits(report)
                and report.name == names["carol"]
                and (report.incarnation or 0) > (lives["carol"] or 0)
            ),
        )
    )
    lives["carol"] = ready.incarnation
    for other in ("alice", "bob"):
        carol.link_with(names[other])
    stage.expect(*(_up(role, other, lives[other]) for role, other in _pairs() if "carol" in (role, other)))


# What can be expected.


def _pairs() -> list[tuple[str, str]]:
    return [(role, other) for role in _NODES for other in _NODES if role != other]


def _expectation(text: str, role: str, kind: Kind, other: str, **wanted: object) -> Expectation:
    def fits(report: Report) -> bool:
        return (
            report.role == role
            and report.kind is kind
            and role_of(report.peer) == other
            and all(getattr(report, key) == value for key, value in wanted.items())
        )

    return Expectation(text, fits)


def _ready(role: str) -> Expectation:
    return _expectation(f"{role} is ready", role, Kind.READY, "")


def _up(role: str, other: str, incarnation: int | None) -> Expectation:
    return _expectation(f"{role} has a link with {other}", role, Kind.UP, other, incarnation=incarnation)


def _down(role: str, other: str, incarnation: int | None) -> Expectation:
    return _expectation(
        f"{role} sees the link with {other} down", role, Kind.DOWN, other, incarnation=incarnation
    )


def _pinged(role: str, other: str) -> Expectation:
    return _expectation(f"{other} answers a ping of {role}", role, Kind.RTT, other)


def _refused(role: str, other: str, *, initiated: bool) -> Expectation:
    return _expectation(
        f"{role} says that the link with {other} failed for the cookie",
        role,
        Kind.FAILED,
        other,
        initiated=initiated,
        error="AuthenticationError",
    )


def _ended(role: str, status: int) -> Expectation:
    return _expectation(
        f"the process of {role} ends with status {status}", role, Kind.EXIT, "", status=status
    )
