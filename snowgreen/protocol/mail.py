"""The frames of messages, calls, groups and peer lists (specification, section 4).

What carries a payload is encoded by its *head* alone, from the tag up to the payload and without a length:
whether it goes whole or in fragments is decided where its size is known. Decoders take a frame from its tag
on, which they do not look at, and raise :class:`~snowgreen.protocol.frames.BadFrame` in words of our own.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ..errors import ConfigurationError
from .frames import BadFrame, FrameTag, encode

MAX_NAME = 255
"""Bytes in the name of a mailbox, handler or topic, and in a listed node name."""
MAX_FAULT_KIND = 255
MAX_FAULT_TEXT = 1024
MAX_TOPICS = 1024
"""Topics in one JOIN or LEAVE."""
MAX_LISTED = 256
"""Names in one PEER_LIST."""
MAX_LIST_BYTES = 64 * 1024
"""Bytes in a JOIN, LEAVE or PEER_LIST, with its tag: lists are never sent in fragments."""


class FlowKind(enum.IntEnum):
    """What a flow leads to."""

    MAILBOX = 1
    #: Calls of any handler. Such a flow has no name.
    CALLS = 2


class Mode(enum.IntEnum):
    """What a sender without credit does."""

    WAIT = 0
    RAISE = 1


class Refusal(enum.IntEnum):
    """Why a flow is refused, or ends."""

    #: There is no such mailbox.
    UNKNOWN = 1
    #: There was one, and it has been closed.
    CLOSED = 2
    #: The sender has too many flows open.
    LIMIT = 3


class FaultCode(enum.IntEnum):
    """Why a call has no result."""

    NO_HANDLER = 1
    RAISED = 2
    DEADLINE = 3
    #: They cannot be decoded, or do not fit the handler.
    ARGUMENTS = 4
    #: It cannot be encoded, or is larger than the caller takes.
    RESULT = 5
    STOPPING = 6


class Open(NamedTuple):
    """An OPEN. `kind` is a :class:`FlowKind`, or the number of a later version's."""

    flow: int
    kind: int
    name: str


class Credit(NamedTuple):
    """A CREDIT. The first three figures are totals since the flow was opened."""

    flow: int
    messages: int
    bytes: int
    lost: int
    largest: int
    mode: Mode


class Call(NamedTuple):
    """A CALL. 0 `milliseconds` are no deadline."""

    flow: int
    call: int
    milliseconds: int
    largest: int
    codec: int
    handler: str
    payload: bytes


class Fault(NamedTuple):
    """A FAULT: `kind` and `text` are the exception's, and may be empty."""

    call: int
    code: FaultCode
    kind: str
    text: str


_U8 = struct.Struct("<B")
_U16 = struct.Struct("<H")
_NUMBER = struct.Struct("<I")
_NUMBER_AND_BYTE = struct.Struct("<IB")
_OPEN = struct.Struct("<IBB")
_CREDIT = struct.Struct("<IQQQIB")
_REFUSE = struct.Struct("<IBQ")
_CALL = struct.Struct("<IIIIBB")
# MESSAGE and RESULT with their tag: there are millions of them.
_CARRIER_HEAD = struct.Struct("<BIB")
_unpack_carrier = struct.Struct("<xIB").unpack_from
_MESSAGE = int(FrameTag.MESSAGE)
_CARRIER_SIZE = _CARRIER_HEAD.size
_LIST_HEAD = 1 + _U16.size  # tag and count

#: All of Unicode's category Cc.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


# Names.


