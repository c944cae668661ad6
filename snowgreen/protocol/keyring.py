"""The keyring: the key a node proves, and those it believes besides (specification, section 3, "Rotation").

A value: each change is another keyring, so that a handshake under way keeps the one it began with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .keys import LinkKeys

#: How many cookies a node accepts besides its primary one.
MAX_ACCEPTED = 2


@dataclass(frozen=True, slots=True, repr=False)
class Keyring:
    """The keys of the cookies a node accepts: the primary first, then the others, the newest first.

    Made by :meth:`of` and by the methods, which hold to the bound and keep each key once.
    """

    #: None at all before a node has looked for its cookie.
    keys: tuple[LinkKeys, ...] = ()

    @classmethod
    def of(cls, primary: LinkKeys, accepted: Iterable[LinkKeys] = ()) -> Keyring:
        """`primary`, and as many of `accepted` as there is room for; the last ones fall out."""
        return cls(tuple(dict.fromkeys((primary, *accepted)))[: 1 + MAX_ACCEPTED])

    @property
    def primary(self) -> LinkKeys:
        """The key that dials prove."""
        return self.keys[0]

    @property
    def accepted(self) -> tuple[LinkKeys, ...]:
        """The keys that are believed, too."""
        return self.keys[1:]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """What may be shown of the keys, the primary's first."""
        return tuple(key.fingerprint for key in self.keys)

    def rotated(self, key: LinkKeys, *, keep: bool = True) -> Keyring:
        """`key` as the primary; the old primary is the first of the accepted, or gone if `keep` is false."""
        return Keyring.of(key, self.keys if keep or key == self.primary else self.accepted)

    def accepting(self, key: LinkKeys) -> Keyring:
        """`key` accepted, as the newest, unless it is accepted already."""
        return self if key in self.keys else Keyring.of(self.primary, (key, *self.accepted))

    def without(self, key: LinkKeys) -> Keyring:
        """`key` not accepted any more. It must not be the primary."""
        return Keyring.of(self.primary, (other for other in self.accepted if other != key))

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def __repr__(self) -> str:
        return f"<Keyring {' '.join(self.fingerprints) or 'without keys'}>"
