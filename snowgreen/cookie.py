"""The cookie: the secret that makes two processes trust each other, and where it comes from.

In order: the argument, the variable ``SNOWGREEN_COOKIE``, a file in the user's config directory that
is made with 256 random bits on first use. A cookie is wrapped in :class:`Cookie` at the door and is
taken out only inside the call that consumes it, so that no repr, log line or traceback shows it.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from .errors import CookieError

VARIABLE = "SNOWGREEN_COOKIE"
MIN_LENGTH = 16
MAX_LENGTH = 4096
_RANDOM_BYTES = 32


class Cookie:
    """A secret that does not show itself: compare, hash and print see no more than that it is one."""

    __slots__ = ("_value", "path", "source")

    def __init__(self, value: object, source: str, path: Path | None = None) -> None:
        if not isinstance(value, bytes):
            kind = type(value).__name__
            del value
            raise CookieError(source, f"a Cookie holds bytes, not {kind}; Cookie.wrap() takes text, too")
        self._value = value
        self.source = source
        #: The file it was read from, None if it came from elsewhere.
        self.path = path

    def reveal(self) -> bytes:
        """The bytes themselves. Pass them straight on; never bind them to a name."""
        return self._value

    def __repr__(self) -> str:
        return f"<Cookie from {self.source}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Cookie cannot be pickled or copied: it would leave a readable secret behind")

    @classmethod
    def wrap(cls, value: object, source: str, *, weak: bool = False, path: Path | None = None) -> Cookie:
        """Check a cookie and wrap it.

        :param value: text (taken as UTF-8) or bytes.
        :param source: where it came from, for messages.
        :param weak: accept fewer than 16 characters (the handshake then stands on a guessable secret).
        :param path: the file it was read from.
        :raises CookieError: naming the defect and never the value.
        """
        cookie: Cookie | None = None
        problem: str | None = None
        if isinstance(value, Cookie):
            cookie = value
        elif isinstance(value, bytes):
            cookie = cls(value, source, path)
        elif isinstance(value, str):
            try:
                cookie = cls(value.encode(), source, path)
            except UnicodeEncodeError:
                problem = "it holds lone surrogates, which no encoding can carry"
        else:
            problem = f"it must be str or bytes, not {type(value).__name__}"
        del value  # a traceback from here on must not show it
        if cookie is not None:
            problem = cookie._defect(weak)
        if problem is not None or cookie is None:
            raise CookieError(source, f"this cookie cannot be used: {problem}")
        return cookie

    def _defect(self, weak: bool) -> str | None:
        if not self._value:
            return "it is empty"
        if b"\0" in self._value:
            return "it holds a NUL byte"
        if len(self._value) > MAX_LENGTH:
            return f"it is longer than {MAX_LENGTH} bytes"
        if weak:
            return None
        if self._value.endswith((b"\n", b"\r")):
            return "it ends with a line break, and so is another cookie than the same text without; strip it"
        if len(self._value) < MIN_LENGTH:
            return (
                f"it is shorter than {MIN_LENGTH} characters and could be guessed; "
                "make one with `snowgreen cookie --new`, or allow it with Config(allow_weak_cookie=True)"
            )
        return None


def wrapped(value: object, source: str, *, weak: bool) -> tuple[Cookie | None, CookieError | None]:
    """The cookie or what is wrong with it; returned, so that no frame that raises holds `value`."""
    try:
        return Cookie.wrap(value, source, weak=weak), None
    except CookieError as error:
        return None, error.with_traceback(None)


def default_path() -> Path:
    """The cookie file of this user: ``<user config directory>/snowgreen/cookie``."""
    import platformdirs  # only a node that was given no cookie looks for the file

    return Path(platformdirs.user_config_dir("snowgreen", appauthor=False)) / "cookie"


def find(
    given: Cookie | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    path: Path | None = None,
    weak: bool = False,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
) -> Cookie:
    """The cookie to use: `given`, else the variable, else the file, which is made if it is missing.

    :raises CookieError: when the one found cannot be used.
    """
    if given is not None:
        return given
    values = [environ[VARIABLE]] if VARIABLE in environ else []
    del environ  # a traceback from here on must not show it, nor the list, which is emptied in time
    if values:
        return Cookie.wrap(values.pop(), VARIABLE, weak=weak)
    path = path or default_path()
    for _ in range(3):  # another process may create the file, or remove it, between two looks
        try:
            return load(path, weak=weak)
        except FileNotFoundError:
            try:
                create(path, entropy=entropy)
            except FileExistsError:
                continue
    raise CookieError("cookie", f"{path} appears and disappears while it is read; pass a cookie instead")


def load(path: Path, *, weak: bool = False) -> Cookie:
    """Read the cookie from `path`; one line break at its end does not count.

    :raises CookieError: if others can read the file or own it, or it holds no usable cookie.
    :raises FileNotFoundError: if there is none.
    """
    try:
        # O_NONBLOCK: a FIFO put in the file's place must not stop the process.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CookieError("cookie", f"{path} cannot be opened: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):  # before open(), which takes no directory and would leak it
        os.close(descriptor)
        raise CookieError("cookie", f"{path} is not a regular file")
    with open(descriptor, "rb") as file:
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise CookieError(
                "cookie", f"{path} is open to other users (mode {mode:04o}); run: chmod 600 '{path}'"
            )
        if status.st_uid not in (os.geteuid(), 0):
            raise CookieError("cookie", f"{path} belongs to another user (uid {status.st_uid})")
        # Absolute, so that it is found again from another working directory.
        return Cookie.wrap(_one_line(file.read(MAX_LENGTH + 3)), str(path), weak=weak, path=path.absolute())


def create(
    path: Path, *, entropy: Callable[[int], bytes] = secrets.token_bytes, replace: bool = False
) -> None:
    """Write 256 fresh random bits, as 64 hex digits, to `path` with mode 0600.

    The file appears whole or not at all, so two processes that start together agree on one.

    :raises FileExistsError: if it is there and `replace` is false.
    :raises CookieError: if the directory cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:  # FileExistsError too: there, what exists is no directory
        raise CookieError("cookie", f"{path} cannot be written: {error.strerror}") from error
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".cookie-", dir=path.parent)  # mode 0600
        with open(descriptor, "w") as file:
            file.write(entropy(_RANDOM_BYTES).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
            temporary = None
        else:
            os.link(temporary, path)  # unlike rename, fails where the file exists
    except FileExistsError:
        raise
    except OSError as error:
        raise CookieError("cookie", f"{path} cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            os.unlink(temporary)


def _one_line(content: bytes) -> bytes:
    return content.removesuffix(b"\n").removesuffix(b"\r")
