"""What the peers made of other packages have in common: import, certificates, and many connections."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib
import ipaddress
import os
import select
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from .common import Answer, Count, Stopwatch, missing


class HasDescriptor(Protocol):
    """A connection that can be polled."""

    def fileno(self) -> int:
        """Its descriptor."""


Link = TypeVar("Link")


def library(name: str, *parts: str) -> Any:
    """The package `name`, whose `parts` are imported with it. If that fails this peer is missing, and ends.

    It is ``Any``: the packages have no types, and nothing here depends on their being installed.
    """
    try:
        found = importlib.import_module(name)
        for part in parts:
            importlib.import_module(part)
    except Exception as error:  # noqa: BLE001  # on a Python too new for it a package may fail in any way
        missing(f"{type(error).__name__}: {error}")
    return found


class SharedCount(Count):
    """A count to which several threads add."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """One has come."""
        with self._lock:
            super().take(size)


def identity() -> str:
    """A fresh P-256 key and a certificate signed by itself, in PEM.

    Both ends of a link show it and trust nothing else, so each proves to the other that it has the key.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmark")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(here, critical=False)
        # It is the CA, too, and must look like one where verification is strict.
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (certificate.public_bytes(serialization.Encoding.PEM) + private).decode()


@functools.cache
def as_file(content: str) -> str:
    """A path that leads to `content` for as long as this process runs; nothing is left of it then."""
    descriptor = os.memfd_create("benchmark")
    os.write(descriptor, content.encode())
    return f"/proc/self/fd/{descriptor}"


def dial(make: Callable[[], Link], count: int, at_once: int) -> tuple[list[Link], Answer]:
    """Call `make`, which waits for a link, in as many threads; the links, and what ``link`` answers."""
    links, failures, watch = list[Link](), list[BaseException](), Stopwatch()

    def made(future: Future[Link]) -> None:
        error = future.exception()
        if error is None:
            links.append(future.result())
        else:
            failures.append(error)

    with ThreadPoolExecutor(at_once) as threads:
        for _ in range(count):
            threads.submit(make).add_done_callback(made)
    return links, watch.as_answer(made=len(links), why=str(failures[0]) if failures else "")


class Pump:
    """One thread that reads what comes in on links of this process that nobody asks anything."""

    def __init__(self, read: Callable[[Any], object]) -> None:
        """:param read: takes one message from a link on which something has come."""
        self._read = read
        self._links: dict[int, HasDescriptor] = {}
        self._poll = select.epoll()
        self._lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, link: HasDescriptor) -> None:
        """Read from this one, too."""
        with self._lock:
            if link.fileno() not in self._links:
                self._links[link.fileno()] = link
                self._poll.register(link.fileno(), select.EPOLLIN)

    @contextlib.contextmanager
    def without(self, link: HasDescriptor) -> Iterator[None]:
        """Leave a link to somebody who awaits answers on it."""
        with self._lock:
            had = self._links.pop(link.fileno(), None)
            if had is not None:
                self._poll.unregister(link.fileno())
        try:
            yield
        finally:
            if had is not None:
                self.add(had)

    def clear(self) -> None:
        """Read from none any more; they are not closed yet."""
        with self._lock:
            for descriptor in self._links:
                self._poll.unregister(descriptor)
            self._links.clear()

    def _run(self) -> None:
        while True:
            for descriptor, _ in self._poll.poll():
                with self._lock:
                    link = self._links.get(descriptor)
                    if link is None:
                        continue
                    try:
                        self._read(link)
                    except (EOFError, OSError):  # the other end has closed it
                        del self._links[descriptor]
                        with contextlib.suppress(OSError):
                            self._poll.unregister(descriptor)
