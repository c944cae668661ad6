"""Nodes on a network in memory: a cluster of them, and how it is made."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import secrets
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, overload

from ..config import Config, Limits
from ..errors import ConfigurationError
from ..link.credentials import CredentialWatch
from ..link.heart import sweep
from ..link.listener import Listener
from ..link.runtime import Runtime
from ..names import Address
from ..node import Node
from ..protocol.heartbeat import sweep_interval
from .clock import Clock
from .network import Door, Fault, Network

#: Seconds in which nodes, at the end of a test, say goodbye to each other.
_GOODBYE = 2.0


@functools.cache
def _cookie() -> str:
    """One for the process, drawn by chance: keys are derived of each only once, which takes a while."""
    return secrets.token_hex(16)


class Cluster(Sequence[Node]):
    """Nodes that can reach each other, and nobody else; a sequence of them, and a context manager.

    Made by :func:`pair` and :func:`cluster`. At the end of its ``with`` the nodes are stopped.
    """

    def __init__(self, clock: Clock | None = None, **options: Any) -> None:
        #: The clock of all its nodes.
        self.clock = Clock() if clock is None else clock
        options.setdefault("cookie", _cookie())
        options.setdefault("config", Config(limits=Limits.trusted()))
        self._options = options
        self._network = Network()
        self._nodes: list[_MemoryNode] = []

    def add(self, name: str, *, linked: bool = True, **options: Any) -> Node:
        """Start another node, and link it with those that are there.

        :param name: a node name, or only its part before the ``@``.
        :param linked: whether to link it. If it cannot be, as with another cookie, the error is raised, and
            the node stays.
        :param options: as for :class:`snowgreen.Node`; default: as for the other nodes.
        :returns: the node, which is also at the end of this sequence.
        """
        wanted = {**self._options, **options}
        listens = wanted.pop("listen", True) is not False
        place = self._network.place(name, listens=listens)
        reach = functools.partial(self._network.connect, place)
        node = _MemoryNode(
            place.text,
            listen=str(place.address) if listens else False,
            runtime=Runtime(monotonic=self.clock.monotonic, wall=self.clock.time, reach=reach),
            **wanted,
        )
        node.network = self._network
        self._nodes.append(node)
        self.clock.wards.append(node)
        node.start()
        if linked:
            for other in self._nodes[:-1]:
                if other.started:
                    (node if other.address else other).connect((other if other.address else node).name)
        return node

    def cut(self, *between: Node) -> None:
        """Break the links between two nodes, or all, whatever they carry, and let no new one come about.

        Both ends see a link that is lost, and have when this returns. It lasts until :meth:`heal`.

        :param between: two nodes of this cluster; none stands for every pair.
        """
        self._network.fault(self._pair(between), Fault.CUT)
        self.settle()

    def silence(self, *between: Node) -> None:
        """Hold back everything between two nodes, or all: links stay up until a heartbeat finds them dead.

        What is sent meanwhile arrives, in order, at :meth:`heal`.

        :param between: two nodes of this cluster; none stands for every pair.
        """
        self._network.fault(self._pair(between), Fault.SILENT)

    def heal(self, *between: Node) -> None:
        """End what :meth:`cut` and :meth:`silence` began, and wait until what was held back has arrived.

        A link that has ended has to be dialed again.

        :param between: two nodes of this cluster; none stands for every pair.
        """
        self._network.fault(self._pair(between), None)
        self.settle()

    def settle(self) -> None:
        """Wait until all that is under way has arrived, and nothing moves any more."""
        self.clock.settle()

    def close(self) -> None:
        """Stop the nodes, and leave nothing behind. A second call does nothing."""
        try:
            self.heal()
            for node in self._nodes:
                node.stop(_GOODBYE)
        finally:
            self._network.close()
            for node in self._nodes:
                with contextlib.suppress(ValueError):
                    self.clock.wards.remove(node)

    def _pair(self, between: tuple[Node, ...]) -> frozenset[str] | None:
        if not between:
            return None
        names = frozenset(node.name for node in between if node in self._nodes)
        if len(between) != 2 or len(names) != 2:
            raise ConfigurationError(
                "between", "must be two nodes of this cluster, or nothing for all of them"
            )
        return names

    @overload
    def __getitem__(self, index: int) -> Node: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Node]: ...
    def __getitem__(self, index: int | slice) -> Node | Sequence[Node]:
        return self._nodes[index]

    def __len__(self) -> int:
        return len(self._nodes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Cluster of {', '.join(node.name for node in self._nodes) or 'no nodes'}>"


def pair(
    first: str = "a", second: str = "b", *, linked: bool = True, clock: Clock | None = None, **options: Any
) -> Cluster:
    """Two nodes, linked with each other; see :func:`cluster`."""
    return cluster([first, second], linked=linked, clock=clock, **options)


def cluster(
    nodes: int | Sequence[str], *, linked: bool = True, clock: Clock | None = None, **options: Any
) -> Cluster:
    """Nodes in memory, each linked with each; use it in a ``with``.

    :param nodes: how many, which are then ``n1``, ``n2`` and so on; or their names. One that has no ``@``
        gets the host ``127.0.0.1`` and a number for a port, which is bound nowhere.
    :param linked: whether they are linked from the start; default True. The first of two has then dialed.
    :param clock: the clock they go by; default: one of their own.
    :param options: as for :class:`snowgreen.Node`, for all of them. Default: a cookie drawn by chance, and
        ``Config(limits=Limits.trusted())``.
    :returns: the nodes, started.
    :raises ConfigurationError: naming the argument that cannot be used.
    """
    if isinstance(nodes, bool) or not isinstance(nodes, int | Sequence) or isinstance(nodes, str | bytes):
        raise ConfigurationError("nodes", "must be how many, or a list of names")
    names = [f"n{number + 1}" for number in range(nodes)] if isinstance(nodes, int) else nodes
    made = Cluster(clock, **options)
    try:
        for name in names:
            made.add(name, linked=False)
        if linked:
            for one, other in itertools.combinations(made, 2):
                one.connect(other.name)
    except BaseException:
        made.close()
        raise
    return made


class _MemoryNode(Node):
    """A node whose network is in memory, and that looks at its clock when it is told to."""

    network: Network

    @property
    def moved(self) -> int:
        """Counts what its network has carried."""
        return self.network.moved

    @property
    def longest(self) -> float:
        """Seconds between two looks of its heartbeat."""
        return math.inf if self._endpoint is None else sweep_interval(self._endpoint.pulse)

    def look(self) -> None:
        """Do what is due by the clock."""
        if self._endpoint is not None:
            sweep([self._endpoint])
        if self._keeper is not None:
            self._keeper.wake()
        if self._mesher is not None:
            self._mesher.wake()

    def _listen(self, address: Address, watch: CredentialWatch | None) -> Listener:
        if address in self.network.doors:
            raise ConfigurationError("listen", f"{address} is taken by another node of the cluster")
        server = self._ephemeral() if watch is None else watch.server_end
        return Door(self.network, address, server, self._config.limits)
