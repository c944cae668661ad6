"""What the tests of live nodes share: nodes that are stopped, and a look at what is left over."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import greenlet
import pytest

import snowgreen
from tests.waiting import until

COOKIE = "correct horse battery staple"
#: Short enough that a test of the deadlines themselves is quick, long enough for a busy machine.
FAST = snowgreen.Config(
    heartbeat_interval=30,
    probe_timeout=0.3,
    duplicate_wait=0.1,
    limits=snowgreen.Limits.trusted(tls_timeout=2, handshake_timeout=4),
)

MakeNode = Callable[..., snowgreen.Node]


def open_descriptors() -> int:
    """How many descriptors this process holds."""
    return len(os.listdir("/proc/self/fd"))


def live_greenlets() -> list[greenlet.greenlet]:
    """Every greenlet that has begun and not ended, but the hub and the caller."""
    hub, current = gevent.get_hub(), gevent.getcurrent()
    return [
        item
        for item in gc.get_objects()
        if isinstance(item, greenlet.greenlet) and item and item is not hub and item is not current
    ]


def pytest_collection_finish() -> None:
    """What is there before the first test stays: no search for garbage has to go through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def make_node() -> Iterator[MakeNode]:
    """A maker of started nodes. Afterwards they are stopped, and nothing of them may be left."""
    pool = gevent.get_hub().threadpool
    pool.maxsize = 1  # its thread, with its descriptors, is there before the count and stays
    pool.apply(int)
    gc.collect()
    gc.freeze()  # what earlier tests have left alive is no concern of this one's, and need not be gone through
    descriptors, greenlets = open_descriptors(), len(live_greenlets())
    nodes: list[snowgreen.Node] = []

    def make(name: str | None = "{}@127.0.0.1:0", *, start: bool = True, **options: Any) -> snowgreen.Node:
        options.setdefault("cookie", COOKIE)
        options.setdefault("config", FAST)
        node = snowgreen.Node(name and name.format(f"n{len(nodes)}"), **options)
        nodes.append(node)
        return node.start() if start else node

    yield make
    for node in nodes:
        node.stop()
        assert not node.sessions
    nodes.clear()
    until(lambda: len(live_greenlets()) <= greenlets, "every greenlet ended", detail=live_greenlets)
    until(lambda: (gc.collect(), open_descriptors() <= descriptors)[1], "every descriptor was closed")
