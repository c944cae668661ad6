"""Mailboxes: where messages wait until somebody reads them, and what happens if there is no room."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol

import gevent
from gevent.event import Event

from ..config import check_timeout
from ..errors import ConfigurationError, MailboxClosed, MailboxEmpty, PayloadError
from ..protocol.credit import Given
from .codec import RAW, Codecs
from .flows import Incoming, Room

#: What a mailbox does with a message that it has no room for.
POLICIES = ("block", "drop_newest", "drop_oldest", "error")
#: A reader that never has to wait gives the others a turn after so many messages.
_IN_A_ROW = 64


class Source(Protocol):
    """Whom a message came from."""

    #: The sender's node name.
    peer: str
    #: Whether it may only send what it was allowed to, so that what comes has room.
    credited: bool

    def consumed(self, size: int) -> None:
        """A message of `size` bytes has left the mailbox."""

    def lost(self, mailbox: str, reason: str) -> None:
        """No reader got it."""


class Message:
    """A message, as its reader gets it."""

    __slots__ = ("body", "mailbox", "sender")

    def __init__(self, body: Any, sender: str, mailbox: str) -> None:
        #: What was sent, as the mailbox's type if it has one.
        self.body = body
        #: The name of the node that sent it, proved by the cookie.
        self.sender = sender
        #: The mailbox, or the topic, it was sent to.
        self.mailbox = mailbox

    def __repr__(self) -> str:
        return f"<Message from {self.sender} to {self.mailbox!r}>"


class Mailbox:
    """A bounded queue of messages, iterable, for any number of readers of this node.

    Made by :meth:`snowgreen.Node.mailbox` and :meth:`snowgreen.Node.join`. Iterating waits for the next
    message, and ends once the mailbox is closed, or the node stopped, and what came before has been read.
    Each message goes to one reader. A body that is not what `type` asks for is dropped and told: by the event
    ``MessagesDropped``, here and at its sender.
    """

    def __init__(
        self,
        name: str,
        codecs: Codecs,
        *,
        size: int,
        max_bytes: int,
        full: str = "block",
        type: Any = Any,
        on_close: Callable[[Mailbox], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if full not in POLICIES:
            raise ConfigurationError("full", f"must be one of {', '.join(map(repr, POLICIES))}")
        for argument, value in (("size", size), ("max_bytes", max_bytes)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(argument, "must be a whole number above 0")
        #: Its name on this node; for one that was joined, the topic.
        self.name = name
        #: What becomes of a message that it has no room for.
        self.full = full
        #: Messages that no reader got, because there was no room or they were not of its type.
        self.dropped = 0
        self._type = type
        self._size = size
        self._max_bytes = max_bytes
        self._codecs = codecs
        self._on_close = on_close
        self._clock = clock
        self._queue: deque[tuple[Source, int, bytes]] = deque()
        self._bytes = 0
        self._arrived = Event()
        self._in_a_row = 0
        self._closed = False
        #: Whether it takes whatever comes, and drops what it has no room for.
        self.dropping = full in ("drop_newest", "drop_oldest")
        #: What those who send to it may have under way.
        self.room = Room(size, max_bytes, dropping=self.dropping)

    # What a user sees.

    def get(self, timeout: float | None = None) -> Message:
        """The next message.

        :param timeout: seconds to wait; None, the default, for as long as the mailbox is open.
        :raises MailboxEmpty: if none came in time.
        :raises MailboxClosed: if it is closed, and empty.
        """
        if timeout is not None:
            check_timeout(timeout)
        self._in_a_row += 1
        if self._in_a_row >= _IN_A_ROW:
            self._in_a_row = 0
            gevent.sleep(0)
        until = None
        while True:
            while self._queue:
                message = self._next()
                if message is not None:
                    return message
            if self._closed:
                raise MailboxClosed(f"the mailbox {self.name!r} is closed")
            left = None
            if timeout is not None:
                now = self._clock()
                until = now + timeout if until is None else until
                left = until - now
                if left <= 0:
                    raise MailboxEmpty(f"no message for {self.name!r} within {timeout:g} s")
            self._in_a_row = 0
            self._arrived.clear()
            self._arrived.wait(left)

    def close(self) -> None:
        """Take no more messages. What waits can still be read; senders are told."""
        if not self._closed:
            self._closed = True
            self._on_close(self)
            self._arrived.set()

    @property
    def closed(self) -> bool:
        """Whether it takes no more messages."""
        return self._closed

    def __len__(self) -> int:
        """Messages that wait to be read."""
        return len(self._queue)

    def __bool__(self) -> bool:
        # A mailbox is something, also while it is empty.
        return True

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        try:
            return self.get()
        except MailboxClosed:
            raise StopIteration from None

    def __enter__(self) -> Mailbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else self.full
        return f"<Mailbox {self.name!r} {state}, {len(self._queue)} waiting, {self.dropped} dropped>"

    # What the links call, in the loop's callbacks.

    @property
    def flows(self) -> tuple[Incoming, ...]:
        """The flows that lead here."""
        return tuple(self.room.flows.values())

    def put(self, source: Source, codec: int, payload: bytes) -> None:
        """A message has come. Never waits."""
        size = len(payload)
        if self._closed:
            self._drop(source, size, "the mailbox is closed")
            return
        if self.dropping or not source.credited:
            while self._queue and (len(self._queue) >= self._size or self._bytes + size > self._max_bytes):
                if self.full != "drop_oldest":
                    self._drop(source, size, "the mailbox is full")
                    return
                oldest, _, old = self._queue.popleft()
                self._bytes -= len(old)
                self._drop(oldest, len(old), "the mailbox is full")
        self._queue.append((source, codec, payload))
        self._bytes += size
        if not self._arrived.is_set():
            self._arrived.set()

    def put_run(self, given: Given, run: list[tuple[Source, int, bytes]], count: int, size: int) -> None:
        """`count` messages of `size` bytes in all have come that their flow was allowed. Never waits."""
        # All books at once, with no call between them: what interrupts this comes before it or behind, and
        # takes no room away that nobody would give back.
        given.received += count
        given.received_bytes += size
        self._bytes += size
        self._queue.extend(run)
        if not self._arrived.is_set():
            self._arrived.set()

    def forget(self) -> None:
        """In a child of a fork: what waits is the parent's."""
        self._queue.clear()
        self._bytes = 0
        self.room.clear()
        self._arrived = Event()  # who waits for it waits in the parent

    def _drop(self, source: Source, size: int, reason: str) -> None:
        self.dropped += 1
        source.consumed(size)
        source.lost(self.name, reason)

    def _next(self) -> Message | None:
        """Take the first message; None if its body is not what the type asks for."""
        source, codec, payload = self._queue.popleft()
        size = len(payload)
        self._bytes -= size
        source.consumed(size)
        if codec == RAW and self._type is Any:
            return Message(payload, source.peer, self.name)
        try:
            # In the reader's greenlet: what a type runs when it is made is the user's code.
            body = self._codecs.decode(codec, payload, self._type)
        except PayloadError as error:
            self.dropped += 1
            source.lost(self.name, str(error))
            return None
        return Message(body, source.peer, self.name)
