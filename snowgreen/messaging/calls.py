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
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import AsyncResult

from ..errors import (
    CallError,
    CallTimeout,
    MailboxFull,
    PayloadError,
    PayloadTooLarge,
    RemoteError,
    SendTimeout,
    SessionClosed,
    UnknownHandler,
    UnknownMailbox,
)
from ..link.runtime import say
from ..names import printable
from ..protocol import mail
from ..protocol.mail import Fault, FaultCode
from .flows import Room

if TYPE_CHECKING:
    from .codec import Codecs
    from .flows import Incoming
    from .handlers import Handler
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
_LATE = Fault(0, FaultCode.DEADLINE, "", "")
_STOPPING = Fault(0, FaultCode.STOPPING, "", "")
#: Levels around each argument: the pair of both kinds, and the list or map that it is in.
_AROUND = 2
_LAST_NUMBER = 2**32 - 1


class Call:
    """A call, as its handler sees it through :func:`snowgreen.current_call`."""

    __slots__ = ("_clock", "_until", "caller", "handler", "shielded")

    def __init__(
        self,
        caller: str,
        handler: str,
        seconds: float | None,
        clock: Callable[[], float],
        *,
        shielded: bool = False,
    ) -> None:
        #: The name of the node that calls, proved by the cookie.
        self.caller = caller
        #: The name that it called.
        self.handler = handler
        #: Whether the handler runs to its end, also when nobody waits for it any more.
        self.shielded = shielded
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
    """Where the outcome of a call goes. It takes one."""

    #: Bytes of the largest result that the caller takes.
    largest: int
    #: Whether somebody still waits for it.
    wanted: bool

    def result(self, codec: int, payload: bytes, seconds: float | None) -> None:
        """The handler has returned. May wait, for so many seconds."""

    def fault(self, fault: Fault) -> None:
        """There is no result."""


class Running:
    """A call that is worked on, or waits for its turn."""

    __slots__ = ("answer", "begun", "greenlet", "shielded")

    def __init__(self, greenlet: gevent.Greenlet[..., None], answer: Answer, *, shielded: bool) -> None:
        self.greenlet = greenlet
        self.answer = answer
        self.shielded = shielded
        #: Whether its turn has come.
        self.begun = False

    def end(self) -> None:
        """Nobody waits for it any more. Never waits."""
        self.answer.wanted = False
        if not self.shielded:
            self.greenlet.kill(block=False)

    def refuse(self) -> None:
        """The node stops. Never waits."""
        self.answer.fault(_STOPPING)
        self.greenlet.kill(block=False)


