"""A monkey-patch that came too late, or left things out: found, and named in a warning.

snowgreen itself uses gevent's own sockets, TLS and locks, and works in a process that is patched, in one
that is not, and in one that was patched after snowgreen was imported. What suffers from half a patch is the
rest of the application: a call that waits outside of gevent's loop holds up that loop, and so every link of
the node; and TLS ends in a RecursionError where a module holds an ``SSLContext`` from before the patch. Both
look like a fault of the links.

Where nothing is patched no module is looked at, and no time is spent. Nothing here imports gevent.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from types import FrameType, ModuleType
from typing import Any

_MONKEY = "gevent.monkey"
_GUIDE = "snowgreen's docs/embedding.md says more"

#: What ``patch_all`` replaces of what waits: module, attribute, the argument that leaves it out, and what
#: then holds up the loop.
_WAITING = (
    ("socket", "socket", "socket=False", "connections of the application's own"),
    ("socket", "getaddrinfo", "dns=False", "name resolution"),
    ("ssl", "SSLContext", "ssl=False", "TLS connections of the application's own"),
    ("_thread", "allocate_lock", "thread=False", "locks, events and queues of the threading module"),
    ("time", "sleep", "time=False", "time.sleep"),
    ("select", "select", "select=False", "select and poll"),
)
#: What a module must not hold from before the patch, and what comes of it if it does.
_HELD = (
    ("ssl", "SSLContext", "it fails with a RecursionError when it is configured"),
    ("socket", "socket", "its connections block the loop"),
    ("socket", "create_connection", "its connections block the loop"),
    ("socket", "getaddrinfo", "name resolution blocks the loop"),
    ("time", "sleep", "it blocks the loop"),
    ("select", "select", "it blocks the loop"),
)
#: Those who keep what was there before the patch, and mean to.
_ON_PURPOSE = frozenset(
    {
        "_pydev_bundle",
        "_pydevd_bundle",
        "_pytest",
        "coverage",
        "debugpy",
        "gevent",
        "greenlet",
        "gunicorn",
        "pydevd",
        "sentry_sdk",
        "snowgreen",
    }
)
#: Modules that one warning names; there may be hundreds.
_NAMED = 3

_told: set[str] = set()


def check() -> None:
    """Warn, once for each, of what the process's monkey-patch has left as it was.

    It warns by :class:`RuntimeWarning`, in the name of the first caller outside of snowgreen.
    """
    monkey = sys.modules.get(_MONKEY)
    if monkey is None:
        return  # nobody can have patched
    for problem in (_left_out(monkey), _held(monkey)):
        if problem is not None and problem not in _told:
            _told.add(problem)
            warnings.warn(f"{problem} ({_GUIDE})", RuntimeWarning, stacklevel=_outside())


def _left_out(monkey: Any) -> str | None:
    patched = [monkey.is_object_patched(module, attribute) for module, attribute, *_ in _WAITING]
    if all(patched) or not any(patched):
        return None
    missing = [item for item, done in zip(_WAITING, patched, strict=True) if not done]
    arguments = [argument for _, _, argument, _ in missing]
    if "socket=False" in arguments and "dns=False" in arguments:
        arguments.remove("dns=False")  # it is a part of the other
    return (
        f"this process is monkey-patched in part, as by patch_all({', '.join(arguments)}). What was left out "
        "holds up gevent's loop when it waits, and with the loop every link of this process's nodes: "
        f"{', '.join(what for *_, what in missing)}. Patch all, or nothing"
    )


def _held(monkey: Any) -> str | None:
    originals = {
        id(monkey.get_original(module, attribute)): (f"{module}.{attribute}", consequence)
        for module, attribute, consequence in _HELD
        if monkey.is_object_patched(module, attribute)
    }
    found = sorted(set(_holders(originals))) if originals else []
    if not found:
        return None
    shown = [f"{module} has {what} ({consequence})" for module, what, consequence in found[:_NAMED]]
    more = f", and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return (
        f"the monkey-patch came too late for what was imported before it: {', '.join(shown)}{more}. Patch "
        "first thing in the program, before these imports, or run it with python -m gevent.monkey"
    )


def _holders(originals: dict[int, tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """The modules that hold one of `originals`, which are given by their id."""
    for module in list(sys.modules.values()):
        # A lazy module is of a type of its own, and looking into it would load it.
        if type(module) is not ModuleType:
            continue
        name = str(vars(module).get("__name__"))  # which is one, under however many it was imported
        package = name.partition(".")[0]
        if package in _ON_PURPOSE or package in sys.stdlib_module_names:
            continue
        for value in list(vars(module).values()):
            if id(value) in originals:
                yield (name, *originals[id(value)])


def _outside() -> int:
    """The stack level, as warnings count from :func:`check`, of the first caller outside of snowgreen."""
    level = 0
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith("importlib._bootstrap"):  # which warnings pass over, too
            level += 1
            if name.partition(".")[0] != "snowgreen":
                break
        frame = frame.f_back
    return level
