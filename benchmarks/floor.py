"""The least that messages over TLS can cost in Python: asyncio's streams, and nothing around the bytes.

The same TLS as snowgreen's, with the same kind of key; a frame is a length and a body. What is sent is put
together in batches, each of which is drained; what is received is cut as it comes. There are no names, no
routing, no limits, no queue and nobody on the other side of one.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import ssl
import struct
import sys
import time
from typing import Final

from snowgreen.link.tls import ephemeral_certificate, load_chain

from .harness import Tally, obey

#: Bytes put together before they are drained, and read at once.
BATCH: Final = 64 * 1024
#: Seconds that messages may take to arrive.
PATIENCE: Final = 10.0
LENGTH: Final = struct.Struct("<I")


def context(protocol: int) -> ssl.SSLContext:
    """TLS 1.3; nobody is authenticated."""
    made = ssl.SSLContext(protocol)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    return made


class Receiver:
    """Counts what comes: on each connection messages of one size, which its first frame tells."""

    def __init__(self) -> None:
        self._tallies: dict[int, Tally] = {}

    async def listen(self) -> int:
        """Take connections; on which port."""
        server_side = context(ssl.PROTOCOL_TLS_SERVER)
        load_chain(server_side, ephemeral_certificate(datetime.datetime.now(datetime.UTC)).pem)
        server = await asyncio.start_server(self._read, "127.0.0.1", 0, ssl=server_side)
        return int(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Nothing: the sender has closed its connections."""

    async def settle(self, size: int, messages: int) -> None:
        """Wait until so many of `size` bytes have come."""
        async with asyncio.timeout(PATIENCE):
            while size not in self._tallies or self._tallies[size].messages < messages:
                await asyncio.sleep(0.001)

    async def _read(self, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        take, kept = self._tallies.setdefault(size, Tally(size)).take, bytearray()
        while data := await reader.read(BATCH):
            kept += data
            at, end = 0, len(kept)
            while end - at >= LENGTH.size:
                after = at + LENGTH.size + LENGTH.unpack_from(kept, at)[0]
                if after > end:
                    break
                take(kept[at + LENGTH.size : after])
                at = after
            del kept[:at]


class Sender:
    """Has one connection for messages of each size."""

    def __init__(self) -> None:
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._sent: dict[int, int] = {}

    async def close(self) -> None:
        """Close the connections, so that the receiver's end by themselves."""
        for writer in self._writers.values():
            writer.close()
            await writer.wait_closed()

    async def connect(self, port: int, size: int) -> None:
        """Make the connection for messages of `size` bytes."""
        client_side = context(ssl.PROTOCOL_TLS_CLIENT)
        client_side.check_hostname = False
        client_side.verify_mode = ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_side)
        writer.write(LENGTH.pack(size))
        self._writers[size], self._sent[size] = writer, 0

    async def send(self, size: int, seconds: float) -> int:
        """Send for so long; how many messages there were since the start."""
        writer, length, rest = self._writers[size], LENGTH.pack(size), bytes(size - 8)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            first = self._sent[size]
            last = self._sent[size] = first + max(1, BATCH // (LENGTH.size + size))
            writer.write(b"".join([length + number.to_bytes(8) + rest for number in range(first, last)]))
            await writer.drain()
        return self._sent[size]


async def main() -> None:
    """Take orders until there are no more."""
    role = Sender() if sys.argv[1] == "sender" else Receiver()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await obey(role, line)), flush=True)
    await role.close()


if __name__ == "__main__":
    asyncio.run(main())
