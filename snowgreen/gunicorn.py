"""Nodes in the workers of gunicorn: a number for each worker, a start once it is ready, a goodbye as it ends.

This module is a configuration of gunicorn's. Name it, and that is all::

    gunicorn -k gevent -w 4 -c python:snowgreen.gunicorn app:app

or take its hooks into a configuration of your own::

    # gunicorn.conf.py
    from snowgreen.gunicorn import post_fork, post_worker_init, pre_fork, worker_exit

The application makes its nodes, ``Node("web-{worker}@127.0.0.1:0")``, and does not start them: with
``--preload`` it would do that in the master, whose loop never runs. Each worker starts every node that the
application has made, in its own process, under a name of its own.

``{worker}`` is the lowest number, from 1 on, that no living worker has: the one that takes the place of
another, after ``max_requests`` or a crash, has its number. A reload starts new workers before the old ones
end, so that these get the next higher numbers, and after the next reload the lower ones again.

A worker that ends, at SIGTERM, a reload or ``max_requests``, first serves its open requests, which still have
the node. The links then end with a goodbye; if requests stay open, they do so shortly before gunicorn's
``graceful_timeout`` is over, which ends what is still there by force.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import gevent

from . import forks
from .arguments import WORKER_VARIABLE
from .errors import ConfigurationError
from .node import Node

#: Seconds between two looks whether the worker is to end.
_LOOK = 0.25
#: What the goodbyes may take, in seconds; and of a short graceful timeout, which part.
_GOODBYE = 2.0
_PART = 0.25


class Worker(Protocol):
    """What is used of gunicorn's worker."""

    pid: Any
    #: False once it is to end.
    alive: bool
    cfg: Any


class Server(Protocol):
    """What is used of gunicorn's arbiter."""

    #: Process id → worker, of all that live.
    WORKERS: Mapping[int, Worker]


def pre_fork(server: Server, worker: Worker) -> None:
    """In the master: choose a number for `worker`, which no living one has.

    It warns, by :class:`RuntimeWarning`, of a node that was started there.
    """
    for node in forks.nodes():
        if isinstance(node, Node) and node.started:
            warnings.warn(
                f"{node.name} was started in gunicorn's master, whose loop never runs: who dials it there "
                "gets no answer. Leave it to snowgreen.gunicorn to start it in each worker",
                RuntimeWarning,
                stacklevel=2,
            )
    taken = {getattr(other, "snowgreen_number", None) for other in server.WORKERS.values()}
    number = 1
    while number in taken:
        number += 1
    worker.snowgreen_number = number  # type: ignore[attr-defined]  # a note of ours on gunicorn's object


def post_fork(server: Server, worker: Worker) -> None:
    """In the new worker: make its number known, as ``{worker}`` and in ``SNOWGREEN_WORKER``."""
    number = getattr(worker, "snowgreen_number", None)
    if number is not None:
        os.environ[WORKER_VARIABLE] = str(number)


def post_worker_init(worker: Worker) -> None:
    """In the worker, with the application loaded: start its nodes.

    :raises ConfigurationError: if the worker is of a class that does not run gevent's loop, and as
        :meth:`snowgreen.Node.start`. The worker then does not boot, and says why.
    """
    if not any(kind.__name__ == "GeventWorker" for kind in type(worker).__mro__):
        raise ConfigurationError(
            "worker_class",
            f"is {type(worker).__name__}, in which gevent's loop stands still between requests, and the "
            "links with it: run gunicorn -k gevent",
        )
    for node in forks.nodes():
        node.start()
    gevent.spawn(_part_in_time, worker)


def worker_exit(server: Server, worker: Worker) -> None:
    """In the worker, which has served its requests: say goodbye to the peers."""
    if worker.pid == os.getpid():  # gunicorn calls it in the master, too, for a worker that has vanished
        _stop(_allowance(worker))


def _part_in_time(worker: Worker) -> None:
    """Once `worker` is to end, say goodbye before its graceful timeout has passed."""
    while worker.alive:
        gevent.sleep(_LOOK)
    allowance = _allowance(worker)
    # Twice: for the look that came late, and for what gunicorn takes to hand the signal on.
    gevent.sleep(max(0.0, worker.cfg.graceful_timeout - 2 * allowance - _LOOK))
    _stop(allowance)


def _allowance(worker: Worker) -> float:
    return min(_GOODBYE, float(worker.cfg.graceful_timeout) * _PART)


def _stop(seconds: float) -> None:
    gevent.joinall([gevent.spawn(node.stop, seconds) for node in forks.nodes()])
