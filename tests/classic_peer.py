"""A stand-in for a Snow node: the classic form of the link protocol, written a second time.

The tests link with this process.  It shares no code with the package and runs plain sockets and threads
on an unpatched interpreter, so a misreading of the protocol cannot hide by being made on both sides.

    python tests/classic_peer.py listen --name snow@127.0.0.1:0 --cookie-env VAR
    python tests/classic_peer.py dial --name snow@127.0.0.1:9000 --target HOST:PORT --cookie-env VAR
    python tests/classic_peer.py --selftest VECTORS

It prints JSON lines.  `listening` comes once.  Every connection becomes either `linked` (later `down`) or
`refused`; a target out of reach is an `error`.  Each frame received is a `frame`, the answer to a ping of
ours a `pong` as well.  It reads JSON lines, {"do": ...} with `ping`, `send` (tag, body), `raw` (hex, put on
the stream as it is), `silence` (answer no more pings), `close`, `dial` (perhaps another target) and `quit`;
the end of stdin is a `quit`.  Events carry the number of a `link`; commands without one go to all links.
"""

import argparse
import contextlib
import datetime
import hmac
import json
import os
import queue
import select
import signal
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAME, CHALLENGE, REPLY, ACK, REJECT = 1, 2, 3, 4, 5
PING, PONG = 0xF0, 0xF1
CREATION, BOUND_MARK = 1, b"SGBOUND1"
MAX_MESSAGE, MAX_FRAME, READ_CHUNK = 4096, 16 << 20, 64 << 10
READ_TIMEOUT, CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT, CLOSE_GRACE, EXIT_GRACE = 0.1, 5.0, 10.0, 1.0, 8.0

_stdout_lock = threading.Lock()


def emit(event, **fields):
    # Not sys.stdout: a thread still inside its buffer when the interpreter ends would be fatal.
    line = memoryview(json.dumps({"event": event, **fields}).encode() + b"\n")
    with _stdout_lock, contextlib.suppress(BrokenPipeError):
        while line:
            line = line[os.write(1, line) :]


def readable(name):
    return name.decode("ascii", "backslashreplace")


def framed(payload):
    return struct.pack("<I", len(payload)) + payload


def build_proof(kind, cookie, challenge):
    """Build an ACK, or a REPLY but for the challenge at its end."""
    return bytes([kind]) + hmac.digest(cookie, challenge, "sha256")


def build_greeting(kind, name, creation, challenge=b""):
    """Build a NAME, which has no challenge, or a CHALLENGE."""
    return struct.pack("<BH", kind, len(name)) + name + bytes([creation]) + challenge


def parse_greeting(payload):
    """Return name, creation and challenge; what follows them is for peers that understand it."""
    kind, length = struct.unpack_from("<BH", payload)
    return struct.unpack_from(f"<{length}sB{32 if kind == CHALLENGE else 0}s", payload, 3)


