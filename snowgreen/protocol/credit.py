"""How many messages may be on their way in one flow: both ends' books.

The receiver says how many messages and bytes may have been sent in all since the flow was opened. Totals
rather than increments: a receiver that says the same again changes nothing, and neither side can drift.
"""

from __future__ import annotations

from .frames import BadFrame

#: What a sender may have under way, however many others share the mailbox; less only if it holds less.
LEAST_WINDOW = 16
LEAST_WINDOW_BYTES = 64 * 1024


def window(size: int, flows: int, least: int = LEAST_WINDOW) -> int:
    """One flow's part of `size`, which `flows` of them share.

    With one sender that is all of it. The minimum lets a sender that many idle ones share with go on
    without waiting for an answer to every message. Of nothing each has nothing.
    """
    return max(min(least, size), size // max(1, flows))


class Given:
    """The receiver's book of one flow: what was allowed, what came, and what became of it."""

    __slots__ = (
        "_largest",
        "bytes",
        "consumed",
        "consumed_bytes",
        "due",
        "due_bytes",
        "lost",
        "messages",
        "received",
        "received_bytes",
    )

    def __init__(self) -> None:
        #: Allowed in all.
        self.messages = 0
        self.bytes = 0
        self.received = 0
        self.received_bytes = 0
        self._largest = 0  # of those that may come in any order
        #: Taken out of the mailbox, by a reader or because they were dropped.
        self.consumed = 0
        self.consumed_bytes = 0
        #: Of those, the ones that no reader got.
        self.lost = 0
        #: With fewer than so many consumed, messages and bytes, there is nothing to renew.
        self.due = self.due_bytes = 0

    @property
    def open(self) -> bool:
        """Whether another message may come."""
        return self.received < self.messages and self.received_bytes < self.bytes

    def take(self, size: int, *, ordered: bool = True) -> None:
        """A message of `size` bytes has come.

        :param ordered: False where one may have overtaken others. Then it is not known which of them was the
            last that was sent, and may go past the bytes: the largest, in favour of the sender.
        :raises BadFrame: if the credit did not allow it.
        """
        before = self.received_bytes
        if not ordered:
            self._largest = max(self._largest, size)
            before += size - self._largest
        if self.received >= self.messages or before >= self.bytes:
            raise BadFrame("a message past the credit of its flow")
        self.received += 1
        self.received_bytes += size

    def allows(self, count: int, size: int) -> bool:
        """Whether `count` messages, of `size` bytes in all, surely may come; then none is judged by itself.

        If not, :meth:`take` is to judge each: the last one that it allows may go past the bytes.
        """
        return self.received + count <= self.messages and self.received_bytes + size < self.bytes

    def renew(self, window: int, window_bytes: int, *, dropping: bool, urgent: bool = False) -> bool:
        """Allow as much as the windows do; whether that is so much more that the sender should hear of it.

        :param dropping: the mailbox drops what it has no room for, so that what it holds does not count.
        :param urgent: a sender that may send nothing is to hear of any room: what takes up the rest may do so
            for hours.
        """
        if dropping:
            messages, size = self.received + window, self.received_bytes + window_bytes
        else:
            messages, size = self.consumed + window, self.consumed_bytes + window_bytes
        # Half a window at a time: once all is consumed there is as much to say, and nobody waits forever.
        if (
            (messages - self.messages) * 2 < max(1, window)
            and (size - self.bytes) * 2 < max(1, window_bytes)
            and not (urgent and not self.open and self.received < messages and self.received_bytes < size)
        ):
            return False
        self.messages = max(self.messages, messages)
        self.bytes = max(self.bytes, size)
        if not urgent:
            self.due = self.messages - window // 2
            self.due_bytes = self.bytes - window_bytes // 2
        return True


class Granted:
    """The sender's book of one flow: what it was allowed, and what it sent."""

    __slots__ = ("bytes", "largest", "lost", "messages", "sent", "sent_bytes")

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
        self.sent = 0
        self.sent_bytes = 0
        #: How many of those sent the receiver has reported as not delivered.
        self.lost = 0
        #: Bytes of the largest payload that the receiver takes.
        self.largest = 0

    @property
    def open(self) -> bool:
        """Whether another message may be sent. The last one may be larger than the bytes that are left."""
        return self.sent < self.messages and self.sent_bytes < self.bytes

    def allow(self, messages: int, size: int, lost: int, largest: int) -> int:
        """The receiver has said how things stand; how many more messages were lost than it had said before.

        A receiver cannot take back what it allowed.

        :raises BadFrame: if it reports more as lost than were sent.
        """
        if lost > self.sent:
            raise BadFrame("a CREDIT that reports more messages lost than were sent")
        self.messages = max(self.messages, messages)
        self.bytes = max(self.bytes, size)
        self.largest = largest
        news = max(0, lost - self.lost)
        self.lost += news
        return news
