"""The keyboard: bytes of a terminal made into keys, and a terminal that gives them one by one."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator

import gevent
from gevent import socket

#: What terminals send for keys that have no letter, behind the escape.
_SEQUENCES = {
    "[A": "up",
    "[B": "down",
    "[C": "right",
    "[D": "left",
    "OA": "up",
    "OB": "down",
    "OC": "right",
    "OD": "left",
}
_NAMED = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace", "\x04": "eof"}
_LONGEST_SEQUENCE = 16


class Keys:
    """Turns what a terminal sends, in pieces of any size, into keys: letters, and names such as ``left``."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete with `data`. Sequences of keys that are none of ours are swallowed."""
        text, self._held = self._held + self._decoder.decode(data), ""
        keys: list[str] = []
        while text:
            if text[0] != "\x1b":
                key, text = _NAMED.get(text[0], text[0]), text[1:]
                keys += [key] if key.isprintable() else []
                continue
            length = _sequence(text)
            if length is None:
                self._held = text[:_LONGEST_SEQUENCE]
                break
            key, text = "escape" if length == 1 else _SEQUENCES.get(text[1:length], ""), text[length:]
            keys += [key] if key else []
        return keys


def _sequence(text: str) -> int | None:
    """How long the sequence is that `text` begins with; None if its end has yet to come."""
    if len(text) == 1 or text[1] not in "[O":
        return 1  # the key itself: a terminal sends a sequence in one piece, but for the rarest cases
    if text[1] == "O":
        return 3 if len(text) > 2 else None
    for at in range(2, min(len(text), _LONGEST_SEQUENCE)):
        if "@" <= text[at] <= "~":
            return at + 1
    return _LONGEST_SEQUENCE if len(text) >= _LONGEST_SEQUENCE else None


class Keyboard:
    """Within the block, keys come one by one and unechoed, and each is given to `press`.

    Ctrl-C and Ctrl-Z stay what they are. Where the input is no terminal nothing comes. When the terminal is
    gone, ``eof`` does.
    """

    def __init__(self, press: Callable[[str], None]) -> None:
        self._press = press
        self._stack = contextlib.ExitStack()

    def open(self) -> None:
        """Take the keyboard over."""
        if not sys.stdin or not sys.stdin.isatty():
            return
        descriptor = sys.stdin.fileno()
        self._stack.enter_context(_one_by_one(descriptor))
        reader = gevent.spawn(self._read, descriptor)
        self._stack.callback(reader.kill)

    def close(self) -> None:
        """Leave the keyboard as it was."""
        self._stack.close()

    def _read(self, descriptor: int) -> None:
        keys = Keys()
        while True:
            # Rather than O_NONBLOCK, which the shell's own input would have, too.
            socket.wait_read(descriptor)
            try:
                data = os.read(descriptor, 1024)
            except OSError:
                data = b""
            for key in keys.feed(data) if data else ["eof"]:
                self._press(key)
            if not data:
                return


@contextlib.contextmanager
def _one_by_one(descriptor: int) -> Iterator[None]:
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
