"""Coverage-guided fuzzing of whatever reads a peer's bytes, by hand: ``python tools/fuzz.py messages``.

It needs atheris (``pip install atheris``), which exists for some versions of Python only. Each target takes
any bytes and may raise nothing: what a parser documents is caught inside, and what else must hold is
asserted. The corpus that is kept in ``tests/corpus/<target>/`` is where the fuzzer begins, and the tests
replay it without atheris. ``--write-seeds`` writes the part of it that is made from the known answers.

What the fuzzer finds on its way goes into ``--work``, by default a new directory under the system's temporary
one; an input that breaks a target is written there as ``crash-…``. Put it into the corpus with the fix.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

atheris: Any = None
if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        atheris = importlib.import_module("atheris")

# What is imported outside of this gives the fuzzer no coverage to be guided by.
with atheris.instrument_imports(include=["snowgreen"]) if atheris else contextlib.nullcontext():
    from snowgreen import names
    from snowgreen.errors import ConfigurationError, InvalidName
    from snowgreen.protocol import frames, mail, messages
    from snowgreen.protocol.handshake import (
        Acceptor,
        Challenged,
        Established,
        Form,
        Identity,
        Initiator,
        Proved,
        Refused,
        Step,
    )
    from snowgreen.protocol.keys import LinkKeys, Secrets
    from snowgreen.protocol.messages import Malformed, Tag
    from snowgreen.protocol.wire import MAX_FRAME, Decoder, TooLong, pack

TESTS: Final = Path(__file__).parents[1] / "tests"
CORPUS: Final = TESTS / "corpus"


def shown(error: Exception) -> None:
    """What is said of hostile bytes is one printable line."""
    text = str(error).replace("…", "")  # where it was cut
    assert text.isascii(), text
    assert text.isprintable(), text
    assert len(text) < 300, text


# The targets.


def fuzz_messages(data: bytes) -> None:
    """One handshake message of any kind. What can be read can be written, and read again as the same."""
    for decode, encode in _CODECS:
        try:
            message = decode(data)
        except Malformed as error:
            shown(error)
        else:
            again = encode(message)
            assert decode(again) == message
            # Nothing is lost but a tail of the extension, of a later version.
            assert data.startswith(again[:3]) or len(again) <= len(data)


_CODECS: Final[list[tuple[Callable[[bytes], Any], Callable[[Any], bytes]]]] = [
    (messages.decode_name, messages.encode_name),
    (messages.decode_challenge, messages.encode_challenge),
    (messages.decode_reply, messages.encode_reply),
    (messages.decode_ack, messages.encode_ack),
    (messages.decode_reject, messages.encode_reject),
]


def fuzz_wire(data: bytes) -> None:
    """A stream, after a byte that says how it is cut: however that is, payloads and end are the same."""
    if not data:
        return
    cut, stream = data[0] or 1, data[1:]
    whole = _payloads(Decoder(300), [stream], one_by_one=False)
    pieces = [stream[at : at + cut] for at in range(0, len(stream), cut)]
    for one_by_one in (False, True):
        found = _payloads(Decoder(300), pieces, one_by_one=one_by_one)
        # A length that is too long ends a stream where it is seen, and what came in the same piece is lost.
        assert found[1] == whole[1]
        assert found[0] == whole[0] or whole[1]
        assert sum(map(len, found[0])) <= len(stream)


def _payloads(decoder: Decoder, pieces: list[bytes], *, one_by_one: bool) -> tuple[list[bytes], bool]:
    payloads: list[bytes] = []
    try:
        for piece in pieces:
            if not one_by_one:
                payloads += decoder.feed(piece)
                continue
            payload = decoder.feed_one(piece)
            while payload is not None:
                payloads.append(payload)
                payload = decoder.feed_one(b"")
    except TooLong as error:
        shown(error)
        return payloads, True
    return payloads, False


ALICE: Final = Identity("alice@127.0.0.1:9001", 0x0198F3A1B2C30001, 1, 1)
BOB: Final = Identity("bob@127.0.0.1:9002", 0x0198F3A1B2C40002, 1, 1)
#: Any 32 bytes are a master key; the fuzzer must not be kept waiting by scrypt.
KEYS: Final = LinkKeys(bytes(range(32)))
CERTIFICATE: Final = b"C" * 32
CLASSIC: Final = b"a classic cookie"


def alice(*, classic: bool) -> Initiator:
    """A fresh initiator, the same each time."""
    secrets = Secrets((KEYS,), CLASSIC if classic else None)
    return Initiator(ALICE, secrets, challenge=b"i" * 32, expected=BOB.name, acceptor_binding=CERTIFICATE)


def bob(*, classic: bool) -> Acceptor:
    """A fresh acceptor, the same each time."""
    cookie = (lambda _name: CLASSIC) if classic else None
    return Acceptor(BOB, (KEYS,), classic=cookie, challenge=b"a" * 32, binding=CERTIFICATE)


def fuzz_initiator(data: bytes) -> None:
    """What a dialed peer may send, after a byte of options: only the genuine handshake makes a bound link."""
    if data:
        machine = alice(classic=bool(data[0] & 1))
        _converse(machine, machine.start(), data, genuine()[BOB.name])


def fuzz_acceptor(data: bytes) -> None:
    """What a peer that dials may send, likewise."""
    if data:
        machine = bob(classic=bool(data[0] & 1))
        _converse(machine, machine.feed(b""), data, genuine()[ALICE.name])


def _converse(machine: Initiator | Acceptor, step: Step, data: bytes, proved: bytes) -> None:
    """Feed `data` in pieces of the size in its options; `proved` is what a link must begin with."""
    options, stream = data[0], data[1:]
    size = options >> 1 or 128
    for at in range(0, len(stream), size):
        step = _stepped(machine, machine.feed(stream[at : at + size]))
        if machine.finished:
            break
    else:
        step = machine.end_of_stream()
    if isinstance(step, Refused):
        shown(Exception(step.problem))
        assert len(step.send) <= 1024
        return
    assert isinstance(step, Established)
    assert step.peer.form is Form.CLASSIC or stream.startswith(proved), "a link without a proof"
    step.decoder.limit = MAX_FRAME
    with contextlib.suppress(TooLong):
        step.decoder.feed(stream[at + size :])


def _stepped(machine: Initiator | Acceptor, step: Step) -> Step:
    if isinstance(step, Challenged):
        assert isinstance(machine, Initiator)
        return machine.prove()
    if isinstance(step, Proved):
        assert isinstance(machine, Acceptor)
        return machine.accept()
    return step


@functools.cache
def genuine(*, classic: bool = False) -> dict[str, bytes]:
    """All that each side sends, by its name, to a machine as above in a handshake that comes about."""
    if not classic:
        return dict(zip((ALICE.name, BOB.name), _said(alice(classic=False), bob(classic=False)), strict=True))
    # A machine that can do better meets one that cannot: two that can would notice.
    only_alice, only_bob = alice(classic=True), bob(classic=True)
    only_alice._secrets, only_bob._bound = Secrets((), CLASSIC), ()
    return {
        ALICE.name: _said(only_alice, bob(classic=True))[0],
        BOB.name: _said(alice(classic=True), only_bob)[1],
    }


def _said(one: Initiator, other: Acceptor) -> tuple[bytes, bytes]:
    name = one.start().send
    challenge = other.feed(name).send
    one.feed(challenge)
    reply = one.prove().send
    other.feed(reply)
    return name + reply, challenge + other.accept().send


def fuzz_frames(data: bytes) -> None:
    """One frame after the handshake, read as each kind that has a body."""
    if not data:
        return
    for read in (frames.encode_pong, frames.decode_pong, frames.decode_goodbye):
        with contextlib.suppress(frames.BadFrame):
            read(data)
    with contextlib.suppress(frames.BadFrame):
        farewell, reason = frames.decode_goodbye(data)
        again = frames.encode_goodbye(farewell, reason)
        assert frames.decode_goodbye(again[4:]) == (farewell, reason)


def fuzz_mail(data: bytes) -> None:
    """A frame of messages, calls, groups or lists, read as each. What is read is written as long again."""
    if not data:
        return
    for decode, encode in _MAIL:
        try:
            value = decode(data)
        except frames.BadFrame as error:
            shown(error)
        else:
            again = encode(value)
            assert len(again) == len(data)
            assert decode(again) == value


_MAIL: Final[list[tuple[Callable[[bytes], Any], Callable[[Any], bytes]]]] = [
    (mail.decode_open, lambda value: mail.open_head(*value)),
    (mail.decode_credit, lambda value: mail.encode_credit(*value)[4:]),
    (mail.decode_refuse, lambda value: mail.encode_refuse(*value)[4:]),
    (mail.decode_finish, lambda value: mail.finish_head(value)),
    (mail.decode_message, lambda value: mail.message_head(*value[:-1]) + value[-1]),
    (mail.decode_call, lambda value: mail.call_head(*value[:-1]) + value[-1]),
    (mail.decode_result, lambda value: mail.result_head(*value[:-1]) + value[-1]),
    (mail.decode_fault, lambda value: mail.encode_fault(*value)[4:]),
    (mail.decode_cancel, lambda value: mail.cancel_head(value)),
    (mail.decode_join, lambda value: mail.encode_join(value)[4:]),
    (mail.decode_leave, lambda value: mail.encode_leave(value)[4:]),
    (mail.decode_broadcast, lambda value: mail.broadcast_head(*value[:-1]) + value[-1]),
    (mail.decode_reg_send, lambda value: mail.encode_reg_send(*value)[4:]),
    (mail.decode_peer_list, lambda value: mail.encode_peer_list(value)[4:]),
]


def fuzz_names(data: bytes) -> None:
    """A text as a node name and as an address. What is accepted is exactly what was given."""
    for text in (data.decode("latin-1"), data.decode("utf-8", "surrogateescape")):
        try:
            name = names.parse_name(text)
        except InvalidName as error:
            shown(error)
        else:
            assert name.text == str(name) == text
            assert text.isascii()
            assert text.isprintable()
            assert len(text) <= names.MAX_NAME_BYTES
            assert 0 <= name.port <= 65535
            assert names.parse_address(str(name.address)) == name.address
        try:
            address = names.parse_address(text)
        except ConfigurationError as error:
            shown(error)
        else:
            assert names.parse_address(str(address)) == address


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    name.removeprefix("fuzz_"): target
    for name, target in sorted(globals().items())
    if name.startswith("fuzz_")
}


# The corpus.


def seeds(target: str) -> Iterator[tuple[str, bytes]]:
    """What the corpus of `target` begins with: a name for each input, and the input."""
    vectors = json.loads((TESTS / "vectors.json").read_text())["vectors"]
    if target == "messages":
        for number, vector in enumerate(vectors):
            for form in ("bound", "classic"):
                for kind, payload in vector[form].items():
                    if kind.isupper():
                        yield f"vector-{number}-{form}-{kind.lower()}", bytes.fromhex(payload)
        yield "reject-hint", bytes([Tag.REJECT, 4, 0, 0])
        yield "reject-longest", bytes([Tag.REJECT, 16]) + struct.pack("<H", 256) + bytes(256 + 32)
        yield "name-longest", bytes([Tag.NAME]) + struct.pack("<H", 255) + b"a@" + b"h" * 253 + b"\x01"
        yield (
            "name-of-a-later-version",
            bytes.fromhex(vectors[0]["bound"]["NAME"])[:-22] + b"\x02" + bytes(21),
        )
    elif target == "wire":
        yield "two-and-a-half", b"\x07" + pack(b"one") + pack(b"") + pack(b"two" * 50)[:90]
        yield "too-long", b"\x01" + pack(b"one") + struct.pack("<I", 301)
        yield "at-the-limit", b"\xff" + pack(bytes(300))
        yield "largest-length", b"\x02\xff\xff\xff\xff"
    elif target in ("initiator", "acceptor"):
        name = BOB.name if target == "initiator" else ALICE.name
        tail = pack(b"\xf0" + bytes(8)) + pack(b"half a frame")[:9]
        reject = pack(bytes([Tag.REJECT, 5, 0, 0]))
        for form, classic in (("bound", False), ("classic", True)):
            sent = genuine(classic=classic)[name]
            first = 4 + struct.unpack_from("<I", sent)[0]
            options = bytes([classic])
            yield f"{form}-link", options + sent + tail
            yield f"{form}-link-byte-by-byte", bytes([classic | 2]) + sent + tail
            yield f"{form}-hello-and-reject", options + sent[:first] + reject
            yield (
                f"{form}-hello-and-wrong-proof",
                options + sent[:first] + sent[first:].replace(sent[-8:], bytes(8)),
            )
            yield f"{form}-hello-twice", options + sent[:first] * 2
            yield f"{form}-half-a-hello", options + sent[: first // 2]
        yield "too-long", b"\x00" + struct.pack("<I", 4097)
        yield "hint", b"\x00" + reject
    elif target == "frames":
        yield "ping", frames.encode_ping(7)[4:]
        yield "pong", b"\xf1" + bytes(8)
        yield "ping-short", b"\xf0" + bytes(7)
        yield "goodbye", frames.encode_goodbye(frames.Farewell.STOPPING, "maintenance")[4:]
        yield "goodbye-of-a-later-version", b"\x40\xff\x00\x00"
        yield "goodbye-not-utf-8", b"\x40\x01\x02\x00\xff\xfe"
        yield "goodbye-cut-inside-a-character", frames.encode_goodbye(frames.Farewell.LEAVING, "ä" * 200)[4:]
        yield "unknown", b"\x99" + bytes(20)
    elif target == "mail":
        yield from _MAIL_SEEDS.items()
    elif target == "names":
        for number, text in enumerate(_NAMES):
            yield f"name-{number:02}", text.encode("utf-8", "surrogateescape")


# Each is read as every kind of frame, so that one seed serves all that have its form.
_MAIL_SEEDS: Final = {
    "open": mail.open_head(1, mail.FlowKind.MAILBOX, "jörbs"),
    "open-with-a-control-character": mail.open_head(1, mail.FlowKind.MAILBOX, "a\x1bb"),
    "credit": mail.encode_credit(1, 4096, 1 << 24, 3, 1 << 27, mail.Mode.RAISE)[4:],
    "message": mail.message_head(1, 1) + b"\xc0",
    "call": mail.call_head(2, 9, 1000, 1 << 20, 1, "add") + b"\x92\x01\x02",
    "fault": mail.encode_fault(9, mail.FaultCode.RAISED, "KeyError", "'x' is no key")[4:],
    "join": mail.encode_join(["a", "bc", "ä"])[4:],
    "broadcast": mail.broadcast_head("news", 0) + b"hi",
    "reg-send": mail.encode_reg_send("jobs", b"\x01\x02\xff")[4:],
    "peer-list": mail.encode_peer_list(["a@h", "b@h:1"])[4:],
}

_NAMES: Final = (
    "a@h", "alice@127.0.0.1:9001", "a.b-c_d@host.example:0", "a@[::1]:9000", "a@[::1]", "a@[fe80::1%eth0]:1",
    "a@1.2.3", "a@0x7f.1", "a@127.0.0.1:65536", "a@127.0.0.1:09000", "a@h:", "a@", "@h", "a@h@h", "a b@h",
    "a\r\nb@h", "\x1b[31m@h", "ä@h", "a@" + "h" * 64, "a" * 65 + "@h",
    "a@" + ".".join(["h" * 62] * 3) + ".i:65535", "a@[::ffff:1.2.3.4]:1", "[::1]:9000", "127.0.0.1", "a@h:٣",
)  # fmt: skip


@click.command()
@click.argument("target", type=click.Choice(sorted(TARGETS)), required=False)
@click.option("--seconds", default=60, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Where to keep what is found.")
@click.option("--write-seeds", is_flag=True, help="Write the made part of the corpus, of all targets.")
def main(target: str | None, seconds: int, work: Path | None, write_seeds: bool) -> None:
    """Fuzz one TARGET."""
    if write_seeds:
        for name in TARGETS:
            (CORPUS / name).mkdir(parents=True, exist_ok=True)
            for file, content in seeds(name):
                (CORPUS / name / file).write_bytes(content)
        return
    if target is None:
        raise click.UsageError("name a target")
    if atheris is None:
        raise click.ClickException(
            "atheris is not installed (pip install atheris; it exists for some versions of Python only). "
            "The kept corpus is replayed without it: python -m pytest tests/test_corpus.py"
        )
    work = work or Path(tempfile.mkdtemp(prefix=f"fuzz-{target}-"))
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)  # where libFuzzer writes what breaks a target
    found = work / "found"
    found.mkdir(exist_ok=True)
    arguments = [f"-max_total_time={seconds}", "-print_final_stats=1", "-max_len=1024", str(found)]
    atheris.Setup([sys.argv[0], *arguments, str(CORPUS / target)], TARGETS[target])
    atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    main()
