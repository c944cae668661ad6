"""Whom a node links with, if not with everyone who proves the cookie: the operator's list of names."""

from __future__ import annotations

from collections.abc import Iterable

from .arguments import items
from .errors import ConfigurationError, InvalidName
from .names import Address, NodeName, parse_name, printable

_ANY = "*"
_KINDS = "an entry is a node name, '*@host', '*@host:port' or 'name@*'; without a list every node is allowed"


class AllowList:
    """The checked ``Node(allow=...)``.

    An entry is a node name; or ``*@host`` or ``*@host:port``, for any name there (the former at any port);
    or ``name@*``, for that name anywhere. The host is the one in the peer's name, not the one that its
    connection comes from. Everything is compared as it is written, like names.

    :param entries: None for everyone.
    :raises ConfigurationError: naming the entry.
    """

    def __init__(self, entries: object) -> None:
        self._everyone = entries is None
        self._texts: set[str] = set()
        self._names: set[str] = set()
        self._places: set[tuple[str, int | None]] = set()
        for entry in () if entries is None else items(entries, "allow"):
            self._add(entry)

    def allows(self, name: str) -> bool:
        """Whether the node called `name`, a valid name, may be linked with."""
        if self._everyone or name in self._texts:
            return True
        node = parse_name(name)
        return node.name in self._names or not self._places.isdisjoint(
            {(node.host, None), (node.host, node.port)}
        )

    def check(self, targets: Iterable[NodeName | Address], argument: str, own: str) -> None:
        """Refuse what this node is asked to dial and would never link with.

        A bare address passes: who answers there is known when it has proved its name. So does the name `own`,
        for the sake of lists that all nodes are given.

        :raises ConfigurationError: naming `argument`.
        """
        for target in targets:
            if isinstance(target, NodeName) and target.text != own and not self.allows(target.text):
                raise ConfigurationError(
                    argument, f"{target} is not in this node's allow-list, so they would never be linked"
                )

    def _add(self, entry: str) -> None:
        if not isinstance(entry, str):
            raise ConfigurationError("allow", f"an entry is a str, not {type(entry).__name__}")
        name, _, place = entry.partition("@")
        try:
            if name == _ANY:
                node = parse_name(f"any@{place}")
                has_port = ":" in place.rpartition("]")[2]  # an IPv6 address has colons of its own
                self._places.add((node.host, node.port if has_port else None))
            elif place == _ANY:
                self._names.add(parse_name(f"{name}@host").name)
            else:
                self._texts.add(parse_name(entry).text)
        except InvalidName as error:
            defect = error.problem.rpartition(" is no node name: ")[2]  # of a name that was not the user's
            raise ConfigurationError("allow", f"'{printable(entry)}': {defect}; {_KINDS}") from None
