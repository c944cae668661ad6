"""Derived keys, made once per cookie and process, off the hub: scrypt takes a tenth of a second."""

from __future__ import annotations

import gevent
from gevent.lock import RLock

from ..cookie import Cookie
from ..protocol.keys import LinkKeys, prehash

_derived: dict[bytes, LinkKeys] = {}
_lock = RLock()


def link_keys(cookie: Cookie) -> LinkKeys:
    """The keys of `cookie`. The first call for a cookie waits, in this greenlet only, about 0.1 s."""
    filed = prehash(cookie.reveal())
    with _lock:  # greenlets that start nodes together share one derivation
        keys = _derived.get(filed)
        if keys is None:
            keys = _derived[filed] = gevent.get_hub().threadpool.apply(_derive, (cookie,))
        return keys


def _derive(cookie: Cookie) -> LinkKeys:
    return LinkKeys.derive(cookie.reveal())
