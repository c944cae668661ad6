"""Messages: what they cost beside the least that they could, and how long others wait beside large ones.

``python -m benchmarks.messages``; the README beside this file says what is compared.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import Final, NamedTuple, Protocol, TextIO

import click

from .harness import Child, Figures, Ratio, measure

SIZES: Final = {"64 B": 64, "1 KiB": 1024, "64 KiB": 64 * 1024}


class Ask(NamedTuple):
    """What is asked over the first link, and on which of the two large messages stream meanwhile."""

    what: str
    beside: int | None = None


ASKED: Final = {
    "ping": Ask("ping"),
    "call": Ask("call"),
    "ping beside a stream": Ask("ping", 0),
    "call beside a stream": Ask("call", 0),
    "ping beside another link's": Ask("ping", 1),
    "call beside another link's": Ask("call", 1),
}


class Contender(Protocol):
    """Two processes between which messages flow."""

    name: str
    sender: Child
    receiver: Child

    def flow(self, size: int, seconds: float) -> int:
        """Send for so long, and wait until all has come; how many messages it was since the start."""


class Linked:
    """snowgreen: one node that has a link with each of two."""

    name = "snowgreen"

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.receiver = stack.enter_context(Child("linked", "receiver"))
        self.sender = stack.enter_context(Child("linked", "sender"))
        self._peers = self.receiver.order("names")
        for name in self._peers:
            self.sender.order("link", name=name)

    def flow(self, size: int, seconds: float) -> int:
        """Send to a mailbox."""
        messages = int(self.sender.order("send", name=self._peers[0], size=size, seconds=seconds))
        self.receiver.order("settle", name=self._peers[0], size=size, messages=messages)
        return messages

    def ask(self, title: str, seconds: float) -> Figures:
        """Ping or call, as `title` says."""
        what, at = ASKED[title]
        beside = None if at is None else self._peers[at]
        trips = self.sender.order("ask", what=what, name=self._peers[0], seconds=seconds, beside=beside)
        return {f"{title}: {share} ms": took for share, took in trips.items()}


class Floor:
    """asyncio's streams."""

    name = "floor"

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.receiver = stack.enter_context(Child("floor", "receiver"))
        self.sender = stack.enter_context(Child("floor", "sender"))  # the first to end
        port = self.receiver.order("listen")
        for size in SIZES.values():
            self.sender.order("connect", port=port, size=size)

    def flow(self, size: int, seconds: float) -> int:
        """Send over the connection for this size."""
        messages = int(self.sender.order("send", size=size, seconds=seconds))
        self.receiver.order("settle", size=size, messages=messages)
        return messages


class Throughput:
    """Messages of one size between the two processes of one contender."""

    def __init__(self, contender: Contender, title: str, seconds: float) -> None:
        self._contender = contender
        self._title = f"{title}, {contender.name}"
        self._size = SIZES[title]
        self._seconds = seconds
        self._before = 0

    def __call__(self) -> Figures:
        """Measure once."""
        ends = {"sender": self._contender.sender, "receiver": self._contender.receiver}
        cpu, began = {end: child.cpu() for end, child in ends.items()}, time.perf_counter()
        total = self._contender.flow(self._size, self._seconds)
        took = time.perf_counter() - began
        messages, self._before = total - self._before, total
        return {
            f"{self._title}: messages/s": messages / took,
            f"{self._title}: MB/s": messages * self._size / took / 1e6,
            **{
                f"{self._title}: {end} CPU µs": (child.cpu() - cpu[end]) / messages * 1e6
                for end, child in ends.items()
            },
        }


def ratios() -> list[Ratio]:
    """All that is compared."""
    units = ("messages/s", "sender CPU µs", "receiver CPU µs")
    return [
        *(
            Ratio(
                f"{size}, {unit}: snowgreen / floor", f"{size}, snowgreen: {unit}", f"{size}, floor: {unit}"
            )
            for size in SIZES
            for unit in units
        ),
        *(
            Ratio(f"{title}: {share} / alone", f"{title}: {share} ms", f"{ask.what}: {share} ms")
            for title, ask in ASKED.items()
            if ask.beside is not None
            for share in ("p50", "p99")
        ),
    ]


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 1000))
@click.option("--seconds", default=1.0, show_default=True, help="For each measurement of a round.")
@click.option("--json", "output", type=click.File("w", lazy=False), help="Write the figures here, too.")
def main(rounds: int, seconds: float, output: TextIO | None) -> None:
    """Measure messages between two processes of this machine."""
    with contextlib.ExitStack() as stack:
        linked, floor = Linked(stack), Floor(stack)
        flows = [Throughput(one, size, seconds) for size in SIZES for one in (linked, floor)]
        asks = [partial(linked.ask, title, seconds) for title in ASKED]
        result = measure([*flows, *asks], ratios(), rounds)
    result.show("Messages between two processes")
    if output is not None:
        result.write(output)


if __name__ == "__main__":
    main()
