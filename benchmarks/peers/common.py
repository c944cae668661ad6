"""What the peers have in common: the loop that takes orders, percentiles, TLS, and what a process uses."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import math
import os
import platform
import resource
import ssl
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TextIO

#: Seconds that an order may wait for messages, at most.
PATIENCE: Final = 120.0
Answer = dict[str, Any]


class Unsupported(Exception):
    """What this peer cannot do, and why."""


@dataclass(frozen=True)
class Hello:
    """What a peer says of itself."""

    #: What it is called where it is shown.
    name: str
    version: str
    tls: bool
    note: str = ""
    #: Other ways to send than the one of all peers: what ``send(..., way=...)`` takes.
    ways: tuple[str, ...] = ()
    #: Whether its client can also ``knock``: make links of ends that do nothing but be let in.
    crowd: bool = False


# Orders.


def main(hello: Hello, roles: Mapping[str, Callable[[], object]], lines: Iterable[str] | None = None) -> None:
    """Be the role that the command line names: obey each of `lines`, until there are no more.

    The words of an order are the names and the arguments of a method of the role; what it has no method for
    is unsupported. A method returns a dict or None, or raises :class:`Unsupported`.

    :param lines: default: standard input.
    """
    answers, role = prepare(), roles[sys.argv[1]]()
    for line in sys.stdin if lines is None else lines:
        answer(answers, obey(hello, role, line))


async def main_async(
    hello: Hello, roles: Mapping[str, Callable[[], object]], read: Callable[[], Awaitable[str]]
) -> None:
    """As :func:`main`, where methods may be coroutines.

    :param read: waits for the next line, and gives an empty one when there are no more.
    """
    answers, role = prepare(), roles[sys.argv[1]]()
    while line := await read():
        answer(answers, await obey_async(hello, role, line))


def missing(why: object) -> NoReturn:
    """Say that this peer is not installed, and end."""
    answers = prepare()
    sys.stdin.readline()
    answer(answers, {"missing": str(why)})
    raise SystemExit(0)


def prepare() -> TextIO:
    """Have room for thousands of links; what answers go to. Whatever else is printed goes to stderr."""
    roomy()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def roomy() -> None:
    """Take all the descriptors that the system gives."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems refuse their own "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def answer(answers: TextIO, content: Answer) -> None:
    """Answer an order."""
    answers.write(json.dumps(content) + "\n")
    answers.flush()


def obey(hello: Hello, role: object, line: str) -> Answer:
    """Do what the order `line` says; what to answer, whatever comes of it."""
    try:
        return _ordered(hello, role, line)() or {}
    except Exception as error:  # noqa: BLE001  # one thing that a peer cannot do must not end the others
        return _excuse(error)


async def obey_async(hello: Hello, role: object, line: str) -> Answer:
    """As :func:`obey`, where the method may be a coroutine."""
    try:
        result = _ordered(hello, role, line)()
        return (await result if inspect.isawaitable(result) else result) or {}
    except Exception as error:  # noqa: BLE001  # as above
        return _excuse(error)


def _ordered(hello: Hello, role: object, line: str) -> Callable[[], Any]:
    order = json.loads(line)
    do = order.pop("do")
    if do == "hello":
        return lambda: asdict(hello)
    method = None if do.startswith("_") else getattr(role, do, None)
    if method is None:
        raise Unsupported(f"it has no {do!r}")
    return lambda: method(**order)


def _excuse(error: Exception) -> Answer:
    if isinstance(error, Unsupported):
        return {"unsupported": str(error) or "it cannot do that"}
    traceback.print_exception(error, file=sys.stderr)
    return {"failed": f"{type(error).__name__}: {error}"}


# What is counted and timed.


class Count:
    """One-way messages that the application has got."""

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0

    def take(self, size: int) -> None:
        """One has come."""
        self.messages += 1
        self.bytes += size

    def as_answer(self) -> Answer:
        """What ``received`` answers."""
        return {"messages": self.messages, "bytes": self.bytes}

    def wait(self, messages: int, sleep: Callable[[float], object] = time.sleep) -> Answer:
        """Return once there are so many in all: what ``wait`` answers."""
        began = time.perf_counter()
        while self.messages < messages:
            if time.perf_counter() - began > PATIENCE:
                raise TimeoutError(f"{self.messages} of {messages} messages have come in {PATIENCE:g} s")
            sleep(0.001)
        return {"seconds": time.perf_counter() - began}


class Stopwatch:
    """Seconds, and seconds of this process's CPU, since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._cpu = time.process_time()

    def as_answer(self, **more: Any) -> Answer:
        """Both, with `more`."""
        return {"seconds": time.perf_counter() - self._began, "cpu": time.process_time() - self._cpu, **more}


def percentile(values: Sequence[float], share: float) -> float:
    """The value below or at which `share` per cent of the `values` are, itself one of them."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]


def round_trips(ask: Callable[[], object], rounds: int) -> Answer:
    """Ask one time after the other: what ``rtt`` answers."""
    trips = []
    for _ in range(rounds):
        began = time.perf_counter()
        ask()
        trips.append(time.perf_counter() - began)
    return trips_answer(trips)


def trips_answer(trips: Sequence[float]) -> Answer:
    """What ``rtt`` answers of these."""
    return {"p50": percentile(trips, 50), "p99": percentile(trips, 99)}


# TLS.


def server_context(alpn: str | None = None) -> tuple[ssl.SSLContext, bytes]:
    """A listener's context, with a fresh P-256 certificate that signs itself; and that one's SHA-256."""
    import datetime

    from snowgreen.link.tls import ephemeral_certificate, load_chain

    certificate = ephemeral_certificate(datetime.datetime.now(datetime.UTC))
    context = _context(ssl.PROTOCOL_TLS_SERVER, alpn)
    load_chain(context, certificate.pem)
    context.num_tickets = 0  # as snowgreen does: nobody resumes
    return context, certificate.fingerprint


def client_context(alpn: str | None = None) -> ssl.SSLContext:
    """A dialer's context, which takes any certificate."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, alpn)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(protocol: int, alpn: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    return context


def python(*libraries: str) -> str:
    """This Python's version, and those of `libraries`: for a peer's version."""
    from importlib.metadata import version

    parts = [f"{name} {version(name)}" for name in libraries]
    return ", ".join([*parts, f"Python {platform.python_version()}"])


# What processes use.


class Usage(NamedTuple):
    """What a process, and those that it has started, have used so far."""

    #: Seconds.
    cpu: float
    #: Bytes.
    rss: int
    pss: int


def family(pid: int) -> list[int]:
    """`pid`, and the processes below it."""
    found = [pid]
    for parent in found:  # which grows meanwhile
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def cpu(pid: int) -> float:
    """Seconds of CPU that `pid` and the processes below it have used."""
    total = 0.0
    for member in family(pid):
        with contextlib.suppress(OSError):
            # The clock that clock_getcpuclockid(3) gives: /proc counts in hundredths of a second.
            total += time.clock_gettime((~member << 3) | 2)
    return total


def usage(pid: int) -> Usage:
    """What `pid` and the processes below it use."""
    figures = {"Rss": 0, "Pss": 0}
    for member in family(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()[1:]:
                name, _, value = line.partition(":")
                if name in figures:
                    figures[name] += int(value.split()[0]) * 1024
    return Usage(cpu(pid), figures["Rss"], figures["Pss"])


def slices(count: int, size: int) -> Iterable[int]:
    """`count` in parts of at most `size`."""
    return itertools.chain(itertools.repeat(size, count // size), [count % size] if count % size else [])
