"""The bodies of messages: from values to bytes and back.

Bytes travel as they are; any other value is written by a codec, MessagePack unless the application brings
its own. Which one wrote a body its message says, with one byte. Whatever goes wrong in either direction is a
:class:`~snowgreen.errors.PayloadError`, whoever wrote the bytes.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigurationError, PayloadError, PayloadTooLarge
from ..names import printable

if TYPE_CHECKING:
    import msgspec

    from ..config import Limits

#: On the wire: the body is the payload itself.
RAW = 0
#: The ids that applications may give to codecs of their own.
OWN = range(128, 256)

#: Every byte that can begin an array or a map in MessagePack, wherever else it occurs.
_HEADERS = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
_SEQUENCES = frozenset({list, tuple})  # a tuple is an array that serves as the key of a map
_CONTAINERS = _SEQUENCES | {dict}
#: Decoders kept, one for each type; only a program that makes types as it goes asks for more.
_MAX_DECODERS = 256
_MAX_TEXT = 300
_BUFFERS = (bytes, bytearray, memoryview)
#: What most bodies are, and what surely is no buffer.
_PLAIN = frozenset({dict, list, tuple, str, int, float, bool, type(None)})


class Codec(Protocol):
    """What an application's own codec must have; give it as ``Node(codec=...)``.

    Whatever :meth:`encode` and :meth:`decode` raise becomes a :class:`PayloadError` with its text. They are
    to compute, and never to wait. What :meth:`decode` reads a peer has sent: it must not run code that it
    finds there (as pickle does), and must itself bound what a body can cost.
    """

    #: 128 to 255; it is sent with every body, so all nodes must mean the same by it.
    id: int
    #: How messages of errors call it.
    name: str

    def encode(self, value: Any) -> bytes:
        """`value`, which is not bytes, as bytes."""
        ...

    def decode(self, data: bytes, type: Any) -> Any:
        """The value of `data`, as the `type` that its reader wants; :data:`typing.Any` for whatever comes."""
        ...


class _BadType(Exception):
    """A reader's type that msgspec cannot decode, where a body that does not fit may raise the same error."""


class MessagePack:
    """The codec of those who choose none: msgspec's, with all the types it knows.

    Tuples and sets arrive as lists, dataclasses and Structs as dicts, unless the reader asks for a type.
    """

    id = 1
    name = "MessagePack"

    def __init__(self) -> None:
        # msgspec is imported with the first value: a node that sends bytes, or nothing, does not need it.
        self._encoder: msgspec.msgpack.Encoder | None = None
        self._decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}

    def encode(self, value: Any) -> bytes:
        """`value` as MessagePack."""
        if self._encoder is None:
            import msgspec

            self._encoder = msgspec.msgpack.Encoder()
        return self._encoder.encode(value)

    def decode(self, data: bytes, type: Any) -> Any:
        """The value of `data`, checked against `type`."""
        try:
            decoder = self._decoders[type]
        except (KeyError, TypeError):  # not asked for yet, or a type that has no hash
            decoder = self._decoder(type)
        return decoder.decode(data)

    def _decoder(self, type: Any) -> msgspec.msgpack.Decoder[Any]:
        import msgspec

        try:
            decoder = msgspec.msgpack.Decoder(type)
        except Exception as error:
            raise _BadType from error
        try:
            hash(type)
        except TypeError:
            return decoder
        if len(self._decoders) >= _MAX_DECODERS:
            self._decoders.clear()
        self._decoders[type] = decoder
        return decoder


