"""Erlang/OTP's distribution over TLS: two real nodes for messages, and light ones that hold the other links.

The server and the sender of messages are nodes of Erlang (``erlang_node.erl``, compiled at the start into a
temporary folder); this process starts one and hands it orders. They do without epmd. Every link to a node
takes a node with a name of its own: all but a client's first therefore come from :class:`Link`, which does
what a node does to be admitted, and then answers ticks. They are hidden nodes, as the real one is: Erlang's
``global``, which sees to it that all visible nodes are linked, would cost the server more.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count as numbers
from pathlib import Path
from typing import Final

import gevent
import gevent.socket
import gevent.ssl
from gevent.fileobject import FileObject
from gevent.pool import Pool
from gevent.queue import SimpleQueue
from gevent.subprocess import PIPE, Popen

from snowgreen.link.tls import client_end, ephemeral_certificate

from .common import Answer, Hello, Unsupported, main, missing

NOTE: Final = (
    "a message goes to a registered process; no epmd; all links but one come from light nodes in Python, "
    "hidden as the real ones are; a tick every 15 s, by default"
)
COOKIE: Final = "the_nodes_of_one_benchmark"
HOST: Final = "127.0.0.1"
#: Seconds that it may take to be admitted.
PATIENCE: Final = 30.0
#: Seconds that an order may still take when the input has ended.
GRACE: Final = 1.0
#: Bytes read at once.
READ: Final = 64 * 1024
#: Sockets that a node has room for, which are else as many as the system allows: a table of them all is made.
PORTS: Final = "65536"
MODULE: Final = Path(__file__).with_name("erlang_node.erl")
#: Prints the release, and the version of its TLS if that is there.
VERSIONS: Final = (
    'io:format("OTP ~s", [erlang:system_info(otp_release)]), '
    '[io:format(", ~s", [filename:basename(F)]) || F <- [code:lib_dir(ssl)], is_list(F)], halt().'
)
#: What a node of today must know, as the distribution protocol calls it.
FLAGS: Final = (
    0x4  # EXTENDED_REFERENCES
    | 0x10  # FUN_TAGS
    | 0x80  # NEW_FUN_TAGS
    | 0x100  # EXTENDED_PIDS_PORTS
    | 0x200  # EXPORT_PTR_TAG
    | 0x400  # BIT_BINARIES
    | 0x800  # NEW_FLOATS
    | 0x10000  # UTF8_ATOMS
    | 0x20000  # MAP_TAG
    | 0x40000  # BIG_CREATION
    | 0x1000000  # HANDSHAKE_23
    | 0x2000000  # UNLINK_ID
    | 0x400000000  # V4_NC
    | 0x1000000000  # MANDATORY_25_DIGEST
)
TICK: Final = bytes(4)


def versions() -> str:
    """Those of Erlang/OTP and of its TLS; nothing unless it has both, and its compiler."""
    if not all(map(shutil.which, ("erl", "erlc"))):
        return ""
    with contextlib.suppress(subprocess.CalledProcessError):
        answered = _run(["erl", "-noinput", "-eval", VERSIONS])
        if "ssl" in answered:
            return answered
    return ""


def _run(command: list[str]) -> str:
    """What `command` prints. It must not have this process's input: Erlang would make reads of that block."""
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=PIPE, text=True, check=True).stdout


