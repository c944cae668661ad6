"""asyncio's streams over TLS, with snowgreen's handshake and frames: a task for each link at either end.

What somebody would write who has asyncio and the protocol: a frame is written and drained, one after the
other; a heartbeat of one task pings who has been silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
import sys
from collections.abc import Callable, Collection
from typing import Final

from snowgreen.protocol import frames
from snowgreen.protocol.frames import FrameTag
from snowgreen.protocol.handshake import (
    Acceptor,
    Challenged,
    Continue,
    Established,
    Initiator,
    Proved,
    Step,
)
from snowgreen.protocol.heartbeat import Verdict, sweep_interval
from snowgreen.protocol.wire import MAX_FRAME, MAX_HANDSHAKE, Decoder

from . import linking
from .common import (
    PATIENCE,
    Answer,
    Count,
    Hello,
    Stopwatch,
    client_context,
    main_async,
    python,
    server_context,
    trips_answer,
)
from .crowd import Crowd

HELLO: Final = Hello("asyncio", python(), True, "streams; each message is written and drained", crowd=True)


class Link:
    """One connection, its handshake done."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        decoder: Decoder,
        deliver: Callable[[bytes], None],
    ) -> None:
        self.life = linking.Life()
        self.writer = writer
        self._reader = reader
        self._decoder = decoder
        self._deliver = deliver
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._number = 0
        decoder.limit = MAX_FRAME

    async def read(self) -> None:
        """Take what comes, until the other end closes."""
        data = b""
        with contextlib.suppress(OSError):
            while True:
                for frame in self._decoder.feed(data):
                    self._take(frame)
                data = await self._reader.read(linking.READ)
                if not data:
                    break
                self.life.heard = asyncio.get_running_loop().time()
        self.writer.close()

    def _take(self, frame: bytes) -> None:
        if frame[0] == FrameTag.PING:
            self.writer.write(frames.encode_pong(frame))
        elif frame[0] == FrameTag.PONG:
            waiter = self._pings.pop(frames.decode_pong(frame), None)
            if waiter is not None:
                waiter.set_result(None)
        else:
            self._deliver(frame)

    async def ping(self) -> None:
        """Wait for an answer."""
        waiter = asyncio.get_running_loop().create_future()
        self._number += 1
        self._pings[self._number] = waiter
        self.writer.write(frames.encode_ping(self._number))
        async with asyncio.timeout(PATIENCE):
            await waiter

    def beat(self) -> None:
        """One look of the heartbeat."""
        verdict = self.life.look()
        if verdict is Verdict.PING:
            self.writer.write(frames.encode_ping(0))
        elif verdict is not Verdict.QUIET:
            self.writer.close()


async def converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, machine: Acceptor | Initiator, step: Step
) -> Step:
    """Send what the machine says and feed what comes, until it stops or ends."""
    while True:
        if step.send:
            writer.write(step.send)
        if not isinstance(step, Continue):
            return step
        data = await reader.read(MAX_HANDSHAKE)
        step = machine.feed(data) if data else machine.end_of_stream()


async def beat(links: Collection[Link]) -> None:
    """The heartbeat of all `links`."""
    while True:
        await asyncio.sleep(sweep_interval(linking.PULSE))
        for link in list(links):
            link.beat()


class Server:
    """Accepts, and counts."""

    def __init__(self) -> None:
        self._links: set[Link] = set()
        self._count = Count()

    async def start(self) -> Answer:
        """Listen."""
        context, self._fingerprint = server_context(linking.ALPN)
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, ssl=context, backlog=1024)
        self._kept = server, asyncio.create_task(beat(self._links))
        return {"address": server.sockets[0].getsockname()[1]}

    def received(self) -> Answer:
        """What has come."""
        return self._count.as_answer()

    async def wait(self, messages: int) -> Answer:
        """Wait for messages."""
        watch = Stopwatch()
        async with asyncio.timeout(PATIENCE):
            while self._count.messages < messages:
                await asyncio.sleep(0.001)
        return watch.as_answer()

    def links(self) -> Answer:
        """How many there are."""
        return {"links": len(self._links)}

    def broadcast(self, size: int) -> Answer:
        """Write to every link."""
        frame, watch = linking.message(size), Stopwatch()
        for link in self._links:
            link.writer.write(frame)
        return watch.as_answer(links=len(self._links))

    async def idle(self, seconds: float) -> Answer:
        """Do nothing."""
        watch = Stopwatch()
        await asyncio.sleep(seconds)
        return watch.as_answer()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            machine = linking.acceptor(self._fingerprint)
            step = await converse(reader, writer, machine, machine.feed(b""))
            if not isinstance(step, Proved):
                return
            established = machine.accept()
            writer.write(established.send)
            link = Link(reader, writer, established.decoder, lambda frame: self._count.take(len(frame) - 1))
            self._links.add(link)
            try:
                await link.read()
            finally:
                self._links.discard(link)
        finally:
            writer.close()


class Client:
    """Dials."""

    def __init__(self) -> None:
        self._context: ssl.SSLContext = client_context(linking.ALPN)
        self._links: list[Link] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = 0
        self._count = Count()
        self._crowd = Crowd()

    async def link(self, address: int, count: int, at_once: int) -> Answer:
        """Make links."""
        before, watch, failures = len(self._links), Stopwatch(), list[str]()
        if not self._tasks:
            self._tasks.add(asyncio.create_task(beat(self._links)))
        left = iter(range(count))

        async def work() -> None:
            for _ in left:
                try:
                    async with asyncio.timeout(30):
                        await self._dial(address)
                except OSError as error:
                    failures.append(str(error))

        await asyncio.gather(*(work() for _ in range(at_once)))
        return watch.as_answer(made=len(self._links) - before, why=failures[0] if failures else "")

    def knock(self, address: int, count: int, at_once: int) -> Answer:
        """Make links of light ends."""
        return self._crowd.knock(address, count, at_once)

    async def rtt(self, rounds: int) -> Answer:
        """Ping."""
        link, trips, now = self._links[0], [], asyncio.get_running_loop().time
        for _ in range(rounds):
            began = now()
            await link.ping()
            trips.append(now() - began)
        return trips_answer(trips)

    async def send(self, size: int, count: int) -> Answer:
        """Send."""
        writer, watch = self._links[0].writer, Stopwatch()
        for _ in range(count):
            writer.write(linking.message(size))
            await writer.drain()
        return watch.as_answer()

    async def drop(self) -> Answer:
        """Close the links."""
        self._crowd.leave()
        for link in self._links:
            link.writer.close()
        self._links.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        return {}

    async def _dial(self, port: int) -> None:
        self._number += 1
        number = self._number
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=self._context, server_hostname="snowgreen"
        )
        shown = writer.get_extra_info("ssl_object").getpeercert(True)
        machine = linking.initiator(number, hashlib.sha256(shown).digest())
        step = await converse(reader, writer, machine, machine.start())
        if isinstance(step, Challenged):
            step = await converse(reader, writer, machine, machine.prove())
        if not isinstance(step, Established):
            writer.close()
            raise ConnectionError(str(step))
        link = Link(reader, writer, step.decoder, lambda frame: self._count.take(len(frame) - 1))
        self._links.append(link)
        self._tasks.add(asyncio.create_task(link.read()))


async def run() -> None:
    """Take orders."""
    loop = asyncio.get_running_loop()
    await main_async(
        HELLO,
        {"server": Server, "client": Client},
        lambda: loop.run_in_executor(None, sys.stdin.readline),
    )


if __name__ == "__main__":
    asyncio.run(run())
