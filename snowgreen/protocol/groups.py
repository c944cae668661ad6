"""Who has joined which topic: the peers' side of the groups."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from .frames import BadFrame

MAX_JOINED = 4096
"""Topics that one peer may have joined."""
MAX_BROADCAST = 1024 * 1024
"""Bytes in the payload of a broadcast. Every node takes as many, whatever its limits."""

Member = TypeVar("Member", bound=Hashable)


class Membership(Generic[Member]):
    """The topics of the members, and the members of the topics."""

    __slots__ = ("_members", "_topics")

    def __init__(self) -> None:
        self._members: dict[str, dict[Member, None]] = {}
        self._topics: dict[Member, set[str]] = {}

    def join(self, member: Member, topics: Iterable[str]) -> None:
        """`member` joins `topics`; those it has joined already change nothing.

        :raises BadFrame: if it has then joined too many.
        """
        joined = self._topics.setdefault(member, set())
        for topic in topics:
            if topic in joined:
                continue
            if len(joined) >= MAX_JOINED:
                raise BadFrame(f"more than {MAX_JOINED} topics joined")
            joined.add(topic)
            self._members.setdefault(topic, {})[member] = None

    def leave(self, member: Member, topics: Iterable[str]) -> None:
        """`member` leaves `topics`; those it has not joined change nothing."""
        joined = self._topics.get(member, set())
        for topic in topics:
            if topic in joined:
                joined.discard(topic)
                self._remove(member, topic)
        if not joined:
            self._topics.pop(member, None)

    def gone(self, member: Member) -> None:
        """`member` is no more."""
        for topic in self._topics.pop(member, ()):
            self._remove(member, topic)

    def members(self, topic: str) -> list[Member]:
        """Who has joined `topic`, the longest-standing member first."""
        return list(self._members.get(topic, ()))

    def _remove(self, member: Member, topic: str) -> None:
        members = self._members[topic]
        del members[member]
        if not members:
            del self._members[topic]
