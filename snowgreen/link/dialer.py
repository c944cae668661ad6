"""The dialing side: one dial per peer at a time, however many greenlets wait for its link."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import gevent
from gevent.event import AsyncResult

from ..errors import (
    LinkError,
    LinkTimeout,
    NodeStateError,
    PolicyError,
    Rejected,
    SelfLinkError,
    Unreachable,
)
from ..names import Address, NodeName
from ..protocol import pairing
from ..protocol.messages import RejectCode
from .attempt import UNNAMED, Attempt

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .session import Session


class Dialer:
    """One node's dials: one at a time to a name, and to an address whose name is not known."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._named: dict[str, Dial] = {}
        self._at: dict[Address, Dial] = {}
        self._retired: set[Dial] = set()
        self._stopped = False
        self.forked = False
        endpoint.on_registered.append(self._registered)

    def connect(
        self,
        target: NodeName | Address,
        timeout: float | None,
        vet: Callable[[str], bool] | None = None,
    ) -> Session:
        """The session with `target`: the one there is, or a new one.

        :param vet: whether an address that its host name has may be dialed; default: any may.
        :raises LinkError: as documented for :meth:`snowgreen.Node.connect`.
        """
        name = target.text if isinstance(target, NodeName) else None
        address = target.address if isinstance(target, NodeName) else target
        if name == self.endpoint.name.text:
            raise SelfLinkError("that is this node's own name", peer=name)
        if name is not None and not self.endpoint.allows(name):
            raise PolicyError("this node's allow-list does not have that name", peer=name)
        until = None if timeout is None else self.endpoint.runtime.monotonic() + timeout
        while True:
            if self._stopped:
                raise NodeStateError("the node is stopped")
            session = None if name is None else self.endpoint.table.sessions.get(name)
            if session is not None:
                return session
            if address.port == 0:
                raise Unreachable(
                    "port 0 says that this node only dials and cannot be dialed", peer=str(target)
                )
            dial = self._at.get(address) if name is None else self._named.get(name, self._at.get(address))
            if dial is None or (name is not None and dial.name not in (name, None)):
                dial = self._begin(str(target), address, name, vet)
            if vet is None:
                dial.vet = None  # whoever else waits for it, this caller wants it wherever it leads
            left = None if until is None else max(0.0, until - self.endpoint.runtime.monotonic())
            if name is None or dial.name == name:
                return dial.wait(left, timeout)
            # Somebody dials this very address without a name: see who is there.
            dial.attend(left, timeout, str(target))

    def _begin(self, key: str, address: Address, name: str | None, vet: Callable[[str], bool] | None) -> Dial:
        dial = Dial(self, key, address, name, vet)
        self._at.setdefault(address, dial)
        if name is not None:
            self._named.setdefault(name, dial)
        return dial

    def stop(self) -> None:
        """End every dial; who waits for one gets :class:`NodeStateError`."""
        self._stopped = True
        for dial in self._all():
            dial.fail(NodeStateError("the node was stopped"))

    def let_go(self) -> None:
        """In a child of a fork: end the dials; who waits for one waits in the parent."""
        self._stopped = self.forked = True
        for dial in self._all():
            dial.end()

    def dialing(self, name: str) -> Dial | None:
        """The dial in progress to the node `name`, wherever it goes."""
        return self._named.get(name)

    def learned(self, dial: Dial, name: str) -> None:
        """`dial` goes to the node `name`, which has proved it."""
        self._named.setdefault(name, dial)

    def forget(self, dial: Dial) -> None:
        """`dial` is over."""
        if self._at.get(dial.address) is dial:
            del self._at[dial.address]
        if dial.name is not None and self._named.get(dial.name) is dial:
            del self._named[dial.name]

    def retire(self, dial: Dial) -> None:
        """`dial` is served, and only has to withdraw; :meth:`stop` does not wait for that."""
        if not dial.finished:
            self._retired.add(dial)

    def retired(self, dial: Dial) -> None:
        """`dial` has come to its end."""
        self._retired.discard(dial)

    def _all(self) -> set[Dial]:
        return {*self._named.values(), *self._at.values(), *self._retired}

    def _registered(self, session: Session) -> None:
        dial = self._named.get(session.peer)
        if dial is None:
            return
        if dial.committed and self.endpoint.table.pair(session.peer).own is not None:
            # A dial by address came first, and the rule has left this one its turn: its REPLY is sent, and
            # the peer may have taken it for the better link already.
            return
        dial.succeed(session)


