"""The least that an accepted link can cost: OpenSSL's two ends of a handshake in one process, and no socket.

The same kind of key, the same version and the same ALPN as snowgreen's; only the server's part is counted.
"""

from __future__ import annotations

import ssl
import time
from typing import Final

from .peers.common import Answer, Hello, client_context, main, server_context

ALPN: Final = "snowgreen/1"
HELLO: Final = Hello("OpenSSL alone", ssl.OPENSSL_VERSION, True, "the server's part of TLS in memory")


class Floor:
    """Does handshakes with itself."""

    def __init__(self) -> None:
        self._server, _ = server_context(ALPN)
        self._client = client_context(ALPN)

    def accept(self, count: int) -> Answer:
        """So many handshakes: the CPU of the server's parts."""
        kept, spent = [], 0.0
        for _ in range(count):
            inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
            server = self._server.wrap_bio(inward, outward, server_side=True)
            client = self._client.wrap_bio(outward, inward, server_hostname="snowgreen")
            kept.append((server, client))  # as links are kept: freeing them is no part of it
            _step(client)
            for last in (False, True):
                began = time.thread_time()
                done = _step(server)
                spent += time.thread_time() - began
                assert done is last
                if not last:
                    assert _step(client)
        return {"cpu": spent}


def _step(end: ssl.SSLObject) -> bool:
    """Go on with the handshake; whether it is done."""
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


if __name__ == "__main__":
    main(HELLO, {"floor": Floor})
