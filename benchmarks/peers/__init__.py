"""What one would use instead of snowgreen, each behind the same orders, so that all can be measured alike.

A peer is a module of this package, run as ``python -m benchmarks.peers.<name> server`` and ``... client``. It
answers one line of JSON with one. The README of the benchmarks lists the orders.
"""

from __future__ import annotations

from typing import Final

#: By the names of their modules, and in the order in which they are shown.
PEERS: Final = {
    "snowgreen": "a node on each side: links, mailboxes and groups as a user has them",
    "asyncio": "asyncio's streams over TLS, with snowgreen's own handshake and frames",
    "threads": "a blocking thread for each link at either end, over TLS, with the same handshake and frames",
    "rpyc": "RPyC: Python objects called across a connection",
    "pyro5": "Pyro5: Python objects called across a connection",
    "multiprocessing": "the standard library's multiprocessing.connection: a shared key, and no TLS",
    "zerorpc": "zerorpc: calls over ZeroMQ under gevent, without TLS",
    "erlang": "Erlang/OTP's own distribution over TLS: what snowgreen's links are modelled on",
    "ergo": "Ergo: actors in Go, with a distribution of their own over TLS",
}