class Dial:
    """One attempt after another at one peer, in a greenlet of its own, while anybody waits for it."""

    def __init__(
        self,
        dialer: Dialer,
        key: str,
        address: Address,
        name: str | None,
        vet: Callable[[str], bool] | None,
    ) -> None:
        self.dialer = dialer
        self.endpoint = dialer.endpoint
        self.key = key
        self.address = address
        self.name = name
        self.vet = vet
        self.step = "starting"
        #: Whether the attempt under way has sent its REPLY.
        self.committed = False
        self._waiters = 0
        self._result: AsyncResult[Session] = AsyncResult()
        self._greenlet = gevent.spawn(self._run)

    def wait(self, left: float | None, timeout: float | None) -> Session:
        """Wait for the outcome, `left` of `timeout` seconds. The dial ends when nobody waits any more."""
        self._waiters += 1
        try:
            self._result.wait(left)
            if self.settled:
                session = self._result.get(block=False)
                assert session is not None  # noqa: S101  # settled without an exception: by succeed()
                return session
            error = self._late(timeout, self.key)
            if self._waiters == 1:
                self._report(error)
            raise error
        finally:
            self._waiters -= 1
            if not self._waiters and not self.settled:
                self.fail(LinkTimeout("nobody waits for this link any more", peer=self.key))

    def attend(self, left: float | None, timeout: float | None, key: str) -> None:
        """Wait until it is over, whatever comes of it, on behalf of another dial to the same address."""
        self._result.wait(left)
        if not self.settled:
            raise self._late(timeout, key)

    def learn(self, name: str) -> None:
        """The peer has proved that its name is `name`."""
        self.name = name
        self.dialer.learned(self, name)

    def _late(self, timeout: float | None, key: str) -> LinkTimeout:
        return LinkTimeout(f"no link within {timeout:g} s; at the end: {self.step}", peer=key)

    @property
    def finished(self) -> bool:
        """Whether its greenlet has nothing left to do."""
        return self._greenlet is gevent.getcurrent() or bool(self._greenlet.dead)

    @property
    def settled(self) -> bool:
        """Whether the outcome is known."""
        return bool(self._result.ready())

    def succeed(self, session: Session) -> None:
        """There is a link with this peer; how it came about does not matter.

        An attempt of ours that is still under way is over once its REPLY is sent. Before that it goes on to
        CHALLENGE and withdraws there, as the rule has it: cut off earlier, it would look like a failure to
        the peer.
        """
        if not self.settled:
            self._result.set(session)
        self.dialer.forget(self)
        if self.committed:
            self.end()
        else:
            self.dialer.retire(self)

    def fail(self, error: Exception) -> None:
        """There will be no link."""
        if not self.settled:
            self._result.set_exception(error)
        self.dialer.forget(self)
        self.end()

    def end(self) -> None:
        """End the attempt under way, wherever it is, and tell nobody."""
        if self._greenlet is not gevent.getcurrent():
            self._greenlet.kill(block=False)

    def _report(self, error: LinkError) -> None:
        self.endpoint.handshake_failed(error, claimed=self.name, address=str(self.address), initiated=True)

    def _run(self) -> None:
        try:
            while not self.settled:
                session = self._try_once()
                if session is not None:
                    self.succeed(session)
        except LinkError as error:
            if not self.settled:  # another link came first, and this failure concerns nobody
                self._report(error)
                self.fail(error)
        except Exception as error:
            self.fail(error)
            raise
        finally:
            self.dialer.retired(self)
            if not self.settled and not self.dialer.forked:
                self.fail(NodeStateError("the greenlet that dialed was killed from outside"))

    def _try_once(self) -> Session | None:
        """One dial by the pairing rule. None: try again."""
        table = self.endpoint.table
        serial = table.serial()
        counters = UNNAMED
        if self.name is not None:
            decision = table.dial(self.name, serial)
            if isinstance(decision, pairing.UseLink):
                return table.sessions[self.name]
            if isinstance(decision, pairing.AwaitDial):
                return self._await_other()
            counters = decision
        self.committed = False
        try:
            return Attempt(self, serial, counters).run()
        except Rejected as error:
            if error.code != RejectCode.DUPLICATE:
                raise
        self._await_inbound()
        return None

    def _await_inbound(self) -> None:
        """The peer prefers a link of its own: leave it about a second to come; succeed() ends the wait."""
        self.step = "waiting for the peer's own link"
        spread = self.endpoint.runtime.entropy(1)[0] / 255  # so that two peers do not retry in step
        gevent.sleep(self.endpoint.config.duplicate_wait * (0.75 + 0.5 * spread))

    def _await_other(self) -> Session | None:
        """Another dial, begun under another name for the same peer, is on its way."""
        other = self.dialer.dialing(self.name or "")
        if other is None or other is self:
            self._await_inbound()
            return None
        self.step = "waiting for another dial to the same node"
        return other.wait(None, None)