class Codecs:
    """What a node encodes with, and all that it decodes: raw bytes, MessagePack and the codec it was given.

    :param chosen: the application's own codec, or None for MessagePack.
    :raises ConfigurationError: if `chosen` is no codec.
    """

    __slots__ = ("_chosen", "_id", "_known", "_max_depth", "_max_message", "_names")

    def __init__(self, chosen: Codec | None, limits: Limits) -> None:
        standard = MessagePack()
        self._chosen: Codec = standard
        if chosen is not None:
            _check(chosen)
            self._chosen = chosen
        self._id = self._chosen.id
        self._known: dict[int, Codec] = {standard.id: standard, self._id: self._chosen}
        # Held apart from the codec, which cannot then change what its peers are told.
        self._names = {id: printable(codec.name, 40) for id, codec in self._known.items()}
        self._max_message = limits.max_message
        self._max_depth = limits.max_depth

    def encode(self, body: Any) -> tuple[int, bytes]:
        """The id of the codec that `body` is sent with, and its bytes.

        :raises PayloadError: if it cannot be encoded.
        :raises PayloadTooLarge: if it has more bytes than ``Limits.max_message``.
        """
        codec, data, kind = RAW, body, type(body)
        if kind is bytes:
            pass
        elif kind in _PLAIN or not isinstance(body, _BUFFERS):
            codec = self._id
            try:
                data = self._chosen.encode(body)
            except Exception as error:
                raise _unencodable(kind, self._names[codec], error) from error
            if not isinstance(data, bytes):
                raise PayloadError(
                    f"the codec {self._names[codec]} encoded a body of type {_shown(kind)}"
                    f" as {_shown(type(data))}, where bytes are needed"
                )
        elif not isinstance(body, bytes):
            try:
                data = bytes(body)  # a copy: its owner may change it before it is sent
            except Exception as error:
                raise _unencodable(kind, "bytes", error) from error
        if len(data) > self._max_message:
            raise PayloadTooLarge(
                f"the encoded body has {len(data)} bytes, and this node sends at most {self._max_message};"
                " Limits.max_message can be raised, at both ends"
            )
        return codec, data

    def decode(self, codec: int, data: bytes, type: Any = Any, *, around: int = 0) -> Any:
        """The body that a peer sent as `data`, by the codec of the id `codec`.

        :param type: what it must be; without it, whatever was sent is taken, nested as ``Limits.max_depth``
            allows.
        :param around: levels around it that do not count.
        :raises PayloadError: if it is not encoded so, or is not of that type.
        """
        try:
            if codec == RAW:
                return data if type is Any or type is bytes else _converted(data, type)
            value = self._known[codec].decode(data, type)
        except Exception as error:
            raise self._refusal(codec, type, error) from error
        most = self._max_depth + around
        if (
            codec == MessagePack.id
            and len(data) > most
            and (type is Any or type is object)
            # Every container has a byte that begins it, so the rare ones are all that need a closer look.
            and len(data) - len(data.translate(None, _HEADERS)) > most
            and _deeper(value, most)
        ):
            raise PayloadError(
                f"the body nests more than {self._max_depth} levels deep, as Limits.max_depth allows here"
            )
        return value

    def check(self, type: Any) -> None:
        """Refuse what can be no reader's `type`.

        :raises ConfigurationError: if MessagePack, which any peer may send, cannot be decoded to it.
        """
        if type is not Any:
            try:
                self._known[MessagePack.id].decode(b"\xc0", type)
            except _BadType as error:
                why = _text(error.__cause__ or error)
                raise ConfigurationError("type", f"nothing can be read as {_shown(type)}: {why}") from error
            except Exception:  # noqa: BLE001  # None does not fit it, or its own code says so: it is a type
                return

    def _refusal(self, codec: int, type: Any, error: Exception) -> PayloadError:
        """What to raise for an `error` of decoding."""
        if codec != RAW and codec not in self._known:
            return PayloadError(
                f"the body is encoded with the codec {codec}, which this node does not have:"
                " both nodes must be given the same codec"
            )
        import msgspec

        if isinstance(error, _BadType) or (codec == RAW and not isinstance(error, msgspec.ValidationError)):
            cause = error.__cause__ or error
            return PayloadError(f"the type {_shown(type)} cannot be decoded: {_text(cause)}")
        if isinstance(error, msgspec.ValidationError) and type is not Any and type is not object:
            return PayloadError(f"the body does not fit {_shown(type)}: {_text(error)}")
        return PayloadError(f"the body cannot be decoded as {self._names[codec]}: {_text(error)}")


def _unencodable(kind: type, form: str, error: Exception) -> PayloadError:
    """What to raise for a body of type `kind` and an `error` of encoding it."""
    return PayloadError(f"a body of type {_shown(kind)} cannot be encoded as {form}: {_text(error)}")


def _check(codec: object) -> None:
    """Refuse what cannot serve as a codec, with its first defect."""
    kind = _shown(type(codec))
    if isinstance(codec, type):
        raise ConfigurationError("codec", f"must be an instance, not the class {_shown(codec)} itself")
    for method in ("encode", "decode"):
        if not callable(getattr(codec, method, None)):
            raise ConfigurationError("codec", f"{kind} has no method {method}()")
    id, name = getattr(codec, "id", None), getattr(codec, "name", None)
    if not isinstance(id, int) or id not in OWN:
        raise ConfigurationError("codec", f"{kind}.id must be a whole number from {OWN[0]} to {OWN[-1]}")
    if not isinstance(name, str) or not name:
        raise ConfigurationError("codec", f"{kind}.name must be a str that is not empty")


def _converted(data: bytes, type: Any) -> Any:
    """Raw bytes as a `type` other than bytes that takes them, such as ``bytes | None``."""
    import msgspec

    return msgspec.convert(data, type)


def _deeper(value: Any, most: int) -> bool:
    """Whether lists and dicts nest more than `most` deep in `value`.

    Level by level rather than by recursion, and with as few steps of Python for each item as there can be:
    among the many bytes of a large body some always look like the beginning of a container.
    """
    level = [value]
    for _ in range(most + 1):
        kinds = set(map(type, level))
        if kinds.isdisjoint(_CONTAINERS):
            return False
        maps = [item for item in level if type(item) is dict] if dict in kinds else []
        if not kinds.isdisjoint(_SEQUENCES):
            level = list(chain.from_iterable(item for item in level if type(item) in _SEQUENCES))
        else:
            level = []
        level += chain.from_iterable(map(dict.values, maps))
        if tuple in set(map(type, chain.from_iterable(maps))):
            level += [key for key in chain.from_iterable(maps) if type(key) is tuple]
    return True


def _shown(kind: Any) -> str:
    """A type as a reader would write it, without a word of its values."""
    return printable(kind.__qualname__ if isinstance(kind, type) else str(kind))


def _text(error: BaseException) -> str:
    """What an exception says, safe to print; with its name where the text alone would say too little."""
    if isinstance(error, RecursionError):
        return "it nests too deep"
    kind = type(error)
    try:
        text = printable(str(error), _MAX_TEXT)
    except Exception:  # noqa: BLE001  # an application's own exception, whose text fails in turn
        text = ""
    if not text:
        return printable(kind.__name__)
    if isinstance(error, (ValueError, TypeError, OverflowError)) or kind.__module__ == "msgspec":
        return text
    return f"{printable(kind.__name__)}: {text}"