def checked_name(text: object, what: str) -> str:
    """`text`, if a mailbox, handler or topic can have it for a name; `what` is the argument it came as.

    :raises ConfigurationError: if it cannot.
    """
    if not isinstance(text, str):
        raise ConfigurationError(what, f"must be a str, not {type(text).__name__}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(what, "must not have lone surrogates, which UTF-8 cannot say") from None
    if not 1 <= size <= MAX_NAME:
        raise ConfigurationError(what, f"must have 1 to {MAX_NAME} bytes of UTF-8, not {size}")
    if _CONTROL.search(text):
        raise ConfigurationError(what, "must not have control characters")
    return text


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise BadFrame(f"{what} is not UTF-8") from None


def _name(raw: bytes, what: str) -> str:
    name = _text(raw, what)
    if not name:
        raise BadFrame(f"{what} is empty")
    if _CONTROL.search(name):
        raise BadFrame(f"{what} has control characters")
    return name


def _short(name: str) -> bytes:
    raw = name.encode()
    return bytes([len(raw)]) + raw  # a ValueError above 255 bytes


def _cut(text: str, most: int) -> bytes:
    # A character is a byte at least, so that a text of megabytes need not be encoded to be cut.
    return text[:most].encode(errors="replace")[:most].decode(errors="ignore").encode()


# Flows.


def open_head(flow: int, kind: int, name: str) -> bytes:
    """OPEN, ``u32 flow ‖ u8 kind ‖ u8 n ‖ name``, without its length; a flow of calls has an empty name."""
    raw = name.encode()
    return bytes([FrameTag.OPEN]) + _OPEN.pack(flow, kind, len(raw)) + raw


def decode_open(frame: bytes) -> Open:
    """The flow that `frame` opens. One of a later version's kind may have an empty name."""
    flow, kind, size = _begun(frame, _OPEN, "an OPEN")
    raw = frame[1 + _OPEN.size :]
    if len(raw) != size:
        raise BadFrame(f"an OPEN whose name has {len(raw)} bytes, announced as {size}")
    if kind == FlowKind.CALLS and raw:
        raise BadFrame("an OPEN for calls, with a name")
    name = _name(raw, "the name in an OPEN") if raw or kind == FlowKind.MAILBOX else ""
    return Open(_opened(flow, "an OPEN"), kind, name)


def encode_credit(flow: int, messages: int, bytes_: int, lost: int, largest: int, mode: Mode) -> bytes:
    """CREDIT: ``u32 flow ‖ u64 messages ‖ u64 bytes ‖ u64 lost ‖ u32 largest ‖ u8 mode``."""
    return encode(FrameTag.CREDIT, _CREDIT.pack(flow, messages, bytes_, lost, largest, mode))


def decode_credit(frame: bytes) -> Credit:
    """What `frame` allows. A mode of a later version reads as WAIT."""
    flow, messages, bytes_, lost, largest, mode = _fixed(frame, _CREDIT, "a CREDIT")
    known = Mode.RAISE if mode == Mode.RAISE else Mode.WAIT
    return Credit(_opened(flow, "a CREDIT"), messages, bytes_, lost, largest, known)


def encode_refuse(flow: int, why: int, received: int) -> bytes:
    """REFUSE: ``u32 flow ‖ u8 why ‖ u64 received``."""
    return encode(FrameTag.REFUSE, _REFUSE.pack(flow, why, received))


def decode_refuse(frame: bytes) -> tuple[int, int, int]:
    """The flow that `frame` refuses, why, and how many messages had come on it.

    The reason is a :class:`Refusal`, or the number of a later version's.
    """
    flow, why, received = _fixed(frame, _REFUSE, "a REFUSE")
    return _opened(flow, "a REFUSE"), why, received


def finish_head(flow: int) -> bytes:
    """FINISH, ``u32 flow``, without its length: it is sent behind the messages of its flow."""
    return bytes([FrameTag.FINISH]) + _NUMBER.pack(flow)


def decode_finish(frame: bytes) -> int:
    """The flow that ends."""
    return _opened(_fixed(frame, _NUMBER, "a FINISH")[0], "a FINISH")


def message_head(flow: int, codec: int) -> bytes:
    """The head of a MESSAGE: ``u32 flow ‖ u8 codec ‖ payload``."""
    return _CARRIER_HEAD.pack(_MESSAGE, flow, codec)


def decode_message(frame: bytes) -> tuple[int, int, bytes]:
    """Flow, codec and payload."""
    try:
        flow, codec = _unpack_carrier(frame)
    except struct.error:
        raise BadFrame(f"a MESSAGE of {len(frame) - 1} bytes, too few for its fields") from None
    if not flow:
        raise BadFrame("a MESSAGE on flow 0")
    return flow, codec, frame[_CARRIER_SIZE:]


def decode_messages(frame: bytes, behind: Iterator[bytes]) -> tuple[int, int, list[bytes], bytes | None]:
    """Flow, codec and payloads of `frame` and of all right behind it that have the same flow and codec.

    Where there are many, looking but once at what they have in common saves most of what they cost.

    :param behind: the frames behind it. Those that belong to the run are taken off it, and one more.
    :returns: that one, too; None if there was none.
    """
    flow, codec, payload = decode_message(frame)
    head, payloads = frame[:_CARRIER_SIZE], [payload]
    for other in behind:
        if other[:_CARRIER_SIZE] != head:
            return flow, codec, payloads, other
        payloads.append(other[_CARRIER_SIZE:])
    return flow, codec, payloads, None


# Calls.


def call_head(flow: int, call: int, milliseconds: int, largest: int, codec: int, handler: str) -> bytes:
    """The head of a CALL: four times u32, then ``u8 codec ‖ u8 n ‖ handler ‖ payload``."""
    raw = handler.encode()
    fields = _CALL.pack(flow, call, milliseconds, largest, codec, len(raw))
    return bytes([FrameTag.CALL]) + fields + raw


def decode_call(frame: bytes) -> Call:
    """What is called, and how."""
    flow, call, milliseconds, largest, codec, size = _begun(frame, _CALL, "a CALL")
    handler, payload = _split(frame, 1 + _CALL.size, size, "the handler's name in a CALL")
    return Call(_opened(flow, "a CALL"), call, milliseconds, largest, codec, handler, payload)


def result_head(call: int, codec: int) -> bytes:
    """The head of a RESULT: ``u32 call ‖ u8 codec ‖ payload``."""
    return _CARRIER_HEAD.pack(FrameTag.RESULT, call, codec)


def decode_result(frame: bytes) -> tuple[int, int, bytes]:
    """Call, codec and payload."""
    call, codec = _begun(frame, _NUMBER_AND_BYTE, "a RESULT")
    return call, codec, frame[_CARRIER_SIZE:]


def encode_fault(call: int, code: int, kind: str, text: str) -> bytes:
    """FAULT: ``u32 call ‖ u8 code ‖ u8 n ‖ kind ‖ u16 m ‖ text``, both cut between two characters."""
    raw_kind, raw_text = _cut(kind, MAX_FAULT_KIND), _cut(text, MAX_FAULT_TEXT)
    head = _OPEN.pack(call, code, len(raw_kind))
    return encode(FrameTag.FAULT, head + raw_kind + _U16.pack(len(raw_text)) + raw_text)


def cut(fault: Fault) -> Fault:
    """`fault` as it comes out at the other end of a link."""
    kind, text = _cut(fault.kind, MAX_FAULT_KIND), _cut(fault.text, MAX_FAULT_TEXT)
    return fault._replace(kind=kind.decode(), text=text.decode())


def decode_fault(frame: bytes) -> Fault:
    """Why a call has no result. A code of a later version reads as RAISED."""
    call, code, size = _begun(frame, _OPEN, "a FAULT")
    at = 1 + _OPEN.size + size
    if len(frame) < at + _U16.size:
        raise BadFrame("a FAULT that ends before its text")
    (announced,) = _U16.unpack_from(frame, at)
    raw = frame[at + _U16.size :]
    if len(raw) != announced or announced > MAX_FAULT_TEXT:
        raise BadFrame(f"a FAULT whose text has {len(raw)} bytes, announced as {announced}")
    kind = _text(frame[at - size : at], "the type in a FAULT")
    known = FaultCode(code) if FaultCode.NO_HANDLER <= code <= FaultCode.STOPPING else FaultCode.RAISED
    return Fault(call, known, kind, _text(raw, "the text in a FAULT"))


def cancel_head(call: int) -> bytes:
    """CANCEL, ``u32 call``, without its length: it is sent behind its CALL."""
    return bytes([FrameTag.CANCEL]) + _NUMBER.pack(call)


def decode_cancel(frame: bytes) -> int:
    """The call whose result is no longer wanted."""
    return int(_fixed(frame, _NUMBER, "a CANCEL")[0])


# Groups.


def topic_batches(topics: Iterable[str]) -> Iterator[list[str]]:
    """`topics` in their order, in lists that each fit a JOIN or LEAVE."""
    batch: list[str] = []
    size = _LIST_HEAD
    for topic in topics:
        more = 1 + len(topic.encode())
        if batch and (len(batch) == MAX_TOPICS or size + more > MAX_LIST_BYTES):
            yield batch
            batch, size = [], _LIST_HEAD
        batch.append(topic)
        size += more
    if batch:
        yield batch


def encode_join(topics: Iterable[str]) -> bytes:
    """JOIN: ``u16 count ‖ (u8 n ‖ topic)…``; a ValueError above what :func:`topic_batches` yields."""
    return _encode_topics(FrameTag.JOIN, topics)


def encode_leave(topics: Iterable[str]) -> bytes:
    """LEAVE, which has the form of JOIN."""
    return _encode_topics(FrameTag.LEAVE, topics)


def _encode_topics(tag: FrameTag, topics: Iterable[str]) -> bytes:
    items = [_short(topic) for topic in topics]
    if len(items) > MAX_TOPICS or _LIST_HEAD + sum(map(len, items)) > MAX_LIST_BYTES:
        raise ValueError(f"{len(items)} topics do not fit one {tag.name}")
    return encode(tag, _U16.pack(len(items)) + b"".join(items))


def decode_join(frame: bytes) -> list[str]:
    """The topics that the peer has joined."""
    return [_name(raw, "a topic in a JOIN") for raw in _items(frame, _U8, MAX_TOPICS, "a JOIN")]


def decode_leave(frame: bytes) -> list[str]:
    """The topics that the peer has left."""
    return [_name(raw, "a topic in a LEAVE") for raw in _items(frame, _U8, MAX_TOPICS, "a LEAVE")]


def broadcast_head(topic: str, codec: int) -> bytes:
    """The head of a BROADCAST: ``u8 n ‖ topic ‖ u8 codec ‖ payload``."""
    return bytes([FrameTag.BROADCAST]) + _short(topic) + bytes([codec])


def decode_broadcast(frame: bytes) -> tuple[str, int, bytes]:
    """Topic, codec and payload."""
    (size,) = _begun(frame, _U8, "a BROADCAST")
    topic, rest = _split(frame, 1 + _U8.size, size, "the topic in a BROADCAST")
    if not rest:
        raise BadFrame("a BROADCAST that ends before its codec")
    return topic, rest[0], rest[1:]


# What is shared with Snow.


def encode_reg_send(name: str, message: bytes) -> bytes:
    """REG_SEND: ``u16 n ‖ registered name ‖ message``."""
    raw = name.encode()
    return encode(FrameTag.REG_SEND, _U16.pack(len(raw)) + raw + message)


def decode_reg_send(frame: bytes) -> tuple[str, bytes]:
    """The registered name, and the message for it."""
    (size,) = _begun(frame, _U16, "a REG_SEND")
    if size > MAX_NAME:
        raise BadFrame(f"the name in a REG_SEND is announced as {size} bytes, more than {MAX_NAME}")
    return _split(frame, 1 + _U16.size, size, "the name in a REG_SEND")


def encode_peer_list(names: Sequence[str]) -> bytes:
    """PEER_LIST: ``u16 count ‖ (u16 n ‖ name)…``, with the first of `names` if not all of them fit."""
    items, size = [], _LIST_HEAD
    for name in names[:MAX_LISTED]:
        raw = name.encode("ascii")
        size += _U16.size + len(raw)
        if size > MAX_LIST_BYTES:
            break
        items.append(_U16.pack(len(raw)) + raw)
    return encode(FrameTag.PEER_LIST, _U16.pack(len(items)) + b"".join(items))


def decode_peer_list(frame: bytes) -> list[str]:
    """The listed texts. They are ASCII of at most 255 bytes; whether each is a node name is not checked."""
    found = []
    for raw in _items(frame, _U16, MAX_LISTED, "a PEER_LIST"):
        if len(raw) > MAX_NAME or not raw.isascii():
            raise BadFrame(f"a name in a PEER_LIST is not ASCII of at most {MAX_NAME} bytes")
        found.append(raw.decode("ascii"))
    return found


# Shapes.


def _fixed(frame: bytes, shape: struct.Struct, what: str) -> tuple[Any, ...]:
    if len(frame) != 1 + shape.size:
        raise BadFrame(f"{what} of {len(frame) - 1} bytes instead of {shape.size}")
    return shape.unpack_from(frame, 1)


def _begun(frame: bytes, shape: struct.Struct, what: str) -> tuple[Any, ...]:
    if len(frame) < 1 + shape.size:
        raise BadFrame(f"{what} of {len(frame) - 1} bytes, too few for its fields")
    return shape.unpack_from(frame, 1)


def _opened(flow: int, what: str) -> int:
    if not flow:
        raise BadFrame(f"{what} on flow 0")
    return flow


def _split(frame: bytes, start: int, size: int, what: str) -> tuple[str, bytes]:
    """The name at `start`, announced as `size` bytes, and all that is behind it."""
    end = start + size
    if len(frame) < end:
        raise BadFrame(f"{what} has {len(frame) - start} bytes, announced as {size}")
    return _name(frame[start:end], what), frame[end:]


def _items(frame: bytes, prefix: struct.Struct, most: int, what: str) -> list[bytes]:
    """What is listed behind a count, each behind a length of the form `prefix`."""
    if len(frame) > MAX_LIST_BYTES:
        raise BadFrame(f"{what} of {len(frame):,} bytes, more than {MAX_LIST_BYTES:,}")
    (count,) = _begun(frame, _U16, what)
    if count > most:
        raise BadFrame(f"{what} that announces {count:,} entries, more than {most:,}")
    items, at = [], _LIST_HEAD
    for _ in range(count):
        if at + prefix.size > len(frame):
            raise BadFrame(f"{what} that ends before its last entry")
        (size,) = prefix.unpack_from(frame, at)
        at += prefix.size
        items.append(frame[at : at + size])
        at += size
    if at != len(frame):
        raise BadFrame(f"{what} whose entries need {at:,} bytes of {len(frame):,}")
    return items