class Desk:
    """Where calls are worked on, each in a greenlet; those of peers so many at once, the others in turn.

    :param table: the handlers by name.
    """

    def __init__(self, board: Switchboard, table: dict[str, Handler], size: int, max_bytes: int) -> None:
        self._board = board
        self._table = table
        self._size = size
        self._busy = 0
        self._queue: OrderedDict[Running, None] = OrderedDict()
        self._stopped = False
        #: What those who call may have under way. It bounds the queue: the parts of many add up to more than
        #: the whole.
        self.room = Room(size, max_bytes, urgent=True)

    def begin(self, traffic: Traffic, flow: Incoming, call: mail.Call) -> None:
        """A CALL has come. Never waits."""
        number, size = call.call, len(call.payload)
        seconds = call.milliseconds / 1000 if call.milliseconds else None
        answer = LinkAnswer(traffic, number, call.largest)
        running = traffic.running[number] = self.prepare(
            traffic.session.peer, call.handler, seconds, (call.codec, call.payload), answer
        )

        def done(_: object) -> None:
            # Also where it was killed before it began.
            if traffic.running.get(number) is running:
                del traffic.running[number]
            self._done(running)
            flow.consumed(size)

        running.greenlet.rawlink(done)
        if self._stopped:
            running.refuse()
        elif self._busy < self._size:
            self._start(running)
        else:
            self._queue[running] = None

    def prepare(
        self, caller: str, name: str, seconds: float | None, encoded: tuple[int, bytes], answer: Answer
    ) -> Running:
        """A call of the handler `name`, whose greenlet is yet to be started."""
        handler = self._table.get(name)
        shielded = handler is not None and handler.shielded
        context = Call(caller, name, seconds, self._board.clock, shielded=shielded)
        greenlet = gevent.Greenlet(self._work, handler, context, encoded, answer)
        return Running(greenlet, answer, shielded=shielded)

    def _start(self, running: Running) -> None:
        self._busy += 1
        running.begun = True
        running.greenlet.start()

    def _done(self, running: Running) -> None:
        if not running.begun:
            self._queue.pop(running, None)
            return
        self._busy -= 1
        while self._queue and self._busy < self._size:
            self._start(self._queue.popitem(last=False)[0])

    def cancel(self, traffic: Traffic, number: int) -> None:
        """Nobody waits for the call `number` any more. Never waits."""
        running = traffic.running.pop(number, None)
        if running is not None:
            running.end()

    def stop(self, calls: Iterable[Running]) -> None:
        """The node stops: say so to those who wait for `calls`. Never waits."""
        self._stopped = True
        for running in list(calls):
            if running.greenlet is gevent.getcurrent():
                running.shielded = True  # it is what stops the node, and is to come to the end of that
            elif not (running.shielded and running.begun):
                running.refuse()

    def _work(
        self, handler: Handler | None, context: Call, encoded: tuple[int, bytes], answer: Answer
    ) -> None:
        """Run the handler, and say what came of it, whatever that is."""
        _current.set(context)
        try:
            outcome = self._outcome(handler, context, encoded, answer.largest)
            if isinstance(outcome, Fault):
                answer.fault(outcome)
            else:
                answer.result(*outcome, context.remaining)
        except BaseException as error:  # noqa: BLE001  # the caller is to get an answer
            # GreenletExit: somebody has ended it, mostly because nobody waits for it.
            answer.fault(_fault(FaultCode.RAISED, error))
            if isinstance(error, SystemExit | KeyboardInterrupt):
                # gevent is going to raise them in the main greenlet: let the answer leave before.
                try:
                    gevent.sleep(0)
                finally:
                    raise error
            if not isinstance(error, gevent.GreenletExit):
                self._say("the call of %r by %s was ended", context, error=error)

    def _outcome(
        self, handler: Handler | None, context: Call, encoded: tuple[int, bytes], largest: int
    ) -> tuple[int, bytes] | Fault:
        if handler is None:
            return Fault(0, FaultCode.NO_HANDLER, "", "")
        try:
            bound = self._bound(handler, *encoded)
        except Exception as error:  # noqa: BLE001  # what types do when they are made is the user's code
            return _fault(FaultCode.ARGUMENTS, error)
        seconds = None if handler.shielded else context.remaining
        if seconds == 0:
            return _LATE
        timer = gevent.Timeout.start_new(seconds)
        try:
            try:
                value = handler.function(*bound.args, **bound.kwargs)
            finally:
                timer.close()
        except (gevent.GreenletExit, SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001  # whatever it is, the caller is to know
            if error is timer:
                return _LATE
            self._say("the handler %r, called by %s, raised", context, error=error)
            return _fault(FaultCode.RAISED, error)
        try:
            outcome = self._board.codecs.encode(value)
            if len(outcome[1]) > largest:
                raise PayloadTooLarge(
                    f"the result has {len(outcome[1])} bytes, and the caller takes {largest}"
                )
        except PayloadError as error:
            self._say("the result of %r for %s: %s", context, error)
            return _fault(FaultCode.RESULT, error)
        return outcome

    def _say(self, text: str, context: Call, *more: object, error: BaseException | None = None) -> None:
        say(log, logging.WARNING, text, context.handler, context.caller, *more, error=error)

    def _bound(self, handler: Handler, codec: int, payload: bytes) -> inspect.BoundArguments:
        decoded = self._board.codecs.decode(codec, payload, around=_AROUND)
        if not (
            isinstance(decoded, list | tuple)
            and len(decoded) == 2
            and isinstance(decoded[0], list | tuple)
            and isinstance(decoded[1], dict)
            and all(isinstance(name, str) for name in decoded[1])
        ):
            raise PayloadError("the arguments are not a list and a map of names")
        return handler.bind(list(decoded[0]), decoded[1], codec)


def _fault(code: FaultCode, error: BaseException) -> Fault:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # its __str__ is the user's
        text = ""
    if not text and isinstance(error, gevent.GreenletExit):
        text = "the handler was ended"
    return Fault(0, code, type(error).__name__, text)


class LinkAnswer:
    """The outcome of a call that came over a link."""

    __slots__ = ("_number", "_traffic", "largest", "wanted")

    def __init__(self, traffic: Traffic, number: int, largest: int) -> None:
        self._traffic = traffic
        self._number = number
        self.largest = largest
        self.wanted = True

    def result(self, codec: int, payload: bytes, seconds: float | None) -> None:
        """Send it, once the link has room."""
        if not self.wanted:
            return  # a shielded handler has run to its end for its own sake
        traffic = self._traffic
        try:
            traffic.await_room(traffic.room_line, seconds, len(payload))
        except SendTimeout:
            self.fault(_LATE)
        except SessionClosed:
            return
        if self.wanted:
            self.wanted = False
            head = mail.result_head(self._number, codec)
            traffic.session.post_message(("result", self._number), head, payload)

    def fault(self, fault: Fault) -> None:
        """Send it."""
        if self.wanted:
            self.wanted = False
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
    if not flow.granted.open or flow.line or traffic.blocked(None, len(payload)):
        try:
            traffic.await_credit(flow, timeout, "its handlers are all at work", None, len(payload))
        except SendTimeout as error:
            raise CallTimeout(peer, handler, str(error)) from error
        except (UnknownMailbox, MailboxFull) as error:
            raise CallError(peer, handler, "the peer takes no calls now") from error
    if len(payload) > flow.granted.largest:
        raise PayloadTooLarge(
            f"{peer} takes at most {flow.granted.largest} bytes of arguments, and these have {len(payload)}"
        )
    flow.granted.sent += 1
    flow.granted.sent_bytes += len(payload)
    number = traffic.calls
    while True:
        number = number % _LAST_NUMBER + 1
        if number not in traffic.pending:
            break
    traffic.calls = number
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
