"""What a fork must not share: sockets, greenlets and identity of the nodes that were alive at it.

A child of a fork has a copy of everything, and the connections in it are still the parent's: a byte read or
written there would be missing or doubled in the parent's links. So in the child, before anything else runs,
every live node lets go of what it inherited, without a byte sent, and is not started. The child may start
it: it then has a listener, a certificate and an incarnation of its own.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

import gevent

from .link import keyring


class Forkable(Protocol):
    """A node, as far as this module is concerned."""

    def let_go(self) -> None:
        """Drop everything that belongs to the parent, without a word on any connection."""

    def start(self) -> object:
        """As :meth:`snowgreen.Node.start`."""

    def stop(self, timeout: float = ...) -> None:
        """As :meth:`snowgreen.Node.stop`."""


_alive: WeakSet[Forkable] = WeakSet()
_unsettled = False


def watch(node: Forkable) -> None:
    """From now on `node` lets go in every child of this process."""
    _alive.add(node)


def nodes() -> list[Forkable]:
    """The nodes of this process, started or not, as far as anybody still has them."""
    return list(_alive)


def settle() -> None:
    """Before a node starts: make gevent fit for work in this process, if the fork left that to be done.

    gevent does it in its own ``fork``, and in ``os.fork`` where that is patched; after a bare one its thread
    pool would wait for threads that are the parent's. Doing it twice does no harm.
    """
    global _unsettled
    if _unsettled:
        _unsettled = False
        gevent.reinit()


def _in_child() -> None:
    global _unsettled
    _unsettled = True
    keyring.forked()
    for node in list(_alive):
        node.let_go()


os.register_at_fork(after_in_child=_in_child)
