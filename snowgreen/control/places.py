"""Where control sockets are: a directory that nobody but their user can enter, and a file in it for each.

Who can connect to a control socket can see all that a node does, so the directory is held against everything
that could let another user in, or put another node in its place: owner, mode, symbolic links. A socket whose
process has died is removed by the next one that opens its own; one that somebody listens on never is.
"""

# platformdirs knows this directory, too, but what it does where there is none differs from version to
# version, and both ends of a socket have to look in the same places.

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gevent
from gevent import socket

from ..errors import ConfigurationError

#: Bytes of a socket's path: what Linux has room for, without the NUL.
LONGEST_PATH = 107
SUFFIX = ".sock"
#: Nodes of one name that can have a control socket at once.
NAMESAKES = 99
#: How long to wait for another process that is opening its socket, in seconds.
TURN_SECONDS = 5.0

_HASHED = 16
_ROOM_FOR_FILE = len("/") + _HASHED + len(".99") + len(SUFFIX)
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:\[\]-]*\Z")


class Bound(NamedTuple):
    """A socket that listens, and the file that leads to it."""

    socket: socket.socket
    path: Path
    #: Device and inode of the file: another one may be there later.
    identity: tuple[int, int]


def directories() -> list[Path]:
    """The directories that control sockets of this user may be in; they need not exist.

    ``$XDG_RUNTIME_DIR/snowgreen``, or ``/run/user/<uid>/snowgreen``, where the directory above is this user's
    alone; and ``snowgreen-<uid>`` in the directory for temporary files.
    """
    user = os.geteuid()
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user}")
    places = [runtime / "snowgreen"] if _is_ours(runtime) else []
    return [*places, Path(tempfile.gettempdir()) / f"snowgreen-{user}"]


def sockets() -> Iterator[Path]:
    """The control sockets that this user's nodes have, or had, by path.

    :raises ConfigurationError: if a directory for them is not this user's alone, and no other has a socket.
    """
    found, problem = 0, None
    for directory in directories():
        if not os.path.lexists(directory):
            continue
        try:
            check_directory(directory)
        except ConfigurationError as error:
            problem = error
            continue
        for path in sorted(directory.glob(f"*{SUFFIX}")):
            if _is_socket(path):
                found += 1
                yield path
    if problem is not None and not found:
        raise problem


def bind(name: str, path: Path | None) -> Bound:
    """Listen on a socket of mode 0600 for the node `name`: at `path`, or where the commands look for it.

    :raises ConfigurationError: saying what is in the way.
    """
    directory = _make_directory() if path is None else path.parent
    try:
        with _turn(directory):
            if path is None:
                _sweep(directory)
                path = _free_path(directory, name)
            else:
                _check_path(path)
            return _listen(path)
    except OSError as error:
        where = directory if path is None else path
        raise ConfigurationError("control", f"{where} cannot be opened: {error.strerror or error}") from error


def remove(bound: Bound) -> None:
    """Remove the file of `bound`, unless another is there by now."""
    with contextlib.suppress(OSError):
        found = os.lstat(bound.path)
        if (found.st_dev, found.st_ino) == bound.identity:
            os.unlink(bound.path)


def check_directory(directory: Path) -> None:
    """Refuse a directory that is not this user's alone.

    :raises ConfigurationError: saying why, and what to do.
    """
    found = os.lstat(directory)
    problem = None
    if stat.S_ISLNK(found.st_mode):
        problem = "is a symbolic link, which may lead anywhere; remove it"
    elif not stat.S_ISDIR(found.st_mode):
        problem = "is no directory; remove it"
    elif found.st_uid != os.geteuid():
        problem = (
            f"belongs to another user, of id {found.st_uid}; set XDG_RUNTIME_DIR to a directory of yours"
        )
    elif found.st_mode & 0o077:
        problem = f"can be entered by others; run: chmod 700 '{directory}'"
    if problem is not None:
        raise ConfigurationError("control", f"{directory}, where control sockets are kept, {problem}")


