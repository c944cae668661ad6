"""Calls of handlers on other nodes, and the handlers of this one.

What crosses a link are names, encoded arguments and results, and of an exception its type and text: never an
object. A call ends in one of four ways, whichever comes first: a result, a fault, its deadline, or the end of
the link.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import AsyncResult

from ..errors import (
    CallError,
    CallTimeout,
    ConfigurationError,
    PayloadError,
    PayloadTooLarge,
    RemoteError,
    SendTimeout,
    SessionClosed,
    UnknownHandler,
)
from ..names import printable
from ..protocol import mail
from ..protocol.mail import Fault, FaultCode
from .flows import Room

if TYPE_CHECKING:
    from .codec import Codecs
    from .flows import Incoming
    from .switchboard import Switchboard
    from .traffic import Traffic

log = logging.getLogger("snowgreen.messaging")

#: The longest deadline that a CALL can carry; beyond, there is none.
_LONGEST = (2**32 - 1) / 1000
_CODES = {
    FaultCode.DEADLINE: "its deadline passed there",
    FaultCode.ARGUMENTS: "the arguments do not fit",
    FaultCode.RESULT: "its result cannot be sent",
    FaultCode.STOPPING: "the node stops",
}


class Call:
    """A call, as its handler sees it through :func:`snowgreen.current_call`."""

    __slots__ = ("_clock", "_until", "caller", "handler")

    def __init__(self, caller: str, handler: str, seconds: float | None, clock: Callable[[], float]) -> None:
        #: The name of the node that calls, proved by the cookie.
        self.caller = caller
        #: The name that it called.
        self.handler = handler
        self._clock = clock
        self._until = None if seconds is None else clock() + seconds

    @property
    def remaining(self) -> float | None:
        """Seconds that the caller will still wait, 0 if it does no longer; None if it sets no deadline."""
        return None if self._until is None else max(0.0, self._until - self._clock())

    def __repr__(self) -> str:
        left = "no deadline" if self.remaining is None else f"{self.remaining:.3f} s left"
        return f"<Call of {self.handler!r} by {self.caller}, {left}>"


_current: contextvars.ContextVar[Call | None] = contextvars.ContextVar("snowgreen.call", default=None)


def current_call() -> Call | None:
    """The call that this greenlet works on; None outside of handlers."""
    return _current.get()


class Handler:
    """A function that peers may call, and what its parameters are annotated with."""

    __slots__ = ("_hints", "function", "shielded", "signature")

    def __init__(self, name: str, function: Callable[..., Any], *, shielded: bool) -> None:
        if not callable(function):
            raise ConfigurationError(
                "function", f"the handler {name!r} must be callable, not {type(function).__name__}"
            )
        if inspect.iscoroutinefunction(function):
            raise ConfigurationError(
                "function", f"the handler {name!r} is a coroutine, which gevent does not run"
            )
        self.function = function
        #: Whether it runs to its end although nobody waits for its result any more.
        self.shielded = shielded
        self.signature = inspect.signature(function)
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except (NameError, TypeError, AttributeError):
            hints = {}  # annotations for a type checker only
        self._hints = {
            parameter.name: hints[parameter.name]
            for parameter in self.signature.parameters.values()
            if parameter.name in hints and hints[parameter.name] is not Any
        }

    def bind(self, args: list[Any], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """The arguments as the function takes them, those with an annotation checked and converted to it.

        :raises TypeError: if they do not fit.
        """
        bound = self.signature.bind(*args, **kwargs)
        for name, hint in self._hints.items():
            if name in bound.arguments:
                bound.arguments[name] = self._converted(name, bound.arguments[name], hint)
        return bound

    def _converted(self, name: str, value: Any, hint: Any) -> Any:
        import msgspec

        kind = self.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            hint = tuple[hint, ...]
        elif kind is inspect.Parameter.VAR_KEYWORD:
            hint = dict[str, hint]
        try:
            return msgspec.convert(value, hint)
        except msgspec.ValidationError as error:
            raise TypeError(f"{name}: {error}") from error


class Pending:
    """A call under way, for the one who waits for its outcome."""

    __slots__ = ("_result",)

    def __init__(self) -> None:
        self._result: AsyncResult[tuple[int, bytes] | Fault] = AsyncResult()

    def result(self, codec: int, payload: bytes) -> None:
        """The handler has returned."""
        self._result.set((codec, payload))

    def fault(self, fault: Fault) -> None:
        """There is no result."""
        self._result.set(fault)

    def fail(self, error: Exception) -> None:
        """Nothing will come."""
        self._result.set_exception(error)

    def wait(self, seconds: float | None) -> tuple[int, bytes] | Fault | None:
        """The outcome; None if there is none in time."""
        self._result.wait(seconds)
        return self._result.get(block=False) if self._result.ready() else None


class Answer(typing.Protocol):
    """Where the outcome of a call goes."""

    #: Bytes of the largest result that the caller takes.
    largest: int

    def result(self, codec: int, payload: bytes) -> None:
        """The handler has returned. May wait."""

    def fault(self, fault: Fault) -> None:
        """There is no result."""


class Running(typing.NamedTuple):
    """A call that is worked on."""

    greenlet: gevent.Greenlet[..., None]
    shielded: bool


class Desk:
    """Where the calls of peers are worked on, each in a greenlet: so many at once, shared by those who call.

    :param table: the handlers by name.
    """

    def __init__(self, board: Switchboard, table: dict[str, Handler], size: int, max_bytes: int) -> None:
        self._board = board
        self._table = table
        #: What those who call may have under way.
        self.room = Room(size, max_bytes)

    def begin(self, traffic: Traffic, flow: Incoming, call: mail.Call) -> None:
        """A CALL has come. Never waits."""
        seconds = call.milliseconds / 1000 if call.milliseconds else None
        answer = LinkAnswer(traffic, call.call, call.largest)
        context = Call(traffic.session.peer, call.handler, seconds, self._board.clock)
        greenlet = gevent.Greenlet(self.work, context, call.codec, call.payload, answer)
        running = traffic.running[call.call] = Running(greenlet, self.shielded(call.handler))

        def done(_: object) -> None:
            # Also where it was killed before it began.
            if traffic.running.get(call.call) is running:
                del traffic.running[call.call]
            flow.consumed(len(call.payload))

        greenlet.rawlink(done)
        greenlet.start()

    def shielded(self, name: str) -> bool:
        """Whether a call of `name` goes on when nobody waits for it."""
        handler = self._table.get(name)
        return handler is not None and handler.shielded

    def cancel(self, traffic: Traffic, number: int) -> None:
        """Nobody waits for the call `number` any more. Never waits."""
        running = traffic.running.pop(number, None)
        if running is not None and not running.shielded:
            running.greenlet.kill(block=False)

    def stop(self, traffic: Traffic) -> None:
        """The node stops: say so to those who wait. Never waits."""
        for number, running in list(traffic.running.items()):
            if running.greenlet is not gevent.getcurrent() and not running.shielded:
                LinkAnswer(traffic, number, 0).fault(Fault(0, FaultCode.STOPPING, "", ""))
                self.cancel(traffic, number)

    def work(self, context: Call, codec: int, payload: bytes, answer: Answer) -> None:
        """Run the handler, and say what came of it."""
        _current.set(context)
        outcome: tuple[int, bytes] | Fault = Fault(
            0, FaultCode.RAISED, "GreenletExit", "the handler was ended"
        )
        try:
            outcome = self._run(context, codec, payload, answer.largest)
        finally:
            if isinstance(outcome, Fault):
                answer.fault(outcome)
            else:
                answer.result(*outcome)

    def _run(self, context: Call, codec: int, payload: bytes, largest: int) -> tuple[int, bytes] | Fault:
        handler = self._table.get(context.handler)
        if handler is None:
            return Fault(0, FaultCode.NO_HANDLER, "", "")
        try:
            bound = self._bound(handler, codec, payload)
        except (PayloadError, TypeError) as error:
            return Fault(0, FaultCode.ARGUMENTS, type(error).__name__, str(error))
        seconds = None if handler.shielded else context.remaining
        timer = gevent.Timeout.start_new(seconds) if seconds is not None else None
        try:
            value = handler.function(*bound.args, **bound.kwargs)
        except gevent.Timeout as error:
            if error is timer:
                return Fault(0, FaultCode.DEADLINE, "", "")
            return _raised(context, error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller is to know
            return _raised(context, error)
        finally:
            if timer is not None:
                timer.close()
        try:
            outcome = self._board.codecs.encode(value)
            if len(outcome[1]) > largest:
                raise PayloadTooLarge(
                    f"the result has {len(outcome[1])} bytes, and the caller takes {largest}"
                )
        except PayloadError as error:
            log.warning("the result of %r for %s: %s", context.handler, context.caller, error)
            return Fault(0, FaultCode.RESULT, type(error).__name__, str(error))
        return outcome

    def _bound(self, handler: Handler, codec: int, payload: bytes) -> inspect.BoundArguments:
        decoded = self._board.codecs.decode(codec, payload)
        if not (
            isinstance(decoded, list | tuple)
            and len(decoded) == 2
            and isinstance(decoded[0], list | tuple)
            and isinstance(decoded[1], dict)
            and all(isinstance(name, str) for name in decoded[1])
        ):
            raise PayloadError("the arguments are not a list and a map of names")
        return handler.bind(list(decoded[0]), decoded[1])


def _raised(context: Call, error: BaseException) -> Fault:
    log.warning("the handler %r, called by %s, raised", context.handler, context.caller, exc_info=error)
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # its __str__ is the user's
        text = ""
    return Fault(0, FaultCode.RAISED, type(error).__name__, text)


class LinkAnswer:
    """The outcome of a call that came over a link."""

    __slots__ = ("_number", "_traffic", "largest")

    def __init__(self, traffic: Traffic, number: int, largest: int) -> None:
        self._traffic = traffic
        self._number = number
        self.largest = largest

    def result(self, codec: int, payload: bytes) -> None:
        """Send it, once the link has room."""
        traffic = self._traffic
        if self._number not in traffic.running:
            return  # cancelled; a shielded handler has run to its end for its own sake
        try:
            traffic.await_room(traffic.room_line, None)
        except SessionClosed:
            return
        head = mail.result_head(self._number, codec)
        traffic.session.post_message(("result", self._number), head, payload)

    def fault(self, fault: Fault) -> None:
        """Send it."""
        if self._number in self._traffic.running:
            frame = mail.encode_fault(self._number, fault.code, fault.kind, fault.text)
            self._traffic.session.post_control(frame)


def outcome_of(codecs: Codecs, peer: str, handler: str, outcome: tuple[int, bytes] | Fault, type: Any) -> Any:
    """What a call returns, or raises."""
    if not isinstance(outcome, Fault):
        return codecs.decode(*outcome, type)
    if outcome.code is FaultCode.NO_HANDLER:
        raise UnknownHandler(peer, handler, "there is no handler of that name")
    if outcome.code is FaultCode.RAISED:
        raise RemoteError(peer, handler, printable(outcome.kind), outcome.text)
    if outcome.code is FaultCode.DEADLINE:
        raise CallTimeout(peer, handler, _CODES[FaultCode.DEADLINE])
    detail = f": {printable(outcome.text, 300)}" if outcome.text else ""
    raise CallError(peer, handler, _CODES[outcome.code] + detail)


def call_over(
    traffic: Traffic, board: Switchboard, handler: str, encoded: tuple[int, bytes], timeout: float | None
) -> tuple[int, bytes] | Fault:
    """Call `handler` of the peer of `traffic`, and wait for the outcome.

    :raises CallTimeout: if there is none in time.
    """
    peer, (codec, payload) = traffic.session.peer, encoded
    left = board.countdown(timeout)
    flow = traffic.handlers_flow()
    if not flow.granted.open or flow.line or traffic.session.full:
        try:
            traffic.await_credit(flow, timeout, "its handlers are all at work")
        except SendTimeout as error:
            raise CallTimeout(peer, handler, str(error)) from error
    if len(payload) > flow.granted.largest:
        raise PayloadTooLarge(
            f"{peer} takes at most {flow.granted.largest} bytes of arguments, and these have {len(payload)}"
        )
    flow.granted.sent += 1
    flow.granted.sent_bytes += len(payload)
    traffic.calls = number = traffic.calls % (2**32 - 1) + 1
    seconds = left()
    # Rounded up, and at least one: 0 says that there is no deadline.
    milliseconds = 0 if seconds is None or seconds > _LONGEST else max(1, int(seconds * 1000 + 0.999))
    head = mail.call_head(flow.number, number, milliseconds, board.limits.max_message, codec, handler)
    pending = traffic.pending[number] = Pending()
    key = ("call", number)
    traffic.session.post_message(key, head, payload)
    outcome = None
    try:
        outcome = pending.wait(left())
        if outcome is None:
            raise CallTimeout(peer, handler, f"no answer within {timeout:g} s")
        return outcome
    finally:
        # Whoever ended the wait, the peer need not go on. If the link is what ended, this does nothing.
        if traffic.pending.pop(number, None) is not None:
            traffic.session.post_message(key, mail.cancel_head(number), b"")