class Beam:
    """A node of Erlang, to which orders go as terms. It ends when its input does."""

    def __init__(self, role: str) -> None:
        #: What it is called.
        self.name = f"{role}{os.getpid()}@{HOST}"
        with tempfile.TemporaryDirectory(prefix="snowgreen-erlang-") as folder:  # needed until it runs
            Path(folder, "tls.conf").write_text(_tls())
            _run(["erlc", "-o", folder, str(MODULE)])
            environment = {**os.environ, "HOME": folder, "ERL_CRASH_DUMP_SECONDS": "0"}
            self._process = Popen(self._command(), stdin=PIPE, stdout=PIPE, cwd=folder, env=environment)
            #: The process that runs the node: what was started has become it.
            self.pid: int = self._process.pid
            #: Where it listens.
            self.port: int = self.order("port")["port"]

    def _command(self) -> list[str]:
        log = "[{handler, default, logger_std_h, #{config => #{type => standard_error}}}]"
        return [
            *("erl", "-noshell", "+Q", PORTS, "-pa", "."),
            *("-name", self.name, "-setcookie", COOKIE, "-hidden"),
            *("-proto_dist", "inet_tls", "-ssl_dist_optfile", "tls.conf"),
            *("-start_epmd", "false", "-epmd_module", MODULE.stem),
            *("-kernel", "inet_dist_use_interface", "{127,0,0,1}", "logger_level", "critical", "logger", log),
            *("-s", MODULE.stem, "main"),
        ]

    def order(self, term: str) -> Answer:
        """Have the node do something, and return what it answers."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{term}.\n".encode())
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"the node of Erlang ended in the middle of {term}")
        answer: Answer = json.loads(line)
        if "failed" in answer:
            raise RuntimeError(answer["failed"])
        return answer

    def cpu(self) -> float:
        """Seconds of CPU that all its threads have used."""
        return time.clock_gettime((~self.pid << 3) | 2)


def _tls() -> str:
    """Erlang's options for TLS: a fresh P-256 certificate signed by itself, and nobody is asked for one."""
    pem = ephemeral_certificate(datetime.datetime.now(datetime.UTC)).pem.decode()
    blocks = re.findall(r"-----BEGIN [A-Z ]+-----([^-]+)-----END", pem)
    certificate, key = (", ".join(map(str, base64.b64decode(block))) for block in blocks)
    options = "{verify, verify_none}, {versions, ['tlsv1.3']}"
    identity = f"{{cert, <<{certificate}>>}}, {{key, {{'PrivateKeyInfo', <<{key}>>}}}}"
    return f"[{{server, [{identity}, {options}]}}, {{client, [{options}]}}].\n"


class Link:
    """A light node's link: the distribution protocol's handshake, as the one who dials, and then ticks."""

    def __init__(self, context: gevent.ssl.SSLContext, port: int, name: str) -> None:
        with gevent.Timeout(PATIENCE, TimeoutError(f"not admitted within {PATIENCE:g} s")):
            plain = gevent.socket.create_connection((HOST, port))
            try:
                plain.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
                plain = self._socket = context.wrap_socket(plain)
                self._join(name.encode())
            except BaseException:
                plain.close()
                raise
        self._reader = gevent.spawn(self._read)

    def _join(self, name: bytes) -> None:
        creation = secrets.randbits(31).to_bytes(4)
        self._say(b"N" + FLAGS.to_bytes(8) + creation + len(name).to_bytes(2) + name)
        status = self._hear(b"s")
        if status != b"ok":
            raise ConnectionError(f"the node of Erlang answers {status!r}")
        theirs, ours = int.from_bytes(self._hear(b"N")[8:12]), secrets.randbits(32)
        self._say(b"r" + ours.to_bytes(4) + proof(theirs))
        if self._hear(b"a") != proof(ours):
            raise ConnectionError("the node of Erlang has another cookie")

    def _say(self, message: bytes) -> None:
        self._socket.sendall(len(message).to_bytes(4) + message)

    def _hear(self, tag: bytes) -> bytes:
        message = self._exactly(int.from_bytes(self._exactly(4)))
        if message[:1] != tag:
            raise ConnectionError(f"the node of Erlang says {message!r} where {tag!r} is due")
        return message[1:]

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise ConnectionError("the node of Erlang has closed the connection")
            data += part
        return data

    def _read(self) -> None:
        """Answer each tick, and let everything else go."""
        kept = bytearray()
        with contextlib.suppress(OSError):  # the node has gone
            while data := self._socket.recv(READ):
                kept += data
                while len(kept) >= 4 and len(kept) >= (end := 4 + int.from_bytes(kept[:4])):
                    del kept[:end]
                    if end == len(TICK):
                        self._socket.sendall(TICK)

    def close(self) -> None:
        """End it."""
        self._reader.kill()
        self._socket.close()