def is_deserted(path: Path) -> bool:
    """Whether nobody listens at `path` any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(os.fspath(path)) == errno.ECONNREFUSED


def _is_ours(runtime: Path) -> bool:
    """Whether only this user can write to the directory `runtime`, and its path leaves room for more."""
    try:
        found = os.stat(runtime)
    except OSError:
        return False
    fits = len(os.fsencode(runtime / "snowgreen")) + _ROOM_FOR_FILE <= LONGEST_PATH
    ours = found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return runtime.is_absolute() and stat.S_ISDIR(found.st_mode) and ours and fits


def _make_directory() -> Path:
    directory = directories()[0]
    try:
        _check_above(directory)
        try:
            os.mkdir(directory, 0o700)
            os.chmod(directory, 0o700)  # whatever the umask has taken
        except FileExistsError:
            pass
        check_directory(directory)
    except OSError as error:
        raise ConfigurationError(
            "control", f"{directory} cannot be made: {error.strerror or error}; set XDG_RUNTIME_DIR"
        ) from error
    if len(os.fsencode(directory)) + _ROOM_FOR_FILE > LONGEST_PATH:
        raise ConfigurationError(
            "control",
            f"{directory} is too long for a socket, whose path has {LONGEST_PATH} bytes at most; "
            "set XDG_RUNTIME_DIR to a shorter one",
        )
    return directory


def _check_above(path: Path) -> None:
    """Refuse a place where other users could put something else at `path`."""
    above = os.stat(path.parent)
    trusted = above.st_uid in (0, os.geteuid())
    shared = above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX
    if shared or not trusted:
        raise ConfigurationError(
            "control", f"{path.parent} can be written to by others, who could put a socket of theirs there"
        )


@contextlib.contextmanager
def _turn(directory: Path) -> Iterator[None]:
    """One process at a time in the block: a socket between its two steps looks like a deserted one."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + TURN_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigurationError(
                        "control", f"another process has kept {directory} locked for {TURN_SECONDS:g} s"
                    ) from None
            gevent.sleep(0.01)
        yield  # nothing in the block waits
    finally:
        os.close(descriptor)


def _sweep(directory: Path) -> None:
    for path in directory.glob(f"*{SUFFIX}"):
        if _is_socket(path) and is_deserted(path):
            path.unlink(missing_ok=True)


def _free_path(directory: Path, name: str) -> Path:
    room = LONGEST_PATH - len(os.fsencode(directory)) - (_ROOM_FOR_FILE - _HASHED)
    stem = name
    if len(name) > room or not _SAFE.match(name):
        stem = hashlib.sha256(name.encode()).hexdigest()[:_HASHED]
    for number in range(1, NAMESAKES + 1):
        path = directory / (f"{stem}.{number}{SUFFIX}" if number > 1 else f"{stem}{SUFFIX}")
        if not os.path.lexists(path):
            return path
    raise ConfigurationError("control", f"{NAMESAKES} nodes called {name} have a control socket already")


def _check_path(path: Path) -> None:
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise ConfigurationError(
            "path", f"{path} has {len(os.fsencode(path))} bytes, and a socket's path {LONGEST_PATH} at most"
        )
    _check_above(path)
    if not os.path.lexists(path):
        return
    if not _is_socket(path):
        raise ConfigurationError("path", f"{path} exists, and is no socket")
    if not is_deserted(path):
        raise ConfigurationError("path", f"at {path} another process, or another node of this one, listens")
    os.unlink(path)


def _listen(path: Path) -> Bound:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), 0o600)  # before it has a path: there is no moment with another mode
        listening.bind(os.fspath(path))
        os.chmod(path, 0o600)  # whatever the umask has taken
        listening.listen(socket.SOMAXCONN)
        found = os.lstat(path)
    except OSError:
        listening.close()
        raise
    return Bound(listening, path, (found.st_dev, found.st_ino))


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False