def split_address(text):
    """Split HOST:PORT, where an IPv6 address stands in brackets and a missing port is 9000."""
    host, _, port = (text if text.rpartition("]")[2].count(":") else f"{text}:9000").rpartition(":")
    if not (host and port.isdecimal() and int(port) < 65536):
        raise ValueError(f"not an address: {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def tls_contexts(cap_at_tls12):
    """Return a server context with a certificate of its own, and a client context."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    if cap_at_tls12:
        server.maximum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "snow")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    certificate = builder.not_valid_before(now - day).not_valid_after(now + 365 * day)
    pem, no_encryption = serialization.Encoding.PEM, serialization.NoEncryption()
    with tempfile.NamedTemporaryFile(buffering=0) as file:
        file.write(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_encryption))
        file.write(certificate.sign(key, hashes.SHA256()).public_bytes(pem))
        server.load_cert_chain(file.name)
    return server, client


class Link:
    """One connection: a reader thread, which owns the socket, and a writer thread once it is linked."""

    def __init__(self, node, number, sock=None, target=None):
        self.node, self.number, self.sock, self.target = node, number, sock, target
        self.initiated, self.linked, self.silent = sock is None, False, False
        self.about = {"link": number, "lost_bytes": 0}
        self.outbox, self.flushed, self.pings = queue.Queue(), threading.Event(), {}
        self.deadline, self.stop_by, self.stop_reason = float("inf"), float("inf"), None
        # One SSL object must not be read and written at the same time, and ssl itself does not see to it.
        self.tls_lock = threading.Lock()

    def obey(self, action, order):
        if action == "ping":
            body = os.urandom(8)
            self.pings[body] = time.monotonic()
            self.outbox.put(framed(bytes([PING]) + body))
        elif action == "send":
            self.outbox.put(framed(bytes([order["tag"]]) + bytes.fromhex(order["body"])))
        elif action == "raw":
            self.outbox.put(bytes.fromhex(order["hex"]))
        elif action == "silence":
            self.silent = True
        elif action == "close":
            self.stop("closed here")
        else:
            raise ValueError(f"unknown command {action!r}")

    def stop(self, reason, grace=CLOSE_GRACE):
        """End the link from any thread, once what is queued has gone out or the grace is over."""
        self.stop_by = min(self.stop_by, time.monotonic() + grace)
        self.stop_reason = self.stop_reason or reason
        self.outbox.put(None)

    def run(self):
        report, writer = "error", threading.Thread(target=self._write_loop, daemon=True)
        try:
            self.sock = self.sock or socket.create_connection(self.target, CONNECT_TIMEOUT)
            report, self.deadline = "refused", time.monotonic() + HANDSHAKE_TIMEOUT
            self.sock.setblocking(False)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self.node.contexts[self.initiated].wrap_socket(self.sock, not self.initiated, False)
            self._insist(self.sock.do_handshake)
            self.peer, self.about["peer_creation"] = self._initiate() if self.initiated else self._accept()
            report, self.about["peer"], self.linked = "down", readable(self.peer), True
            writer.start()
            self.node.register(self)
            while True:
                if frame := self._read_block(MAX_FRAME):
                    self._handle(frame[0], frame[1:])
        except (OSError, UnicodeError, struct.error) as error:
            self.node.links.remove(self)
            self.stop("closed here", grace=0)
            if self.linked:
                writer.join()
            if self.sock:
                self.sock.close()
            emit(report, reason=str(error), **self.about)

    def _initiate(self):
        node, challenge = self.node, os.urandom(32)
        self._send(framed(build_greeting(NAME, node.name, CREATION)))
        name, creation, their_challenge = parse_greeting(self._read_message(CHALLENGE))
        if node.options.expect not in (None, readable(name)):
            raise ConnectionError(f"unexpected name {readable(name)}")
        self._send(framed(build_proof(REPLY, node.proving_cookie, their_challenge) + challenge))
        self._verify(self._read_message(ACK), challenge)
        return name, creation

    def _accept(self):
        node = self.node
        challenge = os.urandom(24) + (BOUND_MARK if node.options.mark_challenge else os.urandom(8))
        name, creation, _ = parse_greeting(self._read_message(NAME))
        self._send(framed(build_greeting(CHALLENGE, node.name, CREATION, challenge)))
        proof, their_challenge = struct.unpack("33s32s", self._read_message(REPLY))
        self._verify(proof, challenge)
        self._send(framed(build_proof(ACK, node.proving_cookie, their_challenge)))
        return name, creation

    def _verify(self, proof, challenge):
        if not hmac.compare_digest(proof, build_proof(proof[0], self.node.cookie, challenge)):
            raise ConnectionError("wrong proof")

    def _read_message(self, expected):
        payload = self._read_block(MAX_MESSAGE)
        if payload[:1] == bytes([REJECT]):
            self.about["code"], length = struct.unpack_from("<BH", payload, 1)
            raise ConnectionError(f"rejected by the peer: {readable(payload[4 : 4 + length])}")
        if payload[:1] != bytes([expected]):
            raise ConnectionError(f"message {expected} expected, not {payload[:80].hex()}")
        return payload

    def _handle(self, tag, body):
        emit("frame", link=self.number, tag=tag, body=body.hex())
        if tag == PING and not self.silent:
            self.outbox.put(framed(bytes([PONG]) + body[:8]))
        elif tag == PONG and body in self.pings:
            emit("pong", link=self.number, rtt=time.monotonic() - self.pings.pop(body))

    def _write_loop(self):
        try:
            while (data := self.outbox.get()) is not None:
                self._send(data)
            self.flushed.set()
        except OSError as error:
            # The reader gets the time to come upon the peer's own ending, which says more.
            self.stop(f"write failed: {error}", grace=0.5)

    def _read_block(self, limit):
        block, size = bytearray(), 4
        while len(block) < size:
            self._check()
            try:
                chunk = self._attempt(self.sock.recv, min(size - len(block), READ_CHUNK))
            except TimeoutError:
                if not self.linked:
                    # As Snow does: what comes next is taken for the beginning of a message.
                    self.about["lost_bytes"] += len(block)
                    block, size = bytearray(), 4
                continue
            if not chunk:
                raise ConnectionError("closed by the peer")
            block += chunk
            if len(block) == 4:
                size += int.from_bytes(block, "little")
                if size > 4 + limit:
                    raise ConnectionError(f"too long: {size - 4} bytes")
        return bytes(block[4:])

    def _send(self, data):
        rest = memoryview(data)
        while rest:
            rest = rest[self._insist(self.sock.send, rest) :]

    def _check(self):
        now = time.monotonic()
        if self.stop_reason and (not self.linked or self.flushed.is_set() or now >= self.stop_by):
            raise ConnectionError(self.stop_reason)
        if not self.linked and now >= self.deadline:
            raise ConnectionError("handshake timed out")

    def _insist(self, operation, *arguments):
        while True:
            self._check()
            with contextlib.suppress(TimeoutError):
                return self._attempt(operation, *arguments)

    def _attempt(self, operation, *arguments):
        """Carry out a TLS operation that waits for the socket no longer than its timeout."""
        until = time.monotonic() + READ_TIMEOUT
        while True:
            with self.tls_lock:
                try:
                    return operation(*arguments)
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                    reading = isinstance(error, ssl.SSLWantReadError)
            if (remaining := until - time.monotonic()) <= 0:
                raise TimeoutError
            select.select([self.sock] * reading, [self.sock] * (not reading), [], remaining)


class Node:
    """The process as a whole: its name and cookie, its listener, its links, and the driver's commands."""

    def __init__(self, options, cookie):
        self.options, self.name, self.cookie = options, options.name.encode("ascii"), cookie
        self.proving_cookie = cookie + b"?" if options.wrong_proof else cookie
        self.contexts = tls_contexts(options.tls12)
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.links, self.threads, self.link_count = [], [], 0

    def listen(self):
        host, port = split_address(self.options.name.partition("@")[2])
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
        listener.settimeout(READ_TIMEOUT)
        if port == 0:
            port = listener.getsockname()[1]
            self.name = self.name.removesuffix(b":0") + b":%d" % port
        emit("listening", name=readable(self.name), port=port)
        self._start(self._accept_loop, listener)

    def _accept_loop(self, listener):
        with listener:
            while not self.stopping.is_set():
                with contextlib.suppress(TimeoutError, ConnectionError):
                    self.add_link(sock=listener.accept()[0])

    def add_link(self, **end):
        with self.lock:
            self.link_count += 1
            link = Link(self, self.link_count, **end)
            if self.stopping.is_set():
                link.stop("closed here")
            self.links.append(link)
            self._start(link.run)

    def _start(self, function, *arguments):
        # A daemon, so that a thread stuck on an unread stdout cannot keep the process alive.
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        thread.start()
        self.threads = [*filter(threading.Thread.is_alive, self.threads), thread]

    def register(self, link):
        emit("linked", initiated=link.initiated, tls=link.sock.version(), **link.about)
        if self.options.snow_tiebreak:
            rivals = [each for each in list(self.links) if each.linked and each.peer == link.peer]
            rivals.sort(key=lambda each: (self.name if each.initiated else each.peer, each.number))
            for loser in rivals[1:]:
                loser.stop("tie-break")

    def command(self, line):
        """Carry out one of the driver's commands; False once it was the last."""
        try:
            order = json.loads(line)
            action = order["do"]
            if action == "dial":
                self.add_link(target=split_address(order.get("target", self.options.target)))
            elif action != "quit":
                links = [each for each in list(self.links) if order.get("link") in (None, each.number)]
                links = [each for each in links if each.linked or action == "close"]
                if not links:
                    raise ValueError("no such link")
                for link in links:
                    link.obey(action, order)
        except (ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
            emit("error", reason=f"bad command: {error!r}", command=readable(line[:200]))
            return True
        return action != "quit"

    def shut_down(self):
        """Stop everything; True if no thread is left."""
        with self.lock:
            self.stopping.set()
            for link in list(self.links):
                link.stop("closed here")
        until = time.monotonic() + EXIT_GRACE
        while (alive := [*filter(threading.Thread.is_alive, self.threads)]) and time.monotonic() < until:
            alive[0].join(READ_TIMEOUT)
        return not alive


def selftest(path):
    with open(path, "rb") as file:
        vectors = json.load(file)["vectors"]
    failures = []
    for number, vector in enumerate(vectors):
        cookie, ends = bytes.fromhex(vector["cookie"]), (vector["initiator"], vector["acceptor"])
        ours, theirs = (bytes.fromhex(end["challenge"]) for end in ends)
        name, peer_name = ((end["name"].encode(), end["creation"]) for end in ends)
        built = [build_greeting(NAME, *name), build_greeting(CHALLENGE, *peer_name, theirs)]
        built += [build_proof(REPLY, cookie, theirs) + ours, build_proof(ACK, cookie, ours)]
        known = [bytes.fromhex(vector["classic"][kind]) for kind in ("NAME", "CHALLENGE", "REPLY", "ACK")]
        # What the bound form appends is to make no difference.
        parsed = [parse_greeting(bytes.fromhex(vector["bound"][kind])) for kind in ("NAME", "CHALLENGE")]
        if (built, parsed) != (known, [(*name, b""), (*peer_name, theirs)]):
            failures.append(number)
    emit("selftest", vectors=len(vectors), failures=failures)
    return 1 if failures or not vectors else 0


def main():
    parser = argparse.ArgumentParser(description="A classic peer for the tests; see the docstring.")
    parser.add_argument("mode", nargs="?", choices=["listen", "dial"])
    parser.add_argument("--name", help="the name to announce: NAME@HOST[:PORT]")
    parser.add_argument("--cookie-env", metavar="VAR", help="the environment variable with the cookie")
    parser.add_argument("--target", default="", help="where to dial: HOST:PORT")
    parser.add_argument("--expect", metavar="NAME", help="the name a dialed peer must answer with")
    parser.add_argument("--tls12", action="store_true", help="nothing newer than TLS 1.2")
    parser.add_argument("--mark-challenge", action="store_true", help="end the challenge in SGBOUND1")
    parser.add_argument("--wrong-proof", action="store_true", help="send a proof that is wrong")
    parser.add_argument("--snow-tiebreak", action="store_true", help="of two links keep the smaller name's")
    parser.add_argument("--selftest", metavar="VECTORS", help="reproduce the classic vectors and exit")
    options = parser.parse_args()
    if not options.selftest and not (options.mode and options.name and options.cookie_env):
        parser.error("a mode, --name and --cookie-env are needed")
    try:
        if options.selftest:
            return selftest(options.selftest)
        node = Node(options, os.fsencode(os.environ[options.cookie_env]))
        if options.mode == "listen":
            node.listen()
        else:
            node.add_link(target=split_address(options.target))
    except (OSError, ValueError, LookupError) as error:
        emit("error", reason=repr(error))
        return 1
    all(map(node.command, sys.stdin.buffer))  # up to the one that is the last
    return 0 if node.shut_down() else 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