def proof(challenge: int) -> bytes:
    """That the cookie is known."""
    return hashlib.md5(f"{COOKIE}{challenge}".encode()).digest()  # noqa: S324  # so says the protocol


class Server:
    """A node that counts what comes to a process, and echoes."""

    def start(self) -> Answer:
        """Listen."""
        self._node = node = Beam("server")
        return {"address": {"name": node.name, "port": node.port}, "pid": node.pid}

    def received(self) -> Answer:
        """What has come."""
        return self._node.order("received")

    def wait(self, messages: int) -> Answer:
        """Wait for messages."""
        return self._node.order(f"{{wait, {messages}}}")

    def links(self) -> Answer:
        """How many nodes there are."""
        return self._node.order("links")

    def broadcast(self, size: int) -> Answer:
        """To every node, until its socket has been given it."""
        return self._node.order(f"{{broadcast, {size}}}")

    def idle(self, seconds: float) -> Answer:
        """Do nothing."""
        before = self._node.cpu()
        gevent.sleep(seconds)
        return {"cpu": self._node.cpu() - before}


class Client:
    """A node, whose link is the first, and light ones."""

    def __init__(self) -> None:
        self._node: Beam | None = None
        self._server = ""
        self._links: list[Link] = []
        self._numbers = numbers()

    def link(self, address: Answer, count: int, at_once: int) -> Answer:
        """Make links."""
        self._node, context = self._node or Beam("client"), client_end().context
        before, failures, began = self._made(), list[str](), time.perf_counter()
        if not self._server:
            self._node.order(f"{{link, '{address['name']}', {address['port']}}}")
            self._server = address["name"]

        def make(number: int) -> None:
            name = f"light{number}x{os.getpid()}@{HOST}"
            try:
                self._links.append(Link(context, address["port"], name))
            except OSError as error:
                failures.append(f"{type(error).__name__}: {error}")

        pool = Pool(at_once)
        for _ in range(before + count - self._made()):
            pool.spawn(make, next(self._numbers))
        pool.join()
        made, seconds = self._made() - before, time.perf_counter() - began
        return {"made": made, "seconds": seconds, "why": failures[0] if failures else ""}

    def _made(self) -> int:
        return len(self._links) + bool(self._server)

    def _linked(self) -> Beam:
        if self._node is None or not self._server:
            raise Unsupported("there is no link yet")
        return self._node

    def rtt(self, rounds: int) -> Answer:
        """A message to a process that sends one back."""
        return self._linked().order(f"{{rtt, '{self._server}', {rounds}}}")

    def send(self, size: int, count: int) -> Answer:
        """Send to a process; the CPU is the node's."""
        node = self._linked()
        before = node.cpu()
        answer = node.order(f"{{send, '{self._server}', {size}, {count}}}")
        return {**answer, "cpu": node.cpu() - before}

    def drop(self) -> Answer:
        """Close the links."""
        for link in self._links:
            link.close()
        self._links = []
        if self._server:
            self._linked().order(f"{{unlink, '{self._server}'}}")
            self._server = ""
        return {}


def orders() -> Iterator[str]:
    """The lines of the input. When it ends, so does this process, even in the middle of an order."""
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in FileObject(sys.stdin.fileno(), "r", closefd=False):
            lines.put(line)
        lines.put("")
        gevent.sleep(GRACE)
        os._exit(0)

    gevent.spawn(read)
    return iter(lines.get, "")


if __name__ == "__main__":
    version = versions()
    if not version:
        missing("install erlang-base erlang-ssl")
    hello = Hello("Erlang/OTP", version, True, NOTE)
    main(hello, {"server": Server, "client": Client}, orders())
